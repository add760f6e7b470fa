"""jDE (Brest et al., 2006): every individual carries its own F and CR, which survive only with its trial."""

from __future__ import annotations

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.de import binomial_mask, distinct_indices
from evohbde.searchers.one_to_one import OneToOneSearcher, check_rate


class JDE(OneToOneSearcher):
    """jDE: rand/1/bin whose F and CR are redrawn now and then, and inherited where the trial wins.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: N, at least 4.
        differential_weight, crossover_rate: F and CR that every individual starts with.
        differential_weight_range: `(F_l, F_l + F_u)`, between which a new F is drawn; a new CR is drawn in [0, 1].
        tau1, tau2: Probabilities that a trial gets a new F, a new CR.
        center_init, stdev_init, initial_population, include_center, bounds, accept_equal, rescore_parents, obj_index:
            As in `DE`.

    Raises:
        ValueError: If an option is out of its range.

    Source: Brest, Greiner, Bošković, Mernik & Žumer (2006), IEEE Trans. Evol. Comput. 10(6):646, section IV.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
        differential_weight: float = 0.5,
        crossover_rate: float = 0.9,
        differential_weight_range: tuple[float, float] = (0.1, 1.0),
        tau1: float = 0.1,
        tau2: float = 0.1,
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: str | None = None,
        accept_equal: bool = True,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        low, high = differential_weight_range
        if not 0 <= low <= high < float("inf"):
            raise ValueError(f"`differential_weight_range` must be (low, high) with 0 <= low <= high, got {low, high}")
        if not 0 < differential_weight <= torch.finfo(torch.float32).max:
            raise ValueError(f"`differential_weight` must be positive and fit into float32, got {differential_weight}")
        self.differential_weight_range = (low, high)
        self.tau1, self.tau2 = check_rate("tau1", tau1), check_rate("tau2", tau2)
        check_rate("crossover_rate", crossover_rate)
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
        like = self.rand(0)
        self.differential_weight = like.new_full((popsize,), differential_weight)
        self.crossover_rate = like.new_full((popsize,), crossover_rate)
        self._trial_weight, self._trial_rate = self.differential_weight, self.crossover_rate

    def _make_trials(self, population: Tensor) -> Tensor:
        popsize, dim = population.shape
        self._draw_parameters(popsize)
        r1, r2, r3 = (population.index_select(0, r) for r in distinct_indices(self.rand(popsize, 3)).unbind(1))
        # v = x_r1 + F_i (x_r2 - x_r3), with the F and CR of the trial, drawn before it is made
        weight = self._trial_weight[:, None]
        mutant = r2.sub_(r3).mul_(weight).add_(r1)
        forced = self._forced_gene(popsize, dim)
        mask = binomial_mask(self.rand(popsize, dim), self._trial_rate[:, None], forced)
        return self._repair(torch.where(mask, mutant, population, out=mutant), population)

    def _draw_parameters(self, popsize: int) -> None:
        low, high = self.differential_weight_range
        draw = self.rand(4, popsize)  # rand_1 .. rand_4
        # F_{i,G+1} = F_l + rand_1 F_u if rand_2 < tau_1, else F_{i,G}
        self._trial_weight = torch.where(draw[1] < self.tau1, low + (high - low) * draw[0], self.differential_weight)
        # CR_{i,G+1} = rand_3 if rand_4 < tau_2, else CR_{i,G}
        self._trial_rate = torch.where(draw[3] < self.tau2, draw[2], self.crossover_rate)

    def _learn(self, target: Tensor, wins: Tensor, utility: Tensor, trial_utility: Tensor) -> None:
        self.differential_weight = torch.where(wins, self._trial_weight, self.differential_weight)
        self.crossover_rate = torch.where(wins, self._trial_rate, self.crossover_rate)
