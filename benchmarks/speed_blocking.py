"""What do fitting blocks and writing a candidate cost, in copies of the weights?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.timing import Row, Times, in_turn, ratio, row
from evohbde import HistogramBlocking, ParameterLayout
from evohbde.reductions import Blocking
from problems.networks import initialised, resnet18

NUM_BINS = 10_000
SCANNED_BINS = 20
POPSIZE = 16


def weights_of(network: nn.Module, size: int | None = None) -> Tensor:
    """All weights of a network, or the first `size`."""
    return ParameterLayout(network).flatten(network)[:size].clone()


def published_unblock(members: list[np.ndarray], z: np.ndarray, size: int) -> np.ndarray:
    """The published loop: a canvas of ones, float64, which each block multiplies by its value where its weights lie."""
    canvas = np.ones(size)
    for index, value in zip(members, z, strict=True):
        canvas[index] *= value
    return canvas


def members_of(blocks: Blocking) -> list[np.ndarray]:
    """Which weights lie in each block, as the published code keeps them."""
    order = np.argsort(blocks.block.numpy(), kind="stable")
    return np.split(order, np.cumsum(blocks.counts.numpy())[:-1])


def is_exact(blocks: Blocking, weights: Tensor) -> bool:
    """Whether blocks, counts and ranges are those of `numpy.digitize` on float64 edges; means to float32."""
    value = weights.double().numpy()
    edges = np.linspace(value.min(), value.max(), NUM_BINS)
    bins = np.minimum(np.digitize(value, edges) - 1, NUM_BINS - 2)
    ids, counts = np.unique(bins, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(ids, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    ranges = [reduce.reduceat(value[order], starts) for reduce in (np.minimum, np.maximum)]
    means = np.add.reduceat(value[order], starts) / counts
    return (
        np.array_equal(blocks.block.numpy(), ids)
        and np.array_equal(blocks.counts.numpy(), counts)
        and np.array_equal(blocks.lower.numpy(), ranges[0])
        and np.array_equal(blocks.upper.numpy(), ranges[1])
        and np.allclose(blocks.center.numpy(), means, rtol=1e-6, atol=1e-9)
    )


@torch.inference_mode()
def measure_blocking(repeats: int, size: int | None = None) -> tuple[list[Row], Times]:
    """Rows of the table and the single times; `size` cuts ResNet-18 down."""
    weights = weights_of(initialised(resnet18, seed=0), size)
    buffer = torch.empty_like(weights)
    replace, offset = (HistogramBlocking(weights, NUM_BINS, mode) for mode in ("replace", "offset"))
    index, members = replace.block.numpy(), members_of(replace)
    z = torch.randn(POPSIZE, replace.dim, generator=torch.Generator().manual_seed(0))
    values = z[0].numpy()
    times = in_turn(
        {
            "copy": lambda: buffer.copy_(weights),
            "fit": lambda: HistogramBlocking(weights, NUM_BINS),
            "scan": lambda: [np.where(index == k)[0] for k in range(SCANNED_BINS)],
            "unblock": lambda: replace.expand_into(z[0], buffer),
            "unblock 16": lambda: [replace.expand_into(one, buffer) for one in z],
            "offset": lambda: offset.expand_into(z[0], buffer),
            "offset 16": lambda: [offset.expand_into(one, buffer) for one in z],
            "published": lambda: published_unblock(members, values, len(weights)),
        },
        repeats,
    )
    scan = f"one scan per bin ({SCANNED_BINS} bins, extrapolated)"
    exact = float(is_exact(replace, weights))
    found = [
        row("fit into 10,000 bins", ratio(times, "fit", "copy"), "copies", "<= 15"),
        row(scan, ratio(times, "scan", "fit", NUM_BINS / SCANNED_BINS), "fits", ">= 250"),
        Row("fit equals `numpy.digitize`", exact, exact, exact, "1 = yes", ">= 1"),
        row("unblock one candidate", ratio(times, "unblock", "copy"), "copies", "<= 2"),
        row("unblock 16, each", ratio(times, "unblock 16", "copy", 1 / POPSIZE), "copies", "<= 1.5"),
        row("unblock one candidate, offset mode", ratio(times, "offset", "copy"), "copies", "<= 2"),
        row("unblock 16, offset mode, each", ratio(times, "offset 16", "copy", 1 / POPSIZE), "copies", "<= 1.5"),
        row("published loop over blocks", ratio(times, "published", "unblock"), "unblocks", ">= 50"),
    ]
    return found, times
