"""Random search: how good is the best of independent draws? The yardstick that every other searcher has to beat."""

from __future__ import annotations

from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.chains import ChainSearcher, FreshValues, replace


class RandomSearch(ChainSearcher):
    """Draw `popsize` candidates per step, independent of all before; row `i` of the population is the best i-th draw.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: Candidates per step.
        center_init, stdev_init: Draw from a normal distribution around a centre; without a centre, around
            `problem.center`; without a standard deviation, uniformly in the initial bounds.
        initial_population: First candidates as given, `(popsize, d)` or a `SolutionBatch`; later ones are drawn.
        include_center: Whether the first candidate is the centre itself (the trained network).
        bounds: Repair of what was drawn outside the bounds, as in `DE`.
        rescore_parents: Whether the population is scored again with every draw (and counted); None asks the problem.
        obj_index: The objective to follow on multi-objective problems.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
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
        )
        self._fresh = FreshValues(self, center_init, stdev_init)
        self._start_reporting()

    def neighbours(self, incumbents: Tensor) -> Tensor:
        return self._fresh.draw(self, len(incumbents))

    def _move(self, z: Tensor, scores: Tensor) -> None:
        population = self._population
        replace(population, self.utility(scores) >= self.utility(population._evdata), z, scores)
