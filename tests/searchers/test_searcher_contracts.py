"""Does every searcher keep the contract, and does the check see those that do not?"""

import random

import numpy as np
import pytest
import torch
from evotorch import Problem, algorithms
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor

from evohbde import searchers
from evohbde.searchers import DE, NSGA2, PopulationSearcher
from evohbde.testing import check_searcher
from tests.searcher_tables import EVOTORCHS, EVOTORCHS_FOR_TWO_OBJECTIVES, OURS, OURS_FOR_TWO_OBJECTIVES

# Each of EvoTorch's draws from PyTorch's global generator also where the problem has a seed, though nothing depends on
# it; PyCMAES draws from NumPy's, which pycma seeds. Our CMAES is EvoTorch's with other updates.
DRAW_GLOBALLY = {*EVOTORCHS, "CMAES"}


def known_to_break(name: str) -> set[str]:
    return {"global generators"} if name in DRAW_GLOBALLY else set()


@pytest.mark.parametrize("name", OURS)
def test_our_searchers_keep_the_contract(name):
    check_searcher(OURS[name], known_to_break=known_to_break(name))


@pytest.mark.parametrize("name", OURS_FOR_TWO_OBJECTIVES)
def test_our_searchers_keep_it_with_two_objectives(name):
    check_searcher(OURS[name], num_objectives=2)


@pytest.mark.parametrize("name", EVOTORCHS)
def test_the_searchers_of_evotorch_keep_it_but_for_the_global_generators(name):
    check_searcher(EVOTORCHS[name], known_to_break=known_to_break(name))


@pytest.mark.parametrize("name", EVOTORCHS_FOR_TWO_OBJECTIVES)
def test_the_searchers_of_evotorch_keep_it_with_two_objectives(name):
    check_searcher(EVOTORCHS[name], num_objectives=2, known_to_break=known_to_break(name))


def searchers_in(module) -> set[str]:
    kinds = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    return {name for name, kind in kinds.items() if issubclass(kind, SearchAlgorithm)}


@pytest.mark.parametrize(
    ("module", "table", "left_out"),
    [(searchers, OURS, {"PopulationSearcher"}), (algorithms, EVOTORCHS, {"SearchAlgorithm", "MAPElites"})],
)
def test_no_searcher_is_forgotten(module, table, left_out):
    missing = searchers_in(module) - left_out - {name.split(",")[0] for name in table}
    assert not missing, f"add {missing} to tests/searcher_tables.py"


def nan_or_squares(z: Tensor) -> Tensor:
    """NaN for every candidate on one side, and for all of them near the optimum."""
    squares = z.as_subclass(Tensor).square().sum(1)
    return torch.where((z[:, 0] > 0) | (squares < 0.01), torch.nan, squares)


@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("name", sorted(set(OURS) - {"CMAES"}))
def test_our_searchers_survive_nan_also_on_a_problem_that_hands_it_on(name, sense):
    sign = 1 if sense == "min" else -1
    problem = Problem(
        sense,
        lambda z: sign * nan_or_squares(z),
        solution_length=4,
        initial_bounds=(-1, 1),
        vectorized=True,
        seed=1,
        store_solution_stats=False,  # EvoTorch's own book-keeping stops at a NaN
    )
    problem.center = torch.full((4,), -0.5)
    searcher = OURS[name](problem)
    searcher.run(60)
    losses = (sign * searcher.population.evals.as_subclass(Tensor)[:, 0]).nan_to_num(nan=torch.inf)
    assert 0.01 <= losses.min() < torch.inf
    assert searcher.population.values[losses.argmin()][0] <= 0


def test_a_kept_clause_that_is_called_broken_is_reported_and_an_unknown_one_refused():
    with pytest.raises(AssertionError, match='DE: it keeps the clause "copies" after all'):
        check_searcher(OURS["DE"], known_to_break={"copies"})
    with pytest.raises(ValueError, match=r"names \['speed'\]; the clauses are \['status', 'progress', "):
        check_searcher(OURS["DE"], known_to_break={"speed"})
    with pytest.raises(ValueError, match="`num_objectives` must be 1 or 2, got 3"):
        check_searcher(OURS["NSGA2"], num_objectives=3)


def test_the_check_leaves_the_global_generators_as_they_were():
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    check_searcher(EVOTORCHS["SNES"], known_to_break={"global generators"})
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
        self.tell(z, self.problem.score(z)[:, 0])


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


class Greedy(DE):
    """Scores more and more."""

    def _step(self) -> None:
        super()._step()
        if self.step_count:
            self.problem.evaluate(self.problem.generate_batch(10 * self.step_count))


class Silent(Greedy):
    """Does not say how many."""

    next_num_evaluations = None


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
        (Optimist, r"no progress on a quadratic \(min where scores are not finite\)"),
        (Global, r"the problem's seed must give the same search"),
        (Mixed, r"the scores of `population` must be those of its values"),
        (Uncounted, r"a step must score candidates by `problem\.evaluate`"),
        (Unpicklable, r"it cannot be copied and pickled"),
        (Forgetful, r"a copy made in the middle of a search goes on differently"),
        (Stepless, r"`step` must make one step"),
        (Greedy, r"`next_num_evaluations` said 20, the step scored 30"),
        (Silent, r"a budget of 83 evaluations is exceeded: 90"),
        (Foreign, r"`problem` must be the problem it was made for"),
    ],
)
def test_a_broken_clause_is_named(kind, clause):
    with pytest.raises(AssertionError, match=f"{kind.__name__}: {clause}"):
        check_searcher(lambda problem: kind(problem, popsize=20))


class OneSided(NSGA2):
    """Follows one of two objectives."""

    def losses(self, scores: Tensor) -> Tensor:
        return super().losses(scores)[:, :1]


def test_progress_is_asked_for_in_all_objectives():
    with pytest.raises(AssertionError, match=r"OneSided: not all objectives are followed \(min, min\)"):
        check_searcher(lambda problem: OneSided(problem, popsize=20), num_objectives=2)


def test_a_searcher_without_a_population_is_seen():
    with pytest.raises(AssertionError, match=r"Bare: `population` must be an evotorch\.SolutionBatch"):
        check_searcher(Bare)


@pytest.mark.parametrize("generator", ["Python", "NumPy", "PyTorch"])
def test_a_draw_from_a_global_generator_is_seen(generator):
    Wasteful.kind = generator
    with pytest.raises(AssertionError, match=f"it draws from the global generator of {generator}"):
        check_searcher(lambda problem: Wasteful(problem, popsize=20))
    check_searcher(lambda problem: Wasteful(problem, popsize=20), known_to_break={"global generators"})
