"""How are some weights searched, or whole channels scaled, while the others stay?"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_mode, check_shapes, check_weights, start_width

GAIN_WIDTH = 0.1
"""First gains lie within this distance of zero."""


class Subspace(Reduction):
    """Search some of the weights themselves; the others stay as in `theta0`.

    `layout.mask(norm_names(model))`, and likewise `bias_names` and `head_names` or any name patterns, say which.
    A `ParameterLayout` of these names alone gives the same search and lets what lies in front of them be computed once;
    here `theta` is the whole network, as `Chain` and objectives of all weights need it. The initial range is a tenth of
    the root mean square of the searched weights to either side.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        selected: True where a weight is searched, `(D,)`, bool.
        mode: `"replace"`: `z` are the weights; `"offset"`: `z` is added to them.

    Raises:
        ValueError: If `selected` does not fit or selects nothing.
    """

    _tensors = ("theta0", "index", "center", "lower", "upper")
    _options = ("dim", "full_dim", "mode")

    theta0: Tensor
    index: Tensor
    mode: str

    def __init__(self, theta0: Tensor, selected: Tensor, mode: str = "replace") -> None:
        theta0 = check_weights(theta0).clone()
        check_mode(mode)
        if not isinstance(selected, Tensor) or selected.dtype != torch.bool or selected.shape != theta0.shape:
            got = f"{selected.dtype} {tuple(selected.shape)}" if isinstance(selected, Tensor) else repr(selected)
            raise ValueError(
                f"expected `selected` to be a bool tensor of shape {tuple(theta0.shape)}, got {got}: "
                "use layout.mask(names)"
            )
        self.index = selected.to(theta0.device).nonzero()[:, 0]
        if len(self.index) == 0:
            raise ValueError("`selected` is False everywhere, so that nothing is searched: widen the names of its mask")
        self.theta0, self.mode = theta0, mode
        self.dim, self.full_dim = len(self.index), theta0.numel()
        start = theta0[self.index]
        self.center = torch.zeros_like(start) if mode == "offset" else start
        width = start_width(start)
        self.lower, self.upper = self.center - width, self.center + width

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        return self.theta0.expand(*z.shape[:-1], -1).index_copy(-1, self.index, self._values(z))

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        self.check_z(z)
        return out.copy_(self.theta0).index_copy_(0, self.index, self._values(z))

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        values = theta.index_select(-1, self.index)
        return values - self.theta0[self.index] if self.mode == "offset" else values

    def _values(self, z: Tensor) -> Tensor:
        return self.theta0[self.index] + z if self.mode == "offset" else z


class ChannelScaling(Reduction):
    """Search one gain per output channel or neuron: `theta = theta0 * (1 + z[channel])`.

    A channel is a row along the first dimension of a tensor of two dimensions or more (of transposed convolutions these
    are the inputs). `z` holds the gains in the order of `channel_groups`, then the shifts; a channel of zeros has none.
    `reduce` is the exact least-squares solution. The initial range is 10 % to either side, of shifts a tenth of the
    root mean square of what they move. Memory: two numbers and one int32 per weight.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        shapes: Shapes of the tensors in it, `layout.shapes`.
        include_vectors: Whether tensors of one dimension (biases, normalisation layers) are searched too, as
            `theta0 + z`: a shift for each channel that has one. Otherwise they stay.

    Raises:
        ValueError: If `shapes` do not fit, or nothing is left to search.

    Source: Lian et al. (2022), arXiv 2210.08823, section 3.2, where gain and shift are merged into the weights.
    """

    _tensors = ("theta0", "entries", "columns", "squares", "center", "lower", "upper")

    theta0: Tensor
    entries: Tensor
    columns: Tensor
    squares: Tensor

    def __init__(self, theta0: Tensor, shapes: Iterable[Iterable[int]], include_vectors: bool = False) -> None:
        theta0 = check_weights(theta0).clone()
        channel = channel_groups(check_shapes(shapes, theta0.numel())).to(theta0.device)
        is_vector = channel < 0
        # Either way a weight moves by one value times a constant: by itself for a gain, by 1 for a shift, by 0 to stay.
        entries = torch.where(is_vector, float(include_vectors), theta0)
        channel = torch.where(is_vector, channel.max() + 1 + is_vector.cumsum(0), channel)
        alive = _sums(entries.double().square(), channel, int(channel.max()) + 1) > 0
        if not bool(alive.any()):
            raise ValueError(
                "no tensor in `shapes` has a channel with weights other than zero: pass the shapes of weight matrices, "
                "or include_vectors=True"
            )
        number = alive.cumsum(0) - alive.long()
        moves = alive[channel]
        self.theta0, self.entries = theta0, torch.where(moves, entries, 0.0)
        self.columns = torch.where(moves, number[channel], 0).to(torch.int32)
        self.dim, self.full_dim = int(alive.sum()), theta0.numel()
        self.squares = _sums(self.entries.double().square(), self.columns, self.dim)
        self._set_range(self.columns[is_vector & moves], theta0[is_vector & moves])

    def _set_range(self, shifts: Tensor, vectors: Tensor) -> None:
        width = self.theta0.new_full((self.dim,), GAIN_WIDTH)
        if len(shifts):
            width[shifts.long()] = start_width(vectors)
        self.center = torch.zeros_like(width)
        self.lower, self.upper = -width, width

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        return self.theta0 + self.entries * z.index_select(-1, self.columns)

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        self.check_z(z)
        torch.index_select(z, 0, self.columns, out=out)
        return out.mul_(self.entries).add_(self.theta0)

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        moved = self.entries.double() * (theta - self.theta0)
        return (_sums(moved, self.columns, self.dim) / self.squares).to(theta.dtype)


def channel_groups(shapes: Iterable[Iterable[int]]) -> Tensor:
    """Number the output channels of all weights: `(D,)`, int64; -1 in tensors of fewer than two dimensions.

    Args:
        shapes: Shapes of the tensors in the flat vector, `layout.shapes`. A channel is a row along the first dimension.
    """
    numbers, rows = [torch.zeros(0, dtype=torch.int64)], 0
    for shape in map(tuple, shapes):
        if len(shape) < 2:
            numbers.append(torch.full((prod(shape),), -1))
            continue
        numbers.append(torch.arange(rows, rows + shape[0]).repeat_interleave(prod(shape[1:])))
        rows += shape[0]
    return torch.cat(numbers)


def _sums(values: Tensor, columns: Tensor, dim: int) -> Tensor:
    """Add up, in float64, the values that share a column: `(..., D) -> (..., dim)`."""
    sums = torch.zeros(*values.shape[:-1], dim, dtype=torch.float64, device=values.device)
    return sums.index_add_(-1, columns, values.double())
