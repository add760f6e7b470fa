"""What do our population searchers share?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from evotorch import Problem, Solution, SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm, SinglePopulationAlgorithmMixin
from torch import Tensor

StdevInit = float | Tensor | str | None
"""Standard deviation of a first population: a number, one per value `(d,)`, `"auto"`, or None for initial bounds."""


def resolve_stdev(problem: Problem, stdev_init: StdevInit) -> float | Tensor | None:
    """The standard deviation as given, or for `"auto"` the problem's own, `problem.stdev`.

    Raises:
        ValueError: If it is another string, or the problem has no `stdev`.
    """
    if not isinstance(stdev_init, str):
        return stdev_init
    if stdev_init != "auto":
        raise ValueError(f"`stdev_init` must be a number, one number per value, or 'auto', got {stdev_init!r}")
    stdev = getattr(problem, "stdev", None)
    if stdev is None:
        raise ValueError(
            f"stdev_init='auto' needs a problem with a `stdev` of its own, such as a NetworkProblem, and "
            f"{type(problem).__name__} has none: give a number or one number per value"
        )
    return stdev


def resolve_center(problem: Problem, center_init: Tensor | Solution | None) -> Tensor | None:
    """The centre as given, else the problem's own: `(d,)`; None where there is neither.

    Raises:
        ValueError: If its length is not that of the problem, or a value is not finite.
    """
    center = getattr(problem, "center", None) if center_init is None else center_init
    if center is None:
        return None
    center = center.values if isinstance(center, Solution) else torch.as_tensor(center)
    center = center.as_subclass(Tensor).to(device=problem.device, dtype=problem.dtype)
    if center.numel() != problem.solution_length:
        raise ValueError(f"expected `center_init` of {problem.solution_length} values, got shape {tuple(center.shape)}")
    if not bool(torch.isfinite(center).all()):
        raise ValueError("`center_init` holds NaN or infinite values: start from finite ones")
    return center.reshape(-1)


class PopulationSearcher(SearchAlgorithm, SinglePopulationAlgorithmMixin):
    """A native EvoTorch searcher that is driven by `ask` and `tell`.

    A subclass sets `_population`, fills in `ask` and `tell`, and calls `_start_reporting()` last in its `__init__`.
    `run`, status, hooks and loggers then work as with EvoTorch's own algorithms.
    """

    _population: SolutionBatch

    def __init__(self, problem: Problem, *, obj_index: int | None = None, **status: Callable[[], Any]) -> None:
        if not isinstance(problem, Problem):
            raise TypeError(f"expected `problem` to be an evotorch.Problem, got {type(problem).__name__}")
        SearchAlgorithm.__init__(self, problem, **status)
        problem.ensure_numeric()
        self._obj_index = self._choose_objective(obj_index)

    def _choose_objective(self, obj_index: int | None) -> int | None:
        """Index of the objective to follow; None in searchers that follow all of them."""
        return self.problem.normalize_obj_index(obj_index)

    def _start_reporting(self) -> None:
        SinglePopulationAlgorithmMixin.__init__(self)

    @property
    def obj_index(self) -> int | None:
        """The objective that is followed; None if all are."""
        return self._obj_index

    @property
    def population(self) -> SolutionBatch:
        return self._population

    @property
    def sign(self) -> float:
        """1 if the objective is maximised, -1 if minimised."""
        return 1.0 if self.problem.senses[self._obj_index] == "max" else -1.0

    @property
    def next_num_evaluations(self) -> int | None:
        """Candidates that the next step scores, where that is known before: budgets are then kept to the last one."""
        return None

    def ask(self) -> Tensor:
        """Candidates to score next: `(n, d)`."""
        raise NotImplementedError

    def tell(self, z: Tensor, scores: Tensor) -> None:
        """Take the scores of what `ask` gave: `(n, d)` and `(n,)` or `(n, M)`, in the problem's own senses."""
        raise NotImplementedError

    def contest(self) -> tuple[Tensor, ...] | None:
        """What the candidates of the last `ask` have to reach; a problem may give up those that cannot any more.

        Returns:
            Scores to be reached, `(n,)`, NaN where there is none, and the rows of the same batch whose score is to be
            reached instead, `(n,)`, -1 where there is none (`evohbde.racing.Contest`); and, where only the best of
            some counts, the number of their group, `(n,)`, -1 for none. None if all must be scored.
        """
        return None

    def _step(self) -> None:
        z = self.ask()
        batch = SolutionBatch(self.problem, popsize=len(z), device=z.device, empty=True)
        batch.set_values(z)
        contest = self.contest() if getattr(self.problem, "takes_contest", False) else None
        if contest is None:
            self.problem.evaluate(batch)
        else:
            self.problem.evaluate(batch, contest=contest)
        self.tell(z, batch._evdata)

    def duels(self, population: SolutionBatch, is_rescored: bool) -> tuple[Tensor, Tensor]:
        """The contest in which row i meets individual i, which has its score or is scored again behind all rows."""
        threshold, popsize = population._evdata[:, self._obj_index].clone(), len(population)
        nobody = torch.full((popsize,), -1, dtype=torch.int64, device=threshold.device)
        if not is_rescored:
            return threshold, nobody
        rows = torch.arange(popsize, 2 * popsize, device=threshold.device)
        return threshold.new_full((2 * popsize,), torch.nan), torch.cat([rows, nobody])

    def utility(self, scores: Tensor) -> Tensor:
        """Higher is better, NaN is worst: `(n,)` or `(n, M)` scores to `(n,)`."""
        column = scores[:, self._obj_index] if scores.ndim == 2 else scores
        return (column * self.sign).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) from the problem's own generator, in float32 at least."""
        problem = self.problem
        # Half precision has too few numbers to draw an index or a rate from.
        dtype = torch.promote_types(problem.dtype, torch.float32)
        return torch.rand(*shape, generator=problem.generator, device=problem.device, dtype=dtype)

    def randn(self, *shape: int) -> Tensor:
        """Standard normal numbers from the problem's own generator."""
        problem = self.problem
        return torch.randn(*shape, generator=problem.generator, device=problem.device, dtype=problem.dtype)

    def initial_values(
        self,
        popsize: int,
        center_init: Tensor | Solution | None,
        stdev_init: StdevInit,
        initial_population: SolutionBatch | Tensor | None,
    ) -> Tensor:
        """First candidates, `(popsize, d)`: given, normal around a centre, or uniform in the initial bounds.

        With `stdev_init="auto"` the deviation is the problem's own, and the centre itself is the first candidate.
        """
        problem = self.problem
        if initial_population is not None:
            return self._given(initial_population, popsize)
        if stdev_init is None:
            if center_init is not None:
                raise ValueError(
                    "`center_init` needs `stdev_init`, the standard deviation of the first population around it"
                )
            if problem.initial_lower_bounds is None:
                raise ValueError(
                    "the problem has no `initial_bounds` to draw the first population from: "
                    "give `center_init` and `stdev_init`, or `initial_population`"
                )
            lower, upper = problem.initial_lower_bounds, problem.initial_upper_bounds
            return lower + (upper - lower) * self.rand(popsize, problem.solution_length)
        center = self.center_values(center_init, "stdev_init")
        stdev = torch.as_tensor(resolve_stdev(problem, stdev_init), device=problem.device, dtype=problem.dtype)
        if bool((stdev < 0).any()) or not bool(torch.isfinite(stdev).all()):
            raise ValueError(f"`stdev_init` must be finite and not negative, got {stdev_init}")
        if stdev.shape not in ((), (1,), (problem.solution_length,)):
            raise ValueError(
                f"expected `stdev_init` to be a number or {problem.solution_length} of them, one per value, got shape "
                f"{tuple(stdev.shape)}"
            )
        values = center + stdev * self.randn(popsize, problem.solution_length)
        if isinstance(stdev_init, str):
            values[0] = center
        return values

    def center_values(self, center_init: Tensor | Solution | None, needed_by: str) -> Tensor:
        """The centre as given, else the problem's own: `(d,)`."""
        center = resolve_center(self.problem, center_init)
        if center is None:
            raise ValueError(f"`{needed_by}` needs `center_init`: this problem has no `center` of its own")
        return center

    def _given(self, initial_population: SolutionBatch | Tensor, popsize: int) -> Tensor:
        given = initial_population.values if isinstance(initial_population, SolutionBatch) else initial_population
        given = torch.as_tensor(given).as_subclass(Tensor).to(device=self.problem.device, dtype=self.problem.dtype)
        if given.shape != (popsize, self.problem.solution_length):
            raise ValueError(
                f"expected `initial_population` of shape ({popsize}, {self.problem.solution_length}), "
                f"popsize x decision values, got {tuple(given.shape)}"
            )
        if not bool(torch.isfinite(given).all()):
            raise ValueError("`initial_population` holds NaN or infinite values: give finite candidates")
        return given.clone()
