"""Which few values can a network's weights share?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from evohbde.objectives import WeightObjective
from evohbde.pruning.pipeline import prunable_layout
from evohbde.reductions import Blocking, HistogramBlocking, Reduction

BlockingLike = Callable[[Tensor], Blocking]
"""Makes blocks of a flat vector of weights: `lambda theta: KMeansBlocking(theta, 256)`."""

NUM_BINS = 256


class CodebookSize(WeightObjective):
    """Different values among the searched weights, zero left out: entries of a codebook."""

    name, sense = "codebook_size", "min"

    def __call__(self, theta: Tensor) -> Tensor:
        return torch.as_tensor(theta[theta != 0].unique().numel(), dtype=torch.float64, device=theta.device)


class BlockMerging(Reduction):
    """Decide which neighbouring blocks share a value: `theta` is the mean of each run of joined blocks.

    There is one decision per pair of neighbours; above 0.5 they stay two, else they become one. Blocks are in the order
    of their values. Weights that are zero stay zero and lie in no block.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        blocking: Makes the finest blocks, of the weights that are not zero; None: a histogram of 256 edges.

    Attributes:
        block: Block of each weight, `(D,)`, int64; `num_blocks` for zeros.
        counts: Weights per block, `(d + 1,)`, int64.
        mean: Their means, ascending, `(d + 1,)`, float64.

    Raises:
        ValueError: If fewer than two blocks come out.

    Source: Merging of neighbouring bins as in arXiv 2501.03095; here all merges are searched at once.
    """

    _tensors = ("block", "counts", "mean", "center", "lower", "upper")

    is_binary = True
    is_unique = False  # blocks of equal means are the same joined or not

    block: Tensor
    counts: Tensor
    mean: Tensor

    def __init__(self, theta0: Tensor, blocking: BlockingLike | None = None) -> None:
        kept = theta0 != 0
        found = (blocking or _histogram)(theta0[kept])
        mean = theta0.new_zeros(found.dim, dtype=torch.float64)
        mean = mean.index_add_(0, found.block.long(), theta0[kept].double()) / found.counts
        if found.dim < 2:
            raise ValueError(f"`blocking` makes {found.dim} block of these weights: nothing can be merged, make more")
        order = mean.argsort()
        self.counts, self.mean = found.counts[order], mean[order]
        rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        self.block = torch.full_like(theta0, found.dim, dtype=torch.int64).masked_scatter_(
            kept, rank[found.block.long()]
        )
        self.dim, self.full_dim = found.dim - 1, theta0.numel()
        self.lower, self.upper = theta0.new_zeros(self.dim), theta0.new_ones(self.dim)
        self.center = self.upper.clone()

    @property
    def num_blocks(self) -> int:
        return len(self.counts)

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        first = torch.zeros(*z.shape[:-1], 1, dtype=torch.int64, device=z.device)
        into = torch.cat([first, (z > 0.5).cumsum(-1)], dim=-1)
        empty = torch.zeros(into.shape, dtype=torch.float64, device=z.device)
        sums = empty.scatter_add(-1, into, (self.counts * self.mean).expand(into.shape))
        sizes = empty.scatter_add(-1, into, self.counts.double().expand(into.shape))
        values = (sums / sizes.clamp(min=1)).gather(-1, into).to(self.center.dtype)
        return torch.cat([values, values.new_zeros(*z.shape[:-1], 1)], dim=-1).index_select(-1, self.block)

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        values = torch.zeros(*theta.shape[:-1], self.num_blocks + 1, dtype=torch.float64, device=theta.device)
        values = values.index_add_(-1, self.block, theta.double())[..., :-1] / self.counts
        return (values.to(theta.dtype).diff(dim=-1) != 0).to(theta.dtype)


class SharedValues(Blocking):
    """Move each of the different values of a codebook network, and with it all weights that share it; zero stays.

    Args:
        theta0: Weights of few different values, `(D,)`, finite.

    Raises:
        ValueError: If all weights are zero.
    """

    def __init__(self, theta0: Tensor) -> None:
        values, ids = theta0.unique(return_inverse=True)
        is_zero = values == 0
        if bool(is_zero.all()):
            raise ValueError("all weights are zero: there is no value to move")
        number = torch.where(is_zero, len(values) - 1, (~is_zero).cumsum(0) - 1)
        super().__init__(theta0, number[ids].to(torch.int32).cpu().numpy(), "offset")
        if bool(is_zero.any()):
            self.dim, self.has_unassigned = self.dim - 1, True
            for name in ("counts", "lower", "upper", "center"):
                setattr(self, name, getattr(self, name)[:-1].clone())


def share_weights(
    model: nn.Module, blocking: BlockingLike | None = None, *, include: str | Sequence[str] | None = None
) -> nn.Module:
    """Copy a network with the mean of its block for each weight, so that `save_compact` can write a codebook.

    Args:
        model: The trained network, pruned or not: zeros stay zero.
        blocking: Makes blocks of a flat vector; None: a histogram of 256 edges.
        include: Names, or patterns of names, of the weights that share values; None: those of all convolutions and
            linear layers, in one codebook.

    Source: Han, Mao & Dally (2016), arXiv 1510.00149, section 3, for shared weights; arXiv 2501.03095 for histograms.
    """
    layout = prunable_layout(model, include)
    merging = BlockMerging(layout.flatten(model), blocking)
    return layout.load_(deepcopy(model).eval(), merging.expand(merging.center))


def _histogram(theta: Tensor) -> Blocking:
    return HistogramBlocking(theta, NUM_BINS)
