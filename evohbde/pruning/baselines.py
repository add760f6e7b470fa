"""Which masks must any search beat: pruning by magnitude, and at random?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from evohbde.reductions.thresholds import ThresholdPruning

GLOBAL, UNIFORM = "global magnitude", "uniform magnitude"


NEARLY_ALL = 1 - 2**-24
"""Largest threshold: the last weight of a tensor is never pruned."""


def global_magnitude_masks(theta0: Tensor, groups: Tensor, fractions: Sequence[float]) -> Tensor:
    """Prune the smallest weights of all: `(F, D)`, bool; `floor(fraction * D)` of them, but of no tensor the largest.

    Args:
        theta0: Prunable weights, `(D,)`.
        groups: Tensor of each weight, `(D,)`, integers: `layout.tensor_index`.
        fractions: Shares to prune, each in [0, 1].

    Source: Han et al. (2015), arXiv 1506.02626, without retraining.
    """
    thresholds = ThresholdPruning(theta0, groups, most=NEARLY_ALL)
    return thresholds.mask(torch.stack([thresholds.global_magnitude(fraction) for fraction in fractions]))


def uniform_magnitude_masks(theta0: Tensor, groups: Tensor, fractions: Sequence[float]) -> Tensor:
    """Prune the smallest weights of each tensor alike: `(F, D)`, bool; `floor(fraction * n_l)` of n_l, never all.

    Args:
        theta0, groups, fractions: As in `global_magnitude_masks`.
    """
    thresholds = ThresholdPruning(theta0, groups, most=NEARLY_ALL)
    return thresholds.mask(torch.stack([thresholds.uniform(fraction) for fraction in fractions]))


def random_masks(core: Tensor, upper: Tensor, kept: Sequence[float], generator: torch.Generator) -> Tensor:
    """Keep the core and a random part of what lies between core and upper mask: `(F, D)`, bool.

    Args:
        core: Weights that are always kept, `(D,)`, bool.
        upper: Weights that may be kept, `(D,)`, bool.
        kept: Shares of all D weights to keep; cut to what lies between both masks.
        generator: Where the numbers come from, on the CPU.
    """
    free = (upper & ~core).nonzero()[:, 0]
    masks = core.repeat(len(kept), 1)
    for mask, share in zip(masks, kept, strict=True):
        num = min(len(free), max(0, round(share * len(core)) - int(core.sum())))
        chosen = torch.randperm(len(free), generator=generator)[:num]
        mask[free[chosen.to(free.device)]] = True
    return masks
