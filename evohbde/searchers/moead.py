"""MOEA/D (Zhang & Li, 2007), with all children of a generation scored in one batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import StdevInit
from evohbde.searchers.multi_objective import Bound, MultiObjectiveSearcher, Violation
from evohbde.searchers.pareto import is_nondominated, simplex_lattice
from evohbde.searchers.variation import RealVariation, Variation

Decomposition = Callable[[Tensor, Tensor], Tensor]
AUGMENTATION = 1e-4
PENALTY = 5.0


def tchebycheff(losses: Tensor, weights: Tensor) -> Tensor:
    """Largest weighted loss, the sum of all losses deciding near-ties: `(..., M)`, `(..., M) -> (...)`.

    Without the small sum, a subproblem could not tell a Pareto optimum from what it weakly dominates.

    Source: Steuer & Choo (1983), Math. Programming 26:326.
    """
    return (losses * weights).amax(-1) + AUGMENTATION * losses.sum(-1)


def penalty_boundary(losses: Tensor, weights: Tensor) -> Tensor:
    """Way along the weight vector, plus 5 times the distance from it; spreads three and more objectives evenly.

    `(..., M)`, `(..., M) -> (...)`.

    Source: Zhang & Li (2007), IEEE Trans. Evol. Comput. 11:712, section II-C, with their theta of 5.
    """
    direction = weights / weights.norm(dim=-1, keepdim=True)
    along = (losses * direction).sum(-1, keepdim=True)
    return along[..., 0] + PENALTY * (losses - along * direction).norm(dim=-1)


def weighted_sum(losses: Tensor, weights: Tensor) -> Tensor:
    """Finds convex parts of the front only: `(..., M)`, `(..., M) -> (...)`."""
    return (losses * weights).sum(-1)


DECOMPOSITIONS: dict[str, Decomposition] = {
    "tchebycheff": tchebycheff,
    "pbi": penalty_boundary,
    "weighted-sum": weighted_sum,
}


class MOEAD(MultiObjectiveSearcher):
    """MOEA/D: one individual per weight vector, which mates with its neighbours and may replace them.

    Children are made from the same old population and scored in one batch; then they compete in random order. Then
    the place with the largest weight of an objective gets the best of all for these weights: the ends of the front are
    kept, but for PBI, where this weight asks for the largest loss and not the smallest.

    Args:
        popsize: Number of weight vectors, at least 4; with three or more objectives the nearest size of a simplex
            lattice is taken.
        weights: Weight vectors of your own, `(N, M)`, in place of `popsize`.
        decomposition: `"tchebycheff"`, `"pbi"`, `"weighted-sum"`, or a function of losses above the ideal point and
            weights, `(..., M)` each, to what is minimised, `(...)`. PBI covers fronts like a sphere around the ideal
            point most evenly, but is no help where the ends of the front are good in all objectives but one.
        normalize: Whether losses are scaled such that the nadir point of the current front is 1 everywhere. Needed
            where the scales of the objectives differ much; where they do not, it slows the search down.
        num_neighbours: T, the individuals with the nearest weights, an individual itself among them.
        neighbour_rate: Probability that an individual mates among, and replaces, its neighbours only.
        max_replacements: Individuals that one child may replace at most; None: as many as have its neighbours.
        variation: As in `NSGA2`; real variation crosses all pairs, with eta 20.
        eliminate_duplicates: Whether children equal to others are made anew.

    The other arguments are those of `NSGA2`.

    Raises:
        ValueError: If an option is out of its range, or real variation finds no bounds.

    Source: Zhang & Li (2007), IEEE Trans. Evol. Comput. 11:712; limited replacement: Li & Zhang (2009), 13:284.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int = 100,
        weights: Tensor | None = None,
        decomposition: str | Decomposition = "tchebycheff",
        normalize: bool = False,
        num_neighbours: int = 20,
        neighbour_rate: float = 0.9,
        max_replacements: int | None = None,
        variation: str | Variation | None = None,
        violation: Violation | int | None = None,
        center_init: Tensor | Solution | None = None,
        stdev_init: StdevInit = None,
        initial_population: SolutionBatch | Tensor | None = None,
        include_center: bool = False,
        bounds: tuple[Bound, Bound] | None = None,
        eliminate_duplicates: bool = True,
        rescore_parents: bool | None = None,
    ) -> None:
        weights = _find_weights(problem, popsize, weights)
        if variation == "real" or (variation is None and problem.dtype.is_floating_point):
            variation = RealVariation(crossover_rate=1.0, crossover_eta=20.0)
        super().__init__(
            problem,
            popsize=len(weights),
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
        if not 0 <= neighbour_rate <= 1:
            raise ValueError(f"`neighbour_rate` must lie in [0, 1], got {neighbour_rate}")
        max_replacements = num_neighbours if max_replacements is None else max_replacements
        if num_neighbours < 2 or max_replacements < 1:
            raise ValueError(
                f"`num_neighbours` must be at least 2 and `max_replacements` at least 1, "
                f"got {num_neighbours} and {max_replacements}"
            )
        self.weights = weights.to(self._population._evdata)
        self.neighbour_rate, self.max_replacements = neighbour_rate, max_replacements
        self.normalize = normalize
        self._decomposition = _find_decomposition(decomposition)
        self._neighbours = _nearest(weights, min(num_neighbours, len(weights))).to(problem.device)
        self._ends = self.weights.argmax(0)
        self._is_local = torch.ones(len(weights), dtype=torch.bool, device=problem.device)
        self._ideal = torch.full_like(self.weights[0], torch.inf)

    def _make_children(self) -> Tensor:
        self._is_local = self.rand(self.popsize) < self.neighbour_rate
        return super()._make_children()

    def _mate(self, rows: Tensor) -> Tensor:
        """One child of two different members of the pool of each individual."""
        num_neighbours = self._neighbours.shape[1]
        is_local = self._is_local[rows]
        size = torch.where(is_local, num_neighbours, self.popsize)
        first, second = self.rand(2, len(rows))
        first = (first * size).long().minimum(size - 1)
        second = (second * (size - 1)).long().minimum(size - 2)
        pair = torch.stack([first, second + (second >= first)])
        near = self._neighbours[rows].T.gather(0, pair.clamp(max=num_neighbours - 1))
        return self._vary(torch.where(is_local, near, pair), rows[None])[0]

    def _select(self, values: Tensor, evals: Tensor, z: Tensor, scores: Tensor) -> Tensor:
        popsize = self.popsize
        scores = torch.cat([evals, scores])
        violation = None if self._violation is None else self.violations(torch.cat([values, z]), scores)
        losses = self._scale(self.losses(scores), violation)
        held = self._decompose(losses[:popsize], self.weights)
        offered = self._decompose(losses[popsize:, None], self.weights)
        order, pools = self.rand(popsize).argsort(), self._shuffled_pools()
        violation = torch.zeros_like(losses[:, 0]) if violation is None else violation
        # One transfer; children compete one after the other, and on the host a step costs microseconds.
        arrays = (x.cpu().numpy() for x in (held, offered, *violation.split(popsize), pools, order))
        holder = torch.from_numpy(replace_in_turn(*arrays, max_replacements=self.max_replacements))
        return self._keep_ends(holder.to(values.device), losses, violation)

    def _scale(self, losses: Tensor, violation: Tensor | None) -> Tensor:
        """Losses above the ideal point of the front, in units of its nadir point where normalised: `(2N, M)`."""
        in_front = (is_nondominated(losses, violation) & losses[:, 0].isfinite())[:, None]
        ideal = torch.where(in_front, losses, torch.inf).amin(0)
        width = torch.where(in_front, losses, -torch.inf).amax(0) - ideal
        if violation is None and not self.rescore_parents:
            # Only scores that stay true, of candidates that are allowed, are worth remembering.
            ideal = self._ideal = torch.minimum(ideal, self._ideal)
        losses = losses - torch.where(ideal.isfinite(), ideal, 0.0)
        return losses / torch.where((width > 0) & width.isfinite(), width, 1.0) if self.normalize else losses

    def _decompose(self, losses: Tensor, weights: Tensor) -> Tensor:
        found = self._decomposition(losses, weights)
        return torch.where(found.isnan(), torch.inf, found)  # inf times a weight of 0

    def _keep_ends(self, holder: Tensor, losses: Tensor, violation: Tensor) -> Tensor:
        """Give the place of the largest weight of each objective to the best of all for these weights: `(N,) -> (N,)`.

        Else this one can get lost, when it has replaced as many others as it may, or belongs elsewhere.
        """
        offered = self._decompose(losses[:, None], self.weights[self._ends])
        offered = torch.where((violation == violation.amin())[:, None], offered, torch.inf)
        best, index = offered.min(0)
        present = holder[self._ends]
        is_better = best < offered.gather(0, present[None])[0]
        return holder.scatter(0, self._ends, torch.where(is_better, index, present))

    def _shuffled_pools(self) -> Tensor:
        """Whom each child may replace, in random order, behind these -1: `(N, N)`."""
        popsize = self.popsize
        is_near = torch.zeros(popsize, popsize, dtype=torch.bool, device=self._neighbours.device)
        may_replace = is_near.scatter_(1, self._neighbours, True) | ~self._is_local[:, None]
        pools = torch.where(may_replace, self.rand(popsize, popsize), 2.0).argsort(dim=1)
        is_behind = torch.arange(popsize, device=pools.device) >= may_replace.sum(1, keepdim=True)
        return pools.masked_fill_(is_behind, -1)


def replace_in_turn(
    held: np.ndarray,
    offered: np.ndarray,
    held_violation: np.ndarray,
    offered_violation: np.ndarray,
    pools: np.ndarray,
    order: np.ndarray,
    *,
    max_replacements: int,
) -> np.ndarray:
    """Let the children compete one after the other; gives who holds each place, parent `i` or child `N + i`: `(N,)`.

    A child takes the first places of its pool where it is as good as the holder; less violation counts first.

    Args:
        held: `(N,)`, what each holder has for its own weights; lower is better.
        offered: `(N, N)`, entry `[k, j]` what child k would have for the weights of place j.
        held_violation, offered_violation: `(N,)`.
        pools: `(N, n)`, for each child the places it may take, in the order in which it tries them; -1 for none.
        order: `(N,)`, in which order the children come.
    """
    popsize = len(held)
    held, held_violation = held.copy(), held_violation.copy()
    holder = np.arange(popsize)
    for k in order:
        places = pools[k][pools[k] >= 0]
        same = held_violation[places] == offered_violation[k]
        wins = np.where(same, offered[k, places] <= held[places], offered_violation[k] < held_violation[places])
        taken = places[wins][:max_replacements]
        holder[taken] = popsize + k
        held[taken], held_violation[taken] = offered[k, taken], offered_violation[k]
    return holder


def _find_weights(problem: Problem, popsize: int, weights: Tensor | None) -> Tensor:
    if weights is None:
        if popsize < 4:
            raise ValueError(f"`popsize` must be at least 4, got {popsize}")
        return simplex_lattice(len(problem.senses), popsize)
    weights = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
    if weights.ndim != 2 or weights.shape[1] != len(problem.senses):
        raise ValueError(f"expected `weights` of shape (N, {len(problem.senses)}), got {tuple(weights.shape)}")
    if bool((weights < 0).any()) or bool((weights.sum(1) == 0).any()):
        raise ValueError("`weights` must not be negative, nor all zero in a row")
    return weights / weights.sum(1, keepdim=True)


def _find_decomposition(decomposition: str | Decomposition) -> Decomposition:
    if callable(decomposition):
        return decomposition
    if decomposition not in DECOMPOSITIONS:
        raise ValueError(f"`decomposition` must be one of {', '.join(DECOMPOSITIONS)} or a function")
    return DECOMPOSITIONS[decomposition]


def _nearest(weights: Tensor, num: int) -> Tensor:
    """Indices of the nearest weight vectors: `(N, M) -> (N, num)`; of the nearest places, if there is one objective."""
    if weights.shape[1] == 1:
        weights = torch.arange(len(weights), dtype=weights.dtype)[:, None]
    return torch.cdist(weights, weights).argsort(dim=1, stable=True)[:, :num]
