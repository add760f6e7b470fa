"""Does a search find the same when its actors die on the way?

Starting actors is slow, so one search suffers all that can happen to it, and is compared with one that nothing did. A
shorter one, and a problem without actors that behaves as if it had some, are for every day.
"""

import copy
import os
import pickle
import warnings
from pathlib import Path

import pytest
import ray
import torch
from evotorch import SolutionBatch
from ray.exceptions import OutOfMemoryError, RayActorError, WorkerCrashedError
from torch import Tensor

from evohbde.actors import MAX_RENEWALS, redo_where_actors_die
from evohbde.data import SuperBatches
from evohbde.layout import ParameterLayout
from evohbde.problem import NetworkProblem
from evohbde.problem_base import BaseProblem
from evohbde.reductions import HistogramBlocking
from evohbde.run import run_until
from evohbde.searchers import DE
from tests.small_networks import digits, mlp

SIZE, POPSIZE, GENERATIONS = 20, 9, 6


@pytest.fixture(scope="module")
def cluster():
    ray.shutdown()  # EvoTorch starts Ray by itself, in whatever test had actors before
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


class Dying(NetworkProblem):
    """Its actors end without a word where `folder` says so; each order is carried out once."""

    folder: Path

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        super()._evaluate_batch(batch)
        self._die_if_told("scoring")

    def _make_sync_data_for_main(self) -> tuple[float, ...]:
        self._die_if_told("counting")
        return super()._make_sync_data_for_main()

    def _die_if_told(self, when: str) -> None:
        order = self.folder / f"{when}-{self.num_calls}"
        if self.is_remote:
            try:
                order.unlink()
            except FileNotFoundError:
                return
            os._exit(1)


def network_search(folder: Path, num_actors: int) -> DE:
    """Only the head is searched, so that each actor keeps activations, which count as if there were one process."""
    model = mlp()
    problem = Dying(
        model,
        SuperBatches(digits(60), SIZE, parents="refresh"),
        "cross_entropy",
        layout=ParameterLayout(model, "head.*"),
        reduction=lambda theta0: HistogramBlocking(theta0, 20),
        num_actors=num_actors,
        seed=11,
    )
    problem.folder = folder
    return DE(problem, popsize=POPSIZE)


def state_of(searcher: DE) -> dict[str, object]:
    return {
        "values": searcher.population.values.as_subclass(Tensor).clone(),
        "evals": searcher.population.evals.as_subclass(Tensor).clone(),
        "best_eval": searcher.status["best_eval"],
        "num_evaluations": searcher.problem.num_evaluations,
        "num_samples_seen": pytest.approx(searcher.problem.num_samples_seen, rel=1e-12),  # sums in another order
        "generator": searcher.problem.generator.get_state(),
    }


@pytest.fixture(scope="module")
def story(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orders")
    alone, searcher = network_search(folder, 0), network_search(folder, 2)
    problem = searcher.problem
    problem.before_eval_hook.append(HookCalls())
    (folder / "scoring-1").touch()
    (folder / "counting-2").touch()
    states: dict[str, object] = {}
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        searcher.run(3)
        states["died while scoring, and while counting"] = state_of(searcher)
        ray.kill(problem.actors[0])
        states["copy"] = copy.deepcopy(problem)
        states["pickle"] = pickle.loads(pickle.dumps(problem))
        searcher.run(1)
        ray.kill(problem.actors[1])
        searcher.run(1)
        states["died between generations"] = state_of(searcher)
        pool = problem._actor_pool
        pool.get_next_unordered = _interrupt  # what Ctrl-C does while the actors are at work
        with pytest.raises(KeyboardInterrupt):
            problem.evaluate(searcher.population[:POPSIZE].clone())
        states["interrupted"] = (problem.num_calls, problem.num_evaluations, problem.num_samples_seen)
        run_until(searcher, num_evaluations=1)
        states["after Ctrl-C"] = state_of(searcher)
    states["warnings"] = [str(one.message) for one in heard if "an actor died" in str(one.message)]
    states["hook"] = problem.before_eval_hook[0].total
    for number in range(1, GENERATIONS + 1):
        alone.run(1)
        states[f"alone {number}"] = state_of(alone)
    problem.kill_actors()
    return states


class HookCalls:
    def __init__(self) -> None:
        self.total = 0

    def __call__(self, batch: SolutionBatch) -> None:
        self.total += 1


def _interrupt(timeout: float | None = None) -> None:
    raise KeyboardInterrupt


def assert_equal(one: dict, other: dict) -> None:
    for key, value in one.items():
        known = other[key].expected if key == "num_samples_seen" else other[key]
        same = torch.equal(value, known) if isinstance(value, Tensor) else value == known
        assert same, f"{key}: {value} is not {other[key]}"


def test_a_search_whose_actor_dies_in_mid_generation_equals_one_without_actors(cluster, tmp_path):
    alone, searcher = network_search(tmp_path, 0), network_search(tmp_path, 2)
    (tmp_path / "scoring-0").touch()
    with pytest.warns(RuntimeWarning, match="an actor died, 2 new ones score this generation again"):
        searcher.run(2)
    alone.run(2)
    assert_equal(state_of(searcher), state_of(alone))
    searcher.problem.kill_actors()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "generations"),
    [("died while scoring, and while counting", 3), ("died between generations", 5), ("after Ctrl-C", 6)],
)
def test_a_search_whose_actors_die_equals_one_without_actors(story, event, generations):
    found, alone = dict(story[event]), dict(story[f"alone {generations}"])
    counted, needed = found.pop("num_samples_seen").expected, alone.pop("num_samples_seen").expected
    assert_equal(found, alone)
    # New actors have no activations yet, and what they compute again they count again.
    assert needed - 1e-9 <= counted <= 1.2 * needed


@pytest.mark.slow
def test_every_lost_generation_is_told_once(story):
    assert len(story["warnings"]) == 3  # the copy of a problem with a dead actor renews them without one
    assert all("2 new ones score this generation again" in text for text in story["warnings"])


@pytest.mark.slow
def test_hooks_see_a_generation_that_is_scored_again_once(story):
    assert story["hook"] == GENERATIONS + 1  # and the one that was interrupted


@pytest.mark.slow
def test_a_generation_that_is_interrupted_counts_nothing(story):
    before = story["died between generations"]
    assert story["interrupted"][:2] == (5, before["num_evaluations"])
    assert before["num_samples_seen"] == story["interrupted"][2]


@pytest.mark.slow
def test_a_problem_whose_actor_died_can_be_copied(story):
    for twin in (story["copy"], story["pickle"]):
        assert twin.num_evaluations == story["alone 3"]["num_evaluations"]
        assert twin.actors is None and not twin._prepared


class Pretender:
    """Has a pool, and no actors in it."""

    def __init__(self) -> None:
        self.num_actors, self.actors, self._actor_pool, self.num_pools = 2, [], None, 1

    def kill_actors(self) -> None:
        self.actors = None

    def _parallelize(self) -> None:
        self.actors = []
        self.num_pools += 1


def failing(times: int, error: BaseException):
    attempts = iter(range(times))

    def generation() -> None:
        if next(attempts, None) is not None:
            raise error

    return generation


@pytest.mark.filterwarnings("ignore:an actor died:RuntimeWarning")
@pytest.mark.parametrize("error", [RayActorError(), WorkerCrashedError(), OutOfMemoryError("no memory left")])
@pytest.mark.parametrize("times", range(MAX_RENEWALS + 2))
def test_a_generation_is_tried_four_times(error, times):
    problem = Pretender()
    if times > MAX_RENEWALS:
        with pytest.raises(RuntimeError, match=r"died in 4 attempts: .* fewer actors .* num_actors=0") as raised:
            redo_where_actors_die(problem, failing(times, error))
        assert raised.value.__cause__ is error and problem.actors is None
    else:
        redo_where_actors_die(problem, failing(times, error))
    assert problem.num_pools == 1 + min(times, MAX_RENEWALS)


def test_actors_that_cannot_be_started_are_not_started_again():
    problem = Pretender()
    with pytest.raises(RuntimeError, match="cannot be started"):
        redo_where_actors_die(problem, failing(1, RayActorError(actor_init_failed=True)))
    assert problem.num_pools == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine"), MemoryError()])
def test_other_errors_go_through_at_once_and_leave_no_task_in_the_pool(error):
    problem = Pretender()
    with pytest.raises(type(error)):
        redo_where_actors_die(problem, failing(1, error))
    assert problem.num_pools == 1 and not problem._actor_pool.has_next()


class Broken(BaseProblem):
    """Its actors die, or complain, in every generation until `how` is emptied."""

    def __init__(self, how: Path) -> None:
        super().__init__("min", solution_length=2, initial_bounds=(-1, 1), num_actors=2, seed=1)
        self.how = how

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        how = self.how.read_text()
        if how == "die":
            os._exit(1)
        if how == "complain":
            raise ValueError("these candidates do not please me")
        batch.set_evals(batch.values.as_subclass(Tensor).square().sum(1))


@pytest.fixture(scope="module")
def broken(cluster, tmp_path_factory):
    how = tmp_path_factory.mktemp("broken") / "how"
    problem = Broken(how)
    yield problem, how
    problem.kill_actors()


@pytest.mark.slow
def test_an_error_of_the_problem_itself_is_not_tried_again_and_the_next_generation_is_sound(broken):
    problem, how = broken
    batch = problem.generate_batch(5)
    how.write_text("complain")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(ValueError, match="do not please me"):
            problem.evaluate(batch)
    how.write_text("")
    problem.evaluate(batch)
    assert torch.equal(batch.evals[:, 0], batch.values.as_subclass(Tensor).square().sum(1))
    assert problem.num_evaluations == 5


@pytest.mark.slow
def test_actors_that_always_die_end_the_search_with_the_reason(broken):
    problem, how = broken
    batch = problem.generate_batch(5)
    how.write_text("die")
    with pytest.warns(RuntimeWarning, match="an actor died"), pytest.raises(RuntimeError, match="died in 4 attempts"):
        problem.evaluate(batch)
    how.write_text("")
    num_evaluations = problem.num_evaluations
    problem.evaluate(batch)
    assert problem.num_evaluations == num_evaluations + 5
