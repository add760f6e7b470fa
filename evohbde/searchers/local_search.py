"""Iterated local search (Lourenço, Martin & Stützle, 2003): hill climbing from kicked local optima."""

from __future__ import annotations

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.chains import ChainSearcher, FreshValues, is_failed, replace, shares_to_move

ACCEPTANCES = ("better", "always", "restart")
STEP_UP = 1.5
"""Factor of a step size after a success; its fourth root divides after a failure (Auger, 2009)."""


def one_fifth_rule(step_size: Tensor, is_success: Tensor) -> Tensor:
    """Adapt step sizes; they stay in the long run if one neighbour in five is better: `(N,), (N,) -> (N,)`."""
    return step_size * torch.where(is_success, STEP_UP, STEP_UP**-0.25)


class IteratedLocalSearch(ChainSearcher):
    """Chains that climb to a local optimum by random neighbours, are kicked away from it, and climb again.

    Climbing: a (1+1) evolution strategy; a neighbour replaces the incumbent unless it is worse, and the noise follows
    the one-fifth success rule. It ends after `patience` neighbours in a row that are not better. Then the acceptance
    rule says which local optimum the kick starts from, `home`; the kicked candidate becomes the incumbent whatever its
    score, unless it failed. The population are the incumbents, which a kick may worsen; `chain_best` is the best of
    each chain. Status: `step_size` (mean over chains, in units of the first one), `num_kicks` (of all chains).

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: Number of chains.
        neighbour_stdev: First standard deviation of the noise in every climb, one number or one per value, `(d,)`;
            None: a tenth of `stdev_init` or else of the width of the initial bounds.
        patience: Neighbours in a row that are not better after which a climb ends.
        kick_stdev: Standard deviation of a kick, one number or one per value; None: half of `stdev_init`, or a quarter
            of the width of the initial bounds.
        kick_rate: Share of the values that a kick moves, in (0, 1]; one of them always.
        acceptance: `"better"`: the new local optimum is home unless it is worse than home. `"always"`: it is home.
            `"restart"`: as better, but after `max_kicks` climbs in a row that did not improve home, the chain goes on
            from a fresh candidate, drawn as the first population was.
        max_kicks: See `"restart"`.
        center_init, stdev_init: First population normal around a centre; without a centre, around `problem.center`.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether chain 0 starts at the centre itself (the trained network).
        bounds: Repair of neighbours outside the bounds, as in `DE`.
        rescore_parents: Whether incumbents, homes and the best of each chain are scored again with the neighbours (and
            counted); None asks the problem, which says so when its samples change.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If an option is out of its range.

    Source: Lourenço, Martin & Stützle (2003), Handbook of Metaheuristics, ch. 11; Auger (2009), GECCO: Benchmarking
        the (1+1) evolution strategy with one-fifth success rule on the BBOB-2009 function testbed.
    """

    keeps = ("home", "best")

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 10,
        neighbour_stdev: float | Tensor | None = None,
        patience: int = 30,
        kick_stdev: float | Tensor | None = None,
        kick_rate: float = 1.0,
        acceptance: str = "better",
        max_kicks: int = 5,
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
            step_size=self._get_step_size,
            num_kicks=self._get_num_kicks,
        )
        if acceptance not in ACCEPTANCES:
            raise ValueError(f"`acceptance` must be one of {', '.join(ACCEPTANCES)}, got {acceptance!r}")
        for name, number in (("patience", patience), ("max_kicks", max_kicks)):
            if number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        if not 0 < kick_rate <= 1:
            raise ValueError(f"`kick_rate` must lie in (0, 1], got {kick_rate}")
        self.neighbour_stdev = self._scale("neighbour_stdev", neighbour_stdev, 0.1)
        self.kick_stdev = self._scale("kick_stdev", kick_stdev, 0.25 if stdev_init is None else 0.5)
        self.patience, self.kick_rate, self.acceptance, self.max_kicks = patience, kick_rate, acceptance, max_kicks
        self._fresh = FreshValues(self, center_init, stdev_init) if acceptance == "restart" else None
        device = problem.device
        # Step sizes get far below what half precision holds.
        dtype = torch.promote_types(problem.dtype, torch.float32)
        self._step_size = torch.ones(popsize, dtype=dtype, device=device)
        self._num_idle = torch.zeros(popsize, dtype=torch.int64, device=device)
        self._num_vain_kicks = torch.zeros(popsize, dtype=torch.int64, device=device)
        self._is_due = torch.zeros(popsize, dtype=torch.bool, device=device)
        self._num_kicks = torch.zeros((), dtype=torch.int64, device=device)
        self._start_reporting()

    @property
    def chain_best(self) -> SolutionBatch:
        """The best that each chain has come across."""
        return self._kept["best"]

    @property
    def home(self) -> SolutionBatch:
        """The local optima that kicks start from."""
        return self._kept["home"]

    def neighbours(self, incumbents: Tensor) -> Tensor:
        """A step of the climb, or the kick where that is due."""
        climbing = incumbents + self._step_size[:, None] * self.neighbour_stdev * self.randn(*incumbents.shape)
        z = torch.where(self._is_due[:, None], self.kicked(self._kept["home"]._data), climbing)
        if self._fresh is not None:
            z = torch.where(self._is_fresh_due()[:, None], self._fresh.draw(self, len(z)), z)
        return z.to(incumbents.dtype)

    def contest(self) -> tuple[Tensor, Tensor] | None:
        if not self._is_started or self._will_rescore():
            return None
        threshold, rival = self.duels(self._population, is_rescored=False)
        return torch.where(self._is_due, torch.nan, threshold), rival

    def kicked(self, home: Tensor) -> Tensor:
        """Candidates away from local optima, from where another climb begins: `(N, d) -> (N, d)`."""
        kick = self.kick_stdev * self.randn(*home.shape)
        if self.kick_rate < 1:
            kick = torch.where(shares_to_move(self.rand(*home.shape), self.kick_rate), kick, 0)
        return home + kick

    def _is_fresh_due(self) -> Tensor:
        if self._fresh is None:
            return torch.zeros_like(self._is_due)
        return self._is_due & (self._num_vain_kicks >= self.max_kicks)

    def _move(self, z: Tensor, scores: Tensor) -> None:
        old, new = self.utility(self._population._evdata), self.utility(scores)
        is_kick = self._is_due & (~is_failed(new) | is_failed(old))
        is_fresh = is_kick & self._is_fresh_due()
        is_step = ~self._is_due
        gains = is_step & (new > old)
        replace(self._population, is_kick | (is_step & (new >= old)), z, scores)
        # What a restart finds is home, be it worse than the home before.
        replace(self._kept["home"], is_fresh, z, scores)
        self._keep_better("best")
        self._step_size = torch.where(is_step, one_fifth_rule(self._step_size, gains), self._step_size)
        self._step_size = torch.where(is_kick, 1, self._step_size)
        self._num_idle = torch.where(gains | is_kick, 0, self._num_idle + 1)
        self._num_vain_kicks = torch.where(is_fresh, 0, self._num_vain_kicks)
        self._num_kicks = self._num_kicks + is_kick.sum()
        self._is_due = (self._is_due & ~is_kick) | (is_step & (self._num_idle >= self.patience))
        self._end_climbs(self._is_due & is_step)

    def _end_climbs(self, has_ended: Tensor) -> None:
        """Choose between the local optima found and the homes: `(N,)` bool."""
        home, found = self._kept["home"], self._population
        found_utility, home_utility = self.utility(found._evdata), self.utility(home._evdata)
        improves = has_ended & (found_utility > home_utility)
        accepted = has_ended if self.acceptance == "always" else has_ended & (found_utility >= home_utility)
        replace(home, accepted, found._data, found._evdata)
        self._num_vain_kicks = torch.where(has_ended & ~improves, self._num_vain_kicks + 1, self._num_vain_kicks)
        self._num_vain_kicks = torch.where(improves, 0, self._num_vain_kicks)

    def _get_step_size(self) -> float:
        return float(self._step_size.mean())

    def _get_num_kicks(self) -> int:
        return int(self._num_kicks)
