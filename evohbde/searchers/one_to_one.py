"""What do all kinds of differential evolution share? One trial per individual, which replaces it if it wins."""

from __future__ import annotations

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import PopulationSearcher, StdevInit
from evohbde.searchers.bounds import REPAIRS, Bounds

TRIAL_REPAIRS = (*REPAIRS, "midpoint")


def midpoint(trial: Tensor, target: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Put a gene that is outside half way between the bound and the target's, which is taken to be inside."""
    target = torch.minimum(torch.maximum(target, lower), upper)
    trial = torch.where(trial < lower, (lower + target) / 2, trial)
    return torch.where(trial > upper, (upper + target) / 2, trial)


def check_rate(name: str, rate: float) -> float:
    if not 0 <= rate <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1], got {rate}")
    return rate


class OneToOneSearcher(PopulationSearcher):
    """All trials come from the same old population and replace their own target if they win.

    A subclass fills in `_make_trials`, and `_learn` if it adapts; its `__init__` calls this one, whose arguments are
    documented in `DE`.
    """

    default_repair = "reflect"

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
        accept_equal: bool,
        rescore_parents: bool | None,
        obj_index: int | None,
    ) -> None:
        super().__init__(problem, obj_index=obj_index)
        if popsize < 4:
            raise ValueError(f"`popsize` must be at least 4, got {popsize}")
        self.accept_equal, self._rescore_parents = accept_equal, rescore_parents
        self._bounds = Bounds(problem, bounds, default=self.default_repair, kinds=TRIAL_REPAIRS)
        values = self.initial_values(popsize, center_init, stdev_init, initial_population)
        if initial_population is None:
            values = self._bounds.repair(values, self.rand)
        if include_center:
            values[0] = self.center_values(center_init, "include_center")
        self._population = SolutionBatch(problem, popsize=popsize, device=problem.device, empty=True)
        self._population.set_values(values)
        self._is_started = False
        self._start_reporting()

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
        return self.popsize * (2 if self._is_started and self.rescore_parents else 1)

    @torch.no_grad()
    def ask(self) -> Tensor:
        """The first population, later one trial per individual, followed by the parents where they are re-scored."""
        population = self._population.values.as_subclass(Tensor)
        if not self._is_started:
            return population.clone()
        trial = self._make_trials(population)
        return torch.cat([trial, population]) if self.rescore_parents else trial

    def contest(self) -> tuple[Tensor, Tensor] | None:
        if not self._is_started:
            return None
        threshold, rival = self.duels(self._population, self.rescore_parents)
        if not self.accept_equal:
            threshold = torch.nextafter(threshold, torch.full_like(threshold, self.sign * torch.inf))
        return threshold, rival

    @torch.no_grad()
    def tell(self, z: Tensor, scores: Tensor) -> None:
        scores = scores if scores.ndim == 2 else scores[:, None]
        evals = self._population._evdata
        if len(z) not in (self.popsize, 2 * self.popsize) or scores.shape != (len(z), evals.shape[1]):
            raise ValueError(
                f"expected the candidates that `ask` gave and scores of shape (n, {evals.shape[1]}), one column per "
                f"objective, got {tuple(z.shape)} and {tuple(scores.shape)}"
            )
        if not self._is_started:
            self._population._data.copy_(z)
            evals.copy_(scores)
            self._is_started = True
            return
        popsize = self.popsize
        if len(z) == 2 * popsize:
            evals.copy_(scores[popsize:])
        trial_utility, utility = self.utility(scores[:popsize]), self.utility(evals)
        wins = trial_utility >= utility if self.accept_equal else trial_utility > utility
        values = self._population._data
        self._learn(values, wins, utility, trial_utility)
        evals.copy_(torch.where(wins[:, None], scores[:popsize], evals))
        torch.where(wins[:, None], z[:popsize].to(values.dtype), values, out=values)

    def _make_trials(self, population: Tensor) -> Tensor:
        raise NotImplementedError

    def _learn(self, target: Tensor, wins: Tensor, utility: Tensor, trial_utility: Tensor) -> None:
        """Take note of which trials win, before they replace their targets: `(N, d)`, then `(N,)` each."""

    def _forced_gene(self, popsize: int, dim: int) -> Tensor:
        """A gene per trial that comes from the mutant whatever CR says: `(N,)`, int64."""
        return (self.rand(popsize) * dim).long().clamp_(max=dim - 1)

    def _repair(self, trial: Tensor, target: Tensor) -> Tensor:
        lower, upper = self._bounds.lower, self._bounds.upper
        if self._bounds.kind == "midpoint" and lower is not None and upper is not None:
            return midpoint(trial, target, lower, upper)
        return self._bounds.repair(trial, self.rand)
