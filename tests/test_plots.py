"""Do the figures show the numbers that they were given?"""

import importlib
import sys

import numpy as np
import pytest
import torch
from matplotlib import rcParams
from matplotlib.colors import to_hex

from evohbde import plots
from evohbde.plots import (
    BLUE,
    ORANGE,
    draw_run,
    plot_convergence,
    plot_convergence_bands,
    plot_front,
    plot_histogram,
    plot_ranks,
    plot_scores,
    plot_seeds,
)
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
    for name in [name for name in sys.modules if name.startswith("evohbde.plots")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=r"pip install 'evohbde\[plots\]'"):
        importlib.import_module("evohbde.plots")
    monkeypatch.undo()
    assert sys.modules["evohbde.plots"] is plots


def made_up_curves(starts, length=4):
    return [[(10 * (start + i), 1_000 * (start + i), start + i / 10) for i in range(length)] for start in starts]


def test_bands_are_the_median_and_the_quartiles_over_the_seeds():
    rng = np.random.default_rng(0)
    seeds = [[(10 * i, 700 * i, score) for i, score in enumerate(rng.random(6), start=1)] for _ in range(5)]
    for axes, unit in zip(plot_convergence_bands({"DE": seeds}, "score").axes, (10, 700), strict=True):
        line = next(line for line in axes.lines if line.get_label() == "DE")
        assert line.get_xdata().tolist() == [unit * i for i in range(1, 7)]
        scores = np.array([[score for _, _, score in seed] for seed in seeds])
        assert line.get_ydata() == pytest.approx(np.median(scores, axis=0))
        band = axes.collections[0].get_paths()[0].vertices[:, 1]
        assert band.min() == pytest.approx(np.percentile(scores, 25, axis=0).min())
        assert band.max() == pytest.approx(np.percentile(scores, 75, axis=0).max())


def test_a_band_stands_for_all_its_seeds_everywhere():
    line = plot_convergence_bands({"DE": made_up_curves([1, 3])}, "score").axes[0].lines[0]
    assert line.get_xdata().tolist() == [30, 40], "from where both have begun to where the first ends"
    assert line.get_ydata() == pytest.approx([(1.2 + 3.0) / 2, (1.3 + 3.1) / 2])


def test_seeds_that_never_overlap_have_no_band_and_are_no_error():
    line = plot_convergence_bands({"DE": made_up_curves([1, 30])}, "score").axes[0].lines[0]
    assert len(line.get_xdata()) == 0


def test_between_its_points_a_curve_holds_its_last_value():
    seeds = [[(10, 10, 1.0), (40, 40, 5.0)], [(10, 10, 1.0), (20, 20, 3.0), (40, 40, 5.0)]]
    line = plot_convergence_bands({"DE": seeds}, "score").axes[0].lines[0]
    assert line.get_ydata().tolist() == [1.0, 2.0, 5.0]


def test_every_label_of_a_comparison_can_be_told_apart():
    curves = {f"method {i}": made_up_curves([i]) for i in range(20)}
    lines = [line for line in plot_convergence_bands(curves, "score").axes[0].lines if line.get_label() in curves]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_a_method_without_points_is_named():
    with pytest.raises(ValueError, match="no points for 'SNES'"):
        plot_convergence_bands({"DE": made_up_curves([1]), "SNES": [[]]}, "score")


def test_every_seed_is_a_dot_with_median_and_quartiles():
    scores = {"DE": [0.1, 0.4, 0.2, 0.9], "SNES": [0.5]}
    axes = plot_seeds(scores, "score", untouched=[0.3, 0.5]).axes[0]
    for line, values in enumerate(scores.values()):
        quartiles, dots, median = axes.lines[3 * line : 3 * line + 3]
        assert dots.get_xdata().tolist() == values
        assert quartiles.get_xdata() == pytest.approx(np.percentile(values, (25, 75)))
        assert median.get_xdata() == pytest.approx([np.median(values)])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["DE", "SNES"]
    assert axes.lines[-1].get_xdata()[0] == pytest.approx(0.4)


RANKS = {"DE": 3.2, "SNES": 1.5, "PGPE": 2.5, "RandomSearch": 2.8}


def test_the_rank_plot_has_every_name_at_its_rank_and_bars_over_ties():
    axes = plot_ranks(RANKS, cliques=[["SNES", "PGPE", "RandomSearch"], ["DE"]], critical_difference=0.7).axes[0]
    names = {text.get_text() for text in axes.texts}
    assert {f"SNES  {1.5:.2f}", f"PGPE  {2.5:.2f}", f"{2.8:.2f}  RandomSearch", f"{3.2:.2f}  DE"} < names
    stems = {line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 3}
    assert stems == set(RANKS.values())
    spans = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert (1.5, 2.8) in spans
    assert (1.0, 1.7) in spans, "the rule is as long as the critical difference"
    assert len(spans) == 2, "a clique of one has no bar"


@pytest.mark.parametrize("num_methods", [2, 3, 9, 42])
def test_names_in_the_rank_plot_do_not_overlap_and_are_not_cut_off(num_methods):
    ranks = {f"Searcher{i}, HistogramBlocking": 1 + i * (num_methods - 1) / num_methods for i in range(num_methods)}
    figure = plot_ranks(ranks, cliques=[list(ranks)[:2], list(ranks)[-2:]])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 + 1 for box in boxes)


def test_ranks_of_one_method_and_unknown_cliques_are_refused():
    with pytest.raises(ValueError, match="at least two labels"):
        plot_ranks({"DE": 1.0})
    with pytest.raises(ValueError, match="`cliques` names 'XNES'"):
        plot_ranks(RANKS, cliques=[["DE", "XNES"]])


@pytest.mark.parametrize("name", ["bands", "seeds"])
def test_nothing_of_a_comparison_is_cut_off(name):
    labels = ["DE", "a rather long name of a searcher, with settings", "SNES"]
    if name == "bands":
        figure = plot_convergence_bands({label: made_up_curves([1, 2]) for label in labels}, "score", untouched=1.0)
    else:
        figure = plot_seeds({label: [0.1, 0.2] for label in labels}, "score")
    figure.draw_without_rendering()
    boxes = [axes.get_tightbbox() for axes in figure.axes] + [legend.get_window_extent() for legend in figure.legends]
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1


def test_several_fronts_are_solid_and_what_they_are_compared_with_dotted():
    series = {"one": [(0.5, 0.8)], "two": [(0.5, 0.7)], "global magnitude": [(0.5, 0.6)]}
    lines = {
        line.get_label(): line for line in plot_front(series, "accuracy", unpruned=0.9, num_fronts=2).axes[0].lines
    }
    assert [lines[name].get_linestyle() for name in series] == ["-", "-", ":"]
    assert len({lines[name].get_color() for name in series}) == 3
