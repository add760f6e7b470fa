"""Does a pymoo algorithm go on after a copy as if nothing had happened, and does a seed give the same search?"""

import copy
import pickle

import numpy as np
import pytest
import torch

pytest.importorskip("pymoo", reason="pymoo is not installed")

from pymoo.core.callback import Callback

from evohbde.pymoo_bridge import PymooSearcher
from tests.pymoo_algorithms import Functions, make_algorithm, senses_of

RESUMABLE = ("DE", "PSO", "GA", "ES", "SRES", "ISRES", "RandomSearch", "NRBO", "SimpleCMAES", "NSGA2", "NSGA3")
RESUMABLE += ("UNSGA3", "ParallelMOEAD", "SMSEMOA", "RVEA", "SPEA2", "CTAEA", "GDE3", "NSDE", "MOPSO_CD")


def make(name: str, *, seed: int | None = 1) -> PymooSearcher:
    termination = ("n_gen", 50) if name == "RVEA" else None
    return PymooSearcher(Functions(senses_of(name), seed=seed), make_algorithm(name), termination=termination)


def same(one: PymooSearcher, other: PymooSearcher) -> bool:
    populations = one.population, other.population
    return torch.equal(*(p.values for p in populations)) and torch.equal(*(p.evals for p in populations))


def scramble_numpy() -> None:
    np.random.seed(7)  # noqa: NPY002


@pytest.mark.parametrize("name", RESUMABLE)
@pytest.mark.parametrize("steps", [0, 3])
def test_a_copy_and_a_pickle_go_on_bit_for_bit(name, steps):
    searcher = make(name)
    searcher.run(steps)
    twins = [copy.deepcopy(searcher), pickle.loads(pickle.dumps(searcher))]
    searcher.run(3)
    for twin in twins:
        scramble_numpy()
        twin.run(3)
        assert same(searcher, twin)
        assert searcher.algorithm.evaluator.n_eval == twin.algorithm.evaluator.n_eval
        assert twin.step_count == steps + 3


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("MOEAD", "ParallelMOEAD"),
        ("CMAES", "SimpleCMAES"),
        ("CMOPSO", "MOPSO_CD"),
        ("G3PCX", "GA"),
        ("PatternSearch", "DE"),
    ],
)
@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
def test_those_that_cannot_name_another(name, instead, copied):
    with pytest.raises(TypeError, match=f"pymoo's {name} cannot be copied or pickled: use {instead}"):
        copied(make(name))


def test_nelder_mead_is_copied_between_moves_only():
    searcher = make("NelderMead")
    num_copies = num_refused = 0
    for _ in range(12):
        searcher.step()
        try:
            twin = pickle.loads(pickle.dumps(searcher))
        except TypeError as error:
            assert "within a move: try again after the next step" in str(error)
            num_refused += 1
            continue
        num_copies += 1
        ahead = copy.deepcopy(searcher)
        ahead.run(4)
        twin.run(4)
        assert same(ahead, twin)
    assert num_copies > 2 and num_refused > 0


def test_a_pickle_holds_the_problem_once_and_the_copy_has_its_own():
    class Peek(Callback):
        def __init__(self, problem):
            super().__init__()
            self.problem = problem

    problem = Functions("min")
    problem.ballast = torch.zeros(100_000, dtype=torch.float64)
    algorithm = make_algorithm("GA")
    algorithm.callback = Peek(None)
    searcher = PymooSearcher(problem, algorithm)
    searcher.algorithm.callback.problem = problem
    searcher.run(2)
    problem.batches.clear()
    pickled = pickle.dumps(searcher)
    assert len(pickled) < 1_200_000
    twin = pickle.loads(pickled)
    assert twin.problem is not problem
    assert twin.algorithm.problem.source is twin.algorithm.callback.problem is twin.problem
    assert copy.deepcopy(searcher).algorithm.problem.source is not problem


@pytest.mark.parametrize("name", ["DE", "PSO", "CMAES", "GA", "NelderMead", "PatternSearch", "NSGA2", "MOEAD", "SPEA2"])
def test_a_seed_gives_the_same_search_whatever_the_global_generators_do(name):
    runs = []
    for seed in (4, 4, 5):
        runs.append(make(name, seed=seed))
        for _ in range(6):
            np.random.rand()  # noqa: NPY002 - goes on from run to run
            runs[-1].step()
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_seeds_are_drawn_from_the_problem_unless_given():
    problem = Functions("min")
    first, second = (PymooSearcher(problem, make_algorithm("DE")) for _ in range(2))
    assert first.algorithm.seed != second.algorithm.seed
    third, fourth = (PymooSearcher(Functions("min", seed=seed), make_algorithm("DE"), seed=9) for seed in (1, 2))
    third.run(3)
    fourth.run(3)
    assert same(third, fourth)


@pytest.mark.parametrize("name", ["CMAES", "SimpleCMAES", "PSO"])
def test_the_global_generator_of_numpy_is_left_alone(name):
    scramble_numpy()
    expected = np.random.rand(3)  # noqa: NPY002
    scramble_numpy()
    make(name).run(4)
    np.testing.assert_array_equal(np.random.rand(3), expected)  # noqa: NPY002


def test_two_searches_with_a_global_generator_do_not_disturb_each_other():
    alone = make("CMAES")
    alone.run(5)
    one, other = make("CMAES"), make("CMAES", seed=2)
    for _ in range(5):
        one.step()
        other.step()
    assert same(alone, one)
