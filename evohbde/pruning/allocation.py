"""How much may each tensor lose, judged by what it costs to prune that tensor alone?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

GRID = 96
"""Thresholds tried per tensor when costs are weighed against each other."""

BISECTIONS = 50


def allocate(costs: Tensor, levels: Sequence[float], counts: Tensor, kept: Sequence[float]) -> Tensor:
    """Thresholds whose costs add up to the least for each of some kept shares: `(n, L)`.

    The cost of a tensor between the levels is interpolated monotonically (it is zero where nothing is pruned, and never
    falls). Costs of tensors are taken to add up, so that one price per weight decides all tensors at once; the price at
    which the wanted share is kept is found by bisection.

    Args:
        costs: What the loss rises by when a tensor alone is pruned to each level, `(L, K)`; may be noisy.
        levels: Pruned shares, K of them, rising, in (0, 1].
        counts: Weights of each tensor, `(L,)`.
        kept: Wanted shares of all weights, each in [0, 1]; none falls below what the last level leaves.

    Source: Shoham & Gersho (1988), IEEE Trans. ASSP 36:1445, for one price that decides all.
    """
    grid, curves = _curves(costs, levels)
    sizes = (counts.double() / counts.sum()).cpu().numpy()
    return torch.stack([torch.from_numpy(_at_share(grid, curves, sizes, share)) for share in kept])


def _curves(costs: Tensor, levels: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Cost of each tensor over a grid of thresholds: `(G,)` and `(L, G)`."""
    known = np.maximum.accumulate(np.maximum(costs.double().cpu().numpy(), 0.0), axis=1)
    known = np.concatenate([np.zeros((len(known), 1)), known], axis=1)
    grid = np.linspace(0.0, levels[-1], GRID)
    return grid, PchipInterpolator([0.0, *levels], known, axis=1)(grid)


def _at_share(grid: np.ndarray, curves: np.ndarray, sizes: np.ndarray, share: float) -> np.ndarray:
    """The thresholds at the price that keeps `share`: `(L,)`."""
    low, high = -30.0, 30.0
    for _ in range(BISECTIONS):
        price = (low + high) / 2
        if _kept(_best(grid, curves, sizes, price), sizes) > share:
            low = price
        else:
            high = price
    above, below = (_best(grid, curves, sizes, price) for price in (low, high))
    if _kept(above, sizes) < share:
        above = np.zeros_like(above)  # tensors that cost nothing go at any price
    # A price decides a whole tensor at a jump; what is wanted lies between both sides of it.
    most, least = _kept(above, sizes), _kept(below, sizes)
    mixture = 0.0 if most <= least else float(np.clip((most - share) / (most - least), 0.0, 1.0))
    return above + mixture * (below - above)


def _best(grid: np.ndarray, curves: np.ndarray, sizes: np.ndarray, log_price: float) -> np.ndarray:
    total = curves + np.exp(log_price) * sizes[:, None] * (1 - grid)
    return grid[total.argmin(1)]


def _kept(thresholds: np.ndarray, sizes: np.ndarray) -> float:
    return float((sizes * (1 - thresholds)).sum())
