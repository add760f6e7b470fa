"""Which bin does each weight fall into, and what is in each bin?

All of it works through the weights in pieces of `PIECE`, so that temporaries stay in cache and memory stays O(D + d).
Arrays of the length of the weights come from NumPy: it asks the system for large pages, of which fresh ones cost a
fifth of torch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PIECE = 1 << 18

LEAST_MARGIN = 0.005
"""Share of a bin's width at each edge in which its smallest and largest weights are looked for first."""

LARGEST_MARGIN = 0.05
"""Where float32 is less sure of an edge than this, bins are found in float64 for all weights."""


class BlockSummary(NamedTuple):
    """What each block holds: `counts` int64, `mean` float64, `lower` and `upper`, all `(d,)`."""

    counts: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def _pieces(size: int) -> Iterator[slice]:
    return (slice(start, min(start + PIECE, size)) for start in range(0, size, PIECE))


class _Grid:
    """Equal-width bins between the smallest and the largest weight, or those of each group.

    Args:
        weights: `(D,)`.
        num_edges: Edges per group.
        groups: `(D,)` or None.
        span: The smallest and the largest weight, where they are known.

    Attributes:
        kind: The smallest type that holds every key.
        margin: In bin widths, how near an edge float32 may take a weight for its neighbour's; None: too near.
    """

    def __init__(
        self, weights: np.ndarray, num_edges: int, groups: np.ndarray | None, span: tuple[float, float] | None = None
    ) -> None:
        self.num_edges, self.last_bin = num_edges, max(num_edges - 2, 0)
        if groups is None and span is not None:
            self.low, high = np.array([span[0]]), np.array([span[1]])
        else:
            self.low, high = _ranges(weights, groups)
        with np.errstate(over="ignore"):
            self.step = (high - self.low) / max(num_edges - 1, 1)
        if not np.isfinite(self.step).all():
            raise ValueError(
                "the range of the weights overflows float64: repair or rescale the network before reducing it"
            )
        num_keys = len(self.low) * num_edges
        self.kind = np.int16 if num_keys < 2**15 else np.int32 if num_keys < 2**31 else np.int64
        self.margin = self._margin(high) if groups is None and weights.dtype == np.float32 else None

    def _margin(self, high: np.ndarray) -> float | None:
        step, far = float(self.step[0]), max(abs(float(self.low[0])), abs(float(high[0])))
        if not 1e-30 < step < 1e30:
            return None
        # Rounding of the scale, the product, the offset and the sum: 2^-24 (3 far / step + bins), and some slack.
        margin = max(LEAST_MARGIN, 2.0**-22 * (far / step + self.num_edges))
        return margin if margin < LARGEST_MARGIN else None

    def keys_of(self, value: np.ndarray, group: np.ndarray | int) -> np.ndarray:
        """Keys of weights by float64 division, then corrected: int64."""
        base, width = self.low[group], self.step[group]
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.floor((value.astype(np.float64) - base) / width)
        guess = np.nan_to_num(guess, nan=0.0, posinf=self.last_bin)
        return self.corrected(value, guess, base, width).astype(np.int64) + np.asarray(group, np.int64) * self.num_edges

    def corrected(self, value: np.ndarray, guess: np.ndarray, base: np.ndarray, width: np.ndarray) -> np.ndarray:
        """Bins whose edges enclose the weights, from guesses that are off by one at most: float64."""
        value, guess = value.astype(np.float64), guess.clip(0, self.last_bin)
        guess -= value < guess * width + base
        guess.clip(0, self.last_bin, out=guess)
        guess += (value >= (guess + 1) * width + base) & (guess < self.last_bin)
        return guess


class _Quick:
    """Bins of a piece of float32 weights in a few passes; only those near an edge are looked at in float64.

    Args:
        grid: Has a margin.
        size: Most weights in a piece.
    """

    def __init__(self, grid: _Grid, size: int) -> None:
        assert grid.margin is not None
        self.grid, self.scale = grid, 1.0 / float(grid.step[0])
        self.offset = torch.tensor(grid.margin - float(grid.low[0]) * self.scale, dtype=torch.float32)
        self._place, self._is_near = torch.empty(size), np.empty(size, dtype=bool)

    def keys_into(self, value: Tensor, keys: Tensor) -> np.ndarray:
        """Write the keys of a piece, and tell which weights lie next to an edge: `(b,)` to int64 `(k,)`."""
        assert self.grid.margin is not None
        # All places are a margin too high, so that the parts next to an edge begin where the fraction is zero.
        place = torch.add(self.offset, value, alpha=self.scale, out=self._place[: len(value)])
        keys.copy_(place)
        is_near = np.less(place.frac_().numpy(), np.float32(2 * self.grid.margin), out=self._is_near[: len(value)])
        near = is_near.nonzero()[0]
        guess = keys.numpy()[near].astype(np.float64)
        keys.numpy()[near] = self.grid.corrected(value.numpy()[near], guess, self.grid.low, self.grid.step)
        return near


def histogram_bins(weights: np.ndarray, num_edges: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Number of the equal-width bin of each weight, plus `num_edges` times its group: `(D,)`, int16, int32 or int64.

    Bin `k` holds `edge[k] <= weight < edge[k+1]`, the last one also its right edge. The edges are those of
    `numpy.linspace(float(min), float(max), num_edges)`: the bin is guessed by division, then corrected against them.
    """
    grid = _Grid(weights, num_edges, groups)
    keys = np.empty(weights.size, dtype=grid.kind)
    if grid.margin is not None:
        quick = _Quick(grid, min(PIECE, weights.size))
        for value, key in _split(weights, keys):
            quick.keys_into(value, key)
        return keys
    for piece in _pieces(weights.size):
        keys[piece] = grid.keys_of(weights[piece], 0 if groups is None else groups[piece])
    return keys


def histogram_blocks(
    weights: np.ndarray, num_edges: int, groups: np.ndarray | None = None, span: tuple[float, float] | None = None
) -> tuple[np.ndarray, BlockSummary]:
    """Blocks of `histogram_bins` without the empty ones: `compact` and `summarise` of them, in one go where it can be.

    A bin's smallest and largest weights lie next to its edges, where weights are looked at anyway. Bins so thin that
    they have none there are gone through while they are renumbered. `span`, where it is known, is the smallest and the
    largest weight, so that they are not looked for again.
    """
    grid = _Grid(weights, num_edges, groups, span)
    if grid.margin is None:
        ids = compact(histogram_bins(weights, num_edges, groups))
        return ids, summarise(weights, ids)
    keys, size = np.empty(weights.size, dtype=grid.kind), min(PIECE, weights.size)
    quick, sums = _Quick(grid, size), _Sums(num_edges, size)
    lower, upper = _no_range(num_edges, weights.dtype)
    for value, key in _split(weights, keys):
        near = quick.keys_into(value, key)
        sums.add(value, key)
        _widen(lower, upper, key.numpy()[near], value.numpy()[near])
    middle = (np.arange(num_edges) + 0.5) * grid.step + grid.low
    used = sums.counts > 0
    is_done = (lower < middle) & (upper > middle)
    lower, upper = lower[used], upper[used]
    ids = _renumbered(weights, keys, used, is_done, lower, upper)
    return ids, _summary(sums.counts[used], sums.totals[used], lower, upper)


def _renumbered(
    weights: np.ndarray, keys: np.ndarray, used: np.ndarray, is_done: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> np.ndarray:
    """Number the used keys from 0, int32, and complete the ranges of those that are not done."""
    number = np.cumsum(used, dtype=np.int32) - np.int32(1)
    number[~is_done] = ~number[~is_done]  # negative, so that their members are found in passing
    ids = np.empty(keys.size, dtype=np.int32)
    table, index = torch.from_numpy(number), torch.empty(min(PIECE, keys.size), dtype=torch.int32)
    for value, key, block in _split(weights, keys, ids):
        torch.index_select(table, 0, index[: len(key)].copy_(key), out=block)
        found = block.numpy()
        rest = (found < 0).nonzero()[0]
        found[rest] = ~found[rest]
        _widen(lower, upper, found[rest], value.numpy()[rest])
    return ids


def _split(*arrays: np.ndarray) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.from_numpy(array).split(PIECE) for array in arrays), strict=True)


class _Sums:
    """Counts and float64 sums per key, taken piece by piece.

    Args:
        num_keys: Keys are below this.
        size: Most weights in a piece.
    """

    def __init__(self, num_keys: int, size: int) -> None:
        self._counts, self._totals = (
            torch.zeros(num_keys, dtype=torch.int64),
            torch.zeros(num_keys, dtype=torch.float64),
        )
        self._index, self._value = torch.empty(size, dtype=torch.int64), torch.empty(size, dtype=torch.float64)

    def add(self, value: Tensor, key: Tensor) -> None:
        index, double = self._index[: len(key)].copy_(key), self._value[: len(key)].copy_(value)
        self._counts += torch.bincount(key, minlength=len(self._counts))
        self._totals.scatter_add_(0, index, double)

    @property
    def counts(self) -> np.ndarray:
        return self._counts.numpy()

    @property
    def totals(self) -> np.ndarray:
        return self._totals.numpy()


def _widen(lower: np.ndarray, upper: np.ndarray, block: np.ndarray, value: np.ndarray) -> None:
    """Widen the ranges of blocks, `(d,)`, in place, so that they hold these values, `(k,)`."""
    np.minimum.at(lower, block, value)
    np.maximum.at(upper, block, value)


def _no_range(num_blocks: int, kind: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    return np.full(num_blocks, np.inf, dtype=kind), np.full(num_blocks, -np.inf, dtype=kind)


def _ranges(weights: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if groups is None:
        low, high = torch.aminmax(torch.from_numpy(weights))
        return np.array([float(low)]), np.array([float(high)])
    num_groups = int(groups.max()) + 1
    lower, upper = _no_range(num_groups, np.dtype(np.float64))
    for piece in _pieces(weights.size):
        _widen(lower, upper, groups[piece], weights[piece].astype(np.float64))
    absent = ~np.isfinite(lower)
    lower[absent] = upper[absent] = 0.0
    return lower, upper


def sorted_bins(weights: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """How many of the ascending `borders` are at or below each weight: `(D,)`, int32."""
    keys = np.empty(weights.size, dtype=np.int32)
    for piece in _pieces(weights.size):
        keys[piece] = np.searchsorted(borders, weights[piece], side="right")
    return keys


def compact(keys: np.ndarray) -> np.ndarray:
    """Renumber keys >= 0 from 0 without gaps, keeping their order: `(D,)`, int32."""
    span = int(keys.max()) + 1
    if span > 4 * keys.size + 65_536:
        return np.unique(keys, return_inverse=True)[1].astype(np.int32)
    used = np.zeros(span, dtype=bool)
    for piece in _pieces(keys.size):
        used[keys[piece]] = True
    number = (np.cumsum(used) - 1).astype(np.int32)
    ids = np.empty(keys.size, dtype=np.int32)
    for piece in _pieces(keys.size):
        np.take(number, keys[piece], out=ids[piece], mode="clip")
    return ids


def summarise(weights: np.ndarray, ids: np.ndarray) -> BlockSummary:
    """Count, mean (summed in float64), minimum and maximum of the members of each block."""
    num_blocks = int(ids.max()) + 1
    sums = _Sums(num_blocks, min(PIECE, weights.size))
    lower, upper = _no_range(num_blocks, weights.dtype)
    for value, block in _split(weights, ids):
        sums.add(value, block)
        _widen(lower, upper, block.numpy(), value.numpy())
    return _summary(sums.counts, sums.totals, lower, upper)


def _summary(counts: np.ndarray, totals: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> BlockSummary:
    # The mean of equal numbers is that number; rounding of a long sum must not move it out of its own block.
    return BlockSummary(counts, np.clip(totals / counts, lower, upper), lower, upper)
