"""How do two thin factors per weight matrix reach the full weights?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, Shapes, check_generator, check_shapes, check_weights, start_width


class _Piece(NamedTuple):
    """One tensor: where it lies in `theta`, and where its `B`, `A` and starting `A` lie in `z` and `start_a`."""

    weights: slice
    rows: int
    columns: int
    rank: int
    """0 for a tensor of one dimension, whose offsets take the place of `B`, or stay if that is empty."""
    b: slice
    a: slice
    start: slice


class LowRank(Reduction):
    """Search a low-rank update of each weight matrix: `W = W0 + scale * B A`.

    As in LoRA, the network as given is `B = 0` with a random `A`. Its rows are orthonormal, so with `scale=1` a first
    step of `B` is a step of the weights of the same length. Convolutions are matrices of one row per output channel.
    `z` holds `B` and then `A` of each matrix, in the order of `shapes`, row by row; at a rank near the full one these
    are more values than weights.

    `B G` and `G^-1 A` are the same update, so `z` is not unique. `reduce` finds the nearest update of this rank and
    writes it with orthonormal rows in `A` and all size in `B`; directions without size keep those of the start.
    With `freeze_a` only `B` is searched, the map is linear and `z` unique.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        shapes: Shapes of the tensors in it, `layout.shapes`.
        rank: Rank of each update, at least 1; capped where a matrix has fewer rows or columns.
        scale: Factor of all updates, `alpha / r` in LoRA.
        freeze_a: Whether `A` stays as it starts.
        include_vectors: Whether tensors of one dimension (biases, normalisation layers) are searched too, as
            `theta0 + z`; otherwise they stay.
        generator: Source of the first `A`; None draws from a new generator with seed 0.

    Raises:
        ValueError: If `shapes` do not fit or hold no matrix, or `rank` or `scale` is out of range.

    Source: Hu et al. (2021), arXiv 2106.09685, section 4.1; with `freeze_a`: Zhang et al. (2023), arXiv 2308.03303.
    """

    _tensors = ("theta0", "start_a", "center", "lower", "upper")
    _options = ("dim", "full_dim", "shapes", "rank", "scale", "freeze_a", "include_vectors", "is_unique")

    theta0: Tensor
    start_a: Tensor
    shapes: Shapes
    rank: int
    scale: float
    freeze_a: bool
    include_vectors: bool

    def __init__(
        self,
        theta0: Tensor,
        shapes: Iterable[Iterable[int]],
        rank: int = 4,
        scale: float = 1.0,
        *,
        freeze_a: bool = False,
        include_vectors: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        theta0 = check_weights(theta0).clone()
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"`rank` must be an integer of at least 1, got {rank!r}")
        if not 0 < scale < float("inf"):
            raise ValueError(f"`scale` must be a finite number above 0, got {scale}")
        self.theta0, self.full_dim = theta0, theta0.numel()
        self.shapes = check_shapes(shapes, self.full_dim)
        self.rank, self.scale = rank, float(scale)
        self.freeze_a = self.is_unique = freeze_a
        self.include_vectors = include_vectors
        if all(piece.rank == 0 for piece in self._pieces()):
            raise ValueError("no tensor in `shapes` has two dimensions or more, so none has a rank: use Subspace")
        self._set_start(check_generator(generator))

    def _set_start(self, generator: torch.Generator) -> None:
        starts, centers, widths = [], [], []
        for piece in self._pieces():
            start = _orthonormal_rows(piece.rank, piece.columns, generator).to(self.theta0)
            width_b = start_width(self.theta0[piece.weights])
            if piece.rank:
                # `A` spreads the `rank` values of a row of `B` over its columns; first updates are then that large.
                width_b *= (piece.columns / piece.rank) ** 0.5 / self.scale
            starts.append(start)
            centers.append(start.new_zeros(piece.b.stop - piece.b.start))
            widths.append(torch.full_like(centers[-1], width_b))
            if not self.freeze_a:
                centers.append(start)
                # As wide as its entries are large, so that candidates differ in their directions too.
                widths.append(torch.full_like(start, piece.columns**-0.5))
        self.start_a, self.center, width = torch.cat(starts), torch.cat(centers), torch.cat(widths)
        self.dim = len(self.center)
        self.lower, self.upper = self.center - width, self.center + width

    def _pieces(self) -> Iterator[_Piece]:
        weight = value = start = 0
        for shape in self.shapes:
            size = prod(shape)
            rows, columns = (shape[0], prod(shape[1:])) if len(shape) >= 2 else (size, 1)
            rank = min(self.rank, rows, columns) if len(shape) >= 2 else 0
            num_b = rows * rank if rank else size * self.include_vectors
            num_a = 0 if self.freeze_a else rank * columns
            b, a = slice(value, value + num_b), slice(value + num_b, value + num_b + num_a)
            yield _Piece(slice(weight, weight + size), rows, columns, rank, b, a, slice(start, start + rank * columns))
            weight, value, start = weight + size, a.stop, start + rank * columns

    def _expanded(self, z: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield where each tensor lies and its weights: `(..., d)` to `(..., size)`."""
        for piece in self._pieces():
            weights = self.theta0[piece.weights]
            if piece.rank:
                b = z[..., piece.b].unflatten(-1, (piece.rows, piece.rank))
                yield piece.weights, weights + self.scale * (b @ self._factor_a(piece, z)).flatten(-2)
            elif self.include_vectors:
                yield piece.weights, weights + z[..., piece.b]
            else:
                yield piece.weights, weights.expand(*z.shape[:-1], -1)

    def _factor_a(self, piece: _Piece, z: Tensor) -> Tensor:
        values = self.start_a[piece.start] if self.freeze_a else z[..., piece.a]
        return values.unflatten(-1, (piece.rank, piece.columns))

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        return torch.cat([weights for _, weights in self._expanded(z)], dim=-1)

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        self.check_z(z)
        for place, weights in self._expanded(z):
            out[place] = weights
        return out

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        found = []
        for piece in self._pieces():
            moved = theta[..., piece.weights].double() - self.theta0[piece.weights]
            if piece.rank:
                found += self._factorise(piece, theta[..., piece.weights], moved / self.scale)
            elif self.include_vectors:
                found.append(moved)
        return torch.cat(found, dim=-1).to(theta.dtype)

    def _factorise(self, piece: _Piece, weights: Tensor, update: Tensor) -> list[Tensor]:
        """The nearest `B`, and `A` if it is searched, of an update `(..., rows * columns)`, float64."""
        update = update.unflatten(-1, (piece.rows, piece.columns))
        start = self.start_a[piece.start].double().unflatten(-1, (piece.rank, piece.columns))
        if self.freeze_a:
            return [(update @ torch.linalg.pinv(start)).flatten(-2)]
        left, sizes, right = torch.linalg.svd(update, full_matrices=False)
        left, sizes, right = left[..., : piece.rank], sizes[..., : piece.rank], right[..., : piece.rank, :]
        # What rounding of the weights alone may cause is no direction.
        noise = torch.finfo(weights.dtype).eps * weights.double().norm(dim=-1, keepdim=True) / self.scale
        sizes = torch.where(sizes > noise, sizes, 0.0)
        # A singular vector has no sign of its own: it takes that of the start.
        sign = torch.where((right * start).sum(-1) < 0, -1.0, 1.0)
        b = left * (sign * sizes)[..., None, :]
        a = torch.where((sizes > 0)[..., None], right * sign[..., None], start)
        return [b.flatten(-2), a.flatten(-2)]


def _orthonormal_rows(rank: int, columns: int, generator: torch.Generator) -> Tensor:
    """Draw an orthonormal basis of a random subspace, flat: `(rank * columns,)`, float64."""
    drawn = torch.randn(columns, rank, generator=generator, device=generator.device, dtype=torch.float64)
    return torch.linalg.qr(drawn)[0].T.flatten()
