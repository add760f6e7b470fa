"""How do small blocks become fewer, larger ones?"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from evohbde.reductions.blocking import Blocking

LOST = -1
"""Place of a block whose weights are in no block any more."""

B = TypeVar("B", bound=Blocking)


def merge_plan(counts: Tensor, least: int = 2, rule: str = "closed") -> Tensor:
    """Decide which neighbouring blocks are joined: `(d,)` weights per block to `(d,)` numbers of the new blocks.

    Scan from the left: a block of fewer than `least` weights is joined with its right neighbour, and both are done.

    Args:
        counts: Weights per block.
        least: Size from which a block stays alone.
        rule: `"closed"`: a last block that is reached alone stays, or joins the one before if it is too small.
            `"authors"`: as published, it is lost (`LOST`).

    Source: published code of February 2024, scheme "optimized_merge".
    """
    if rule not in ("closed", "authors"):
        raise ValueError(f"`rule` must be 'closed' or 'authors', got {rule!r}")
    if least < 1:
        raise ValueError(f"`least` must be at least 1 weight, got {least}")
    sizes = counts.tolist()
    into: list[int] = []
    while len(into) < len(sizes):
        k, new = len(into), max(into, default=-1) + 1
        is_last = k == len(sizes) - 1
        if is_last and rule == "authors":
            into.append(LOST)
        elif is_last and sizes[k] < least and new > 0:
            into.append(new - 1)
        elif sizes[k] < least and not is_last:
            into += [new, new]
        else:
            into.append(new)
    return torch.tensor(into)


def merge_blocks(blocks: B, into: Tensor) -> B:
    """Join blocks into a new, smaller blocking of the same kind and mode; `blocks` stays as it is.

    Means follow from the old ones, `(n1 m1 + n2 m2) / (n1 + n2)`, and weights are relabelled through a table of `d`
    entries, so that a merge costs one look-up per weight.

    Args:
        blocks: What is merged.
        into: New number of each block, `(d,)`, 0 to the new number of blocks without gaps; `LOST` drops a block.

    Raises:
        ValueError: If `into` has the wrong length, gaps, or leaves nothing.
    """
    into = torch.as_tensor(into).to(blocks.device).long()
    if into.shape != (blocks.dim,):
        raise ValueError(
            f"expected `into` to hold one number per block, shape ({blocks.dim},), got {tuple(into.shape)}"
        )
    size = int(into.max()) + 1
    if size < 1 or not torch.equal(into[into >= 0].unique(), torch.arange(size, device=into.device)):
        raise ValueError("`into` must number the new blocks from 0 without gaps")
    kept = into >= 0
    found = blocks.__class__.__new__(blocks.__class__)
    found.mode, found.full_dim, found.theta0 = blocks.mode, blocks.full_dim, blocks.theta0
    found.dim = size
    found.counts = blocks.counts.new_zeros(size).index_add_(0, into[kept], blocks.counts[kept])
    old_mean = _means(blocks)
    mean = torch.zeros(size, dtype=torch.float64, device=into.device)
    mean.index_add_(0, into[kept], (blocks.counts * old_mean)[kept])
    mean /= found.counts
    shift = old_mean if blocks.theta0 is not None else torch.zeros_like(old_mean)
    lower = _reduce(blocks.lower + shift, into, kept, size, "amin")
    upper = _reduce(blocks.upper + shift, into, kept, size, "amax")
    like = blocks.center
    if blocks.theta0 is None:
        found.center, found.lower, found.upper = mean.to(like), lower.to(like), upper.to(like)
    else:
        found.center = like.new_zeros(size)
        found.lower, found.upper = (lower - mean).to(like), (upper - mean).to(like)
    found.has_unassigned = blocks.has_unassigned or not bool(kept.all())
    table = torch.cat([torch.where(kept, into, size), into.new_tensor([size])]).to(blocks.block.dtype)
    found.block = table.index_select(0, blocks.block)
    return found


def _means(blocks: Blocking) -> Tensor:
    if blocks.theta0 is None:
        return blocks.center.double()
    sums = torch.zeros(blocks.dim + 1, dtype=torch.float64, device=blocks.device)
    sums.index_add_(0, blocks.block.long(), blocks.theta0.double())
    return sums[:-1] / blocks.counts


def _reduce(values: Tensor, into: Tensor, kept: Tensor, size: int, how: str) -> Tensor:
    return (
        values.new_zeros(size).double().scatter_reduce_(0, into[kept], values[kept].double(), how, include_self=False)
    )
