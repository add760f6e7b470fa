"""What does one tuned network look like?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from torch import Tensor

from evohbde.history import Row
from evohbde.judge import Entry
from evohbde.plots.base import BLUE, GREEN, GREY, ORANGE, mark_stages, tidy, to_png
from evohbde.reductions import Blocking, Reduction

DRAWN_BINS = 200


def plot_histogram(theta: Tensor, reduction: Reduction | None = None, *, num_bins: int = DRAWN_BINS) -> Figure:
    """Show how the weights are spread, and how many of them each block ties together.

    Left, the weights in equal-width bins (Figure 1 of arXiv 2408.07194); right, where `reduction` is a `Blocking`, the
    weights per block, empty bins dropped (Figure 2), apart by whether the weights of a block differ: in the published
    start population only such blocks can ever move.

    Args:
        theta: All searched weights, `(D,)`.
        reduction: How they are tied.
        num_bins: Bins drawn on the left; the published 10,000 are finer than a screen.
    """
    weights = theta.detach().cpu().numpy()
    blocks = reduction if isinstance(reduction, Blocking) else None
    figure = Figure(figsize=(9.0 if blocks else 5.0, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if blocks else 1, squeeze=False)[0]
    _draw_weights(panels[0], weights, num_bins)
    if blocks is not None:
        _draw_blocks(panels[1], blocks)
    return figure


def plot_convergence(rows: Sequence[Row]) -> Figure:
    """Show the searched objective of each generation, and macro-F1 on held-out samples, over the budget (Figure 5)."""
    figure = Figure(figsize=(9.0, 5.2), layout="constrained")
    searched, held_out = figure.subplots(2, 1, sharex=True)
    starts = []
    end = 0.0
    for number, (stage, stage_rows) in enumerate(groupby(rows, key=lambda row: row.stage)):
        of_stage = list(stage_rows)
        starts.append((stage, end))
        end = of_stage[-1].num_samples_seen
        spent = [row.num_samples_seen for row in of_stage]
        marker = "o" if len(of_stage) == 1 else None
        labels = ("best of the population", "mean of the population") if number == 0 else (None, None)
        searched.plot(spent, [row.best for row in of_stage], color=BLUE, marker=marker, label=labels[0])
        searched.plot(spent, [row.mean for row in of_stage], color=ORANGE, marker=marker, label=labels[1], ls="--")
    mark_stages(searched, held_out, starts)
    taken = [row for row in rows if row.held_out is not None]
    held_out.plot([row.num_samples_seen for row in taken], [row.held_out for row in taken], "o-", color=GREEN, ms=4)
    searched.set_ylabel(" / ".join(dict.fromkeys(row.objective for row in rows)) + ", searched")
    held_out.set_ylabel("macro-F1, held out")
    held_out.set_xlabel("sample forwards")
    held_out.xaxis.set_major_formatter(EngFormatter())
    held_out.set_xlim(left=0.0)
    if rows:
        searched.legend(frameon=False, loc="best")
    for axes in (searched, held_out):
        tidy(axes)
    return figure


def plot_scores(entries: Sequence[Entry]) -> Figure:
    """Show macro-F1 on held-out samples with its 95 % interval, one network per line, the first as the baseline."""
    figure = Figure(figsize=(9.0, 1.2 + 0.45 * len(entries)), layout="constrained")
    axes = figure.subplots()
    for line, entry in enumerate(entries):
        below, above = entry.f1.value - entry.f1.lower, entry.f1.upper - entry.f1.value
        color = GREY if line == 0 else BLUE
        axes.errorbar(entry.f1.value, line, xerr=[[below], [above]], fmt="o", color=color, capsize=4, lw=1.8)
        number = axes.annotate(
            f"{entry.f1.value:.3f}", (entry.f1.value, line), (0, 7), textcoords="offset points", ha="center"
        )
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    if entries:
        axes.axvline(entries[0].f1.value, color=GREY, lw=0.8, ls=":")
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries])
    axes.set_ylim(len(entries) - 0.5, -0.7)
    axes.set_xlabel("macro-F1 on held-out samples, with 95 % interval")
    tidy(axes, grid="x")
    return figure


def draw_run(
    theta: Tensor, reduction: Reduction | None, rows: Sequence[Row], entries: Sequence[Entry]
) -> dict[str, bytes]:
    """Draw all figures of one run: PNG files by name."""
    figures = {
        "scores.png": plot_scores(entries),
        "convergence.png": plot_convergence(rows),
        "weights.png": plot_histogram(theta, reduction),
    }
    return {name: to_png(figure) for name, figure in figures.items()}


def _draw_weights(axes: Axes, weights: np.ndarray, num_bins: int) -> None:
    counts, edges = np.histogram(weights.astype(np.float64), bins=num_bins)
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.axvline(0.0, color=GREY, lw=0.8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_title(f"{len(weights):,} weights", loc="left")
    axes.set_xlabel("value of the weight")
    axes.set_ylabel(f"weights per bin ({num_bins} bins)")
    tidy(axes)


def _draw_blocks(axes: Axes, blocks: Blocking) -> None:
    counts = blocks.counts.cpu().numpy()
    differ = (blocks.upper > blocks.lower).cpu().numpy()
    index = np.arange(blocks.dim)
    for chosen, color, words in ((differ, BLUE, "weights differ"), (~differ, ORANGE, "weights all equal")):
        if chosen.any():
            label = f"{words}: {chosen.sum():,} blocks ({chosen.mean():.0%})"
            axes.plot(index[chosen], counts[chosen], ".", color=color, ms=3, label=label)
    axes.set_yscale("log")
    axes.set_ylim(0.7, counts.max() * 6)
    axes.set_title(f"{blocks.dim:,} blocks", loc="left")
    axes.set_xlabel("block, without empty bins")
    axes.set_ylabel("weights per block")
    axes.legend(frameon=False, loc="upper left", markerscale=3)
    tidy(axes)
