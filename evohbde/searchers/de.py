"""Differential Evolution (Storn & Price, 1997), and the variants of the published block search.

The four vectors of DE, in this order: target (the individual), base and mutant, trial (what may replace the target).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.one_to_one import OneToOneSearcher, check_rate

Mutation = Callable[["Donors", "Tensor | float"], Tensor]


class Donors:
    """What a mutation may use: the old population, its utilities, and distinct individuals other than the target.

    Attributes:
        population: `(N, d)`.
        utility: `(N,)`, higher is better.
        index: `(N, k)`, per target `k` distinct individuals, never the target itself.
    """

    def __init__(self, population: Tensor, utility: Tensor, index: Tensor) -> None:
        self.population, self.utility, self.index = population, utility, index

    def __getitem__(self, k: int) -> Tensor:
        """The k-th donor of every target, a copy: `(N, d)`."""
        return self.population.index_select(0, self.index[:, k])

    @property
    def best(self) -> Tensor:
        return self.population[self.utility.argmax()]


def _rand_1(r: Donors, weight: Tensor | float) -> Tensor:
    return r[1].sub_(r[2]).mul_(weight).add_(r[0])


def _best_1(r: Donors, weight: Tensor | float) -> Tensor:
    return r[0].sub_(r[1]).mul_(weight).add_(r.best)


def _rand_2(r: Donors, weight: Tensor | float) -> Tensor:
    return (r[1] - r[2] + r[3] - r[4]).mul_(weight).add_(r[0])


def _best_2(r: Donors, weight: Tensor | float) -> Tensor:
    return (r[0] - r[1] + r[2] - r[3]).mul_(weight).add_(r.best)


def _current_to_best_1(r: Donors, weight: Tensor | float) -> Tensor:
    return (r.best - r.population + r[0] - r[1]).mul_(weight).add_(r.population)


def _order_1(r: Donors, weight: Tensor | float) -> Tensor:
    """Published block search, January 2024: best of three + F (middle - worst)."""
    ranked = r.index.gather(1, r.utility[r.index].argsort(dim=1, descending=True, stable=True))
    best, middle, worst = (r.population.index_select(0, ranked[:, k]) for k in range(3))
    return middle.sub_(worst).mul_(weight).add_(best)


MUTATIONS: dict[str, tuple[int, Mutation]] = {
    "rand/1": (3, _rand_1),
    "best/1": (2, _best_1),
    "rand/2": (5, _rand_2),
    "best/2": (4, _best_2),
    "current-to-best/1": (2, _current_to_best_1),
    "order/1": (3, _order_1),
}
CROSSOVERS = ("bin", "exp")


def distinct_indices(uniform: Tensor) -> Tensor:
    """Turn uniform numbers `(N, k)` into `k` distinct indices per row `i`, none equal to `i`: `(N, k)`, int64.

    The j-th index is drawn among the `N - 1 - j` that are left and shifted past the excluded ones, so every ordered
    choice has the same probability and no `N x N` matrix is needed. Draws are decoded as a Lehmer code, the last
    first: few kernels, and none that waits for the host.
    """
    popsize, num = uniform.shape
    left = torch.arange(popsize - 1, popsize - 1 - num, -1, device=uniform.device)
    index = torch.minimum((uniform * left).long(), left - 1)  # a product may be rounded up to `left`
    for j in reversed(range(num - 1)):
        later = index[:, j + 1 :]
        later += later >= index[:, j : j + 1]
    return index + (index >= torch.arange(popsize, device=uniform.device)[:, None])


def binomial_mask(uniform: Tensor, crossover_rate: Tensor | float, forced: Tensor) -> Tensor:
    """Genes taken from the mutant: each with probability CR, the forced one always: `(N, d)`, `(N,) -> (N, d)` bool."""
    mask = uniform < crossover_rate
    return mask.scatter_(1, forced[:, None], True)


def exponential_mask(uniform: Tensor, crossover_rate: float, start: Tensor, dim: int) -> Tensor:
    """Genes taken from the mutant: a circular run from `start` of length L, P(L >= k) = CR^(k-1): `(N, d)` bool."""
    if crossover_rate >= 1:
        return torch.ones(len(start), dim, dtype=torch.bool, device=start.device)
    length = torch.ones_like(start)
    if crossover_rate > 0:
        run = torch.log(uniform.clamp(min=torch.finfo(uniform.dtype).tiny)) / math.log(crossover_rate)
        length = 1 + run.floor().clamp(max=dim).long()
    offset = (torch.arange(dim, device=start.device) - start[:, None]) % dim
    return offset < length[:, None]


class DE(OneToOneSearcher):
    """Differential Evolution: all trials come from the same old population and replace their own target if they win.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: N, at least one more than the strategy's donors (4 for rand/1).
        differential_weight: F > 0, or a range `(low, high)` to draw it from anew.
        crossover_rate: CR in [0, 1], share of genes taken from the mutant.
        strategy: `"MUTATION/CROSSOVER"`: rand/1, best/1, rand/2, best/2, current-to-best/1 or order/1 (published:
            best of three donors + F (middle - worst)), with bin(omial) or exp(onential) crossover.
        dither: A range of F is drawn per `"trial"` or per `"dimension"`.
        center_init, stdev_init: First population normal around a centre; without a centre, around `problem.center`.
            `stdev_init="auto"` is the default for networks: step sizes by the sizes of the weights, `problem.stdev`,
            and the centre itself as individual 0.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether individual 0 is the centre itself (the trained network).
        bounds: Repair of trials (and of a first population that is drawn) outside the bounds: `"none"`, `"clip"`,
            `"reflect"`, `"resample"` or `"midpoint"` (between the bound and the target); None reflects at a problem's
            strict bounds, if it has any. Others than `"none"` need strict or initial bounds.
        accept_equal: Whether an equal trial replaces its target, so that plateaus can be crossed.
        rescore_parents: Whether targets are scored again with every generation of trials (and counted); None asks the
            problem, which says so when its samples change.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If an option is out of its range.

    Source: Storn & Price (1997), J. Global Optimization 11:341; order/1: arXiv 2408.07194.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
        differential_weight: float | tuple[float, float] = 0.5,
        crossover_rate: float = 0.9,
        strategy: str = "rand/1/bin",
        dither: str = "trial",
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: str | None = None,
        accept_equal: bool = True,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        self._num_donors, self._mutation, self._crossover = _parse_strategy(strategy)
        if popsize < max(4, self._num_donors + 1):
            raise ValueError(
                f"`popsize` must be at least {max(4, self._num_donors + 1)} for {strategy}: "
                f"{self._num_donors} distinct donors besides the target, got {popsize}"
            )
        if dither not in ("trial", "dimension"):
            raise ValueError(f"`dither` must be 'trial' or 'dimension', got {dither!r}")
        self._weight_range = _parse_weight(differential_weight)
        self.crossover_rate, self.dither = check_rate("crossover_rate", crossover_rate), dither
        super().__init__(
            problem,
            popsize=popsize,
            center_init=center_init,
            stdev_init=stdev_init,
            initial_population=initial_population,
            include_center=include_center,
            bounds=bounds,
            accept_equal=accept_equal,
            rescore_parents=rescore_parents,
            obj_index=obj_index,
        )

    def _make_trials(self, population: Tensor) -> Tensor:
        popsize, dim = population.shape
        index = distinct_indices(self.rand(popsize, self._num_donors))
        donors = Donors(population, self.utility(self._population._evdata), index)
        mutant = self._mutation(donors, self._differential_weight(popsize, dim))
        forced = self._forced_gene(popsize, dim)
        if self._crossover == "bin":
            mask = binomial_mask(self.rand(popsize, dim), self.crossover_rate, forced)
        else:
            mask = exponential_mask(self.rand(popsize), self.crossover_rate, forced, dim)
        return self._repair(torch.where(mask, mutant, population, out=mutant), population)

    def _differential_weight(self, popsize: int, dim: int) -> Tensor | float:
        low, high = self._weight_range
        if low == high:
            return low
        return low + (high - low) * self.rand(popsize, 1 if self.dither == "trial" else dim)


def _parse_strategy(strategy: str) -> tuple[int, Mutation, str]:
    mutation, _, crossover = str(strategy).rpartition("/")
    if mutation not in MUTATIONS or crossover not in CROSSOVERS:
        known = ", ".join(f"{name}/{end}" for name in MUTATIONS for end in CROSSOVERS)
        raise ValueError(f"unknown `strategy` {strategy!r}; known: {known}")
    num_donors, function = MUTATIONS[mutation]
    return num_donors, function, crossover


def _parse_weight(weight: float | tuple[float, float]) -> tuple[float, float]:
    low, high = weight if isinstance(weight, (tuple, list)) else (weight, weight)
    if not (0 < low <= high < math.inf):
        raise ValueError(
            f"`differential_weight` must be positive, or a range (low, high) of positive numbers, got {weight}"
        )
    return float(low), float(high)
