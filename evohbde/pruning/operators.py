"""How do two masks have children that keep what matters?"""

from __future__ import annotations

import torch
from torch import Tensor

from evohbde.searchers.variation import Parents, check_rate

LEAST_VOTE, MOST_VOTE = 0.2, 0.8
LEAST_FLIPS = 1e-5
LEAST_WEIGHT = 0.05
SPREAD = 0.15
"""Share of the flips, beyond one half, that make the heaviest of a population heavier, or the lightest lighter."""

MEMORY = 5
"""Generations over which a success rate is taken."""

GOOD_RATE, FASTER, SLOWER, MOST_FACTOR = 0.2, 1.1, 0.9, 4.0
PIECE = 1 << 24
"""Bits that are mutated at once."""


class VotingVariation:
    """Crossover in which better parents and important weights have more votes, and mutation that re-admits weights.

    Parents' common bits are kept. Where they differ, the first child takes the first parent's bit with probability
    `sigmoid((its lead) / vote_scale)`, cut to [0.2, 0.8], and the second child the other bit; but with probability
    `importance_rate` importance decides, and each child has a one with probability r.

    Mutation flips an expected number of bits, which falls from `mutation_rate` of all to 1 in 100,000, at least one,
    with the power 1.5 of the generations left. Half of the flips switch weights on, more so in the heavier masks of
    the population and less in the lighter, so that the front stays wide. Weights are drawn without replacement, to be
    switched on with weight r + 0.05, to be switched off with weight 1 - r + 0.05.

    Both rates adapt: they grow by a tenth after each generation up to which, over five, more than a fifth of the
    children that had the operator survived, and fall by a tenth after the others, to between a quarter and four times
    of what is set. An instance remembers these rates; it starts anew with each search.

    Args:
        ranks: Importance r of each bit, `(d,)`, in [0, 1]: `evohbde.pruning.importance.ranks`.
        num_generations: Generations until the fewest bits are flipped; later ones do the same.
        crossover_rate: Share of pairs that are crossed; the children of others are copies before mutation.
        vote_scale: Lead in scores at which the better parent would have 73 % of the votes.
        importance_rate: Probability that importance decides on a bit, not the parents.
        mutation_rate: Share of the bits that flip at first.
        objective: Which objective's scores count in the vote.
        sense: Whether that one is minimised or maximised.
        is_adaptive: Whether rates adapt.

    Raises:
        ValueError: If an argument is out of its range.

    Source: our reading of arXiv 2604.01076, second phase, after the voting crossover and re-admitting mutation of
    arXiv 2410.21293; keys of the draw: Efraimidis & Spirakis (2006), Inf. Process. Lett. 97:181.
    """

    is_binary = True

    def __init__(
        self,
        ranks: Tensor,
        *,
        num_generations: int = 100,
        crossover_rate: float = 0.9,
        vote_scale: float = 0.01,
        importance_rate: float = 0.5,
        mutation_rate: float = 0.005,
        objective: int = 0,
        sense: str = "min",
        is_adaptive: bool = True,
    ) -> None:
        if ranks.ndim != 1 or not len(ranks) or not bool(((ranks >= 0) & (ranks <= 1)).all()):
            raise ValueError(f"expected `ranks` of shape (d,) with values in [0, 1], got shape {tuple(ranks.shape)}")
        if num_generations < 1:
            raise ValueError(f"`num_generations` must be at least 1, got {num_generations}")
        if not vote_scale > 0:
            raise ValueError(f"`vote_scale` must be above 0, got {vote_scale}: 0.01 is one point of accuracy")
        if sense not in ("min", "max"):
            raise ValueError(f"`sense` must be 'min' or 'max', got {sense!r}")
        for name, rate in (
            ("crossover_rate", crossover_rate),
            ("importance_rate", importance_rate),
            ("mutation_rate", mutation_rate),
        ):
            check_rate(name, rate)
        self.ranks, self.num_generations = ranks, num_generations
        self.crossover_rate, self.vote_scale, self.importance_rate = crossover_rate, vote_scale, importance_rate
        self.mutation_rate, self.objective, self.sense = mutation_rate, objective, sense
        self.is_adaptive = is_adaptive
        self._start_anew()

    def _start_anew(self) -> None:
        self.crossover_factor, self.mutation_factor = 1.0, 1.0
        self._generation = 0
        self._is_crossed: Tensor | None = None
        self._counts: list[list[int]] = []

    def __call__(self, parents: Parents) -> Tensor:
        if parents.generation != self._generation:
            self._begin(parents)
        self.ranks = self.ranks.to(parents.population.device)
        is_crossed = parents.rand(parents.num_pairs) < min(1.0, self.crossover_rate * self.crossover_factor)
        self._remember(parents, is_crossed)
        children = self._cross(parents, is_crossed)
        self._mutate_(children.flatten(0, 1), parents)
        return children.to(parents.population.dtype)

    def num_flips(self, generation: int) -> float:
        """Expected number of bits that flip in a child."""
        dim = len(self.ranks)
        left = max(0.0, 1 - generation / self.num_generations)
        flips = self.mutation_rate * dim * left**1.5 + max(1.0, LEAST_FLIPS * dim)
        return min(float(dim), flips * self.mutation_factor)

    def _begin(self, parents: Parents) -> None:
        """Learn from the last generation how its children fared."""
        if parents.survived is None or parents.generation < self._generation:
            self._start_anew()
        elif self.is_adaptive and self._is_crossed is not None:
            survived, crossed = parents.survived, self._is_crossed
            counts = torch.stack([crossed.sum(), (crossed & survived).sum(), survived.sum()]).tolist()
            self._counts = [*self._counts, [*counts, len(survived)]][-MEMORY:]
            num_crossed, crossed_survived, all_survived, num = (
                sum(column) for column in zip(*self._counts, strict=True)
            )
            self.crossover_factor = adapted(self.crossover_factor, crossed_survived, num_crossed)
            self.mutation_factor = adapted(self.mutation_factor, all_survived, num)
        self._generation, self._is_crossed = parents.generation, None

    def _remember(self, parents: Parents, is_crossed: Tensor) -> None:
        if self._is_crossed is None:
            self._is_crossed = is_crossed.new_zeros(len(parents.population))
        is_taken = parents.places >= 0
        self._is_crossed[parents.places[is_taken]] = is_crossed.expand_as(is_taken)[is_taken]

    def _cross(self, parents: Parents, is_crossed: Tensor) -> Tensor:
        """Children before mutation: `(num_children, n, d)`, bool."""
        first, second = (parents.population > 0.5)[parents.index]
        is_open = (first != second) & is_crossed[:, None]
        is_overruled = parents.rand(*first.shape) < self.importance_rate
        uniform = parents.rand(*first.shape)
        is_first = uniform < self._votes(parents)[:, None]
        chosen = torch.where(is_overruled, uniform < self.ranks, torch.where(is_first, first, second))
        children = [torch.where(is_open, chosen, first)]
        if parents.num_children == 2:
            # The other end of the same draw: each has its own probability r, and two children rarely agree.
            other = torch.where(is_overruled, 1 - uniform < self.ranks, torch.where(is_first, second, first))
            children.append(torch.where(is_open, other, second))
        return torch.stack(children)

    def _votes(self, parents: Parents) -> Tensor:
        """Share of the votes that each first parent has: `(n,)`."""
        first, second = parents.scores[:, self.objective][parents.index]
        lead = first - second if self.sense == "max" else second - first
        return torch.sigmoid(lead / self.vote_scale).nan_to_num(nan=0.5).clamp(LEAST_VOTE, MOST_VOTE)

    def _mutate_(self, children: Tensor, parents: Parents) -> None:
        """Flip bits of children, `(n, d)`, in place."""
        sizes = (parents.population > 0.5).sum(1)
        for rows in children.split(max(1, PIECE // children.shape[1])):
            num_on, num_off = self._flips(rows.sum(1), sizes, parents)
            uniform = parents.rand(*rows.shape)
            weight = torch.where(rows, 1 - self.ranks, self.ranks) + LEAST_WEIGHT
            flips = weighted_choice(weight.masked_fill(rows, 0), num_on, uniform)
            flips |= weighted_choice(weight.masked_fill(~rows, 0), num_off, uniform)
            rows ^= flips

    def _flips(self, size: Tensor, sizes: Tensor, parents: Parents) -> tuple[Tensor, Tensor]:
        """How many weights to switch on and off in children of these sizes among the population's: `(n,)` each."""
        heaviness = (size[:, None] - sizes).sign().to(torch.float64).mean(1)
        chance = parents.rand(2, len(size))
        num = (self.num_flips(parents.generation) + chance[0]).floor()
        num_on = ((0.5 + SPREAD * heaviness) * num + chance[1]).floor()
        num_on, num_off = num_on.long(), (num - num_on).long()
        return num_on.minimum(len(self.ranks) - size), num_off.minimum(size)


def adapted(factor: float, num_survived: int, num: int) -> float:
    """Factor of a rate after `num_survived` of `num` children have survived."""
    if num == 0 or num_survived == GOOD_RATE * num:
        return factor
    factor *= FASTER if num_survived > GOOD_RATE * num else SLOWER
    return min(MOST_FACTOR, max(1 / MOST_FACTOR, factor))


def weighted_choice(weights: Tensor, counts: Tensor, uniform: Tensor) -> Tensor:
    """Draw `counts` of the columns of each row without replacement, one after the other by weight: `(n, d)`, bool.

    Args:
        weights: `(n, d)`, not negative; columns of weight 0 are not drawn.
        counts: `(n,)`, at most the number of columns with a weight.
        uniform: Random numbers in [0, 1), `(n, d)`.

    Source: Efraimidis & Spirakis (2006), Inf. Process. Lett. 97:181: the largest of keys `u^(1/w)`.
    """
    keys = (torch.log1p(-uniform) / weights).masked_fill(weights <= 0, -torch.inf)
    most = int(counts.max())
    best = keys.topk(most, dim=1).indices
    is_drawn = torch.arange(most, device=counts.device) < counts[:, None]
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, best, is_drawn)
