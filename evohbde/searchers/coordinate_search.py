"""Coordinate search of the authors of the block method: two trials per value, in intervals that halve."""

from __future__ import annotations

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.chains import ChainSearcher, replace

RULES = ("corrected", "authors")


def intervals_of_neighbours(lower: Tensor, upper: Tensor, rule: str = "corrected") -> tuple[Tensor, Tensor]:
    """From the lower end of the block before to the upper end of the block after: `(d,), (d,) -> (d,), (d,)`.

    Corrected, a block's own range counts too, so the first and the last one have an interval; with the authors, they
    get [0, 0]. Blocks are taken to be in the order of their values.
    """
    first, last = lower.clone(), upper.clone()
    if rule == "authors":
        first[1:], last[:-1] = lower[:-1], upper[1:]
        first[[0, -1]], last[[0, -1]] = 0, 0
        return first, last
    first[1:] = torch.minimum(lower[1:], lower[:-1])
    last[:-1] = torch.maximum(upper[:-1], upper[1:])
    return first, last


def next_interval(
    lower: Tensor, upper: Tensor, scores: tuple[Tensor, Tensor, Tensor], rule: str = "corrected"
) -> tuple[Tensor, Tensor, Tensor]:
    """Where one of two trials, a quarter in from either end, beats the best so far, and which interval is left.

    `lower`, `upper` and the utilities (of the low trial, the high trial, the best) are `(N,)`. Returned are the new
    lower and upper ends and the winner: 0 nobody, 1 the low trial, 2 the high one. The winner's half is left, or the
    middle half. Two trials that are equal and beat the best are both thrown away by the authors; corrected, the low
    one wins.
    """
    low, high, best = scores
    length = upper - lower
    low_wins = (low > best) & ((low > high) if rule == "authors" else (low >= high))
    high_wins = ~low_wins & (high > best) & (high > low)
    new_lower = lower + torch.where(low_wins, 0, torch.where(high_wins, 0.5, 0.25)) * length
    new_upper = upper - torch.where(low_wins, 0.5, torch.where(high_wins, 0, 0.25)) * length
    return new_lower, new_upper, low_wins.long() + 2 * high_wins.long()


class CoordinateSearch(ChainSearcher):
    """Go through the values in random order; try each a quarter in from both ends of its interval, which then halves.

    A step takes one value in every chain: two candidates, compared with the incumbent (which never worsens, but where
    it is scored again). A sweep is `d` steps; intervals are a thousandth of the first ones after ten sweeps, so the
    search ends of itself. Trials of different values cannot be batched, as each starts from the outcome of the one
    before; chains can, and start from different candidates or differ in order only.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: Number of chains.
        rule: `"corrected"`, or `"authors"`: first and last interval [0, 0], equal trials thrown away, incumbents scored
            again (and counted) at the beginning of every sweep but the first.
        intervals: First interval of each value: `"neighbours"`: from the least initial bound of the value before to
            the greatest of the value after (blocks in the order of their values); `"own"`: the initial bounds; or
            `(lower, upper)`, each `(d,)`.
        center_init, stdev_init: First population normal around a centre; without a centre, around `problem.center`.
            The published search starts at the centre: `stdev_init=0`.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether chain 0 starts at the centre itself (the trained network).
        bounds: Repair of candidates outside the bounds, as in `DE`.
        rescore_parents: Whether incumbents are scored again with every pair of trials (and counted); None asks the
            problem, which says so when its samples change.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If an option is out of its range.

    Source: code of arXiv 2408.07194.
    """

    num_neighbours = 2

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 1,
        rule: str = "corrected",
        intervals: str | tuple[Tensor, Tensor] = "neighbours",
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: str | None = None,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        super().__init__(
            problem,
            popsize=popsize,
            center_init=center_init,
            stdev_init=stdev_init,
            initial_population=initial_population,
            include_center=include_center,
            bounds=bounds,
            rescore_parents=rescore_parents,
            obj_index=obj_index,
            interval_width=self._get_interval_width,
        )
        if rule not in RULES:
            raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {rule!r}")
        self.rule = rule
        lower, upper = self._first_intervals(intervals)
        self._lower = lower.expand(popsize, -1).clone()
        self._upper = upper.expand(popsize, -1).clone()
        self._order = torch.empty(0, dtype=torch.int64, device=problem.device)
        self._num_moves = 0
        self._start_reporting()

    @property
    def intervals(self) -> tuple[Tensor, Tensor]:
        """Lower and upper ends of what is left to search, `(N, d)` each."""
        return self._lower.clone(), self._upper.clone()

    def neighbours(self, incumbents: Tensor) -> Tensor:
        if self._position == 0:
            self._order = self.rand(*incumbents.shape).argsort(dim=1)
        lower, upper = self._ends()
        trials = torch.stack([lower + (upper - lower) / 4, upper - (upper - lower) / 4], dim=1)
        value = self._order[:, self._position].expand(2, -1).T[:, :, None]
        z = incumbents[:, None, :].repeat(1, 2, 1).scatter_(2, value, trials[:, :, None].to(incumbents.dtype))
        return z.flatten(0, 1)

    def contest(self) -> tuple[Tensor, ...] | None:
        """Both trials of a chain have to beat its incumbent, and each other."""
        if not self._is_started or self._will_rescore():
            return None
        threshold, nobody = (values.repeat_interleave(2) for values in self.duels(self._population, is_rescored=False))
        return threshold, nobody, torch.arange(self.popsize, device=nobody.device).repeat_interleave(2)

    def _move(self, z: Tensor, scores: Tensor) -> None:
        best = self.utility(self._population._evdata)
        low, high = self.utility(scores).view(-1, 2).unbind(1)
        *ends, winner = next_interval(*self._ends(), (low, high, best), self.rule)
        value = self._order[:, [self._position]]
        for interval, end in zip((self._lower, self._upper), ends, strict=True):
            interval.scatter_(1, value, end[:, None])
        row = 2 * torch.arange(self.popsize, device=winner.device) + (winner == 2)
        replace(self._population, winner > 0, z[row], scores[row])
        self._num_moves += 1

    @property
    def _position(self) -> int:
        return self._num_moves % self.problem.solution_length

    def _will_rescore(self) -> bool:
        begins_again = self._position == 0 and self._num_moves > 0
        return self.rescore_parents or (self.rule == "authors" and begins_again)

    def _ends(self) -> tuple[Tensor, Tensor]:
        value = self._order[:, [self._position]]
        return self._lower.gather(1, value)[:, 0], self._upper.gather(1, value)[:, 0]

    def _first_intervals(self, intervals: str | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        problem = self.problem
        length = problem.solution_length
        if isinstance(intervals, str):
            if intervals not in ("neighbours", "own"):
                raise ValueError(f"`intervals` must be 'neighbours', 'own' or (lower, upper), got {intervals!r}")
            if problem.initial_lower_bounds is None:
                raise ValueError("give `intervals`: the problem has no `initial_bounds` to derive them from")
            lower, upper = problem.initial_lower_bounds, problem.initial_upper_bounds
        else:
            lower, upper = intervals
        lower, upper = (
            torch.as_tensor(end, device=problem.device, dtype=problem.dtype).as_subclass(Tensor).expand(length)
            for end in (lower, upper)
        )
        if not bool((lower <= upper).all()) or not bool(torch.isfinite(upper - lower).all()):
            raise ValueError("expected finite `intervals` whose lower ends do not exceed the upper ones")
        return intervals_of_neighbours(lower, upper, self.rule) if intervals == "neighbours" else (lower, upper)

    def _get_interval_width(self) -> float:
        return float((self._upper - self._lower).mean())
