"""Tabu search (Glover, 1989): go to the best neighbour, even if it is worse, but not back to where one came from."""

from __future__ import annotations

import math

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.chains import ChainSearcher, is_failed, replace

MAX_HALVINGS = 10
"""A chain that has halved its boxes so often begins with the first ones again."""


def choose_neighbour(utility: Tensor, is_tabu: Tensor, best: Tensor, incumbent: Tensor) -> tuple[Tensor, Tensor]:
    """The best admissible neighbour of each chain, and whether there is one.

    `(N, n)` utilities, `(N, n)` bool, and the utility of the best and the present incumbent, `(N,)`, to `(N,), (N,)`.
    Admissible is what is not tabu, or better than all that the chain has seen (aspiration); what has failed only for a
    chain whose incumbent has failed too.
    """
    admissible = (~is_tabu | (utility > best[:, None])) & (~is_failed(utility) | is_failed(incumbent)[:, None])
    worst = torch.finfo(utility.dtype).min
    chosen = torch.where(admissible, utility.clamp(min=worst), -torch.inf).argmax(dim=1)
    return chosen, admissible.gather(1, chosen[:, None])[:, 0]


def in_tabu_ball(z: Tensor, tabu: Tensor, radius: Tensor) -> Tensor:
    """Whether candidates are nearer than `radius` to a tabu point: `(N, n, d), (tenure, N, d), (N, 1, d) -> (N, n)`.

    Distance is the largest difference of a value in units of its radius; a value of radius 0 does not count.
    """
    dtype = torch.promote_types(z.dtype, torch.float32)
    counts = (radius > 0).to(dtype)
    inverse = counts / torch.where(radius > 0, radius, 1).to(dtype)
    is_set = ~tabu.isnan().any(dim=2).T
    points = tabu.nan_to_num(0).transpose(0, 1).to(dtype)
    distance = torch.cdist(z.to(dtype) * inverse, points * inverse, p=math.inf)
    # The edge of a ball is allowed, up to rounding: the innermost neighbours of an incumbent may lie on it.
    return ((distance < 1 - 1e-5) & is_set[:, None, :]).any(dim=2)


class _Tabu(ChainSearcher):
    """What is common to tabu search over numbers and over bits."""

    keeps = ("best",)
    _asked: Tensor | None = None

    @property
    def chain_best(self) -> SolutionBatch:
        """The best that each chain has come across."""
        return self._kept["best"]

    def is_tabu(self, z: Tensor) -> Tensor:
        """Which neighbours are tabu: `(N, n, d) -> (N, n)` bool."""
        raise NotImplementedError

    def _after_move(self, old: Tensor, is_better: Tensor) -> None:
        """Called with the incumbents before, and where the best of a chain became better: `(N, d)`, `(N,)` bool."""
        raise NotImplementedError

    @torch.no_grad()
    def ask(self) -> Tensor:
        z = super().ask()
        self._asked = z[: self.popsize * self.num_neighbours] if self._is_started else None
        return z

    def contest(self) -> tuple[Tensor, ...] | None:
        """Of a chain's neighbours the best counts; one that is tabu has to beat the chain's best."""
        if self._asked is None or self._will_rescore():
            return None
        best = self._kept["best"]._evdata[:, self._obj_index].repeat_interleave(self.num_neighbours)
        is_tabu = self.is_tabu(self._asked.reshape(self.popsize, self.num_neighbours, -1)).flatten()
        chain = torch.arange(self.popsize, device=best.device).repeat_interleave(self.num_neighbours)
        nobody = torch.full_like(chain, -1)
        return torch.where(is_tabu, best, torch.nan), nobody, torch.where(is_tabu, nobody, chain)

    def _move(self, z: Tensor, scores: Tensor) -> None:
        shape = self.popsize, self.num_neighbours
        old = self._population._data.clone()
        incumbent, best = (self.utility(batch._evdata) for batch in (self._population, self._kept["best"]))
        is_tabu = self.is_tabu(z.reshape(*shape, -1))
        chosen, moved = choose_neighbour(self.utility(scores).view(shape), is_tabu, best, incumbent)
        row = chosen + torch.arange(self.popsize, device=chosen.device) * self.num_neighbours
        replace(self._population, moved, z[row], scores[row])
        self._after_move(old, self._keep_better("best"))


class TabuSearch(_Tabu):
    """Tabu search over real values: neighbours at many distances, and balls around the last incumbents that are tabu.

    After Enhanced Continuous Tabu Search: a neighbour per zone between nested boxes around the incumbent, whose edges
    grow geometrically; no neighbour within a ball around the last incumbents, the present one among them, unless it is
    the best so far; when a chain has not found a better best for a while, it goes back to it and halves boxes and balls
    (intensification). Unlike there, distances are those of the largest difference, so that a radius means the same
    whatever the number of values, and chains do not keep a list of promising areas.

    Each step scores `popsize * num_neighbours` candidates, those that turn out tabu among them. The population are the
    incumbents, which may worsen; `chain_best` is the best of each chain. Status: `neighbour_radius`, mean over chains
    in units of the first one.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised.
        popsize: Number of chains.
        num_neighbours: Neighbours per chain and step, one in each zone.
        neighbour_radius: Half the edge of the outer box, one number or one per value, `(d,)`; None: `stdev_init`, or
            else a quarter of the width of the initial bounds.
        tabu_radius: Radius of a tabu ball as a share of the outer box, in (0, 1); the first zone begins there.
        tenure: Steps for which an incumbent stays tabu.
        patience: Steps without a better best after which a chain intensifies; None: never.
        center_init, stdev_init: First population normal around a centre; without a centre, around `problem.center`.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether chain 0 starts at the centre itself (the trained network).
        bounds: Repair of neighbours outside the bounds, as in `DE`.
        rescore_parents: Whether incumbents and the best of each chain are scored again with the neighbours (and
            counted); None asks the problem, which says so when its samples change.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If an option is out of its range.

    Source: Chelouah & Siarry (2000), Eur. J. Oper. Res. 123:256; Glover (1989), ORSA J. Comput. 1:190.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 4,
        num_neighbours: int = 10,
        neighbour_radius: float | Tensor | None = None,
        tabu_radius: float = 0.01,
        tenure: int = 10,
        patience: int | None = 10,
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
            neighbour_radius=self._get_neighbour_radius,
        )
        for name, number in (("num_neighbours", num_neighbours), ("tenure", tenure), ("patience", patience)):
            if number is not None and number < 1:
                raise ValueError(f"`{name}` must be at least 1, got {number}")
        if not 0 < tabu_radius < 1:
            raise ValueError(f"`tabu_radius` must lie in (0, 1), got {tabu_radius}")
        self.num_neighbours, self.patience = num_neighbours, patience
        self.tabu_radius, self.tenure = tabu_radius, tenure
        share = 1.0 if stdev_init is not None else 0.25
        self.neighbour_radius = self._scale("neighbour_radius", neighbour_radius, share)
        values = self._population._data
        self._tabu = torch.full((tenure, *values.shape), torch.nan, dtype=values.dtype, device=values.device)
        self._shrinkage = torch.ones(popsize, 1, 1, dtype=values.dtype, device=values.device)
        self._num_idle = torch.zeros(popsize, dtype=torch.int64, device=values.device)
        self._num_steps = 0
        self._start_reporting()

    def neighbours(self, incumbents: Tensor) -> Tensor:
        shape = len(incumbents), self.num_neighbours, incumbents.shape[1]
        direction = 2 * self.rand(*shape) - 1
        direction = direction / direction.abs().amax(dim=2, keepdim=True).clamp(min=torch.finfo(direction.dtype).tiny)
        # zone j of n: from edge tabu_radius^(1 - j / n) of the outer box to that of zone j + 1
        zone = torch.arange(self.num_neighbours, device=incumbents.device)[:, None] + self.rand(shape[0], shape[1], 1)
        edge = torch.exp((1 - zone / self.num_neighbours) * math.log(self.tabu_radius))
        step = edge * direction * self._shrinkage * self.neighbour_radius
        return (incumbents[:, None, :] + step).to(incumbents.dtype).flatten(0, 1)

    def is_tabu(self, z: Tensor) -> Tensor:
        radius = self.tabu_radius * self._shrinkage * self.neighbour_radius
        return in_tabu_ball(z, self._tabu, radius.expand(self.popsize, 1, z.shape[2]))

    def tell(self, z: Tensor, scores: Tensor) -> None:
        super().tell(z, scores)
        # The present incumbent is tabu too: near to it, only what is better than the best is a move.
        self._tabu[self._num_steps % self.tenure] = self._population._data
        self._num_steps += 1

    def _after_move(self, old: Tensor, is_better: Tensor) -> None:
        if self.patience is None:
            return
        self._num_idle = torch.where(is_better, 0, self._num_idle + 1)
        is_due = self._num_idle >= self.patience
        best = self._kept["best"]
        replace(self._population, is_due, best._data, best._evdata)
        self._tabu.masked_fill_(is_due[:, None], torch.nan)
        smaller = torch.where(self._shrinkage > 0.5**MAX_HALVINGS, self._shrinkage / 2, 1)
        self._shrinkage = torch.where(is_due[:, None, None], smaller, self._shrinkage)
        self._num_idle.masked_fill_(is_due, 0)

    def _get_neighbour_radius(self) -> float:
        return float(self._shrinkage.mean())


class BinaryTabuSearch(_Tabu):
    """Tabu search over bits, 0 and 1 in whatever type the problem has: a neighbour differs in one of them.

    A bit that was flipped is not flipped back for `tenure` steps, unless that gives the best so far (aspiration).
    Each step scores `popsize * num_neighbours` candidates, those that turn out tabu among them. The population are the
    incumbents, which may worsen; `chain_best` is the best of each chain.

    Args:
        problem: Any numeric EvoTorch problem, minimised or maximised, whose values may be 0 or 1.
        popsize: Number of chains.
        num_neighbours: Flips tried per chain and step, of different bits drawn at random; None: all of them.
        tenure: Steps for which a bit stays as it was put; None: a quarter of the bits, 20 at most.
        center_init, flip_rate: First population: the centre with every bit flipped with this probability; without a
            flip rate, fair coins. Without a centre, `problem.center`.
        initial_population: First population as given, `(popsize, d)` or a `SolutionBatch`.
        include_center: Whether chain 0 starts at the centre itself.
        rescore_parents: Whether incumbents and the best of each chain are scored again with the neighbours (and
            counted); None asks the problem, which says so when its samples change.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If an option is out of its range, or a given population or centre is not made of 0 and 1.

    Source: Glover (1989), ORSA J. Comput. 1:190; tenure: Palubeckis (2004), Ann. Oper. Res. 131:259.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 4,
        num_neighbours: int | None = None,
        tenure: int | None = None,
        center_init: Tensor | Solution | None = None,
        flip_rate: float | None = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        rescore_parents: bool | None = None,
        obj_index: int | None = None,
    ) -> None:
        super().__init__(
            problem,
            popsize=popsize,
            center_init=center_init,
            stdev_init=flip_rate,
            initial_population=initial_population,
            include_center=include_center,
            bounds="none",
            rescore_parents=rescore_parents,
            obj_index=obj_index,
        )
        values = self._population._data
        if not bool(((values == 0) | (values == 1)).all()):
            raise ValueError("expected a first population and a centre of 0 and 1 only")
        dim = problem.solution_length
        self.num_neighbours = dim if num_neighbours is None else num_neighbours
        self.tenure = min(20, max(1, dim // 4)) if tenure is None else tenure
        if not 1 <= self.num_neighbours <= dim:
            raise ValueError(f"`num_neighbours` must lie in 1 ... {dim}, the number of bits, got {num_neighbours}")
        if not 1 <= self.tenure < max(dim, 2):
            raise ValueError(f"`tenure` must be at least 1 and less than the number of bits, {dim}, got {tenure}")
        self._tabu_until = torch.zeros(values.shape, dtype=torch.int64, device=values.device)
        self._num_moves = 0
        self._start_reporting()

    def neighbours(self, incumbents: Tensor) -> Tensor:
        flipped = self.rand(*incumbents.shape).topk(self.num_neighbours, dim=1).indices
        shape = *flipped.shape, incumbents.shape[1]
        is_flipped = torch.zeros(shape, dtype=torch.bool, device=flipped.device).scatter_(2, flipped[:, :, None], True)
        is_one = (incumbents != 0)[:, None, :]
        return (is_one ^ is_flipped).to(incumbents.dtype).flatten(0, 1)

    def is_tabu(self, z: Tensor) -> Tensor:
        held = self._tabu_until > self._num_moves
        return ((z != self._population._data[:, None, :]) & held[:, None, :]).any(dim=2)

    def _after_move(self, old: Tensor, is_better: Tensor) -> None:
        self._num_moves += 1
        self._tabu_until.masked_fill_(self._population._data != old, self._num_moves + self.tenure)

    def _first_values(
        self,
        popsize: int,
        center_init: Tensor | Solution | None,
        stdev_init: StdevInit,
        initial_population: SolutionBatch | Tensor | None,
    ) -> Tensor:
        problem = self.problem
        if initial_population is not None:
            return self._given(initial_population, popsize)
        if stdev_init is None:
            return (self.rand(popsize, problem.solution_length) < 0.5).to(problem.dtype)
        flip_rate = float(stdev_init)
        if not 0 <= flip_rate <= 1:
            raise ValueError(f"`flip_rate` must lie in [0, 1], got {flip_rate}")
        is_flipped = self.rand(popsize, problem.solution_length) < flip_rate
        center = self.center_values(center_init, "flip_rate")
        if not bool(((center == 0) | (center == 1)).all()):
            raise ValueError("expected a first population and a centre of 0 and 1 only")
        return ((center != 0) ^ is_flipped).to(problem.dtype)
