"""Does a searcher keep the contract that the rest of the package relies on?"""

from __future__ import annotations

import math
import pickle
import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from evotorch import Problem, Solution, SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor

from evohbde.problem_base import BaseProblem
from evohbde.run import run_until

MakeSearcher = Callable[[Problem], SearchAlgorithm]

SENSES = {1: (["min"], ["max"]), 2: (["min", "min"], ["max", "min"], ["max", "max"])}
BUDGETS = (7, 30, 83)


def check_searcher(
    make_searcher: MakeSearcher,
    *,
    dim: int = 6,
    num_steps: int = 60,
    num_objectives: int = 1,
    known_to_break: Collection[str] = (),
) -> None:
    """Run a searcher through the contract that the rest of the package relies on.

    For authors of new searchers: call it in a test. The problem that `make_searcher` gets has `dim` values, initial
    bounds from -1 to 1, no strict ones, a seed, and a `center` to start from: the origin. The clauses are:

    - `"status"`: population and status belong together, and a step is one step;
    - `"progress"`: quadratic functions are minimised and maximised, two of them at once where there are two objectives;
    - `"failed scores"`: NaN and infinite scores neither stop nor win the search;
    - `"budget"`: `run_until` scores no more candidates than it may, but for the first step, and `next_num_evaluations`,
      where the searcher has it, comes true;
    - `"seed"`: the problem's seed gives the same search again, and another seed another one;
    - `"copies"`: a copy or pickle made in the middle goes on bit for bit;
    - `"global generators"`: those of Python, NumPy and PyTorch are left alone.

    Args:
        make_searcher: Makes your searcher for a given problem, with options that suit the problem above.
        dim: Number of values.
        num_steps: Steps in which the population shall on average get nearer to the optima than the first best was.
        num_objectives: 1 or 2.
        known_to_break: Clauses that the searcher is known not to keep. It must break them: a clause that is kept after
            all is reported, too.

    Raises:
        AssertionError: If a clause does not hold; the message names the class and the clause.
        ValueError: If `num_objectives` or a clause is unknown.
    """
    if num_objectives not in SENSES:
        raise ValueError(f"`num_objectives` must be 1 or 2, got {num_objectives}")
    unknown = set(known_to_break) - set(CLAUSES)
    if unknown:
        raise ValueError(f"`known_to_break` names {sorted(unknown)}; the clauses are {list(CLAUSES)}")
    trial = _Trial(make_searcher, dim, num_steps, SENSES[num_objectives])
    with _guarded_random_state():
        for clause, check in CLAUSES.items():
            if clause not in known_to_break:
                check(trial)
            elif _holds(check, trial):
                searcher = trial.search()
                demand(False, searcher, f'it keeps the clause "{clause}" after all: drop it from `known_to_break`')


def demand(holds: bool, part: object, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"{type(part).__name__}: {otherwise}")


class _Quadratics(BaseProblem):
    """Squared distance to a goal, or to two; with `fails`, no finite score wherever the first value is positive."""

    def __init__(self, senses: list[str], dim: int, *, fails: bool = False, seed: int = 0) -> None:
        super().__init__(senses, solution_length=dim, initial_bounds=(-1, 1), seed=seed)
        self.center, self.fails = torch.zeros(dim), fails
        goal = torch.linspace(-0.5, 0.5, dim)
        self.goals = torch.stack([goal, -goal][: len(senses)])
        self.signs = torch.tensor([1.0 if sense == "min" else -1.0 for sense in senses])

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        batch.set_evals(self.score(batch.access_values(keep_evals=True).as_subclass(Tensor)))

    def score(self, z: Tensor) -> Tensor:
        """Scores in the problem's own senses: `(n, d) -> (n, M)`."""
        scores = (z[:, None] - self.goals).square().sum(2) * self.signs
        if not self.fails:
            return scores
        failed = torch.tensor([torch.nan, torch.inf, -torch.inf])[(1.5 * (z[:, -1:] + 1)).long().clamp(0, 2)]
        return torch.where(z[:, :1] > 0, failed, scores)

    def excess(self, z: Tensor) -> Tensor:
        """Squared distance to the goal, or to the Pareto set, the line between both goals: `(n, d) -> (n,)`."""
        along = self.goals[-1] - self.goals[0]
        share = ((z - self.goals[0]) @ along / along.square().sum().clamp(min=1e-9)).clamp(0, 1)
        return (z - self.goals[0] - share[:, None] * along).square().sum(1)


@dataclass(frozen=True)
class _Trial:
    """What all clauses need: how searchers are made, and for which problems."""

    make_searcher: MakeSearcher
    dim: int
    num_steps: int
    senses: tuple[list[str], ...]

    def problem(self, *, seed: int = 0) -> _Quadratics:
        return _Quadratics(self.senses[0], self.dim, seed=seed)

    def search(self, *, seed: int = 0) -> SearchAlgorithm:
        return self.make_searcher(self.problem(seed=seed))


def _holds(check: Callable[[_Trial], None], trial: _Trial) -> bool:
    try:
        check(trial)
    except AssertionError:
        return False
    return True


def _population(searcher: SearchAlgorithm) -> tuple[Tensor, Tensor]:
    """Copies of values and scores: `(n, d)` and `(n, M)`."""
    population = getattr(searcher, "population", None)
    if not isinstance(population, SolutionBatch):
        raise AssertionError(f"{type(searcher).__name__}: `population` must be an evotorch.SolutionBatch")
    return population.values.as_subclass(Tensor).clone(), population.evals.as_subclass(Tensor).clone()


def _state(searcher: SearchAlgorithm) -> Tensor:
    return torch.cat(_population(searcher), dim=1)


def _check_status(trial: _Trial) -> None:
    problem = trial.problem()
    searcher = trial.make_searcher(problem)
    demand(isinstance(searcher, SearchAlgorithm), searcher, "it must be an EvoTorch SearchAlgorithm")
    demand(searcher.problem is problem, searcher, "`problem` must be the problem it was made for")
    for step in range(1, 4):
        before = problem.num_evaluations
        searcher.step()
        demand(searcher.status.get("iter") == step, searcher, "`step` must make one step: override `_step` instead")
        demand(problem.num_evaluations > before, searcher, "a step must score candidates by `problem.evaluate`")
        values, scores = _population(searcher)
        agree = torch.allclose(scores, problem.score(values), rtol=1e-4, atol=1e-6)
        demand(agree, searcher, "the scores of `population` must be those of its values")


def _check_progress(trial: _Trial) -> None:
    for senses in trial.senses:
        _check_approach(trial, _Quadratics(senses, trial.dim), "")


def _check_failed_scores(trial: _Trial) -> None:
    for senses in trial.senses:
        problem = _Quadratics(senses, trial.dim, fails=True)
        searcher = _check_approach(trial, problem, " where scores are not finite")
        best = searcher.status["best"]
        is_allowed = all(solution.values[0] <= 0 for solution in ([best] if isinstance(best, Solution) else best))
        demand(is_allowed, searcher, "a candidate whose score is not finite has become the best")


def _check_approach(trial: _Trial, problem: _Quadratics, where: str) -> SearchAlgorithm:
    searcher = trial.make_searcher(problem)
    searcher.run(1)
    first = _successes(searcher)
    searcher.run(trial.num_steps - 1)
    last = _successes(searcher)
    task = f"{', '.join(problem.senses)}{where}"
    before = float(problem.excess(first).min()) if len(first) else math.inf
    mean = float(problem.excess(last).mean()) if len(last) else math.inf
    demand(mean < before, searcher, f"no progress on a quadratic ({task}): {mean:.3g} >= {before:.3g}")
    for goal in problem.goals if len(problem.goals) > 1 and len(first) else ():
        nearest, found = ((z - goal).square().sum(1).min() for z in (first, last))
        demand(bool(found < nearest), searcher, f"not all objectives are followed ({task})")
    return searcher


def _successes(searcher: SearchAlgorithm) -> Tensor:
    """Those members of the population that have not failed: `(n, d)`."""
    values, scores = _population(searcher)
    return values[(scores.abs() < torch.finfo(scores.dtype).max).all(1)]


def _check_budget(trial: _Trial) -> None:
    searcher = trial.search()
    for _ in range(6):
        before, expected = searcher.problem.num_evaluations, getattr(searcher, "next_num_evaluations", None)
        searcher.step()
        spent = searcher.problem.num_evaluations - before
        demand(expected in (None, spent), searcher, f"`next_num_evaluations` said {expected}, the step scored {spent}")
    for budget in BUDGETS:
        searcher = trial.search()
        searcher.step()
        allowed = max(budget, searcher.problem.num_evaluations)
        searcher = trial.search()
        run_until(searcher, num_evaluations=budget)
        spent = searcher.problem.num_evaluations
        demand(spent <= allowed, searcher, f"a budget of {budget} evaluations is exceeded: {spent}")


def _check_seed(trial: _Trial) -> None:
    states = []
    for noise, seed in enumerate((1, 1, 2)):
        _seed_global_generators(noise)
        searcher = trial.search(seed=seed)
        searcher.run(5)
        states.append(_state(searcher))
    first, again, other = states
    demand(torch.equal(first, again), searcher, "the problem's seed must give the same search: draw from its generator")
    demand(not torch.equal(first, other), searcher, "another seed of the problem gives the same search")


def _check_copies(trial: _Trial) -> None:
    searcher = trial.search()
    searcher.run(3)
    try:
        copies = {"copy": deepcopy(searcher), "pickle": pickle.loads(pickle.dumps(searcher))}
    except Exception as error:  # whatever another's class raises, the broken clause is the message
        raise AssertionError(f"{type(searcher).__name__}: it cannot be copied and pickled: {error}") from error
    searcher.run(3)
    for kind, twin in copies.items():
        twin.run(3)
        same = torch.equal(_state(twin), _state(searcher))
        demand(same, searcher, f"a {kind} made in the middle of a search goes on differently")


def _check_global_generators(trial: _Trial) -> None:
    before = _global_random_state()
    searcher = trial.search()
    searcher.run(3)
    after = _global_random_state()
    for name, state in before.items():
        demand(state == after[name], searcher, f"it draws from the global generator of {name}")


CLAUSES: dict[str, Callable[[_Trial], None]] = {
    "status": _check_status,
    "progress": _check_progress,
    "failed scores": _check_failed_scores,
    "budget": _check_budget,
    "seed": _check_seed,
    "copies": _check_copies,
    "global generators": _check_global_generators,
}


def _global_random_state() -> dict[str, bytes]:
    states = {"Python": random.getstate(), "NumPy": np.random.get_state()}  # noqa: NPY002 - only looked at
    return {**{name: pickle.dumps(state) for name, state in states.items()}, "PyTorch": _torch_state()}


def _torch_state() -> bytes:
    return torch.get_rng_state().numpy().tobytes()


def _seed_global_generators(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def _guarded_random_state() -> Iterator[None]:
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(of_python)
            np.random.set_state(of_numpy)  # noqa: NPY002
