"""Do the figures show the numbers that they were given?"""

import importlib
import sys

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.colors import to_hex

from evohbde import plots
from evohbde.plots import BLUE, ORANGE, draw_run, plot_convergence, plot_histogram, plot_scores
from evohbde.reductions import HistogramBlocking, Identity
from tests.made_up_run import ENTRIES, ROWS

THETA = torch.randn(3_000, generator=torch.Generator().manual_seed(0)) * 0.1


def test_the_histogram_holds_all_weights_in_equal_bins():
    axes = plot_histogram(THETA, num_bins=50).axes[0]
    counts, edges, _ = axes.patches[0].get_data()
    assert counts.sum() == 3_000
    assert (edges[0], edges[-1]) == (THETA.min().double(), THETA.max().double())
    assert np.allclose(np.diff(edges), (edges[-1] - edges[0]) / 50)
    below = [(THETA.double() < edge).sum() for edge in edges[:-1]]
    assert counts[:-1].tolist() == np.diff(below).tolist()
    assert axes.get_yscale() == "log"
    assert list(axes.lines[0].get_xdata()) == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["replace", "offset"])
def test_every_block_is_drawn_with_its_size_and_whether_its_weights_differ(mode):
    reduction = HistogramBlocking(THETA, num_bins=400, mode=mode)
    axes = plot_histogram(THETA, reduction).axes[1]
    drawn = {}
    for line in axes.lines:
        for block, size in zip(line.get_xdata(), line.get_ydata(), strict=True):
            drawn[int(block)] = (int(size), to_hex(line.get_color()).upper())
    free = (reduction.upper > reduction.lower).tolist()
    assert drawn == {i: (n, BLUE if free[i] else ORANGE) for i, n in enumerate(reduction.counts.tolist())}
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == f"weights differ: {reduction.num_free:,} blocks ({reduction.num_free / reduction.dim:.0%})"
    assert reduction.num_free + int(labels[1].split(":")[1].split()[0].replace(",", "")) == reduction.dim
    low, high = axes.get_ylim()
    assert low < 1 <= reduction.counts.max() < high


@pytest.mark.parametrize("reduction", [None, Identity(THETA)])
def test_without_blocks_there_is_one_panel(reduction):
    assert len(plot_histogram(THETA, reduction).axes) == 1


def test_equal_weights_can_be_drawn():
    theta = torch.full((10,), 0.5)
    figure = plot_histogram(theta, HistogramBlocking(theta, num_bins=10))
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[10]]


def test_the_curves_are_the_rows():
    searched, held_out = plot_convergence(ROWS).axes
    best = [line for line in searched.lines if line.get_color() == BLUE]
    mean = [line for line in searched.lines if line.get_color() == ORANGE]
    assert [line.get_xdata().tolist() for line in best] == [[1_000, 2_000], [4_000, 6_000, 8_000]]
    assert [line.get_ydata().tolist() for line in best] == [[0.50, 0.55], [0.60, 0.65, 0.70]]
    assert [line.get_ydata().tolist() for line in mean] == [[0.30, 0.40], [0.50, 0.55, 0.60]]
    curve = next(line for line in held_out.lines if len(line.get_xdata()) == 3)
    assert (curve.get_xdata().tolist(), curve.get_ydata().tolist()) == ([1_000, 4_000, 8_000], [0.61, 0.64, 0.68])


def test_stages_are_named_and_parted_where_the_last_one_ends():
    searched, held_out = plot_convergence(ROWS).axes
    assert [(text.get_text(), text.xy[0]) for text in searched.texts] == [("coarse", 0.0), ("fine", 2_000.0)]
    for axes in (searched, held_out):
        borders = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"]
        assert borders == [2_000.0]


def test_axes_say_what_and_in_which_unit():
    searched, held_out = plot_convergence(ROWS).axes
    assert (searched.get_ylabel(), held_out.get_ylabel()) == ("f1_macro, searched", "macro-F1, held out")
    assert held_out.get_xlabel() == "sample forwards"


def test_a_single_generation_and_none_can_be_drawn():
    assert plot_convergence(ROWS[:1]).axes[0].lines[0].get_marker() == "o"
    assert not plot_convergence([]).axes[0].lines


def test_scores_are_drawn_with_their_intervals():
    axes = plot_scores(ENTRIES).axes[0]
    for line, entry in enumerate(ENTRIES):
        point, _, (bar,) = axes.containers[line].lines
        assert point.get_xdata().tolist() == [entry.f1.value]
        ends = bar.get_segments()[0]
        assert ends[:, 0].tolist() == pytest.approx([entry.f1.lower, entry.f1.upper])
        assert ends[:, 1].tolist() == [line, line]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["untouched", "hbde-2024"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first network is at the top"


def test_figures_are_files_of_their_names_and_no_state_is_left():
    before = dict(rcParams)
    files = draw_run(THETA, HistogramBlocking(THETA, num_bins=100), ROWS, ENTRIES)
    assert set(files) == {"scores.png", "convergence.png", "weights.png"}
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    assert dict(rcParams) == before


def test_nothing_is_cut_off():
    for figure in (plot_scores(ENTRIES), plot_convergence(ROWS), plot_histogram(THETA, HistogramBlocking(THETA, 100))):
        figure.draw_without_rendering()
        outer = figure.bbox
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box.x0 >= outer.x0 and box.y0 >= outer.y0 and box.x1 <= outer.x1 + 1 and box.y1 <= outer.y1 + 1


def test_without_matplotlib_the_cure_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "evohbde.plots")
    with pytest.raises(ImportError, match=r"pip install 'evohbde\[plots\]'"):
        importlib.import_module("evohbde.plots")
    monkeypatch.undo()
    assert sys.modules["evohbde.plots"] is plots
