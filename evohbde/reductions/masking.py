"""Which groups of weights are kept, and which become zero?"""

from __future__ import annotations

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_weights

EXEMPT = -1
"""Group of the weights that are always kept."""


class GroupMask(Reduction):
    """Keep or zero groups of weights, one decision per group: `theta = theta0 * (z > threshold)[group]`.

    A group is whatever is kept or goes together: a weight, a channel, a block, a tensor. `expand` sees only on which
    side of the threshold a value lies, so `z` may be searched as a number or as a bit, and has no gradient. `reduce`
    gives 1 where any weight of the group differs from zero. Memory: one copy of the weights, one int32 per weight.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        groups: Group of each weight, `(D,)`, integers; -1: always kept. `layout.tensor_index`, the `block` of a
            `Blocking`, `channel_groups(layout.shapes)` or your own. Numbers that no weight has are left out.
        threshold: Values above it keep their group, in [0, 1).

    Attributes:
        group: Decision of each weight, `(D,)`, int32, numbered without gaps; `d` for weights that are always kept.
        counts: Weights per group, `(d,)`, int64.

    Raises:
        ValueError: If `groups` does not fit, has other negative numbers, or leaves nothing to decide.
    """

    _tensors = ("theta0", "group", "counts", "center", "lower", "upper")
    _options = ("dim", "full_dim", "threshold", "is_unique")

    is_binary = True

    theta0: Tensor
    group: Tensor
    counts: Tensor
    threshold: float

    def __init__(self, theta0: Tensor, groups: Tensor, threshold: float = 0.5) -> None:
        theta0 = check_weights(theta0).clone()
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` must lie in [0, 1), between a zero and a one, got {threshold}")
        self.theta0, self.threshold = theta0, float(threshold)
        self.group, self.counts = number_groups(groups, theta0)
        self.dim, self.full_dim = len(self.counts), theta0.numel()
        self.lower, self.upper = theta0.new_zeros(self.dim), theta0.new_ones(self.dim)
        self.center = self.reduce(theta0)
        # A group of zeros is the same kept or not.
        self.is_unique = bool(self.center.all())

    def mask(self, z: Tensor) -> Tensor:
        """Tell which weights are kept: `(..., d) -> (..., D)`, bool."""
        self.check_z(z)
        kept = z > self.threshold
        always = kept.new_ones(*kept.shape[:-1], 1)
        return torch.cat([kept, always], dim=-1).index_select(-1, self.group)

    def expand(self, z: Tensor) -> Tensor:
        return torch.where(self.mask(z), self.theta0, 0.0)

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        return out.copy_(self.theta0).masked_fill_(~self.mask(z), 0.0)

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        found = torch.zeros(*theta.shape[:-1], self.dim + 1, dtype=torch.int64, device=theta.device)
        found.index_add_(-1, self.group, (theta != 0).long())
        return (found[..., : self.dim] > 0).to(theta.dtype)


def number_groups(groups: Tensor, theta0: Tensor) -> tuple[Tensor, Tensor]:
    """Number the groups without gaps, the exempt weights last: `(D,)`, and count the weights of each: `(d,)`."""
    if not isinstance(groups, Tensor):
        raise TypeError(f"expected `groups` to be a torch.Tensor of shape (D,), got {type(groups).__name__}")
    if groups.shape != theta0.shape or groups.is_floating_point() or groups.dtype == torch.bool:
        raise ValueError(
            f"expected `groups` to hold one integer per weight, shape {tuple(theta0.shape)}, "
            f"got {groups.dtype} {tuple(groups.shape)}"
        )
    ids, group, counts = groups.to(theta0.device).unique(return_inverse=True, return_counts=True)
    lowest, highest = int(ids[0]), int(ids[-1])
    if lowest < EXEMPT:
        raise ValueError(f"`groups` must be numbered from 0, with -1 for weights that are always kept, got {lowest}")
    if highest == EXEMPT:
        raise ValueError("`groups` is -1 everywhere, so that all weights are kept: give some of them a number from 0")
    if lowest == EXEMPT:
        counts = counts[1:]
        group = torch.where(group == 0, len(counts), group - 1)
    return group.to(torch.int32), counts
