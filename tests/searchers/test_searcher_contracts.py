"""Does every searcher keep the contract, and does the check see those that do not?"""

import random

import numpy as np
import pytest
import torch
from evotorch.algorithms import CMAES, PGPE, SNES
from torch import Tensor

from evohbde import searchers
from evohbde.searchers import DE, JADE, JDE, LSHADE, SHADE, PopulationSearcher
from evohbde.testing import check_searcher

OURS = {
    "CMAES": lambda p: searchers.CMAES(p, popsize=10, stdev_init=0.5),
    "DE": lambda p: DE(p, popsize=20),
    "DE, rand/1/exp": lambda p: DE(p, popsize=20, strategy="rand/1/exp"),
    "DE, best/1/bin": lambda p: DE(p, popsize=20, strategy="best/1/bin", differential_weight=0.7),
    "DE, rand/2/bin": lambda p: DE(p, popsize=20, strategy="rand/2/bin", differential_weight=(0.2, 0.5)),
    "DE, best/2/exp": lambda p: DE(p, popsize=20, strategy="best/2/exp", differential_weight=0.4),
    "DE, current-to-best/1/bin": lambda p: DE(p, popsize=20, strategy="current-to-best/1/bin", bounds="clip"),
    "DE, order/1/bin": lambda p: DE(p, popsize=20, strategy="order/1/bin", accept_equal=False),
    "DE, dithered": lambda p: DE(p, popsize=20, differential_weight=(0.1, 1.0), dither="dimension"),
    "DE, around the centre": lambda p: DE(p, popsize=20, stdev_init=0.5, include_center=True, bounds="reflect"),
    "DE, re-scoring": lambda p: DE(p, popsize=20, rescore_parents=True, bounds="resample"),
    "JDE": lambda p: JDE(p, popsize=20),
    "JADE": lambda p: JADE(p, popsize=20),
    "JADE, no archive": lambda p: JADE(p, popsize=20, archive_rate=0, bounds="midpoint", accept_equal=True),
    "SHADE": lambda p: SHADE(p, popsize=20),
    "SHADE, re-scoring": lambda p: SHADE(p, popsize=20, memory_size=5, rescore_parents=True),
    "LSHADE": lambda p: LSHADE(p, popsize=20, num_evaluations=600),
    "LSHADE, around the centre": lambda p: LSHADE(
        p, popsize=20, min_popsize=8, num_evaluations=900, stdev_init=0.5, include_center=True, rescore_parents=True
    ),
    "RandomSearch": lambda p: searchers.RandomSearch(p, popsize=1),
    "RandomSearch, re-scoring": lambda p: searchers.RandomSearch(p, popsize=1, stdev_init=0.5, rescore_parents=True),
    "SimulatedAnnealing": lambda p: searchers.SimulatedAnnealing(p, cooling_rate=0.9),
    "SimulatedAnnealing, logarithmic": lambda p: searchers.SimulatedAnnealing(
        p, cooling="logarithmic", temperature_init=0.1, bounds="reflect"
    ),
    "SimulatedAnnealing, adaptive": lambda p: searchers.SimulatedAnnealing(
        p, popsize=2, cooling="adaptive", cooling_rate=0.9, move_rate=0.5, rescore_parents=True
    ),
    "TabuSearch": lambda p: searchers.TabuSearch(p),
    "TabuSearch, re-scoring": lambda p: searchers.TabuSearch(
        p, stdev_init=0.5, patience=None, bounds="resample", rescore_parents=True
    ),
    "BinaryTabuSearch": lambda p: searchers.BinaryTabuSearch(p, popsize=2),
    "BinaryTabuSearch, re-scoring": lambda p: searchers.BinaryTabuSearch(
        p, popsize=2, num_neighbours=3, rescore_parents=True
    ),
    "IteratedLocalSearch": lambda p: searchers.IteratedLocalSearch(p, popsize=4, patience=15),
    "IteratedLocalSearch, always": lambda p: searchers.IteratedLocalSearch(
        p, popsize=4, patience=10, acceptance="always", kick_rate=0.3, kick_stdev=0.2
    ),
    "IteratedLocalSearch, restart": lambda p: searchers.IteratedLocalSearch(
        p, popsize=4, patience=15, acceptance="restart", rescore_parents=True
    ),
    "CoordinateSearch": lambda p: searchers.CoordinateSearch(p),
    "CoordinateSearch, authors": lambda p: searchers.CoordinateSearch(p, popsize=3, rule="authors"),
    "CoordinateSearch, re-scoring": lambda p: searchers.CoordinateSearch(
        p, popsize=3, intervals="own", rescore_parents=True
    ),
    "NSGA2": lambda p: searchers.NSGA2(p, popsize=20),
    "MOEAD": lambda p: searchers.MOEAD(p, popsize=20),
}
EVOTORCHS = {
    "SNES": lambda p: SNES(p, popsize=20, stdev_init=0.5),
    "CMAES": lambda p: CMAES(p, popsize=10, stdev_init=0.5),
    "CMAES, separable": lambda p: CMAES(p, popsize=10, stdev_init=0.5, separable=True),
    "PGPE": lambda p: PGPE(p, popsize=20, center_learning_rate=0.2, stdev_learning_rate=0.1, stdev_init=0.5),
}
DRAWS_GLOBALLY = {"CMAES"}  # it is EvoTorch's own


@pytest.mark.parametrize("name", OURS)
def test_our_searchers_keep_the_contract(name):
    check_searcher(OURS[name], leaves_global_random_alone=name not in DRAWS_GLOBALLY)


@pytest.mark.parametrize("name", EVOTORCHS)
def test_the_searchers_of_evotorch_keep_it_but_for_the_global_generator(name):
    check_searcher(EVOTORCHS[name], leaves_global_random_alone=False)


def test_no_searcher_of_ours_is_forgotten():
    exported = {name for name, value in vars(searchers).items() if isinstance(value, type)} - {"PopulationSearcher"}
    missing = exported - {name.split(",")[0] for name in OURS}
    assert not missing, f"add {missing} to the table OURS"


def test_the_check_leaves_the_global_generators_as_they_were():
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    check_searcher(EVOTORCHS["SNES"], leaves_global_random_alone=False)
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002


class Deaf(DE):
    """Minimises whatever it is asked."""

    @property
    def sign(self) -> float:
        return -1.0


class RandomSearch(DE):
    """Never learns."""

    def ask(self) -> Tensor:
        return 2 * self.rand(self.popsize, self.problem.solution_length) - 1

    def tell(self, z: Tensor, scores: Tensor) -> None:
        self.population.set_values(z)
        self.population.set_evals(scores)


class Global(DE):
    def rand(self, *shape: int) -> Tensor:
        return torch.rand(*shape)


class Wasteful(DE):
    """Draws from a global generator, though not for anything that matters."""

    def _step(self) -> None:
        self.luck = {"Python": random.random, "NumPy": np.random.rand, "PyTorch": lambda: torch.rand(1)}[self.kind]()
        super()._step()


class Mixed(DE):
    """Keeps the scores of other candidates."""

    def tell(self, z: Tensor, scores: Tensor) -> None:
        super().tell(z, scores.flip(0))


class Uncounted(DE):
    def _step(self) -> None:
        z = self.ask()
        self.tell(z, (z - self.problem.goal).square().sum(1))


class Unpicklable(DE):
    def __init__(self, problem, **options) -> None:
        super().__init__(problem, **options)
        self.after_step_hook.append(lambda: None)


class Forgetful(DE):
    """Starts again in a copy."""

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_is_started": False}


class Stepless(DE):
    def step(self) -> None:
        self._step()


class Optimist(DE):
    """Takes the worst score that there is for a very good one."""

    def utility(self, scores: Tensor) -> Tensor:
        utility = super().utility(scores)
        return torch.where(utility < -1e30, torch.inf, utility)


class Bare(PopulationSearcher):
    population = None

    def _step(self) -> None:
        self.problem.evaluate(self.problem.generate_batch(2))


class Foreign(DE):
    """Works on a copy of the problem."""

    def __init__(self, problem, **options) -> None:
        super().__init__(problem.clone(), **options)


@pytest.mark.parametrize(
    ("kind", "clause"),
    [
        (Deaf, r"no progress on a quadratic \(max\)"),
        (RandomSearch, r"no progress on a quadratic \(min\)"),
        (Optimist, r"no progress on a quadratic \(min where scores are NaN\)"),
        (Global, r"the problem's seed must give the same search"),
        (Mixed, r"the scores of `population` must be those of its values"),
        (Uncounted, r"a step must score candidates by `problem\.evaluate`"),
        (Unpicklable, r"it cannot be copied and pickled"),
        (Forgetful, r"a copy made in the middle of a search goes on differently"),
        (Stepless, r"`step` must make one step"),
        (Foreign, r"`problem` must be the problem it was made for"),
    ],
)
def test_a_broken_clause_is_named(kind, clause):
    with pytest.raises(AssertionError, match=f"{kind.__name__}: {clause}"):
        check_searcher(lambda problem: kind(problem, popsize=20))


def test_a_searcher_without_a_population_is_seen():
    with pytest.raises(AssertionError, match=r"Bare: `population` must be an evotorch\.SolutionBatch"):
        check_searcher(Bare)


@pytest.mark.parametrize("generator", ["Python", "NumPy", "PyTorch"])
def test_a_draw_from_a_global_generator_is_seen(generator):
    Wasteful.kind = generator
    with pytest.raises(AssertionError, match=f"it draws from the global generator of {generator}"):
        check_searcher(lambda problem: Wasteful(problem, popsize=20))
    check_searcher(lambda problem: Wasteful(problem, popsize=20), leaves_global_random_alone=False)
