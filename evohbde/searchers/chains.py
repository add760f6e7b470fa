"""What do searches along trajectories share? Independent chains, each with an incumbent, scored in one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import PopulationSearcher, StdevInit, resolve_stdev
from evohbde.searchers.bounds import Bounds


def is_failed(utility: Tensor) -> Tensor:
    """Where there is no score: NaN was turned into -inf, or by our problems into the worst finite number."""
    return utility <= -torch.finfo(utility.dtype).max


def replace(batch: SolutionBatch, rows: Tensor, z: Tensor, scores: Tensor) -> None:
    """Write candidates and their scores into the rows that are marked: `(N,)` bool, `(N, d)`, `(N, M)`."""
    values, evals = batch._data, batch._evdata
    torch.where(rows[:, None], z.to(values.dtype), values, out=values)
    torch.where(rows[:, None], scores.to(evals.dtype), evals, out=evals)


def shares_to_move(uniform: Tensor, rate: float) -> Tensor:
    """Which values of a row move: each with probability `rate`, one of them always: `(N, d) -> (N, d)` bool."""
    return (uniform < rate).scatter_(1, uniform.argmin(dim=1, keepdim=True), True)


class ChainSearcher(PopulationSearcher):
    """`popsize` chains that know nothing of each other; a step scores the neighbours of all their incumbents at once.

    The population are the incumbents. Batches named in `keeps` (the best of each chain, say) are updated by the
    subclass; where scores go stale, incumbents and these batches are scored again with the neighbours, in one batch.
    A subclass fills in `neighbours` and `_move`, says in `num_neighbours` how many candidates a chain scores, and calls
    `_start_reporting()` last in its `__init__`. The arguments are documented in `SimulatedAnnealing`.
    """

    keeps: tuple[str, ...] = ()
    num_neighbours = 1

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int,
        center_init: Tensor | Solution | None,
        stdev_init: StdevInit,
        initial_population: SolutionBatch | Tensor | None,
        include_center: bool,
        bounds: str | None,
        rescore_parents: bool | None,
        obj_index: int | None,
        **status: Callable[[], Any],
    ) -> None:
        super().__init__(problem, obj_index=obj_index, **status)
        if popsize < 1:
            raise ValueError(f"`popsize`, the number of chains, must be at least 1, got {popsize}")
        self._rescore_parents, self._bounds = rescore_parents, Bounds(problem, bounds)
        self._stdev_init = resolve_stdev(problem, stdev_init)
        values = self._first_values(popsize, center_init, stdev_init, initial_population)
        if include_center:
            values[0] = self.center_values(center_init, "include_center")
        self._population = self._batch_of(values)
        self._kept = {name: self._batch_of(values) for name in self.keeps}
        self._is_started = False

    @property
    def popsize(self) -> int:
        return len(self._population)

    @property
    def rescore_parents(self) -> bool:
        if self._rescore_parents is None:
            return bool(getattr(self.problem, "rescore_parents", False))
        return self._rescore_parents

    @property
    def next_num_evaluations(self) -> int:
        if not self._is_started:
            return self.popsize
        return self.popsize * (self.num_neighbours + (1 + len(self.keeps) if self._will_rescore() else 0))

    def neighbours(self, incumbents: Tensor) -> Tensor:
        """Candidates next to the incumbents, those of one chain one after the other: `(N, d) -> (N * n, d)`."""
        raise NotImplementedError

    def _move(self, z: Tensor, scores: Tensor) -> None:
        """Replace incumbents by what was found: `(N * n, d)`, `(N * n, M)`."""
        raise NotImplementedError

    @torch.no_grad()
    def ask(self) -> Tensor:
        """The first population, later the neighbours, followed by what is scored again where scores go stale."""
        incumbents = self._population.values.as_subclass(Tensor)
        if not self._is_started:
            return incumbents.clone()
        z = self._repair(self.neighbours(incumbents))
        if not self._will_rescore():
            return z
        return torch.cat([z, incumbents, *(batch.values.as_subclass(Tensor) for batch in self._kept.values())])

    @torch.no_grad()
    def tell(self, z: Tensor, scores: Tensor) -> None:
        scores = scores if scores.ndim == 2 else scores[:, None]
        self._check_told(z, scores)
        if not self._is_started:
            for batch in (self._population, *self._kept.values()):
                batch._data.copy_(z)
                batch._evdata.copy_(scores)
            self._is_started = True
            return
        num_new = self.popsize * self.num_neighbours
        if len(z) > num_new:
            again = scores[num_new:].split(self.popsize)
            for batch, new_scores in zip((self._population, *self._kept.values()), again, strict=True):
                batch._evdata.copy_(new_scores)
        self._move(z[:num_new], scores[:num_new])

    def _check_told(self, z: Tensor, scores: Tensor) -> None:
        width = self._population._evdata.shape[1]
        num_new = self.popsize * (self.num_neighbours if self._is_started else 1)
        num_again = self.popsize * (1 + len(self.keeps)) if self._is_started else 0
        if len(z) not in (num_new, num_new + num_again) or scores.shape != (len(z), width):
            raise ValueError(
                f"expected the candidates that `ask` gave and scores of shape (n, {width}), one column per objective, "
                f"got {tuple(z.shape)} and {tuple(scores.shape)}"
            )

    def _will_rescore(self) -> bool:
        return self.rescore_parents

    def _keep_better(self, name: str) -> Tensor:
        """Let a kept batch follow the incumbents where those are strictly better; returns where: `(N,)` bool."""
        kept = self._kept[name]
        better = self.utility(self._population._evdata) > self.utility(kept._evdata)
        replace(kept, better, self._population._data, self._population._evdata)
        return better

    def _repair(self, z: Tensor) -> Tensor:
        return self._bounds.repair(z, self.rand)

    def _batch_of(self, values: Tensor) -> SolutionBatch:
        batch = SolutionBatch(self.problem, popsize=len(values), device=self.problem.device, empty=True)
        batch.set_values(values)
        return batch

    def _first_values(
        self,
        popsize: int,
        center_init: Tensor | Solution | None,
        stdev_init: StdevInit,
        initial_population: SolutionBatch | Tensor | None,
    ) -> Tensor:
        values = self.initial_values(popsize, center_init, stdev_init, initial_population)
        return values if initial_population is not None else self._repair(values)

    def _scale(self, name: str, value: float | Tensor | None, share: float) -> Tensor:
        """How far neighbours are, `()` or `(d,)`: as given, else a share of the spread of the first population."""
        problem = self.problem
        if value is None:
            value = self._first_spread(name) * share
        scale = torch.as_tensor(value, device=problem.device, dtype=problem.dtype).as_subclass(Tensor)
        if scale.ndim > 0 and scale.shape != (problem.solution_length,):
            raise ValueError(
                f"expected `{name}`: a number, or shape ({problem.solution_length},), got {tuple(scale.shape)}"
            )
        if not bool(torch.isfinite(scale).all()) or bool((scale < 0).any()) or not bool((scale > 0).any()):
            raise ValueError(f"`{name}` must be finite and not negative, and positive somewhere")
        return scale

    def _first_spread(self, name: str) -> Tensor:
        problem = self.problem
        if self._stdev_init is not None:
            return torch.as_tensor(self._stdev_init, device=problem.device, dtype=problem.dtype)
        if problem.initial_lower_bounds is None:
            raise ValueError(f"give `{name}`: the problem has no `initial_bounds` to derive it from")
        return (problem.initial_upper_bounds - problem.initial_lower_bounds).as_subclass(Tensor)


class FreshValues:
    """Values drawn anew, as for a first population: normal around a centre, or uniform in the initial bounds."""

    def __init__(
        self, searcher: PopulationSearcher, center_init: Tensor | Solution | None, stdev_init: StdevInit
    ) -> None:
        problem = searcher.problem
        # What does not fit is refused here, once: the draws of a step shall not wait for the device.
        searcher.initial_values(1, center_init, stdev_init, None)
        self.is_normal = stdev_init is not None
        if stdev_init is None:
            lower = problem.initial_lower_bounds.as_subclass(Tensor)
            self.start, self.width = lower, problem.initial_upper_bounds.as_subclass(Tensor) - lower
        else:
            self.start = searcher.center_values(center_init, "stdev_init")
            self.width = torch.as_tensor(resolve_stdev(problem, stdev_init), device=problem.device, dtype=problem.dtype)

    def draw(self, searcher: PopulationSearcher, num: int) -> Tensor:
        """`(num, d)`, from the generator of the searcher's problem."""
        draw = searcher.randn if self.is_normal else searcher.rand
        return (self.start + self.width * draw(num, searcher.problem.solution_length)).to(searcher.problem.dtype)
