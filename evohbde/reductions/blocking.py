"""How are many weights tied into few blocks?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_generator, check_mode, check_range, check_weights
from evohbde.reductions.binning import (
    BlockSummary,
    compact,
    histogram_bins,
    histogram_blocks,
    sorted_bins,
    summarise,
)

UNASSIGNED_VALUE = 1.0
"""What a weight in no block becomes in mode `"replace"` (published code: its canvas starts as ones)."""


class Blocking(Reduction):
    """Tie the `D` weights into `d` blocks, one value per block.

    Mode `"replace"`: `theta = z[block]`, a weight takes its block's value (the paper); the start is the block means.
    Mode `"offset"`: `theta = theta0 + z[block]`, a block moves as one and keeps what lies inside it; the start is zero.

    Args:
        theta0: Weights to tie, `(D,)`.
        ids: Number of each weight's block, `(D,)`, integers >= 0; those that no weight has are left out.
        mode: See above.

    Raises:
        TypeError, ValueError: If an argument is not as described.

    Attributes:
        block: Block of each weight, `(D,)`, int32. Weights in no block (only `rule="authors"`) hold the value `d`.
        counts: Weights per block, `(d,)`, int64.
        lower, upper: Range of the first population, `(d,)`: smallest and largest member (less the mean in offset mode).
        center: The network as given, `(d,)`: block means, or zeros in offset mode.
    """

    _tensors = ("block", "counts", "lower", "upper", "center", "theta0")
    _options = ("dim", "full_dim", "mode", "has_unassigned")

    is_gather = True
    block: Tensor
    counts: Tensor
    theta0: Tensor | None
    mode: str
    has_unassigned: bool

    def __init__(self, theta0: Tensor, ids: np.ndarray, mode: str) -> None:
        theta0 = check_weights(theta0)
        self._tie(theta0, compact(_check_ids(ids, theta0.numel())), mode)

    def _tie(self, theta0: Tensor, ids: np.ndarray, mode: str, summary: BlockSummary | None = None) -> None:
        check_mode(mode)
        summary = summary or summarise(_as_numpy(theta0), ids)
        device, dtype = theta0.device, theta0.dtype
        self.mode = mode
        self.dim, self.full_dim = len(summary.counts), theta0.numel()
        self.has_unassigned = bool(summary.counts.sum() < self.full_dim)
        self.block = torch.from_numpy(ids).to(device)
        self.counts = torch.from_numpy(summary.counts).to(device)
        mean, low, high = (
            torch.from_numpy(values).to(device) for values in (summary.mean, summary.lower, summary.upper)
        )
        if mode == "offset":
            self.theta0 = theta0.clone()
            self.center = torch.zeros(self.dim, device=device, dtype=dtype)
            self.lower, self.upper = (low - mean).to(dtype), (high - mean).to(dtype)
        else:
            self.theta0 = None
            self.center, self.lower, self.upper = mean.to(dtype), low.to(dtype), high.to(dtype)

    @property
    def num_blocks(self) -> int:
        return self.dim

    @property
    def num_free(self) -> int:
        """Blocks whose members differ. In the published start the others are equal in every individual, for ever."""
        return int((self.upper > self.lower).sum())

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        spread = self._padded(z).index_select(-1, self.block)
        return spread if self.theta0 is None else self.theta0 + spread

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        self.check_z(z)
        torch.index_select(self._padded(z), -1, self.block, out=out)
        return out if self.theta0 is None else out.add_(self.theta0)

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        if self.theta0 is not None:
            theta = theta - self.theta0
        lead, block = theta.shape[:-1], self.block.long()
        sums = torch.zeros(*lead, self.dim + 1, dtype=torch.float64, device=theta.device)
        sums.index_add_(-1, block, theta.double())
        return (sums[..., : self.dim] / self.counts).to(theta.dtype)

    def _padded(self, z: Tensor) -> Tensor:
        if not self.has_unassigned:
            return z
        fill = UNASSIGNED_VALUE if self.theta0 is None else 0.0
        return torch.cat([z, z.new_full((*z.shape[:-1], 1), fill)], dim=-1)


class HistogramBlocking(Blocking):
    """Tie the weights that share a bin of an equal-width histogram; empty bins are dropped.

    Blocks are ordered by value (by group first). Edges are float64 whatever the type of the weights. Cost: two passes
    over the weights, in pieces; memory one int32 per weight, and half of that again while it is built.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        num_bins: Number of equally spaced histogram *edges* `N_max` from the smallest to the largest weight, hence
            `num_bins - 1` intervals; 1 puts everything into one block.
        mode: `"replace"` (the paper) or `"offset"`.
        rule: `"closed"`: the last interval includes the maximum. `"authors"`: as published, the maximum lies in no
            block and expands to 1.0 (in offset mode it stays as it is).
        groups: None for one histogram over all weights, or a group number per weight, `(D,)`, integers >= 0
            (`layout.tensor_index`: one histogram per tensor), each group with its own `num_bins` edges.

    Source: arXiv 2408.07194, section on the blocking scheme.
    """

    def __init__(
        self,
        theta0: Tensor,
        num_bins: int = 10_000,
        mode: str = "replace",
        rule: str = "closed",
        groups: Tensor | None = None,
    ) -> None:
        theta0, span = check_range(theta0)
        _check_count("num_bins", num_bins)
        if rule not in ("closed", "authors"):
            raise ValueError(f"`rule` must be 'closed' (the last bin holds the maximum) or 'authors', got {rule!r}")
        if rule == "authors" and (num_bins < 2 or groups is not None or span[0] == span[1]):
            raise ValueError(
                "rule='authors' needs num_bins >= 2, weights that differ and no groups, since the maximum lies in no "
                "block; use rule='closed'"
            )
        weights = _as_numpy(theta0)
        if rule == "closed":
            ids, summary = histogram_blocks(weights, num_bins, _group_ids(groups, theta0), span)
            self._tie(theta0, ids, mode, summary)
            return
        keys = histogram_bins(weights, num_bins)
        # In the published half-open bins only the maximum itself reaches the last edge.
        keys[weights == weights.max()] = num_bins - 1
        self._tie(theta0, compact(keys), mode)
        self._drop_last_block()

    def _drop_last_block(self) -> None:
        self.dim -= 1
        self.has_unassigned = True
        for name in ("counts", "lower", "upper", "center"):
            setattr(self, name, getattr(self, name)[:-1].clone())


class QuantileBlocking(Blocking):
    """Tie neighbouring weights into at most `num_blocks` blocks of nearly equal size; equal weights stay together.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        num_blocks: Blocks asked for, 1 to `D`; fewer come out where weights repeat.
        mode: `"replace"` or `"offset"`.
    """

    def __init__(self, theta0: Tensor, num_blocks: int = 1_000, mode: str = "replace") -> None:
        theta0 = check_weights(theta0)
        _check_count("num_blocks", num_blocks, theta0.numel())
        weights = _as_numpy(theta0)
        first = np.arange(num_blocks, dtype=np.int64) * weights.size // num_blocks
        edges = np.sort(weights)[first]
        self._tie(theta0, compact(sorted_bins(weights, edges[1:])), mode)


class KMeansBlocking(Blocking):
    """Tie weights by one-dimensional k-means, the scheme that keeps quality at the fewest blocks.

    Scikit-learn clusters up to 65,536 cells, weighted by their counts, so the cost hardly grows with `D`.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        num_blocks: Clusters asked for, 1 to `D`; fewer come out where fewer cells are filled.
        mode: `"replace"` or `"offset"`.
        seed: Seed of the k-means++ start.
    """

    def __init__(self, theta0: Tensor, num_blocks: int = 256, mode: str = "replace", seed: int = 0) -> None:
        theta0 = check_weights(theta0)
        _check_count("num_blocks", num_blocks, theta0.numel())
        weights = _as_numpy(theta0)
        _check_seed(seed)
        centroids = _cluster(weights, num_blocks, seed)
        borders = (centroids[1:] + centroids[:-1]) / 2
        self._tie(theta0, compact(sorted_bins(weights.astype(np.float64), borders)), mode)


class RandomBlocking(Blocking):
    """Tie the weights into `num_blocks` blocks drawn at random, of sizes that differ by at most one.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        num_blocks: Number of blocks, 1 to `D`.
        mode: `"offset"` by default: averaging unrelated weights (`"replace"`) destroys a network.
        generator: Source of randomness; None draws from a new generator with seed 0.
    """

    def __init__(
        self, theta0: Tensor, num_blocks: int = 1_000, mode: str = "offset", *, generator: torch.Generator | None = None
    ) -> None:
        theta0 = check_weights(theta0)
        _check_count("num_blocks", num_blocks, theta0.numel())
        generator = check_generator(generator)
        order = torch.randperm(theta0.numel(), generator=generator, device=generator.device).cpu()
        self._tie(theta0, (order % num_blocks).to(torch.int32).numpy(), mode)


def _check_ids(ids: np.ndarray, num_weights: int) -> np.ndarray:
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        found = f"{ids.dtype} numbers" if isinstance(ids, np.ndarray) else type(ids).__name__
        raise TypeError(f"expected `ids` to be a NumPy array of integers, the block of each weight, got {found}")
    if ids.shape != (num_weights,) or ids.min() < 0:
        raise ValueError(
            f"expected `ids` of shape ({num_weights},), one number of 0 or more per weight, got shape {ids.shape}"
            + (f" and a smallest number of {ids.min()}" if ids.size else "")
        )
    return ids


def _as_numpy(theta0: Tensor) -> np.ndarray:
    # NumPy has no bfloat16; float32 holds its values exactly.
    return (theta0.float() if theta0.dtype == torch.bfloat16 else theta0).cpu().numpy()


def _cluster(weights: np.ndarray, num_blocks: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    cells = summarise(weights, compact(sorted_bins(weights, _cell_borders(weights))))
    if len(cells.mean) <= num_blocks:
        return cells.mean
    search = KMeans(num_blocks, n_init=1, max_iter=100, random_state=seed)
    found = search.fit(cells.mean[:, None], sample_weight=cells.counts)
    return np.sort(found.cluster_centers_[:, 0])


def _cell_borders(weights: np.ndarray) -> np.ndarray:
    """Borders of up to 65,536 cells: half of equal count, so that outliers cost nothing, half of equal width."""
    values = np.sort(weights)
    counted = values[np.linspace(0, values.size - 1, 32_768).astype(np.int64)]
    spaced = np.linspace(float(values[0]), float(values[-1]), 32_768)
    return np.unique(np.concatenate([counted.astype(np.float64), spaced]))[1:]


def _check_count(argument: str, value: int, most: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"expected `{argument}` to be an integer, got {value!r}")
    if value < 1 or (most is not None and value > most):
        limit = "at least 1" if most is None else f"between 1 and {most}, the number of weights"
        raise ValueError(f"`{argument}` must be {limit}, got {value}")


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"expected `seed` to be an integer, got {seed!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be between 0 and {2**32 - 1}, got {seed}")


def _group_ids(groups: Tensor | None, theta0: Tensor) -> np.ndarray | None:
    if groups is None:
        return None
    if not isinstance(groups, Tensor):
        raise TypeError(f"expected `groups` to be a tensor of one integer per weight, got {type(groups).__name__}")
    if groups.shape != theta0.shape or groups.is_floating_point() or groups.dtype == torch.bool:
        raise ValueError(
            f"expected `groups` to hold one integer per weight, shape {tuple(theta0.shape)}, "
            f"got {groups.dtype} {tuple(groups.shape)}"
        )
    if int(groups.min()) < 0:
        raise ValueError(f"`groups` must be numbered from 0, got {int(groups.min())}")
    return groups.cpu().numpy()
