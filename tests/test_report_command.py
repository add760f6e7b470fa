"""Does `evohbde report` tell runs and comparisons truthfully, also unfinished ones, and refuse what it cannot read?"""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

from evohbde.cli import app
from evohbde.comparison import Comparison
from evohbde.history import History
from evohbde.plots import draw_run
from evohbde.record import Origin
from evohbde.report.blocks import Cell, Figure, Section, Table, number
from evohbde.report.overview import label_groups
from evohbde.report.read import read_run
from evohbde.report_comparison import comparison_blocks, comparison_subtitle
from evohbde.rundir import save_run
from evohbde.statistics import Interval
from tests.made_up_comparison import SEEDS, all_runs, failed_run, made_up_settings, write_comparison
from tests.made_up_run import ENTRIES, RECORD, ROWS
from tests.test_report import HOSTILE, Page, assert_self_contained

METRICS = [f"{split}_{name}" for split in ("validation", "test") for name in ("accuracy", "f1_macro", "cross_entropy")]
FRONT = "\n".join(
    [
        f"origin,row,kept,{','.join(METRICS)}",
        "round 1,0,0.7500,0.96,0.95,0.1,0.91,0.92,0.2",
        "round 1,1,0.5000,0.90,0.89,0.3,0.81,0.82,0.4",
        "unpruned,,1.0,0.97,0.97,0.1,0.98,0.97,0.1",
        "global magnitude,,0.5,0.80,0.80,0.5,0.71,0.72,0.6",
    ]
).encode()


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, but not rendered, which takes most of the time."""
    monkeypatch.setattr("evohbde.plots.to_png", lambda figure: b"")


def report(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def make_run(directory, *, files=None, figures=None, **changes):
    history = History()
    for row in ROWS:
        history.add(row)
    return save_run(directory, replace(RECORD, **changes), history, nn.Linear(2, 2), figures or {}, files=files)


def all_blocks(blocks, kind):
    """Blocks of one kind, in order, those of sections among them."""
    found = []
    for block in blocks:
        found += all_blocks(block.blocks, kind) if isinstance(block, Section) else []
        found += [block] if isinstance(block, kind) else []
    return found


def comparison_of(tmp_path, settings, runs):
    return Comparison.load(write_comparison(tmp_path / "comparison", settings, runs))


def column(table, heading):
    return [row[list(table.headings).index(heading)] for row in table.rows]


def test_one_page_holds_runs_of_every_kind(tmp_path):
    theta = next(nn.Linear(50, 50).parameters()).flatten()
    tuned = make_run(tmp_path / "tuned", figures=draw_run(theta, None, ROWS, ENTRIES))
    pruned = make_run(tmp_path / "pruned", files={"front.csv": FRONT})
    settings = made_up_settings()
    compared = write_comparison(tmp_path / "compared", settings, all_runs(settings))
    result = report(tuned, pruned, compared, "--out", tmp_path / "new" / "page.html")
    assert result.exit_code == 0, result.stderr
    assert "2 runs, 1 comparison" in result.stdout
    page = Page((tmp_path / "new" / "page.html").read_text())
    assert_self_contained(page)
    for words in ("Runs side by side", "Comparison compared", "tuned: digits", "pruned: digits", RECORD.origin.command):
        assert words in page.text
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    links = {attributes["href"][1:] for name, attributes in page.tags if name == "a"}
    assert len(set(anchors)) == len(anchors) and links <= set(anchors)
    assert len(links) == 4


def test_medians_and_quartiles_are_those_of_the_seeds(tmp_path, undrawn):
    settings = made_up_settings()
    runs = all_runs(settings)
    table = all_blocks(comparison_blocks(comparison_of(tmp_path, settings, runs)), Table)[0]
    by_name = {row[0].text: row for row in table.rows}
    for searcher in settings["searchers"]:
        scores = [run["held_out"]["f1_macro"] for run in runs if run["searcher"] == searcher]
        lower, median, upper = np.percentile(scores, (25, 50, 75))
        cell = by_name[searcher][list(table.headings).index("macro-F1")]
        assert cell.key == pytest.approx(median)
        assert cell.text == f"{median:.4f} [{lower:.4f}, {upper:.4f}]"
        change = by_name[searcher][list(table.headings).index("change")]
        assert change.key == pytest.approx(median - 0.6)
        ahead = by_name[searcher][list(table.headings).index("ahead on")]
        assert ahead.text == f"{sum(score > 0.6 for score in scores)} of {len(SEEDS)}"
    ranks = [cell.key for cell in column(table, "rank") if cell.key is not None]
    assert ranks == sorted(ranks) and sum(ranks) == pytest.approx(1 + 2 + 3)
    assert by_name["network as it was"][3].key == pytest.approx(0.6)


def test_where_less_is_better_less_counts_as_ahead(tmp_path, undrawn):
    settings = made_up_settings(held_out=["cross_entropy"])
    table = all_blocks(comparison_blocks(comparison_of(tmp_path, settings, all_runs(settings))), Table)[0]
    de = next(row for row in table.rows if row[0].text == "DE")
    assert de[list(table.headings).index("change")].key < 0
    assert de[list(table.headings).index("ahead on")].text == f"{len(SEEDS)} of {len(SEEDS)}"


def test_a_grid_shows_the_median_of_each_searcher_with_each_reduction(tmp_path, undrawn):
    settings = made_up_settings(("HistogramBlocking", "Identity", "RandomProjection"))
    runs = all_runs(settings)
    blocks = comparison_blocks(comparison_of(tmp_path, settings, runs))
    grid = all_blocks(blocks, Table)[1]
    assert list(grid.headings) == ["reduction", *settings["searchers"]]
    for row in grid.rows:
        for searcher, cell in zip(settings["searchers"], row[1:], strict=True):
            of_both = [run for run in runs if (run["searcher"], run["reduction"]) == (searcher, row[0].text)]
            assert cell.key == pytest.approx(np.median([run["held_out"]["f1_macro"] for run in of_both]))
    figures = next(block for block in blocks if isinstance(block, Section) and block.title == "Figures")
    folded = [block.title for block in figures.blocks if isinstance(block, Section) and block.is_folded]
    assert folded == list(settings["reductions"])


def test_a_comparison_that_is_not_finished_says_what_is_lacking(tmp_path, undrawn):
    settings = made_up_settings()
    runs = all_runs(settings)
    kept = [run for run in runs if (run["searcher"], run["seed"]) not in {("SNES", 6), ("DE", 0)}]
    kept.append(failed_run("DE", "HistogramBlocking", 0, "ValueError: <b>no</b>"))
    comparison = comparison_of(tmp_path, settings, kept)
    assert "19 of 21 runs are done" in comparison_subtitle(comparison)
    sections = {block.title: block for block in comparison_blocks(comparison) if isinstance(block, Section)}
    assert sections["Missing: 1 run"].blocks[0].items == ["SNES, seed 6"]
    assert sections["Failed: 1 run"].blocks[0].items == ["DE, seed 0: ValueError: <b>no</b>"]
    report(tmp_path / "comparison", "--out", tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert_self_contained(page)
    assert "ValueError: <b>no</b>" in page.text


def test_a_comparison_without_any_run_can_be_told(tmp_path):
    comparison = comparison_of(tmp_path, made_up_settings(), [])
    assert "0 of 21 runs are done" in comparison_subtitle(comparison)
    assert not all_blocks(comparison_blocks(comparison), Figure)
    assert report(tmp_path / "comparison", "--out", tmp_path / "page.html").exit_code == 0


def test_a_problem_without_held_out_samples_is_judged_by_its_best(tmp_path, undrawn):
    settings = made_up_settings((), held_out=[], objective=None)
    runs = [{**run, "held_out": {}, "untouched": {}} for run in all_runs(settings)]
    blocks = comparison_blocks(comparison_of(tmp_path, settings, runs))
    table = all_blocks(blocks, Table)[0]
    for row in table.rows:
        best = [run["best"] for run in runs if run["searcher"] == row[0].text]
        assert row[list(table.headings).index("best")].key == pytest.approx(np.median(best))
    assert [cell.text for cell in column(table, "change")] == ["", "", ""]


def test_names_of_searchers_and_directories_stay_text(tmp_path, undrawn):
    settings = made_up_settings(command=HOSTILE, reference=HOSTILE, settings={HOSTILE: HOSTILE})
    runs = all_runs(settings)
    text = json.dumps({"settings": settings, "runs": runs}).replace('"SNES"', json.dumps(HOSTILE))
    hostile = json.loads(text)
    folder = write_comparison(tmp_path / "<b>comparison<b>", hostile["settings"], hostile["runs"])
    run = make_run(tmp_path / "<i>run<i>", origin=Origin(HOSTILE, HOSTILE, {}, HOSTILE))
    assert report(folder, run, "--out", tmp_path / "page.html").exit_code == 0
    page = Page((tmp_path / "page.html").read_text())
    assert_self_contained(page)
    assert "http" not in {attributes.get("src", "")[:4] for _, attributes in page.tags}
    assert {name for name, _ in page.tags}.isdisjoint({"b", "i"}) and page.count("script") == 1
    assert HOSTILE in page.text and "<b>comparison<b>" in page.text


def test_runs_that_differ_in_their_seed_alone_stand_together(tmp_path):
    runs = []
    for seed, budget in ((0, 500), (1, 500), (2, 900)):
        folder = make_run(tmp_path / f"run-{seed}", seed=seed, arguments={"num_evaluations": budget})
        runs.append(read_run(folder))
    groups = label_groups(runs)
    assert {label: [run.record.seed for run in group] for label, group in groups.items()} == {
        "hbde-2024, num_evaluations=500": [0, 1],
        "hbde-2024, num_evaluations=900": [2],
    }


def test_the_side_by_side_table_has_the_numbers_of_each_run(tmp_path, undrawn):
    better = replace(ENTRIES[1], f1=Interval(0.8, 0.7, 0.9), f1_gain=Interval(0.1457, 0.1, 0.2))
    make_run(tmp_path / "one")
    make_run(tmp_path / "two", seed=8, entries=[ENTRIES[0], better], num_samples_seen=2e6)
    report(tmp_path / "one", tmp_path / "two", "--out", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    overview = text[text.index('id="overview"') : text.index('id="run-1"')]
    keys = re.findall(r'data-key="([^"]*)"', overview)
    assert [float(key) for key in keys] == [
        *(7, 0.6543, 0.7017, 0.0474, 0.7122, 150_000, 12.3),
        *(8, 0.6543, 0.8, 0.1457, 0.7122, 2e6, 12.3),
    ]


def test_the_front_is_told_by_samples_that_decided_nothing(tmp_path):
    from evohbde.report.overview import front_tables

    (table,) = front_tables(read_run(make_run(tmp_path / "run", files={"front.csv": FRONT})))
    assert [cell.key for cell in column(table, "weights kept, %")] == [100, 75, 50]
    assert [cell.key for cell in column(table, "accuracy")] == [0.98, 0.91, 0.81]
    assert "test samples, by which nothing was decided" in table.caption
    assert front_tables(read_run(make_run(tmp_path / "tuned"))) == []


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda folder: None, "is no directory"),
        (lambda folder: folder.mkdir(), "holds no run and no comparison"),
        (lambda folder: make_run(folder / "run"), "there are some in it"),
        (lambda folder: (folder.mkdir(), (folder / "job.json").write_text("{}")), "evohbde resume"),
        (lambda folder: write_comparison(folder, {"format": 2}, []), "compare.json is no comparison of format 1"),
        (lambda folder: (make_run(folder), (folder / "run.json").write_text("[]")), "run.json must be dict, got []"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path, prepare, words):
    prepare(tmp_path / "folder")
    result = report(tmp_path / "folder", "--out", tmp_path / "page.html")
    assert result.exit_code == 2
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_a_page_is_not_replaced_unasked(tmp_path, undrawn):
    run, out = make_run(tmp_path / "run"), tmp_path / "page.html"
    out.write_text("mine")
    result = report(run, "--out", out)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert out.read_text() == "mine"
    assert report(run, "--out", out, "--overwrite").exit_code == 0
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert report(run, "--out", tmp_path).exit_code == 2


def test_directories_of_one_name_are_told_apart(tmp_path, undrawn):
    for above in ("a", "b"):
        make_run(tmp_path / above / "run")
    report(tmp_path / "a" / "run", tmp_path / "b" / "run", "--out", tmp_path / "page.html")
    text = Page((tmp_path / "page.html").read_text()).text
    assert f"{tmp_path}/a/run:" in text and f"{tmp_path}/b/run:" in text


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_number_that_is_none_is_an_empty_cell(value):
    assert number(value) == Cell("")
