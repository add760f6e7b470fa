"""How are many small numbers written in few bits?"""

from __future__ import annotations

import heapq

import numpy as np

PIECE = 1 << 20
"""Numbers, or bits, that are worked on at a time; a multiple of 8, so that pieces of any width end at whole bytes."""


def pack_indices(indices: np.ndarray, width: int) -> np.ndarray:
    """Write numbers below `2**width` in `width` bits each, highest first: `(n,) -> (ceil(n * width / 8),)`, uint8."""
    shifts = np.arange(width - 1, -1, -1)
    pieces = [np.packbits((indices[i : i + PIECE, None] >> shifts) & 1) for i in range(0, len(indices), PIECE)]
    return np.concatenate([np.empty(0, np.uint8), *pieces])


def unpack_indices(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Read `count` numbers that `pack_indices` wrote: `(count,)`, int64."""
    indices = np.zeros(count, dtype=np.int64)
    for start in range(0, count if width else 0, PIECE):
        num = min(PIECE, count - start)
        first = start * width // 8
        bits = np.unpackbits(packed[first : first + -(-num * width // 8)], count=num * width).reshape(num, width)
        for column in range(width):
            indices[start : start + num] |= bits[:, column].astype(np.int64) << (width - 1 - column)
    return indices


def huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """Bits of each symbol in a code of least total length: `(k,) -> (k,)`, uint8; 0 for a single symbol.

    Args:
        counts: How often each symbol occurs, integers >= 1.

    Source: Huffman (1952), Proc. IRE 40:1098.
    """
    lengths = np.zeros(len(counts), dtype=np.int64)
    # Ties go to the node that was made first, which keeps the longest code short.
    heap = [(int(count), symbol) for symbol, count in enumerate(counts)]
    parent: dict[int, int] = {}
    heapq.heapify(heap)
    for node in range(len(counts), 2 * len(counts) - 1):
        (first, a), (second, b) = heapq.heappop(heap), heapq.heappop(heap)
        parent[a] = parent[b] = node
        heapq.heappush(heap, (first + second, node))
    depth = {2 * len(counts) - 2: 0}
    for node in range(2 * len(counts) - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
        if node < len(counts):
            lengths[node] = depth[node]
    return lengths.astype(np.uint8)


def huffman_encode(indices: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Write symbols one after the other in the canonical code of these lengths: `(n,) -> (m,)`, uint8."""
    codes = _canonical_codes(lengths)
    bits = [np.empty(0, np.uint8)]
    for start in range(0, len(indices), PIECE):
        piece = indices[start : start + PIECE]
        width = lengths[piece].astype(np.int64)
        ends = np.cumsum(width)
        left = np.repeat(ends, width) - np.arange(int(ends[-1])) - 1  # bits of the symbol behind this one
        bits.append(((np.repeat(codes[piece], width) >> left) & 1).astype(np.uint8))
    return np.packbits(np.concatenate(bits))


def huffman_decode(packed: np.ndarray, lengths: np.ndarray, count: int) -> np.ndarray:
    """Read `count` symbols that `huffman_encode` wrote: `(count,)`, int64.

    Raises:
        ValueError: If the bits end before the last symbol.
    """
    if count == 0 or len(lengths) == 1:
        return np.zeros(count, dtype=np.int64)
    order, codes = np.argsort(lengths, kind="stable"), _canonical_codes(lengths)
    deepest = int(lengths.max())
    # Codes of one width, padded with zeros behind, ascend in canonical order: the last one not above a window is it.
    aligned = (codes << (deepest - lengths.astype(np.int64)))[order]
    bits = np.concatenate([np.unpackbits(packed), np.zeros(deepest, np.uint8)])
    symbols = np.empty(count, dtype=np.int64)
    position = found = 0
    while found < count:
        if position >= 8 * len(packed):
            raise ValueError(f"the code ends after {found} of {count} symbols")
        at = np.searchsorted(aligned, _windows(bits[position : position + PIECE + deepest], deepest), "right") - 1
        steps = lengths[order][at].tolist()
        places: list[int] = []
        place = 0
        while place < len(steps) and found + len(places) < count:
            places.append(place)
            place += steps[place]
        symbols[found : found + len(places)] = order[at[places]]
        found, position = found + len(places), position + place
    return symbols


def _windows(bits: np.ndarray, width: int) -> np.ndarray:
    """The number that each stretch of `width` bits spells: `(n + width,) -> (n,)`, int64."""
    values = np.zeros(len(bits) - width, dtype=np.int64)
    for offset in range(width):
        values = (values << 1) | bits[offset : offset + len(values)]
    return values


def _canonical_codes(lengths: np.ndarray) -> np.ndarray:
    """Code of each symbol: those of one length follow each other, shorter ones come first: `(k,)`, int64."""
    codes = np.zeros(len(lengths), dtype=np.int64)
    code = before = 0
    for symbol in np.argsort(lengths, kind="stable"):
        length = int(lengths[symbol])
        code <<= length - before
        codes[symbol], before = code, length
        code += 1
    return codes
