"""What does a run look like?

The only module that imports matplotlib. Figures are built without pyplot, so no state is shared and no window opens.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Literal

import numpy as np
from torch import Tensor

from evohbde.history import Row
from evohbde.judge import Entry
from evohbde.reductions import Blocking, Reduction

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter
except ImportError as error:
    raise ImportError("evohbde.plots needs matplotlib: pip install 'evohbde[plots]'") from error

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
DRAWN_BINS = 200
DOTS_PER_INCH = 150


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
    _mark_stages(searched, held_out, starts)
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
        _tidy(axes)
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
    _tidy(axes, grid="x")
    return figure


def plot_front(
    series: Mapping[str, Sequence[tuple[float, float]]],
    ylabel: str,
    *,
    unpruned: float,
    chosen: tuple[float, float] | None = None,
) -> Figure:
    """Show what pruned networks score over the share of weights they keep, the first series as the front.

    Args:
        series: Pairs of kept share and score, by label.
        ylabel: What the score is.
        unpruned: Score of the network as given.
        chosen: The pair of the network that was taken.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    styles = (("o-", BLUE), ("s:", ORANGE), ("^:", GREEN), ("v:", PURPLE))
    for number, (label, pairs) in enumerate(series.items()):
        marker, color = styles[number % len(styles)]
        kept, scores = zip(*sorted(pairs), strict=True)
        percent = [100 * share for share in kept]
        axes.plot(percent, scores, marker, color=color, ms=4, label=label, zorder=3 - number / 9)
    axes.axhline(unpruned, color=GREY, lw=0.8, ls=":", label="unpruned")
    if chosen is not None:
        axes.plot(100 * chosen[0], chosen[1], "o", ms=11, mfc="none", mec=BLUE, mew=1.8, label="chosen", zorder=4)
    axes.set_xlim(100, 0)
    axes.set_xlabel("prunable weights kept, %")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, loc="best")
    _tidy(axes)
    return figure


def plot_hypervolume(rows: Sequence[Row]) -> Figure:
    """Show how the hypervolume of the front grew over the budget, stage by stage."""
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    starts, end = [], 0.0
    for stage, stage_rows in groupby(rows, key=lambda row: row.stage):
        curve = [(row.num_samples_seen, row.hypervolume) for row in stage_rows if row.hypervolume is not None]
        starts.append((stage, end))
        axes.plot([spent for spent, _ in curve], [volume for _, volume in curve], ".-", color=BLUE)
        end = curve[-1][0] if curve else end
    _mark_stages(axes, axes, starts)
    axes.set_xlabel("sample forwards")
    axes.set_xlim(left=0.0)
    axes.set_ylabel("hypervolume")
    axes.xaxis.set_major_formatter(EngFormatter())
    _tidy(axes)
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


def to_png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def _draw_weights(axes: Axes, weights: np.ndarray, num_bins: int) -> None:
    counts, edges = np.histogram(weights.astype(np.float64), bins=num_bins)
    axes.stairs(counts, edges, fill=True, color=BLUE)
    axes.axvline(0.0, color=GREY, lw=0.8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_title(f"{len(weights):,} weights", loc="left")
    axes.set_xlabel("value of the weight")
    axes.set_ylabel(f"weights per bin ({num_bins} bins)")
    _tidy(axes)


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
    _tidy(axes)


def _mark_stages(searched: Axes, held_out: Axes, starts: Sequence[tuple[str, float]]) -> None:
    for number, (stage, start) in enumerate(starts):
        if number > 0:
            for axes in (searched, held_out):
                axes.axvline(start, color=GREY, lw=0.8, ls=":")
        searched.annotate(stage, (start, 1.0), (2, 3), xycoords=searched.get_xaxis_transform(),
                          textcoords="offset points", color=GREY)  # fmt: skip


def _tidy(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)
