"""JADE (Zhang & Sanderson, 2009): F and CR follow those that succeed; the mutation leans to the best, with an archive.

SHADE and L-SHADE share its mutation, `PBestSearcher`.
"""

from __future__ import annotations

import math

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.de import binomial_mask, distinct_indices
from evohbde.searchers.one_to_one import OneToOneSearcher, check_rate

SPREAD = 0.1
"""Standard deviation of CR and scale of F around their means, in all three papers."""


def cauchy_weights(uniform: Tensor, location: Tensor) -> Tensor:
    """F ~ Cauchy(location, 0.1), drawn anew while F <= 0, and 1 where it is larger: `(N,)`, `(N,) -> (N,)`.

    Redrawing is the same as inverting the distribution function above F = 0 only, which needs one draw and no loop.
    """
    lowest = -torch.atan(location / SPREAD)
    angle = lowest + (math.pi / 2 - lowest) * uniform
    # Short of pi / 2, where tan may change its sign; F is beyond 1 there in any case.
    weight = location + SPREAD * torch.tan(angle.clamp(max=1.57))
    return weight.clamp(min=torch.finfo(weight.dtype).tiny, max=1.0)


def normal_rates(normal: Tensor, location: Tensor) -> Tensor:
    """CR ~ N(location, 0.1), cut off at 0 and 1: `(N,)`, `(N,) -> (N,)`."""
    return (location + SPREAD * normal.to(location.dtype)).clamp(0.0, 1.0)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / weights.sum()


def lehmer_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values.square()).sum() / (weights * values).sum()


def union_indices(uniform: Tensor, r1: Tensor, num: Tensor | int) -> Tensor:
    """Draw an index below `num`, the size of population and archive, other than row `i` and `r1`: `(N,)`, int64."""
    left = num - 2
    index = (uniform * left).long().clamp(max=left - 1)
    target = torch.arange(len(r1), device=r1.device)
    index = index + (index >= torch.minimum(target, r1))
    return index + (index >= torch.maximum(target, r1))


def archived(
    archive: Tensor, num: Tensor, parents: Tensor, beaten: Tensor, uniform: Tensor, capacity: int
) -> tuple[Tensor, Tensor]:
    """Add the beaten parents to an archive, then drop members at random down to its capacity.

    Args:
        archive: `(A, d)`, its first `num` rows are members.
        num: `()`, int64.
        parents: `(N, d)`.
        beaten: `(N,)`, bool.
        uniform: `(A + N,)`, which rows leave.
        capacity: Rows of the new archive, at most `A + N`.

    Returns:
        The new archive, `(capacity, d)`, and how many of its first rows are members.
    """
    is_member = torch.cat([torch.arange(len(archive), device=num.device) < num, beaten])
    order = torch.where(is_member, uniform, 2.0).argsort(stable=True)
    return torch.cat([archive, parents]).index_select(0, order[:capacity]), is_member.sum().clamp(max=capacity)


class PBestSearcher(OneToOneSearcher):
    """current-to-pbest/1/bin with an archive; a subclass draws F, CR and the number of best, and learns.

    Attributes:
        archive_rate: Capacity of the archive per individual of the population.
    """

    default_repair = "midpoint"
    archive_rate: float

    def _start_archive(self, archive_rate: float) -> None:
        if not 0 <= archive_rate < math.inf:
            raise ValueError(f"`archive_rate` must not be negative, got {archive_rate}")
        self.archive_rate = archive_rate
        values = self._population.values.as_subclass(Tensor)
        self._archive = torch.zeros_like(values[:1]).repeat(self.archive_capacity, 1)
        self._archive_num = torch.zeros((), dtype=torch.int64, device=values.device)

    @property
    def archive_capacity(self) -> int:
        return round(self.archive_rate * self.popsize)

    @property
    def archive(self) -> Tensor:
        """Parents that were beaten, in no order: `(num, d)`. Waits for the accelerator."""
        return self._archive[: int(self._archive_num)].clone()

    def _draw_parameters(self, popsize: int) -> tuple[Tensor, Tensor]:
        """F and CR per trial: `(N,)` each."""
        raise NotImplementedError

    def _num_best(self, popsize: int) -> Tensor | int:
        """How many individuals count as the best: one number, or `(N,)`, int64."""
        raise NotImplementedError

    def _adapt(self, weights: Tensor) -> None:
        """Learn from the trials that beat their target, whose weights are positive: `(N,)`."""
        raise NotImplementedError

    def _make_trials(self, population: Tensor) -> Tensor:
        popsize, dim = population.shape
        self._trial_weight, self._trial_rate = self._draw_parameters(popsize)
        best = self._draw_best(popsize)
        r1 = distinct_indices(self.rand(popsize, 1))[:, 0]
        r2 = union_indices(self.rand(popsize), r1, popsize + self._archive_num)
        # v_i = x_i + F_i (x_pbest - x_i) + F_i (x_r1 - x~_r2), x~ of population and archive
        mutant = population.index_select(0, best).sub_(population)
        mutant.add_(population.index_select(0, r1)).sub_(self._member(population, r2))
        mutant.mul_(self._trial_weight[:, None]).add_(population)
        forced = self._forced_gene(popsize, dim)
        mask = binomial_mask(self.rand(popsize, dim), self._trial_rate[:, None], forced)
        # The papers repair the mutant; a gene of the target is inside already, so that it is the same.
        return self._repair(torch.where(mask, mutant, population, out=mutant), population)

    def _draw_best(self, popsize: int) -> Tensor:
        order = self.utility(self._population._evdata).argsort(descending=True, stable=True)
        num = self._num_best(popsize)
        return order[(self.rand(popsize) * num).long().clamp(max=num - 1)]

    def _member(self, population: Tensor, index: Tensor) -> Tensor:
        popsize = len(population)
        if len(self._archive) == 0:
            return population.index_select(0, index)
        of_archive = self._archive.index_select(0, (index - popsize).clamp(min=0))
        member = population.index_select(0, index.clamp(max=popsize - 1))
        return torch.where((index < popsize)[:, None], member, of_archive, out=member)

    def _learn(self, target: Tensor, wins: Tensor, utility: Tensor, trial_utility: Tensor) -> None:
        beaten = trial_utility > utility
        uniform = self.rand(len(self._archive) + len(beaten))
        self._archive, self._archive_num = archived(
            self._archive, self._archive_num, target, beaten, uniform, self.archive_capacity
        )
        self._adapt(self._success_weights(utility, trial_utility))

    def _success_weights(self, utility: Tensor, trial_utility: Tensor) -> Tensor:
        return (trial_utility > utility).to(self._trial_rate.dtype)


class JADE(PBestSearcher):
    """JADE: F and CR are drawn around means that move to those of the trials that won.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: N, at least 4.
        pbest_rate: p in (0, 1], the share of the population that counts as the best.
        learning_rate: c in [0, 1], how far the means move in one generation.
        archive_rate: Capacity of the archive per individual; 0 is JADE without archive.
        accept_equal: Whether an equal trial replaces its target; in the paper it does not.
        center_init, stdev_init, initial_population, include_center, rescore_parents, obj_index: As in `DE`.
        bounds: As in `DE`, but None is `"midpoint"` where the problem has strict bounds.

    Attributes:
        weight_mean, rate_mean: mu_F and mu_CR, `()`.

    Raises:
        ValueError: If an option is out of its range.

    Source: Zhang & Sanderson (2009), IEEE Trans. Evol. Comput. 13(5):945, section IV.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
        pbest_rate: float = 0.05,
        learning_rate: float = 0.1,
        archive_rate: float = 1.0,
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: str | None = None,
        accept_equal: bool = False,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        self.pbest_rate = check_rate("pbest_rate", pbest_rate)
        self.learning_rate = check_rate("learning_rate", learning_rate)
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
        self.weight_mean = self.rate_mean = self.rand(0).new_full((), 0.5)

    def _num_best(self, popsize: int) -> int:
        return max(1, round(self.pbest_rate * popsize))

    def _draw_parameters(self, popsize: int) -> tuple[Tensor, Tensor]:
        rate = normal_rates(self.randn(popsize), self.rate_mean)  # CR_i = randn_i(mu_CR, 0.1)
        return cauchy_weights(self.rand(popsize), self.weight_mean), rate  # F_i = randc_i(mu_F, 0.1)

    def _adapt(self, weights: Tensor) -> None:
        succeeded = weights.any()
        # mu_CR = (1 - c) mu_CR + c mean_A(S_CR), arithmetic
        rate = torch.lerp(self.rate_mean, weighted_mean(self._trial_rate, weights), self.learning_rate)
        # mu_F = (1 - c) mu_F + c mean_L(S_F), mean_L = sum F^2 / sum F (Lehmer)
        weight = torch.lerp(self.weight_mean, lehmer_mean(self._trial_weight, weights), self.learning_rate)
        self.rate_mean = torch.where(succeeded, rate, self.rate_mean)
        self.weight_mean = torch.where(succeeded, weight, self.weight_mean)
