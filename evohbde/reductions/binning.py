"""Which bin does each weight fall into, and what is in each bin?

All of it works through the weights in pieces of `PIECE`, so that temporaries stay in cache and memory stays O(D + d).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

PIECE = 1 << 15


class BlockSummary(NamedTuple):
    """What each block holds: `counts` int64, `mean` float64, `lower` and `upper`, all `(d,)`."""

    counts: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def _pieces(size: int) -> Iterator[slice]:
    return (slice(start, min(start + PIECE, size)) for start in range(0, size, PIECE))


def histogram_bins(weights: np.ndarray, num_edges: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Number of the equal-width bin of each weight, plus `num_edges` times its group: `(D,)`, int32 or int64.

    Bin `k` holds `edge[k] <= weight < edge[k+1]`, the last one also its right edge. The edges are those of
    `numpy.linspace(float(min), float(max), num_edges)`: the bin is guessed by division, then corrected against them.
    """
    low, high = _ranges(weights, groups)
    last_bin = max(num_edges - 2, 0)
    with np.errstate(over="ignore"):
        step = (high - low) / max(num_edges - 1, 1)
    if not np.isfinite(step).all():
        raise ValueError("the range of the weights overflows float64: repair or rescale the network before reducing it")
    kind = np.int32 if len(low) * num_edges < 2**31 else np.int64
    keys = np.empty(weights.size, dtype=kind)
    for piece in _pieces(weights.size):
        value = weights[piece].astype(np.float64)
        group = 0 if groups is None else groups[piece]
        base, width = low[group], step[group]
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.floor((value - base) / width)
        guess = np.nan_to_num(guess, nan=0.0, posinf=last_bin).clip(0, last_bin)
        guess -= value < guess * width + base
        guess.clip(0, last_bin, out=guess)
        guess += (value >= (guess + 1) * width + base) & (guess < last_bin)
        keys[piece] = guess.astype(kind) + np.asarray(group).astype(kind) * num_edges
    return keys


def _ranges(weights: np.ndarray, groups: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if groups is None:
        return np.array([float(weights.min())]), np.array([float(weights.max())])
    num_groups = int(groups.max()) + 1
    low, high = np.full(num_groups, np.inf), np.full(num_groups, -np.inf)
    for piece in _pieces(weights.size):
        np.minimum.at(low, groups[piece], weights[piece].astype(np.float64))
        np.maximum.at(high, groups[piece], weights[piece].astype(np.float64))
    absent = ~np.isfinite(low)
    low[absent] = high[absent] = 0.0
    return low, high


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
    counts = np.zeros(num_blocks, dtype=np.int64)
    sums = np.zeros(num_blocks)
    lower = np.full(num_blocks, np.inf, dtype=weights.dtype)
    upper = np.full(num_blocks, -np.inf, dtype=weights.dtype)
    piece_size = max(PIECE, 4 * num_blocks)
    for start in range(0, weights.size, piece_size):
        piece = slice(start, start + piece_size)
        value, block = weights[piece], ids[piece]
        counts += np.bincount(block, minlength=num_blocks)
        sums += np.bincount(block, weights=value, minlength=num_blocks)
        np.minimum.at(lower, block, value)
        np.maximum.at(upper, block, value)
    # The mean of equal numbers is that number; rounding of a long sum must not move it out of its own block.
    mean = np.clip(sums / counts, lower, upper)
    return BlockSummary(counts, mean, lower, upper)
