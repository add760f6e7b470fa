"""How are blocks of weights kept, zeroed or moved?"""

from __future__ import annotations

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_weights
from evohbde.reductions.blocking import HistogramBlocking
from evohbde.reductions.masking import number_groups


class SparseBlocks(Reduction):
    """Two values per block: whether its weights are kept, and how far they move.

    `z` holds d / 2 decisions, above 0.5 to keep, then d / 2 moves: `theta = kept * (theta0 + sign(theta0) * move)`, so
    that all weights of a block grow or shrink alike, or `kept * (theta0 + move)`. `reduce` keeps a block where any
    weight differs from zero, and takes the mean of the moves. Memory: two numbers and one int32 per weight.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        groups: Block of each weight, `(D,)`, integers: `magnitude_blocks(...)`, the `block` of a `Blocking`,
            `channel_groups(layout.shapes)` or your own; -1: stays as it is.
        move: `"outward"`: away from zero, each weight with its own sign; `"alike"`: all in the same direction, as in
            the offset mode of a `Blocking`.

    Attributes:
        group: Block of each weight, `(D,)`, int32, numbered without gaps; d / 2 for weights that stay.
        counts: Weights per block, `(d / 2,)`, int64.

    Raises:
        ValueError: If `groups` does not fit, or `move` is unknown.
    """

    _tensors = ("theta0", "direction", "group", "counts", "center", "lower", "upper")
    _options = ("dim", "full_dim", "move")

    is_unique = False

    theta0: Tensor
    direction: Tensor
    group: Tensor
    counts: Tensor
    move: str

    def __init__(self, theta0: Tensor, groups: Tensor, move: str = "outward") -> None:
        theta0 = check_weights(theta0).clone()
        if move not in ("outward", "alike"):
            raise ValueError(
                f"`move` must be 'outward' (theta0 + sign(theta0) * z) or 'alike' (theta0 + z), got {move!r}"
            )
        self.theta0, self.move, self.full_dim = theta0, move, theta0.numel()
        self.group, self.counts = number_groups(groups, theta0)
        self.dim = 2 * self.num_blocks
        self.direction = theta0.sign() if move == "outward" else torch.ones_like(theta0)
        self.center = self.reduce(theta0)
        self._set_range()

    @property
    def num_blocks(self) -> int:
        return len(self.counts)

    def expand(self, z: Tensor) -> Tensor:
        kept, move = self._of_weights(z)
        return torch.where(kept, self.theta0 + self.direction * move, 0.0)

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        kept, move = self._of_weights(z)
        torch.mul(self.direction, move, out=out).add_(self.theta0)
        return out.masked_fill_(~kept, 0.0)

    def mask(self, z: Tensor) -> Tensor:
        """Tell which weights are kept: `(..., d) -> (..., D)`, bool."""
        return self._of_weights(z)[0]

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        kept = self._sums((theta != 0).double()) > 0
        moves = self._sums(self.direction * (theta.double() - self.theta0))
        num = self._sums(self.direction.double().abs()).clamp(min=1)
        return torch.cat([kept, torch.where(kept, moves / num, 0.0)], dim=-1).to(theta.dtype)

    def _of_weights(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Decision and move of each weight: `(..., d)` to twice `(..., D)`."""
        self.check_z(z)
        decisions, moves = z.split(self.num_blocks, dim=-1)
        stays = z.new_zeros(*z.shape[:-1], 1)
        kept = torch.cat([decisions > 0.5, stays == 0], dim=-1)
        return kept.index_select(-1, self.group), torch.cat([moves, stays], dim=-1).index_select(-1, self.group)

    def _sums(self, values: Tensor) -> Tensor:
        """Add up the values of each block, those of weights that stay left out: `(..., D) -> (..., d / 2)`, float64."""
        sums = torch.zeros(*values.shape[:-1], self.num_blocks + 1, dtype=torch.float64, device=values.device)
        return sums.index_add_(-1, self.group, values.double())[..., :-1]

    def _set_range(self) -> None:
        """Moves range as far as the members of a block lie from their mean."""
        place = (self.direction * self.theta0).double()
        mean = self._sums(place) / self.counts
        lowest, highest = (
            place.new_zeros(self.num_blocks + 1).scatter_reduce(0, self.group.long(), place, how, include_self=False)
            for how in ("amin", "amax")
        )
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        self.lower = torch.cat([zero, (lowest[:-1] - mean).clamp(max=0)]).to(self.theta0.dtype)
        self.upper = torch.cat([one, (highest[:-1] - mean).clamp(min=0)]).to(self.theta0.dtype)


def magnitude_blocks(theta0: Tensor, groups: Tensor, num_bins: int = 20) -> Tensor:
    """Block the weights of each tensor by their size, whatever their sign: `(D,)`, int32.

    What is zeroed together then lies on both sides of zero; the histogram of signed weights has a block next to zero
    that lies on one side, and zeroing it shifts the sums of a layer.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        groups: Tensor of each weight, `(D,)`, integers from 0: `layout.tensor_index`.
        num_bins: Edges of the histogram of each tensor, as in `HistogramBlocking`.
    """
    return HistogramBlocking(check_weights(theta0).abs(), num_bins, groups=groups).block
