"""What does a front of pruned networks look like?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from evohbde.history import Row
from evohbde.plots.base import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, mark_stages, tidy


def plot_front(
    series: Mapping[str, Sequence[tuple[float, float]]],
    ylabel: str,
    *,
    unpruned: float,
    chosen: tuple[float, float] | None = None,
    num_fronts: int = 1,
) -> Figure:
    """Show what pruned networks score over the share of weights they keep, the first series as fronts.

    Args:
        series: Pairs of kept share and score, by label.
        ylabel: What the score is.
        unpruned: Score of the network as given.
        chosen: The pair of the network that was taken.
        num_fronts: How many of the series are fronts, drawn as solid lines.
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    markers, colors = cycle("os^vDP"), cycle((BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER))
    for number, (label, pairs) in enumerate(series.items()):
        dashes = "-" if number < num_fronts else ":"
        kept, scores = zip(*sorted(pairs), strict=True)
        percent = [100 * share for share in kept]
        order = 3 - number / (len(series) + 1)
        axes.plot(percent, scores, next(markers), ls=dashes, color=next(colors), ms=4, label=label, zorder=order)
    axes.axhline(unpruned, color=GREY, lw=0.8, ls=":", label="unpruned")
    if chosen is not None:
        axes.plot(100 * chosen[0], chosen[1], "o", ms=11, mfc="none", mec=BLUE, mew=1.8, label="chosen", zorder=4)
    axes.set_xlim(100, 0)
    axes.set_xlabel("prunable weights kept, %")
    axes.set_ylabel(ylabel)
    axes.legend(frameon=False, loc="best")
    tidy(axes)
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
    mark_stages(axes, axes, starts)
    axes.set_xlabel("sample forwards")
    axes.set_xlim(left=0.0)
    axes.set_ylabel("hypervolume")
    axes.xaxis.set_major_formatter(EngFormatter())
    tidy(axes)
    return figure
