"""Which candidates of a population have the same values as an earlier one?"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 2**22
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
FACTORS = (-7046029254386353131, -4658895280553007687, -7723592293110705685)  # of splitmix64, modulo 2^64


def row_keys(values: Tensor) -> Tensor:
    """A 64-bit hash of each row, the same for equal rows: `(N, d) -> (N,)`, int64.

    Two unequal rows share a key with probability about 2^-64. Memory: 8 bytes per value of a chunk of 4 million.
    """
    dim = values.shape[1]
    position = torch.arange(1, dim + 1, device=values.device) * FACTORS[0]
    weight = _mix(_mix(position, FACTORS[1]), FACTORS[2]) | 1
    rows = max(1, CHUNK // max(1, dim))
    return torch.cat([_bits(part).mul_(weight).sum(1) for part in values.split(rows)])


def is_repeated(keys: Tensor) -> Tensor:
    """Whether an earlier row has the same key: `(N,) -> (N,)` bool."""
    return (keys[:, None] == keys).tril_(-1).any(1)


def _mix(bits: Tensor, factor: int) -> Tensor:
    bits.mul_(factor)
    return bits.bitwise_xor_(bits >> 32)


def _bits(values: Tensor) -> Tensor:
    """A copy as int64; what has more than one byte is mixed, since its low bits may all be the same."""
    if values.dtype.is_floating_point:
        values = (values + 0.0).view(INTEGERS[values.element_size()])  # -0.0 equals 0.0
    bits = values.to(torch.int64, copy=True)
    return bits if values.element_size() == 1 else _mix(bits, FACTORS[0])
