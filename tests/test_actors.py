"""Do actors change nothing but the speed?

Starting actors is slow, so that one story is told once without and once with them, and the tests compare.
"""

import pickle
from importlib.util import find_spec

import pytest
import ray
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import SNES
from torch import Tensor

from evohbde.data import SuperBatches
from evohbde.problem import NetworkProblem, ReducedProblem
from evohbde.problem_base import BaseProblem
from evohbde.pymoo_bridge import PymooSearcher
from evohbde.reductions import HistogramBlocking, RandomBlocking
from evohbde.run import run_until
from evohbde.searchers import DE
from tests.pymoo_algorithms import MULTI, SINGLE, make_algorithm
from tests.searcher_tables import EVOTORCHS, EVOTORCHS_FOR_TWO_OBJECTIVES, OURS, OURS_FOR_TWO_OBJECTIVES
from tests.small_networks import digits, mlp

SIZE, POPSIZE = 20, 9


@pytest.fixture(scope="module")
def cluster():
    ray.shutdown()  # EvoTorch starts Ray by itself, in whatever test had actors before
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def state_of(searcher) -> dict:
    population = searcher.population
    problem = searcher.problem
    return {
        "values": population.values.as_subclass(Tensor).clone(),
        "evals": population.evals.as_subclass(Tensor).clone(),
        "best_eval": searcher.status["best_eval"],
        "num_evaluations": searcher.status["num_evaluations"],
        "num_samples_seen": problem.num_samples_seen,
        "generator": problem.generator.get_state(),
    }


def story_of_a_network(num_actors: int) -> dict[str, dict]:
    problem = NetworkProblem(
        mlp(),
        SuperBatches(digits(60), SIZE, parents="refresh"),
        "cross_entropy",
        reduction=lambda theta0: HistogramBlocking(theta0, 20),
        num_actors=num_actors,
        seed=11,
    )
    story = {}
    searcher = DE(problem, popsize=POPSIZE)
    searcher.log_hook.append(lambda status: None)  # cannot be pickled, so it must not go to the actors
    assert run_until(searcher, num_evaluations=5 * POPSIZE) == "num_evaluations"
    story["DE"] = state_of(searcher)
    other = SNES(problem, popsize=POPSIZE, center_init=problem.center, stdev_init=0.05)
    other.run(3)
    story["SNES on the same problem"] = state_of(other)

    searcher.log_hook.clear()
    stored = pickle.dumps(searcher)
    searcher.run(2)
    story["DE, gone on"] = state_of(searcher)
    problem.kill_actors()
    twin = pickle.loads(stored)
    twin.run(2)
    story["DE, resumed"] = state_of(twin)
    twin.problem.kill_actors()
    twin.run(1)
    story["DE, after the actors were killed"] = state_of(twin)
    story["is_parallel"] = {"actors": len(twin.problem.actors or [])}
    twin.problem.kill_actors()
    return story


def story_of_a_reduction(num_actors: int) -> dict[str, dict]:
    def half_sphere(x: Tensor) -> Tensor:
        return torch.where(x[:, 0] > 0, x.square().sum(-1), torch.nan)

    inner = Problem("min", half_sphere, solution_length=50, initial_bounds=(-1, 1), vectorized=True)
    problem = ReducedProblem(inner, RandomBlocking(torch.ones(50), 6), chunk_size=2, num_actors=num_actors, seed=3)
    searcher = DE(problem, popsize=8, stdev_init=0.5)
    searcher.run(4)
    story = {"DE": state_of(searcher), "is_parallel": {"actors": len(problem.actors or [])}}
    problem.kill_actors()
    return story


def quadratic_problem(num_objectives: int, num_actors: int) -> BaseProblem:
    class Quadratics(BaseProblem):  # a local class travels to the actors by value
        def _evaluate_batch(self, batch: SolutionBatch) -> None:
            z = batch.access_values(keep_evals=True).as_subclass(Tensor)
            batch.set_evals(
                torch.stack([(z - goal).square().sum(1) for goal in (0.4, -0.3)][: len(self.senses)], dim=1)
            )

    problem = Quadratics(["min"] * num_objectives, solution_length=4, initial_bounds=(-1, 1), num_actors=num_actors)
    problem.center = torch.zeros(4)
    return problem


def searchers_for(num_objectives: int) -> dict:
    if num_objectives == 1:
        return {**OURS, **{f"EvoTorch's {name}": make for name, make in EVOTORCHS.items()}, **of_pymoo(SINGLE)}
    ours = {name: OURS[name] for name in OURS_FOR_TWO_OBJECTIVES}
    return {
        **ours,
        **{f"EvoTorch's {name}": EVOTORCHS[name] for name in EVOTORCHS_FOR_TWO_OBJECTIVES},
        **of_pymoo(MULTI),
    }


def of_pymoo(names: tuple[str, ...]) -> dict:
    def make(name: str):
        termination = ("n_gen", 100) if name == "RVEA" else None
        return lambda problem: PymooSearcher(problem, make_algorithm(name), termination=termination)

    has_numba = find_spec("numba") is not None
    return {f"pymoo's {name}": make(name) for name in names if has_numba or name != "AGEMOEA2"}


def stories_of_searchers(num_objectives: int, num_actors: int) -> dict[str, dict]:
    """Every searcher on one problem with one pool of actors, which takes longer to start than all of them to run."""
    problem = quadratic_problem(num_objectives, num_actors)
    stories = {}
    for name, make in searchers_for(num_objectives).items():
        problem.manual_seed(5)
        searcher = make(problem)
        searcher.run(3)
        stories[name] = {kind: getattr(searcher.population, kind).as_subclass(Tensor) for kind in ("values", "evals")}
    stories["is_parallel"] = {"actors": len(problem.actors or [])}
    problem.kill_actors()
    return stories


@pytest.fixture(scope="module")
def networks(cluster):
    return story_of_a_network(0), story_of_a_network(2)


@pytest.fixture(scope="module")
def reductions(cluster):
    return story_of_a_reduction(0), story_of_a_reduction(2)


@pytest.fixture(scope="module")
def every_searcher(cluster):
    return {m: (stories_of_searchers(m, 0), stories_of_searchers(m, 2)) for m in (1, 2)}


def assert_equal(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for key, value in one.items():
        same = torch.equal(value, other[key]) if isinstance(value, Tensor) else value == other[key]
        assert same, f"{key}: {value} is not {other[key]}"


@pytest.mark.parametrize(
    "part",
    ["DE", "SNES on the same problem", "DE, gone on", "DE, resumed", "DE, after the actors were killed"],
)
def test_a_seed_gives_the_same_search_with_and_without_actors(networks, part):
    alone, parallel = networks
    assert alone["is_parallel"]["actors"] == 0 and parallel["is_parallel"]["actors"] == 2
    assert_equal(alone[part], parallel[part])


def test_a_search_resumed_with_actors_equals_one_that_never_stopped(networks):
    for story in networks:
        assert_equal(story["DE, resumed"], story["DE, gone on"])


def test_every_sample_is_counted_also_in_actors(networks):
    alone, parallel = networks
    expected = 5 * POPSIZE * SIZE
    assert alone["DE"]["num_samples_seen"] == parallel["DE"]["num_samples_seen"] == expected


def test_a_reduced_problem_gives_the_same_search_with_and_without_actors(reductions):
    alone, parallel = reductions
    assert alone["is_parallel"]["actors"] == 0 and parallel["is_parallel"]["actors"] == 2
    assert_equal(alone["DE"], parallel["DE"])


@pytest.mark.parametrize(("num_objectives", "name"), [(m, name) for m in (1, 2) for name in searchers_for(m)])
def test_every_searcher_finds_the_same_with_and_without_actors(every_searcher, num_objectives, name):
    alone, parallel = every_searcher[num_objectives]
    assert alone["is_parallel"]["actors"] == 0 and parallel["is_parallel"]["actors"] == 2
    assert_equal(alone[name], parallel[name])
