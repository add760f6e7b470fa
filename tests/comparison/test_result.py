"""Are tables, ranks, verdicts and exported files those of the runs?"""

import math

import numpy as np
import pandas as pd
import pytest

from evohbde.comparison import Comparison, evidence

NAMES = ("A", "B", "C")


def made_up(num_seeds=11, names=NAMES, reductions=(), *, held_out=("f1_macro", "cross_entropy"), gap=0.1):
    """A finished comparison whose methods lie `gap` apart, the first best."""
    settings = {
        "format": 1, "reference": "tasks:digits", "searchers": {name: {} for name in names},
        "reductions": {name: {} for name in reductions}, "objective_sense": "min", "held_out": list(held_out),
        "num_evaluations": 100, "num_samples": None, "seeds": list(range(num_seeds)), "environment": {},
    }  # fmt: skip
    rng = np.random.default_rng(0)
    runs = {}
    for place, name in enumerate(names):
        for other in reductions or [None]:
            for seed in range(num_seeds):
                runs[name, other, seed] = _run(name, other, seed, 0.9 - gap * place + 0.01 * rng.normal(), held_out)
    return Comparison(settings, runs)


def _run(name, reduction, seed, score, metrics):
    def row(share):
        held_out = {key: score * share if key == "f1_macro" else 1 - score * share for key in metrics}
        return {
            "num_evaluations": int(100 * share), "num_samples_seen": 1000.0 * share, "seconds": share,
            "best": 1 - score * share, "mean": 1.0, "held_out": held_out or None,
        }  # fmt: skip

    rows = [row(share) for share in (0.25, 0.5, 1.0)]
    untouched = {"selection": 1.0, **dict.fromkeys(metrics, 0.3)} if metrics else {}
    return {
        "searcher": name, "reduction": reduction, "seed": seed, "solution_length": 7, "error": None,
        "num_evaluations": 100, "num_samples_seen": 1000.0, "seconds": 1.0, "stop_reason": "num_evaluations",
        "best": rows[-1]["best"], "first": 2.0, "untouched": untouched, "held_out": rows[-1]["held_out"] or {},
        "trajectory": rows,
    }  # fmt: skip


def test_held_out_scores_judge_in_their_own_sense():
    found = made_up()
    assert found.mean_ranks() == found.mean_ranks("cross_entropy") == found.mean_ranks("best")
    assert found.mean_ranks() == {"A": 1.0, "B": 2.0, "C": 3.0}
    with pytest.raises(ValueError, match="`metric` 'accuracy' was not taken"):
        found.mean_ranks("accuracy")


def test_the_table_holds_numpys_medians_and_quartiles():
    found = made_up()
    values = np.array(list(found.scores()["B"].values()))
    low, high = np.quantile(values, [0.25, 0.75])
    line = next(line for line in found.table().splitlines() if line.startswith("| B |"))
    assert f"| {np.median(values):.4f} | {low:.4f} to {high:.4f} |" in line and "| 2.00 | 11 of 11 |" in line
    assert [row[0] for row in found.rows()] == ["A", "B", "C", "untouched"]


def test_scores_at_a_smaller_budget_are_those_of_the_last_checkpoint_before():
    found = made_up()
    half, full = found.scores(num_evaluations=99)["A"], found.scores()["A"]
    assert all(half[seed] == pytest.approx(full[seed] / 2) for seed in full)
    assert found.scores(num_evaluations=10)["A"] == {}


def test_verdicts_are_about_all_pairs_of_few_methods_and_about_the_first_of_many():
    few = made_up().verdicts()
    assert len(few) == 1 + 3 and few[0].startswith("Over all 3 methods: some methods differ")
    assert few[1] == "A is ahead of B on 11 of 11 seeds, p = 0.0029, A12 = 1.00."
    many = made_up(names=[*"ABCDEFG"]).verdicts()
    assert len(many) == 1 + 6 and all("A is ahead of" in line for line in many[1:])
    against = made_up().verdicts(control="B")
    assert len(against) == 1 + 2
    with pytest.raises(ValueError, match="`control` 'Z'"):
        made_up().verdicts(control="Z")


@pytest.mark.parametrize("num_seeds", [1, 2, 5])
def test_few_seeds_are_called_too_few(num_seeds):
    words = made_up(num_seeds).verdicts()[-1]
    assert "cannot show a difference" in words


def test_many_comparisons_of_too_few_seeds_take_one_sentence():
    names = [f"method {number}" for number in range(40)]
    few, enough = made_up(5, names, gap=0.01).verdicts(), made_up(11, names, gap=0.01).verdicts()
    assert few[-1].startswith("5 seeds cannot show a difference among 39 comparisons, however large: run more seeds")
    assert len(few) == 2  # Friedman's test is before it
    assert len(enough) == 1 + 39


def test_one_method_or_no_common_seed_is_nothing_to_compare():
    assert "nothing to compare" in made_up(names=["A"]).verdicts()[-1]
    found = made_up(names=["A", "B"], num_seeds=2)
    runs = {(run["searcher"], None, run["seed"]): run for run in found.runs}
    del runs["A", None, 0], runs["B", None, 1]
    partial = Comparison(found.settings, runs)
    assert partial.num_missing == 2 and "nothing to compare" in partial.verdicts()[-1]
    assert partial.mean_ranks() == {} and partial.cliques() == [] and "| A |" in partial.table()


def test_an_empty_comparison_has_a_table_and_no_numbers():
    empty = Comparison(made_up().settings, {})
    assert "0 of 11" in empty.table() and empty.num_missing == 33
    assert "nothing to compare" in empty.verdicts()[-1]


def test_several_reductions_make_methods_of_pairs_that_can_be_parted():
    found = made_up(reductions=("x", "y"))
    assert found.methods == ["A, x", "B, x", "C, x", "A, y", "B, y", "C, y"]
    assert found.only(reductions=["x"]).methods == ["A", "B", "C"]
    assert found.only(searchers=["B"]).methods == ["B, x", "B, y"]
    with pytest.raises(ValueError, match="no 'Z' among the searchers"):
        found.only(searchers=["Z"])


def test_runs_without_a_finite_score_count_as_missing_values():
    found = made_up(held_out=())
    found.runs[0]["best"] = math.nan
    assert 0 not in found.scores()["A"] and len(found.scores()["B"]) == 11


def test_a_run_beyond_the_budget_is_named():
    found = made_up()
    found.runs[0]["num_evaluations"] = 130
    assert "More than the budget" in found.verdicts()[0] and ": A." in found.verdicts()[0]


def test_cliques_and_plots_show_the_same_methods():
    plots = pytest.importorskip("evohbde.plots", reason="matplotlib is not installed")
    found = made_up(gap=0.001)
    assert [sorted(group) for group in found.cliques()] == [["A", "B", "C"]]
    for figure in (found.plot(), found.plot_ranks()):
        assert plots.to_png(figure).startswith(b"\x89PNG")
    assert {label: len(curves) for label, curves in found.curves("best").items()} == {"A": 11, "B": 11, "C": 11}


def test_pairs_are_those_of_the_raw_scores():
    found = made_up(gap=0.005)
    scores = found.scores()
    (first, *_) = found.pairs()
    x, y = (np.array([scores[name][seed] for seed in range(11)]) for name in ("A", "B"))
    assert first.p_value == evidence.signed_rank(x, y) and first.num_ahead == (x > y).sum()


def test_csv_has_a_line_per_run_and_parquet_one_per_row(tmp_path):
    found = made_up(2)
    found.to_csv(tmp_path / "runs.csv")
    read = pd.read_csv(tmp_path / "runs.csv")
    assert len(read) == 6 and read["held_out_f1_macro"].tolist() == [run["held_out"]["f1_macro"] for run in found.runs]
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    found.to_parquet(tmp_path / "rows.parquet")
    rows = pd.read_parquet(tmp_path / "rows.parquet")
    assert len(rows) == 18 and set(rows["searcher"]) == set(NAMES)
    assert rows["best"].tolist() == [row["best"] for run in found.runs for row in run["trajectory"]]


def test_the_files_for_iohprofiler_are_read_by_its_own_reader(tmp_path):
    inspector = pytest.importorskip("iohinspector", reason="iohinspector is not installed")
    found = made_up(3, held_out=())
    found.to_ioh(tmp_path / "ioh")
    manager = inspector.DataManager()
    manager.add_folder(str(tmp_path / "ioh"))
    overview = manager.overview
    assert sorted(set(overview["algorithm_name"])) == list(NAMES) and len(overview) == 9
    assert set(overview["dimension"]) == {7} and sorted(set(overview["instance"])) == [0, 1, 2]
    assert sorted(overview["best_y"]) == pytest.approx(sorted(run["best"] for run in found.runs))
    rows = manager.load(monotonic=False, include_meta_data=True)
    for name in NAMES:
        mine = rows.filter(rows["algorithm_name"] == name)
        of_method = [run for run in found.runs if run["searcher"] == name]
        expected = [run["first"] for run in of_method] + [row["best"] for run in of_method for row in run["trajectory"]]
        assert sorted(mine["raw_y"]) == pytest.approx(sorted(expected))
    with pytest.raises(ValueError, match="not empty"):
        found.to_ioh(tmp_path / "ioh")
