"""What do many runs look like side by side?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from evohbde.plots.base import AMBER, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, tidy

Point = tuple[float, float, float]
"""Networks scored so far, sample forwards so far, and the score there."""

COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, GREY)
DASHES = ("-", "--", "-.", ":")
BUDGETS = ("candidate networks scored", "sample forwards")

ROW_HEIGHT = 0.3
"""Inches between names in the rank plot."""


def plot_convergence_bands(
    curves: Mapping[str, Sequence[Sequence[Point]]], ylabel: str, *, untouched: float | None = None
) -> Figure:
    """Show the median over seeds and the band between the quartiles, over networks scored and over sample forwards.

    A value holds until the next one is known. A band reaches from where all of its curves have begun to where the first
    one ends, so that it stands for the same seeds everywhere.

    Args:
        curves: By label, one curve per seed: its points in the order of the run.
        ylabel: What the score is.
        untouched: Score of the network as it was, drawn as a dotted line.

    Raises:
        ValueError: If a curve has no points.
    """
    empty = [label for label, seeds in curves.items() if not seeds or not all(seeds)]
    if empty:
        raise ValueError(f"`curves` has no points for {', '.join(map(repr, empty))}: leave runs without any out")
    figure = Figure(figsize=(9.0, 3.9 + 0.22 * _legend_rows(curves)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for budget, (axes, xlabel) in enumerate(zip(panels, BUDGETS, strict=True)):
        for label, seeds, color, dashes in _styled(curves):
            _draw_band(axes, [[(point[budget], point[2]) for point in seed] for seed in seeds], label, color, dashes)
        if untouched is not None:
            axes.axhline(untouched, color=GREY, lw=0.9, ls=":", label="network as it was")
        axes.set_xlabel(xlabel)
        axes.set_xlim(left=0.0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        tidy(axes)
    panels[0].set_ylabel(ylabel)
    _legend_below(figure, panels[0], curves)
    return figure


def plot_seeds(
    scores: Mapping[str, Sequence[float]], xlabel: str, *, untouched: Sequence[float] | float | None = None
) -> Figure:
    """Show the score of every seed as a dot, one line per label, with the median and the quartiles.

    Args:
        scores: By label, one score per seed.
        xlabel: What the score is.
        untouched: Score of the network as it was, drawn as a dotted line; of several, the median.
    """
    figure = Figure(figsize=(9.0, 1.2 + 0.42 * max(1, len(scores))), layout="constrained")
    axes = figure.subplots()
    for line, values in enumerate(scores.values()):
        lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
        axes.plot([lower, upper], [line, line], color=BLUE, lw=7, alpha=0.25, solid_capstyle="butt")
        axes.plot(values, np.full(len(values), line), "o", color=BLUE, ms=4.5, mfc="none", mew=1.0)
        axes.plot([median], [line], "|", color=ORANGE, ms=15, mew=2.4)
    if untouched is not None:
        axes.axvline(float(np.median(untouched)), color=GREY, lw=0.9, ls=":")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.set_xlabel(f"{xlabel}: every seed, median and quartiles")
    tidy(axes, grid="x")
    return figure


def plot_ranks(
    mean_ranks: Mapping[str, float],
    *,
    cliques: Sequence[Sequence[str]] = (),
    critical_difference: float | None = None,
) -> Figure:
    """Draw the critical-difference diagram: names at their mean rank, 1 is best, with bars over those that tie.

    Args:
        mean_ranks: By label.
        cliques: Groups of labels that the runs cannot tell apart; each is joined by a bar.
        critical_difference: Difference of mean ranks that would be one, drawn as a rule; None: no rule.

    Source:
        Demšar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006, Figure 1.

    Raises:
        ValueError: If there are fewer than two labels, or a clique names another.
    """
    if len(mean_ranks) < 2:
        raise ValueError(f"`mean_ranks` must hold at least two labels, got {list(mean_ranks)}")
    unknown = sorted({label for clique in cliques for label in clique} - set(mean_ranks))
    if unknown:
        raise ValueError(f"`cliques` names {', '.join(map(repr, unknown))}, which `mean_ranks` has not")
    bars = _spans(mean_ranks, cliques)
    names = sorted(mean_ranks, key=lambda label: mean_ranks[label])
    num_rows = (len(names) + 1) // 2
    below = 0.8 * (1 + len(bars)) if bars else 0.5
    figure = Figure(figsize=(9.0, 0.9 + ROW_HEIGHT * (below + num_rows)), layout="constrained")
    axes = figure.subplots()
    for number, (left, right) in enumerate(bars):
        axes.plot([left, right], [0.8 * (number + 1)] * 2, color=GREY, lw=4.5, solid_capstyle="round")
    low, high = 1.0, float(max(len(names), 2))
    for number, name in enumerate(names):
        is_left = number < num_rows
        row = below + (number if is_left else len(names) - 1 - number) + 0.4
        _draw_name(axes, name, mean_ranks[name], row, low if is_left else high, is_left)
    _draw_rank_axis(axes, low, high, below + num_rows, critical_difference)
    return figure


def _styled(curves: Mapping[str, Sequence[Sequence[Point]]]) -> list[tuple[str, Sequence[Sequence[Point]], str, str]]:
    styles = cycle((color, dashes) for dashes in DASHES for color in COLORS)
    return [(label, seeds, *style) for (label, seeds), style in zip(curves.items(), styles, strict=False)]


def _draw_band(axes: Axes, seeds: Sequence[Sequence[tuple[float, float]]], label: str, color: str, dashes: str) -> None:
    spent = np.unique(np.concatenate([[x for x, _ in seed] for seed in seeds]))
    spent = spent[(spent >= max(seed[0][0] for seed in seeds)) & (spent <= min(seed[-1][0] for seed in seeds))]
    scores = np.array([_held(seed, spent) for seed in seeds])
    lower, median, upper = np.quantile(scores, (0.25, 0.5, 0.75), axis=0)
    marker = "o" if len(spent) < 2 else None
    axes.step(spent, median, where="post", color=color, ls=dashes, lw=1.6, marker=marker, ms=4, label=label)
    if len(seeds) > 1:
        axes.fill_between(spent, lower, upper, step="post", color=color, alpha=0.16, lw=0)


def _held(seed: Sequence[tuple[float, float]], spent: np.ndarray) -> np.ndarray:
    known, scores = np.array(seed, dtype=float).T
    return scores[np.searchsorted(known, spent, side="right") - 1]


def _legend_rows(labels: Mapping[str, object]) -> int:
    return -(-(len(labels) + 1) // _legend_columns(labels))


def _legend_columns(labels: Mapping[str, object]) -> int:
    longest = max((len(label) for label in labels), default=1)
    return max(1, min(5, 110 // (max(longest, len("network as it was")) + 8)))


def _legend_below(figure: Figure, axes: Axes, labels: Mapping[str, object]) -> None:
    handles, texts = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, texts, loc="outside lower center", ncols=_legend_columns(labels), frameon=False)


def _spans(mean_ranks: Mapping[str, float], cliques: Sequence[Sequence[str]]) -> list[tuple[float, float]]:
    spans = [(min(mean_ranks[one] for one in clique), max(mean_ranks[one] for one in clique)) for clique in cliques if
             len(clique) > 1]  # fmt: skip
    return sorted(span for span in spans if span[0] < span[1])


def _draw_name(axes: Axes, name: str, rank: float, row: float, edge: float, is_left: bool) -> None:
    axes.plot([rank, rank, edge], [0.0, row, row], color=BLUE, lw=1.0, solid_joinstyle="miter")
    axes.annotate(
        f"{name}  {rank:.2f}" if is_left else f"{rank:.2f}  {name}",
        (edge, row),
        (-6 if is_left else 6, 0),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center",
    )


def _draw_rank_axis(axes: Axes, low: float, high: float, depth: float, critical_difference: float | None) -> None:
    axes.set_xlim(low, high)
    axes.set_ylim(depth, 0.0 if critical_difference is None else -3.2)
    axes.spines[["left", "right", "bottom"]].set_visible(False)
    axes.spines["top"].set_position(("data", 0.0))
    axes.xaxis.set_ticks_position("top")
    axes.xaxis.set_major_locator(MaxNLocator(min(10, int(high - low)), integer=True))
    axes.yaxis.set_visible(False)
    if critical_difference is not None:
        axes.plot([low, low + critical_difference], [-2.1, -2.1], "|-", color=ORANGE, ms=8, lw=1.6, clip_on=False)
        text = f"critical difference {critical_difference:.2f}"
        axes.annotate(text, (low, -2.1), (0, 5), textcoords="offset points", color=ORANGE)
