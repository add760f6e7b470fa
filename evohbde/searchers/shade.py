"""SHADE (Tanabe & Fukunaga, 2013) and L-SHADE (2014): a memory of F and CR that won; a population that shrinks."""

from __future__ import annotations

import math

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.jade import PBestSearcher, archived, cauchy_weights, lehmer_mean, normal_rates, weighted_mean
from evohbde.searchers.one_to_one import check_rate

TERMINAL = -1.0
"""The paper's ⊥: a place of the memory of CR that only gives CR = 0, for good."""


def success_weights(utility: Tensor, trial_utility: Tensor) -> Tensor:
    """Weigh each trial by how far it beats its target, the largest with 1, and 0 where it does not: `(N,)`.

    A target without a score (NaN, or the worst finite number) is beaten by no known distance: its trial weighs 1.
    """
    dtype = torch.promote_types(utility.dtype, torch.float32)
    utility, trial_utility = utility.to(dtype), trial_utility.to(dtype)
    largest = torch.finfo(dtype).max
    won, failed = trial_utility > utility, utility <= -largest
    gain = torch.where(won & ~failed, trial_utility - utility, 0.0).clamp(max=largest)
    most = gain.max()
    gain = torch.where(most > 0, gain / most, 0.0)
    return torch.where(won & failed, 1.0, gain)


def planned_popsize(num_evaluations: int, budget: int, popsize_init: int, min_popsize: int) -> int:
    """Population after `num_evaluations` of `budget`, eq. (10) of L-SHADE."""
    share = min(1.0, num_evaluations / budget)
    return math.floor((min_popsize - popsize_init) * share + popsize_init + 0.5)


class MemorySearcher(PBestSearcher):
    """F and CR are drawn around a place of the memory, chosen at random; each generation that succeeds refills one.

    Attributes:
        weight_memory, rate_memory: M_F and M_CR, `(H,)` each.
    """

    weight_memory: Tensor
    rate_memory: Tensor

    def _start_memory(self, memory_size: int) -> None:
        if memory_size < 1:
            raise ValueError(f"`memory_size` must be at least 1, got {memory_size}")
        self.weight_memory = self.rand(0).new_full((memory_size,), 0.5)
        self.rate_memory = self.weight_memory.clone()
        self._place = torch.zeros((), dtype=torch.int64, device=self.weight_memory.device)

    def _draw_parameters(self, popsize: int) -> tuple[Tensor, Tensor]:
        size = len(self.weight_memory)
        place = (self.rand(popsize) * size).long().clamp_(max=size - 1)  # r_i of [1, H]
        rate = self.rate_memory[place]
        # CR_i = 0 if M_CR,ri = ⊥, else randn_i(M_CR,ri, 0.1): L-SHADE eq. (1); SHADE never has ⊥
        rate = torch.where(rate < 0, 0.0, normal_rates(self.randn(popsize), rate))
        # F_i = randc_i(M_F,ri, 0.1): L-SHADE eq. (2)
        return cauchy_weights(self.rand(popsize), self.weight_memory[place]), rate

    def _success_weights(self, utility: Tensor, trial_utility: Tensor) -> Tensor:
        return success_weights(utility, trial_utility).to(self._trial_rate.dtype)

    def _adapt(self, weights: Tensor) -> None:
        places = torch.arange(len(self.weight_memory), device=weights.device)
        succeeded = weights.any()
        refilled = (places == self._place) & succeeded
        # M_F,k = mean_WL(S_F), w_k = delta f_k / sum of delta f: L-SHADE eq. (7) to (9)
        self.weight_memory = torch.where(refilled, lehmer_mean(self._trial_weight, weights), self.weight_memory)
        self.rate_memory = torch.where(refilled, self._remembered_rate(weights), self.rate_memory)
        self._place = (self._place + succeeded) % len(places)

    def _remembered_rate(self, weights: Tensor) -> Tensor:
        """What M_CR becomes where it is refilled: `()` or `(H,)`."""
        raise NotImplementedError


class SHADE(MemorySearcher):
    """SHADE: JADE with a memory of means instead of one, and better trials counting more.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: N, at least 4.
        memory_size: H, how many generations that succeeded are remembered.
        max_pbest_rate: Each trial draws its own p between 2 / N and this, the share that counts as the best.
        archive_rate: Capacity of the archive per individual; 0 is without archive.
        center_init, stdev_init, initial_population, include_center, accept_equal, rescore_parents, obj_index:
            As in `DE`.
        bounds: As in `DE`, but None is `"midpoint"` where the problem has strict bounds.

    Raises:
        ValueError: If an option is out of its range.

    Source: Tanabe & Fukunaga (2013), IEEE Congress on Evolutionary Computation, 71, section III.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
        memory_size: int = 100,
        max_pbest_rate: float = 0.2,
        archive_rate: float = 1.0,
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: str | None = None,
        accept_equal: bool = True,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        self.max_pbest_rate = check_rate("max_pbest_rate", max_pbest_rate)
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
        self._start_archive(archive_rate)
        self._start_memory(memory_size)

    def _num_best(self, popsize: int) -> Tensor:
        low, high = 2 / popsize, max(2 / popsize, self.max_pbest_rate)
        pbest_rate = low + (high - low) * self.rand(popsize)  # p_i = rand[p_min, 0.2], p_min = 2 / N
        return (pbest_rate * popsize).long().clamp_(min=2)

    def _remembered_rate(self, weights: Tensor) -> Tensor:
        return weighted_mean(self._trial_rate, weights)  # M_CR,k = mean_WA(S_CR)


class LSHADE(MemorySearcher):
    """L-SHADE: SHADE whose population shrinks linearly from its first size to its last while the budget is spent.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        num_evaluations: The budget over which the population shrinks; beyond it the search goes on at `min_popsize`.
        popsize: N at the start; None is the paper's 18 per dimension, made for 10,000 evaluations per dimension.
        min_popsize: N at the end, at least 4.
        memory_size: H, how many generations that succeeded are remembered.
        pbest_rate: p in (0, 1], the share of the population that counts as the best; two individuals at least.
        archive_rate: Capacity of the archive per individual, which shrinks alike; 0 is without archive.
        center_init, stdev_init, initial_population, include_center, accept_equal, rescore_parents, obj_index:
            As in `DE`. Parents that are scored again count.
        bounds: As in `DE`, but None is `"midpoint"` where the problem has strict bounds.

    Raises:
        ValueError: If an option is out of its range.

    Source: Tanabe & Fukunaga (2014), IEEE Congress on Evolutionary Computation, 1658, with its equation numbers.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        num_evaluations: int,
        popsize: int | None = None,
        min_popsize: int = 4,
        memory_size: int = 6,
        pbest_rate: float = 0.11,
        archive_rate: float = 2.6,
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: str | None = None,
        accept_equal: bool = True,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        if popsize is None:
            popsize = max(4, 18 * int(getattr(problem, "solution_length", None) or 1))
        if not 4 <= min_popsize <= popsize:
            raise ValueError(f"`min_popsize` must lie between 4 and `popsize`={popsize}, got {min_popsize}")
        if not popsize <= num_evaluations < float("inf"):
            raise ValueError(
                f"`num_evaluations` must cover the first population of {popsize}, got {num_evaluations}; "
                "give a larger budget or a smaller `popsize`"
            )
        self.pbest_rate = check_rate("pbest_rate", pbest_rate)
        self.budget, self.popsize_init, self.min_popsize = int(num_evaluations), popsize, min_popsize
        self.num_evaluations = 0
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
        self._start_archive(archive_rate)
        self._start_memory(memory_size)

    @torch.no_grad()
    def tell(self, z: Tensor, scores: Tensor) -> None:
        is_first = not self._is_started
        super().tell(z, scores)
        self.num_evaluations += len(z)
        popsize = planned_popsize(self.num_evaluations, self.budget, self.popsize_init, self.min_popsize)
        if popsize < self.popsize and not is_first:  # from the first generation of trials on: Algorithm 2
            self._shrink(popsize)

    def _shrink(self, popsize: int) -> None:
        """Leave the best, in their old order, and archive members chosen at random."""
        old = self._population
        best = self.utility(old._evdata).argsort(descending=True, stable=True)[:popsize].sort().values
        self._population = SolutionBatch(self.problem, popsize=popsize, device=old.device, empty=True)
        self._population._data.copy_(old._data[best])
        self._population._evdata.copy_(old._evdata[best])
        nobody = torch.zeros(0, dtype=torch.bool, device=best.device)
        uniform = self.rand(len(self._archive))
        self._archive, self._archive_num = archived(
            self._archive, self._archive_num, old._data[:0], nobody, uniform, self.archive_capacity
        )

    def _num_best(self, popsize: int) -> int:
        return max(2, round(self.pbest_rate * popsize))

    def _remembered_rate(self, weights: Tensor) -> Tensor:
        # Algorithm 1: ⊥ if M_CR,k = ⊥ or max(S_CR) = 0, else mean_WL(S_CR)
        is_zero = torch.where(weights > 0, self._trial_rate, 0.0).max() == 0
        rate = torch.where(is_zero, TERMINAL, lehmer_mean(self._trial_rate, weights))
        return torch.where(self.rate_memory < 0, TERMINAL, rate)
