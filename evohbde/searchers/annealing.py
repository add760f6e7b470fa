"""Simulated annealing (Kirkpatrick, Gelatt & Vecchi, 1983)."""

from __future__ import annotations

import math

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.chains import ChainSearcher, is_failed, replace, shares_to_move

COOLINGS = ("geometric", "logarithmic", "adaptive")
BISECTIONS = 60
TEMPERATURE_ADAPTATION = 0.2
STEP_ADAPTATION = 0.1
MIN_STEP_SIZE = 1e-12
CONTEST_SLACK = 1e-4


def metropolis(loss_change: Tensor, temperature: Tensor | float, uniform: Tensor) -> Tensor:
    """Accept every gain, and a worsening with probability exp(-change / temperature): `(N,) -> (N,)` bool.

    What is not a number is refused; at temperature 0, so is every worsening.
    """
    return (loss_change <= 0) | (uniform < torch.exp(-loss_change / temperature))


def geometric_cooling(num_levels: int, rate: float) -> float:
    """T_k / T_0 = rate^k."""
    return rate**num_levels


def logarithmic_cooling(num_levels: int) -> float:
    """T_k / T_0 = log 2 / log(2 + k): c / log(1 + t) of Hajek (1988), with t = k + 1; slow, and sure in the limit."""
    return math.log(2) / math.log(2 + num_levels)


def acceptance_of_worse(loss_change: Tensor, temperature: Tensor) -> Tensor:
    """Expected share of worsenings that are accepted, NaN where there is none: `(N,) -> ()`."""
    worse = loss_change > 0
    return torch.where(worse, torch.exp(-loss_change / temperature), 0).sum() / worse.sum()


def temperature_for(loss_change: Tensor, acceptance: float) -> Tensor:
    """The temperature at which the wanted share of worsenings is accepted, NaN where there is none: `(N,) -> ()`.

    Solves mean(exp(-change / T)) = acceptance over changes > 0, Ben-Ameur (2004), by bisection of log T. The least
    change gives the lower end, by Jensen's inequality the mean change gives the upper one.
    """
    change = torch.where(loss_change > 0, loss_change, torch.nan).double()
    low = change.nan_to_num(torch.inf).min().log() - math.log(-math.log(acceptance))
    high = change.nanmean().log() - math.log(-math.log(acceptance))
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        is_cold = acceptance_of_worse(change, middle.exp()) < acceptance
        low, high = torch.where(is_cold, middle, low), torch.where(is_cold, high, middle)
    return ((low + high) / 2).exp()


class SimulatedAnnealing(ChainSearcher):
    """Chains that step to a random neighbour if it is better, or by Metropolis' rule at a falling temperature.

    One temperature holds for all chains. A neighbour is the incumbent plus normal noise; override `neighbours` for
    moves of another kind. The population are the incumbents, which may worsen; `chain_best` is the best of each chain.
    Status: `temperature`, `acceptance_rate` (share of the last neighbours that was accepted), `step_size` (of the
    noise, in units of `neighbour_stdev`).

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: Number of chains.
        neighbour_stdev: Standard deviation of the noise, one number or one per value, `(d,)`; None: a tenth of
            `stdev_init` or else of the width of the initial bounds.
        step_acceptance: The noise shrinks while less than this share of the neighbours is accepted, and grows again,
            up to `neighbour_stdev`, while more is; in (0, 1). The default suits Metropolis' rule in many dimensions
            (Roberts et al.) and is close to the one-fifth rule. None: noise of constant size.
        move_rate: Share of the values that a neighbour moves, in (0, 1]; one of them always.
        temperature_init: T_0, in units of the objective; 0 is a stochastic hill climber. None: from the first
            neighbours, so that of those that are worse `acceptance_init` is expected to be accepted.
        acceptance_init: The wanted share, in (0, 1).
        cooling: `"geometric"`: T_k = T_0 rate^k. `"logarithmic"`: T_k = T_0 log 2 / log(2 + k). `"adaptive"`: the
            expected acceptance of worse neighbours is led along acceptance_init rate^k, at whatever temperature.
        cooling_rate: The rate above, in (0, 1]; 0.99 falls to a hundredth in 458 levels.
        steps_per_level: Steps per temperature level k.
        center_init, stdev_init: First population normal around a centre; without a centre, around `problem.center`.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether chain 0 starts at the centre itself (the trained network).
        bounds: Repair of neighbours outside the bounds, as in `DE`.
        rescore_parents: Whether incumbents and the best of each chain are scored again with the neighbours (and
            counted); None asks the problem, which says so when its samples change.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If an option is out of its range.

    Source: Kirkpatrick, Gelatt & Vecchi (1983), Science 220:671; Hajek (1988), Math. Oper. Res. 13:311; Ben-Ameur
        (2004), Comput. Optim. Appl. 29:369; steps: Corana et al. (1987), ACM Trans. Math. Softw. 13:262; Roberts,
        Gelman & Gilks (1997), Ann. Appl. Probab. 7:110.
    """

    keeps = ("best",)

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 10,
        neighbour_stdev: float | Tensor | None = None,
        step_acceptance: float | None = 0.234,
        move_rate: float = 1.0,
        temperature_init: float | None = None,
        acceptance_init: float = 0.8,
        cooling: str = "geometric",
        cooling_rate: float = 0.99,
        steps_per_level: int = 1,
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
            temperature=self._get_temperature,
            acceptance_rate=self._get_acceptance_rate,
            step_size=self._get_step_size,
        )
        if cooling not in COOLINGS:
            raise ValueError(f"`cooling` must be one of {', '.join(COOLINGS)}, got {cooling!r}")
        for name, share in (("acceptance_init", acceptance_init), ("step_acceptance", step_acceptance)):
            if share is not None and not 0 < share < 1:
                raise ValueError(f"`{name}` must lie in (0, 1), got {share}")
        for name, rate in (("cooling_rate", cooling_rate), ("move_rate", move_rate)):
            if not 0 < rate <= 1:
                raise ValueError(f"`{name}` must lie in (0, 1], got {rate}")
        if temperature_init is not None and not 0 <= temperature_init < math.inf:
            raise ValueError(f"`temperature_init` must be finite and not negative, got {temperature_init}")
        if steps_per_level < 1:
            raise ValueError(f"`steps_per_level` must be at least 1, got {steps_per_level}")
        self.neighbour_stdev = self._scale("neighbour_stdev", neighbour_stdev, 0.1)
        self.move_rate, self.cooling, self.cooling_rate = move_rate, cooling, cooling_rate
        self.acceptance_init, self.step_acceptance = acceptance_init, step_acceptance
        self.steps_per_level = steps_per_level
        self._temperature_init = self._number(temperature_init)
        self._temperature = self._temperature_init
        self._is_measured = temperature_init is not None
        self._acceptance_rate = self._number(None)
        self._step_size = self._number(1.0)
        self._num_moves = 0
        self._uniform = torch.ones(popsize, device=problem.device)
        self._start_reporting()

    @property
    def chain_best(self) -> SolutionBatch:
        """The best that each chain has come across."""
        return self._kept["best"]

    def neighbours(self, incumbents: Tensor) -> Tensor:
        step = self._step_size * self.neighbour_stdev * self.randn(*incumbents.shape)
        if self.move_rate < 1:
            step = torch.where(shares_to_move(self.rand(*step.shape), self.move_rate), step, 0)
        return (incumbents + step).to(incumbents.dtype)

    @torch.no_grad()
    def ask(self) -> Tensor:
        z = super().ask()
        if self._is_started:
            self._uniform = self.rand(self.popsize)
        return z

    def contest(self) -> tuple[Tensor, Tensor] | None:
        """The draw of Metropolis' rule is made beforehand, so it is known how much worse a neighbour may be."""
        if not self._is_started or not self._is_measured or self.cooling == "adaptive" or self._will_rescore():
            return None
        score, rival = self.duels(self._population, is_rescored=False)
        allowed = -self._scheduled_temperature() * self._uniform.log()
        # A little more than allowed: what rounding may decide shall be decided by the full score.
        allowed = allowed * (1 + CONTEST_SLACK) + CONTEST_SLACK * score.abs()
        return (score - self.sign * allowed).to(score.dtype), rival

    def _move(self, z: Tensor, scores: Tensor) -> None:
        old, new = self.utility(self._population._evdata), self.utility(scores)
        change = self._loss_change(old, new)
        self._set_temperature(change)
        accepted = metropolis(change, self._temperature, self._uniform)
        replace(self._population, accepted, z, scores)
        self._keep_better("best")
        self._acceptance_rate = accepted.to(change.dtype).mean()
        if self.step_acceptance is not None:
            factor = torch.exp(STEP_ADAPTATION * (self._acceptance_rate - self.step_acceptance))
            self._step_size = (self._step_size * factor).clamp(MIN_STEP_SIZE, 1)
        self._num_moves += 1

    def _loss_change(self, old: Tensor, new: Tensor) -> Tensor:
        """How much worse the neighbours are: `(N,)`; NaN where only they failed, -inf where the incumbent has."""
        dtype = torch.promote_types(old.dtype, torch.float32)
        change = torch.where(is_failed(new), torch.nan, old.to(dtype) - new.to(dtype))
        return torch.where(is_failed(old), -torch.inf, change)

    def _set_temperature(self, change: Tensor) -> None:
        if not self._is_measured:
            self._temperature_init = self._temperature = temperature_for(change, self.acceptance_init).to(change.dtype)
            # The only wait for the device: once, or until a first neighbour is worse.
            self._is_measured = not bool(self._temperature.isnan())
            self._num_moves = 0
            return
        if self.cooling != "adaptive":
            self._temperature = self._scheduled_temperature()
            return
        level, is_new_level = divmod(self._num_moves, self.steps_per_level)
        if not is_new_level:
            self._adapt_temperature(change, self.acceptance_init * geometric_cooling(level, self.cooling_rate))

    def _scheduled_temperature(self) -> Tensor:
        level = self._num_moves // self.steps_per_level
        if self.cooling == "logarithmic":
            return self._temperature_init * logarithmic_cooling(level)
        return self._temperature_init * geometric_cooling(level, self.cooling_rate)

    def _adapt_temperature(self, change: Tensor, wanted: float) -> None:
        """A damped Newton step in log T: there, log acceptance has a slope of about -log(wanted)."""
        tiny = torch.finfo(change.dtype).tiny
        log_wanted = math.log(max(wanted, tiny))
        error = log_wanted - acceptance_of_worse(change, self._temperature).clamp(min=tiny).log()
        step = (TEMPERATURE_ADAPTATION * error / (1 - log_wanted)).clamp(-1, 1)
        self._temperature = self._temperature * torch.where(step.isnan(), 0, step).exp()

    def _number(self, value: float | None) -> Tensor:
        evals = self._population._evdata
        dtype = torch.promote_types(evals.dtype, torch.float32)
        return torch.tensor(torch.nan if value is None else value, dtype=dtype, device=evals.device)

    def _get_temperature(self) -> float:
        return float(self._temperature)

    def _get_step_size(self) -> float:
        return float(self._step_size)

    def _get_acceptance_rate(self) -> float:
        return float(self._acceptance_rate)
