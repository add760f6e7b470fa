"""Does a directory say what is wrong with it, and does it lose nothing but what was cut off?"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evohbde.comparison import records

SETTINGS = {
    "format": 1,
    "reference": "a:b",
    "searchers": {"DE": {"reference": "DE", "settings": {}}},
    "reductions": {},
    "objective_sense": "min",
    "held_out": [],
    "seeds": [0, 1, 2],
    "num_evaluations": 10,
    "environment": {"commit": "abc"},
    "command": None,
}


def run_of(seed, **changes):
    run = {"searcher": "DE", "reduction": None, "seed": seed, "error": None, "best": 1.0, "held_out": {}}
    return {**run, "trajectory": [], **changes}


def test_finished_runs_are_found_again_and_failed_ones_are_tried_again(tmp_path):
    out = tmp_path / "new"
    assert records.start(out, SETTINGS, overwrite=False) == {}
    records.append(out, run_of(0))
    records.append(out, run_of(1, error="it broke", best=float("nan")))
    assert list(records.start(out, SETTINGS, overwrite=False)) == [("DE", None, 0)]
    assert list(records.read_runs(out)) == [("DE", None, 0), ("DE", None, 1)]
    records.append(out, run_of(1, best=2.0))
    assert records.read_runs(out)["DE", None, 1]["best"] == 2.0
    assert records.start(out, SETTINGS, overwrite=True) == {}


@pytest.mark.parametrize(("key", "value"), [("num_evaluations", 11), ("seeds", [0, 1]), ("reference", "c:d")])
def test_another_comparison_in_the_directory_is_refused_by_what_differs(tmp_path, key, value):
    records.start(tmp_path / "out", SETTINGS, overwrite=False)
    with pytest.raises(ValueError, match=f"holds another comparison: its {key} is"):
        records.start(tmp_path / "out", {**SETTINGS, key: value}, overwrite=False)


def test_another_commit_is_a_warning(tmp_path):
    records.start(tmp_path / "out", SETTINGS, overwrite=False)
    with pytest.warns(UserWarning, match="begun with another commit"):
        records.start(tmp_path / "out", {**SETTINGS, "environment": {"commit": "abd"}}, overwrite=False)


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ValueError, match="no comparison: choose another directory"):
        records.start(tmp_path, SETTINGS, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"no compare\.json"):
        records.read_settings(tmp_path)


@given(st.data())
def test_a_file_that_was_cut_off_anywhere_keeps_its_whole_lines_and_can_go_on(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("cut") / "out"
    records.start(out, SETTINGS, overwrite=False)
    for seed in (0, 1):
        records.append(out, run_of(seed))
    content = (out / records.RUNS).read_bytes()
    length = data.draw(st.integers(0, len(content)))
    (out / records.RUNS).write_bytes(content[:length])
    whole = content[:length].count(b"\n")
    assert len(records.start(out, SETTINGS, overwrite=False)) == whole
    records.append(out, run_of(2))
    assert [key[2] for key in records.read_runs(out)] == [*range(whole), 2]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (records.RUNS, '{"searcher": \n', r"runs\.jsonl, line 1, is damaged"),
        (records.RUNS, '{"searcher": "DE"}\n', r"runs\.jsonl, line 1, is damaged: it lacks best, error"),
        (records.RUNS, "[]\n", r"line 1, is damaged"),
        (records.SETTINGS, "{", r"compare\.json is damaged"),
        (records.SETTINGS, '{"format": 2}', "no comparison of format 1"),
        (records.SETTINGS, '{"format": 1}', "it lacks held_out, objective_sense"),
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path, name, text, message):
    (tmp_path / records.SETTINGS).write_text(json.dumps(SETTINGS))
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        records.read_settings(tmp_path), records.read_runs(tmp_path)
