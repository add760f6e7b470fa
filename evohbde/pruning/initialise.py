"""Which masks does a search between two masks start from?"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_HALVINGS = 64
TAIL = 40.0
"""Beyond this a sigmoid is 0 or 1 in float32."""


def importance_guided(
    ranks: Tensor, popsize: int, generator: torch.Generator | None = None, *, temperature: float = 0.1
) -> Tensor:
    """Draw masks of all densities, which keep important weights more often: `(N, d)`, bool.

    Individual k keeps a share k / (N - 1) of the weights in expectation, each by chance, with probability
    `sigmoid(r / temperature - b)`, b such that the probabilities have this mean. Row 0 keeps nothing, the last row
    everything.

    Args:
        ranks: Importance r of each weight, `(d,)`, in [0, 1]: `evohbde.pruning.importance.ranks`.
        popsize: N, at least 2.
        generator: Where the numbers come from, on the device of the ranks; None: the global one.
        temperature: Towards 0 the most important weights are kept for sure; at infinity ranks do not matter.

    Raises:
        ValueError: If an argument is out of its range.

    Source: arXiv 2604.01076, second phase, which says "importance-guided"; the formula is our reading.
    """
    _check(ranks, popsize, temperature)
    masks = torch.zeros(popsize, len(ranks), dtype=torch.bool, device=ranks.device)
    masks[-1] = True
    scaled = ranks.double() / temperature
    for row in range(1, popsize - 1):
        probability = keep_probability(scaled, row / (popsize - 1))
        uniform = torch.rand(len(ranks), generator=generator, device=ranks.device, dtype=torch.float64)
        masks[row] = uniform < probability
    return masks


def keep_probability(scaled: Tensor, density: float) -> Tensor:
    """Sigmoid of scores less a number, which is such that the mean is `density`: `(d,)`, float64.

    Args:
        scaled: Scores, `(d,)`, finite.
        density: Wanted mean, in (0, 1).
    """
    lowest, highest = float(scaled.min()) - TAIL, float(scaled.max()) + TAIL
    probability = torch.sigmoid(scaled - lowest)
    for _ in range(NUM_HALVINGS):
        middle = (lowest + highest) / 2
        probability = torch.sigmoid(scaled - middle)
        excess = float(probability.mean()) - density
        # A tenth of a weight more or less is far below what chance does.
        if abs(excess) * len(scaled) < 0.1:
            break
        lowest, highest = (middle, highest) if excess > 0 else (lowest, middle)
    return probability


def _check(ranks: Tensor, popsize: int, temperature: float) -> None:
    if ranks.ndim != 1 or not len(ranks) or not bool(((ranks >= 0) & (ranks <= 1)).all()):
        raise ValueError(
            f"expected `ranks` of shape (d,) with values in [0, 1], got shape {tuple(ranks.shape)}: "
            "use evohbde.pruning.importance.ranks(scores)"
        )
    if popsize < 2:
        raise ValueError(f"`popsize` must be at least 2, for the lightest and the heaviest mask, got {popsize}")
    if not temperature > 0:
        raise ValueError(f"`temperature` must be above 0, got {temperature}; 0.01 is next to choosing by rank alone")
