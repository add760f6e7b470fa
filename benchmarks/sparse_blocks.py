"""Which blocks may become zero: those of a histogram of signed weights, or of their sizes?

No search: blocks are set to zero one after the other, the one nearest to zero first, until a share of the weights is
gone, and the network is scored on test images. Beside it, exactly as many weights pruned by global magnitude.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from benchmarks.pruning import NETWORKS
from benchmarks.tables import markdown, publish, write_csv
from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.outputs import score
from evohbde.pruning.baselines import global_magnitude_masks
from evohbde.pruning.pipeline import prunable_layout
from evohbde.reductions import HistogramBlocking, magnitude_blocks

SHARES = (0.2, 0.4)
NUM_BINS, BINS_PER_TENSOR = 100, 20
Row = dict[str, object]


def partitions(theta0: Tensor, tensors: Tensor) -> dict[str, Tensor]:
    """The block of each weight, in four ways."""
    one_tensor = torch.zeros_like(tensors)
    return {
        f"signed weights, all tensors together ({NUM_BINS} bins)": HistogramBlocking(theta0, NUM_BINS).block,
        f"signed weights, each tensor ({BINS_PER_TENSOR} bins)": HistogramBlocking(
            theta0, BINS_PER_TENSOR, groups=tensors
        ).block,
        f"sizes, all tensors together ({NUM_BINS} bins)": magnitude_blocks(theta0, one_tensor, NUM_BINS),
        f"sizes, each tensor ({BINS_PER_TENSOR} bins)": magnitude_blocks(theta0, tensors, BINS_PER_TENSOR),
    }


def kept_when_nearest_go(theta0: Tensor, tensors: Tensor, block: Tensor, share: float) -> Tensor:
    """Which weights are kept once whole blocks, the nearest to zero first, make up a share of all: `(D,)`, bool.

    Nearness is the mean size of a block's members in units of their tensor's root mean square, so that tensors take
    turns.
    """
    index = block.long()
    scale = torch.stack([theta0[tensors == number].square().mean().sqrt() for number in tensors.unique().tolist()])
    size = theta0.abs() / scale[tensors.long()]
    counts = index.bincount()
    mean = torch.zeros(len(counts)).index_add_(0, index, size) / counts
    order = mean.argsort()
    num_gone = int((counts[order].cumsum(0) < share * len(theta0)).sum()) + 1
    return ~torch.isin(index, order[:num_gone])


def measure(test_per_class: int) -> None:
    """All partitions on all networks at all shares; the table is of the change in accuracy."""
    rows = [row for network in NETWORKS for row in _network_rows(network, test_per_class)]
    write_csv("sparse-blocks", rows)
    body = [
        [
            str(row["network"]),
            str(row["blocks"]),
            f"{100 * float(str(row['removed'])):.1f} %",
            f"{float(str(row['shift'])):.3f}",
            f"{float(str(row['points'])):+.2f}",
            f"{float(str(row['magnitude'])):+.2f}",
        ]
        for row in rows
    ]
    header = ["network", "blocks of", "removed", "shift of a tensor's mean", "points", "points, as many by magnitude"]
    publish("sparse-blocks", markdown(header, body), f"python -m benchmarks sparse-blocks --test {10 * test_per_class}")


def _network_rows(network: str, test_per_class: int) -> list[Row]:
    task = NETWORKS[network](seed=0, train_per_class=1, validation_per_class=1, test_per_class=test_per_class)
    assert task.test is not None
    layout = prunable_layout(task.model)
    theta0, tensors = layout.flatten(task.model), layout.tensor_index
    test = task.test

    def points(kept: Tensor) -> float:
        return 100 * (_accuracy(task.model, layout, torch.where(kept, theta0, 0.0), test) - before)

    before = _accuracy(task.model, layout, theta0, test)
    rows: list[Row] = []
    for share in SHARES:
        for name, block in partitions(theta0, tensors).items():
            kept = kept_when_nearest_go(theta0, tensors, block, share)
            removed = 1 - float(kept.double().mean())
            magnitude = global_magnitude_masks(theta0, tensors, [removed])[0]
            rows.append(
                {
                    "network": network,
                    "blocks": name,
                    "removed": round(removed, 4),
                    "shift": round(_mean_shift(theta0, tensors, kept), 4),
                    "points": round(points(kept), 3),
                    "magnitude": round(points(magnitude), 3),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _accuracy(model: nn.Module, layout: ParameterLayout, theta: Tensor, data: TensorData) -> float:
    return score(layout.load_(deepcopy(model), theta), data, ["accuracy"])["accuracy"]


def _mean_shift(theta0: Tensor, tensors: Tensor, kept: Tensor) -> float:
    """How far the mean of a tensor moves, in its standard deviations, on average over tensors."""
    moves = []
    for number in tensors.unique().tolist():
        chosen = tensors == number
        gone = theta0[chosen & ~kept].sum() / int(chosen.sum())
        moves.append(float(gone.abs() / theta0[chosen].std()))
    return sum(moves) / len(moves)
