"""How do two parents have children, in real and in binary spaces?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NO_BOUNDS = "real variation needs a problem with `bounds` or `initial_bounds`, or `bounds=(low, high)`"


@dataclass(frozen=True)
class Box:
    """Bounds of the search, each `(d,)` or a number; only strict ones are enforced, others tell the scale."""

    lower: Tensor
    upper: Tensor
    is_strict: bool

    def clip(self, values: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(values, self.lower), self.upper) if self.is_strict else values


@dataclass(frozen=True)
class Parents:
    """What a variation gets: n pairs of parents, and what it may want to know about them.

    Attributes:
        index: `(2, n)`, the first and the second parent's place in the population.
        population: `(N, d)`, not to be changed.
        scores: `(N, M + q)`, of the population, in the problem's own senses, followed by its evaluation data.
        num_children: How many children each pair shall have, 1 or 2.
        box: Bounds, if there are any.
        generator: The problem's own generator, or None where it has no seed.
        survived: `(N,)` bool, which of the latest children have entered the population; None before there were any.
        generation: How many generations of children were scored before; some of one may be made later than others.
        places: `(num_children, n)`, where the children go in their generation and in its `survived`; -1: nowhere.
    """

    index: Tensor
    population: Tensor
    scores: Tensor
    num_children: int
    box: Box | None
    generator: torch.Generator | None
    survived: Tensor | None
    generation: int
    places: Tensor

    @property
    def values(self) -> Tensor:
        """`(2, n, d)`, a copy."""
        return self.population[self.index]

    @property
    def num_pairs(self) -> int:
        return self.index.shape[1]

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) from the problem's own generator, in float32 at least."""
        dtype = torch.promote_types(self.population.dtype, torch.float32)
        return torch.rand(*shape, generator=self.generator, device=self.population.device, dtype=dtype)


Variation = Callable[[Parents], Tensor]
"""Makes children of parents: `(num_children, n, d)`. `is_binary = True` on it asks for a first population of bits."""


def check_rate(name: str, rate: float | None) -> None:
    if rate is not None and not 0 <= rate <= 1:
        raise ValueError(f"`{name}` must lie in [0, 1], got {rate}")


def sbx(first: Tensor, second: Tensor, uniform: Tensor, eta: float, box: Box | None = None) -> tuple[Tensor, Tensor]:
    """Simulated binary crossover in every gene; gives the lower and the upper child.

    Without strict bounds, the children's distance is the parents' times beta, of density 0.5 (eta + 1) beta^eta below
    1 and 0.5 (eta + 1) / beta^(eta + 2) above; at strict bounds, the density is cut and scaled up again.

    Source: Deb & Agrawal (1995), Complex Systems 9:115; bounds as in Deb's NSGA-II code.
    """
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    centre, distance = (low + high) / 2, high - low
    if box is None or not box.is_strict:
        half = distance * (_beta(uniform, 2.0, eta) / 2)
        return centre - half, centre + half
    divisor = torch.where(distance > 0, distance, 1)
    below = _alpha(1 + 2 * (low - box.lower).clamp(min=0) / divisor, eta)
    above = _alpha(1 + 2 * (box.upper - high).clamp(min=0) / divisor, eta)
    children = centre - distance * _beta(uniform, below, eta) / 2, centre + distance * _beta(uniform, above, eta) / 2
    return box.clip(children[0]), box.clip(children[1])


def _alpha(reach: Tensor, eta: float) -> Tensor:
    """Twice the probability that beta stays within the reach of the bound."""
    return 2 - reach ** -(eta + 1)


def _beta(uniform: Tensor, alpha: Tensor | float, eta: float) -> Tensor:
    scaled = uniform * alpha
    return torch.where(scaled <= 1, scaled, 1 / (2 - scaled)) ** (1 / (eta + 1))


def polynomial_step(uniform: Tensor, eta: float, to_lower: Tensor | float = 1, to_upper: Tensor | float = 1) -> Tensor:
    """Polynomial mutation as a share of the width; `to_lower`, `to_upper` are the bounds' distances in that unit.

    Distances of 1 give the plain density 0.5 (eta + 1) (1 - |step|)^eta on [-1, 1].

    Source: Deb & Agrawal (1999); bounds as in Deb's NSGA-II code.
    """
    down = 2 * uniform + (1 - 2 * uniform) * (1 - _tensor(to_lower, uniform)) ** (eta + 1)
    up = 2 * (1 - uniform) + (2 * uniform - 1) * (1 - _tensor(to_upper, uniform)) ** (eta + 1)
    power = 1 / (eta + 1)
    return torch.where(uniform <= 0.5, down.clamp(min=0) ** power - 1, 1 - up.clamp(min=0) ** power)


def _tensor(value: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


class RealVariation:
    """Simulated binary crossover and polynomial mutation; needs bounds, if only for the scale.

    Args:
        crossover_rate: Share of pairs that are crossed; the children of others are copies before mutation.
        crossover_eta: Large values keep children near their parents.
        gene_rate: Share of the genes of a crossed pair that change; others are inherited.
        mutation_rate: Probability of each gene to mutate; None: 1 / d.
        mutation_eta: Large values make small steps; a step is about width / eta.
    """

    is_binary = False

    def __init__(
        self,
        *,
        crossover_rate: float = 0.9,
        crossover_eta: float = 15.0,
        gene_rate: float = 0.5,
        mutation_rate: float | None = None,
        mutation_eta: float = 20.0,
    ) -> None:
        check_rate("crossover_rate", crossover_rate)
        check_rate("gene_rate", gene_rate)
        check_rate("mutation_rate", mutation_rate)
        if crossover_eta < 0 or mutation_eta < 0:
            raise ValueError(f"`crossover_eta` and `mutation_eta` must be >= 0, got {crossover_eta}, {mutation_eta}")
        self.crossover_rate, self.crossover_eta, self.gene_rate = crossover_rate, crossover_eta, gene_rate
        self.mutation_rate, self.mutation_eta = mutation_rate, mutation_eta

    def __call__(self, parents: Parents) -> Tensor:
        box = parents.box
        if box is None:
            raise ValueError(NO_BOUNDS)
        children = self._cross(parents)
        self._mutate_(children, box, parents.rand)
        return box.clip(children)

    def _cross(self, parents: Parents) -> Tensor:
        values = parents.values
        shape = values.shape[1:]
        is_crossed = parents.rand(parents.num_pairs, 1) < self.crossover_rate
        choice = parents.rand(*shape)
        # A fair coin within the genes that change says which child gets the lower value.
        is_changed = (choice < self.gene_rate) & is_crossed & (values[0] != values[1])
        is_swapped = choice < self.gene_rate / 2
        low, high = sbx(values[0], values[1], parents.rand(*shape), self.crossover_eta, parents.box)
        children = [torch.where(is_changed, torch.where(is_swapped, high, low).to(values.dtype), values[0])]
        if parents.num_children == 2:
            children.append(torch.where(is_changed, torch.where(is_swapped, low, high).to(values.dtype), values[1]))
        return torch.stack(children)

    def _mutate_(self, children: Tensor, box: Box, rand: Callable[..., Tensor]) -> None:
        dim = children.shape[-1]
        rate = 1 / dim if self.mutation_rate is None else self.mutation_rate
        # One synchronisation; but powers are only taken of the few genes that mutate.
        place = (rand(*children.shape) < rate).nonzero(as_tuple=True)
        value, uniform = children[place], rand(len(place[0]))
        lower, upper = (bound.expand(dim)[place[-1]] for bound in (box.lower, box.upper))
        width = (upper - lower).to(uniform.dtype)
        if not box.is_strict:
            step = polynomial_step(uniform, self.mutation_eta)
        else:
            divisor = torch.where(width > 0, width, 1)
            distances = ((value - lower) / divisor).clamp(0, 1), ((upper - value) / divisor).clamp(0, 1)
            step = polynomial_step(uniform, self.mutation_eta, *distances)
        children[place] = (value + step * width).to(children.dtype)


class BinaryVariation:
    """Uniform or one-point crossover, and bit flips; for values 0 and 1 of any type.

    Args:
        crossover: `"uniform"`: each bit from either parent; `"one-point"`: head of one, tail of the other.
        crossover_rate: Share of pairs that are crossed; the children of others are copies before mutation.
        mutation_rate: Probability of each bit to flip; None: 1 / d.
    """

    is_binary = True

    def __init__(
        self, *, crossover: str = "uniform", crossover_rate: float = 0.9, mutation_rate: float | None = None
    ) -> None:
        if crossover not in ("uniform", "one-point"):
            raise ValueError(f"`crossover` must be 'uniform' or 'one-point', got {crossover!r}")
        check_rate("crossover_rate", crossover_rate)
        check_rate("mutation_rate", mutation_rate)
        self.crossover, self.crossover_rate, self.mutation_rate = crossover, crossover_rate, mutation_rate

    def __call__(self, parents: Parents) -> Tensor:
        first, second = parents.values
        is_swapped = self._swaps(parents, first.shape[1])
        is_swapped &= parents.rand(parents.num_pairs, 1) < self.crossover_rate
        children = [torch.where(is_swapped, second, first)]
        if parents.num_children == 2:
            children.append(torch.where(is_swapped, first, second))
        return self._flip(torch.stack(children), parents.rand)

    def _swaps(self, parents: Parents, dim: int) -> Tensor:
        if self.crossover == "uniform":
            return parents.rand(parents.num_pairs, dim) < 0.5
        # A cut behind each of the first d - 1 genes is equally likely.
        cut = 1 + (parents.rand(parents.num_pairs, 1) * (dim - 1)).long().clamp_(max=max(dim - 2, 0))
        return torch.arange(dim, device=cut.device) >= cut

    def _flip(self, children: Tensor, rand: Callable[..., Tensor]) -> Tensor:
        rate = 1 / children.shape[-1] if self.mutation_rate is None else self.mutation_rate
        flips = rand(*children.shape) < rate
        return torch.where(flips, children.logical_not().to(children.dtype), children)
