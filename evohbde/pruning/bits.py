"""How does a mask take one bit per weight?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def pack(mask: Tensor) -> Tensor:
    """Put eight decisions into each byte, the first in its highest bit: `(..., D)` bool to `(..., ceil(D / 8))` uint8.

    The order is that of `numpy.packbits`.
    """
    if mask.dtype != torch.bool or mask.ndim == 0:
        raise ValueError(f"expected `mask` to be bool of shape (..., D), got {mask.dtype} {tuple(mask.shape)}")
    padded = functional.pad(mask.to(torch.uint8), (0, -mask.shape[-1] % 8))
    return (padded.unflatten(-1, (-1, 8)) << _places(mask)).sum(-1, dtype=torch.uint8)


def unpack(bits: Tensor, size: int) -> Tensor:
    """Undo `pack`: `(..., ceil(D / 8))` uint8 to `(..., D)` bool.

    Args:
        bits: What `pack` gave.
        size: D.
    """
    if bits.dtype != torch.uint8 or bits.ndim == 0 or bits.shape[-1] != -(-size // 8):
        raise ValueError(
            f"expected `bits` to be uint8 of shape (..., {-(-size // 8)}) for {size} decisions, "
            f"got {bits.dtype} {tuple(bits.shape)}"
        )
    return (bits[..., None] >> _places(bits) & 1).flatten(-2)[..., :size].bool()


def _places(like: Tensor) -> Tensor:
    return torch.arange(7, -1, -1, dtype=torch.uint8, device=like.device)
