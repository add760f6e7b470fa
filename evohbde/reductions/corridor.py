"""Which weights are kept, between a mask that all keep and one that none leaves?"""

from __future__ import annotations

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_weights


class CorridorMask(Reduction):
    """Decide weight by weight between two masks: the core is kept, what lies outside `upper` is zero.

    `z` holds one decision per free weight, one in `upper` but not in the core, in the order of the weights; above 0.5
    it is kept. An empty core leaves all of `upper` free, so that only a constraint on the density bounds the search.
    `reduce` gives 1 where a free weight differs from zero. Memory: the weights, two bytes per weight, and eight per
    free one.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        core: Weights that are always kept, `(D,)`, bool.
        upper: Weights that may be kept, `(D,)`, bool; all of the core among them.

    Attributes:
        free: Which weight each decision is about, `(d,)`, int64, ascending.

    Raises:
        ValueError: If a mask does not fit, the core is not part of `upper`, or both are the same.

    Source: arXiv 2604.01076, second phase; the corridor as a range of masks is our reading.
    """

    _tensors = ("theta0", "core", "free", "center", "lower", "upper")
    _options = ("dim", "full_dim", "is_unique")

    is_binary = True

    theta0: Tensor
    core: Tensor
    free: Tensor

    def __init__(self, theta0: Tensor, core: Tensor, upper: Tensor) -> None:
        theta0 = check_weights(theta0).clone()
        core, upper = (_checked(mask, theta0, name) for mask, name in ((core, "core"), (upper, "upper")))
        num_outside = int((core & ~upper).sum())
        if num_outside:
            raise ValueError(
                f"{num_outside:,} weights of `core` lie outside `upper`: give core & upper, or upper | core"
            )
        self.theta0, self.core = theta0, core.clone()
        self.free = (upper & ~core).nonzero()[:, 0]
        if not len(self.free):
            raise ValueError("`core` and `upper` are the same mask, so that nothing is left to decide: widen `upper`")
        self.dim, self.full_dim = len(self.free), theta0.numel()
        self.lower, self.upper = theta0.new_zeros(self.dim), theta0.new_ones(self.dim)
        self.center = self.reduce(theta0)
        # A weight of zero is the same kept or not.
        self.is_unique = bool(self.center.all())

    def mask(self, z: Tensor) -> Tensor:
        """Tell which weights are kept: `(..., d) -> (..., D)`, bool."""
        self.check_z(z)
        return self.core.expand(*z.shape[:-1], -1).index_copy(-1, self.free, z > 0.5)

    def expand(self, z: Tensor) -> Tensor:
        return torch.where(self.mask(z), self.theta0, 0.0)

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        self.check_z(z)
        out.copy_(self.theta0).mul_(self.core)
        return out.index_copy_(0, self.free, torch.where(z > 0.5, self.theta0[self.free], 0.0))

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        return (theta.index_select(-1, self.free) != 0).to(theta.dtype)


def _checked(mask: Tensor, theta0: Tensor, argument: str) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != theta0.shape:
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
        raise ValueError(f"expected `{argument}` to be a bool tensor of shape {tuple(theta0.shape)}, got {got}")
    return mask.to(theta0.device)
