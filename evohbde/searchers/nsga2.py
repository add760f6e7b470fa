"""NSGA-II (Deb, Pratap, Agarwal & Meyarivan, 2002)."""

from __future__ import annotations

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.duplicates import is_repeated, row_keys
from evohbde.searchers.multi_objective import Bound, MultiObjectiveSearcher, Violation
from evohbde.searchers.pareto import (
    best_by_rank_and_crowding,
    crowded_tournament,
    crowding_distance,
    domination_sign,
    nondominated_rank,
    slots,
)
from evohbde.searchers.variation import Variation


class NSGA2(MultiObjectiveSearcher):
    """NSGA-II: the better fronts of parents and children survive, of the front that is cut the least crowded.

    Args:
        problem: Any numeric EvoTorch problem; all its objectives are followed, each in its own sense.
        popsize: N; each generation scores as many children.
        variation: `"real"` (simulated binary crossover and polynomial mutation), `"binary"` (uniform crossover and bit
            flips), an instance such as `RealVariation(mutation_eta=10)`, or a function of `Parents`; None: real for
            floating point problems, else binary.
        violation: Constraints: a function of the values, `(n, d) -> (n,)`, or a column of the problem's evaluation
            data; positive where they are violated. Less violation beats any score.
        center_init, stdev_init: First population normal around a centre; without a centre, around `problem.center`.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether individual 0 is the centre itself (the trained network).
        tournament: Which of two becomes a parent: the one that dominates the other (`"dominance"`, as in Deb's code),
            or the one in the better front (`"rank"`, as in the paper: it gets ahead faster, but on ZDT2 a third of the
            runs collapse to one end of the front); then the less crowded.
        bounds: Strict bounds; None: those of the problem. Where it has only initial bounds, they give the scale of
            mutations and are not enforced.
        eliminate_duplicates: Whether children equal to others are made anew, and remaining ones survive last.
        rescore_parents: Whether parents are scored again with every generation of children (and counted); None asks
            the problem, which says so when its samples change.

    Raises:
        ValueError: If an option is out of its range, or real variation finds no bounds.

    Source: Deb et al. (2002), IEEE Trans. Evol. Comput. 6:182.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
        variation: str | Variation | None = None,
        violation: Violation | int | None = None,
        tournament: str = "dominance",
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: tuple[Bound, Bound] | None = None,
        eliminate_duplicates: bool = True,
        rescore_parents: bool | None = None,
    ) -> None:
        if tournament not in ("dominance", "rank"):
            raise ValueError(f"`tournament` must be 'dominance' or 'rank', got {tournament!r}")
        self.tournament = tournament
        super().__init__(
            problem,
            popsize=popsize,
            variation=variation,
            violation=violation,
            center_init=center_init,
            stdev_init=stdev_init,
            initial_population=initial_population,
            include_center=include_center,
            bounds=bounds,
            eliminate_duplicates=eliminate_duplicates,
            rescore_parents=rescore_parents,
        )

    def _start(self) -> None:
        self._rank, self._crowding = self._order(self._population._data, self._population._evdata)

    def _mate(self, rows: Tensor) -> Tensor:
        """Two children per pair, each parent the winner of a tournament of two; all take part equally often."""
        num_pairs = (len(rows) + 1) // 2
        contestants = self._permutations(4 * num_pairs).view(2, 2 * num_pairs)
        winners = crowded_tournament(contestants, self._compare(contestants), self._crowding, self.rand(2 * num_pairs))
        places = torch.cat([rows, rows.new_full((2 * num_pairs - len(rows),), -1)])
        return self._vary(winners.view(2, num_pairs), places.view(2, num_pairs)).flatten(0, 1)[: len(rows)]

    def _compare(self, pairs: Tensor) -> Tensor:
        if self.tournament == "rank":
            return self._rank[pairs[0]] - self._rank[pairs[1]]
        values, scores = self._population._data, self._population._evdata
        return domination_sign(pairs, self.losses(scores), self.violations(values, scores))

    def _permutations(self, num: int) -> Tensor:
        times = -(-num // self.popsize)
        return self.rand(times, self.popsize).argsort(dim=1).flatten()[:num]

    def _select(self, values: Tensor, evals: Tensor, z: Tensor, scores: Tensor) -> Tensor:
        rank, crowding = self._order(torch.cat([values, z]), torch.cat([evals, scores]))
        survivors = best_by_rank_and_crowding(rank, crowding, self.popsize, self.rand(len(rank)))
        source = slots(survivors, self.popsize)
        self._rank, self._crowding = rank[source], crowding[source]
        return source

    def _order(self, values: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Rank and crowding of the pool; duplicates of earlier members count as failed."""
        losses, violation = self.losses(scores), self.violations(values, scores)
        if self.eliminate_duplicates:
            repeated = is_repeated(row_keys(values))
            losses = losses.masked_fill(repeated[:, None], torch.inf)
            violation = None if violation is None else violation.masked_fill(repeated, torch.inf)
        rank = nondominated_rank(losses, violation, stop_at=self.popsize)
        return rank, crowding_distance(losses, rank)
