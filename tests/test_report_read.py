"""Does a run directory come back as it was written, and is a damaged one refused with file, line and fault?"""

import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evohbde.history import History, Row
from evohbde.judge import Entry
from evohbde.record import RunRecord, as_plain
from evohbde.report.read import from_plain, read_run
from evohbde.rundir import save_run
from evohbde.statistics import Interval
from tests.made_up_run import ENTRIES, RECORD, ROWS

PNG = b"\x89PNG\r\n\x1a\n" + b"picture"

FRONT = b"""origin,row,kept,validation_accuracy,test_accuracy
round 1,0,0.75,0.96,0.95
unpruned,,1.0,0.97,
"""


@pytest.fixture
def directory(tmp_path):
    history = History()
    for row in ROWS:
        history.add(row)
    return save_run(tmp_path / "run", RECORD, history, nn.Linear(2, 2), {"scores.png": PNG}, files={"front.csv": FRONT})


def test_a_run_comes_back_as_it_was_written(directory):
    run = read_run(directory)
    assert replace(run.record, switches={**run.record.switches, "differential_weight": (0.1, 1.0)}) == RECORD
    assert (run.name, run.rows, run.figures) == ("run", ROWS, {"scores.png": PNG})
    assert [(line.origin, line.is_on_front, line.kept) for line in run.front] == [
        ("round 1", True, 0.75),
        ("unpruned", False, 1.0),
    ]
    assert [line.scores for line in run.front] == [
        {"validation_accuracy": 0.96, "test_accuracy": 0.95},
        {"validation_accuracy": 0.97},
    ]


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=20)
intervals = st.builds(Interval, numbers, numbers, numbers)
entries = st.builds(
    Entry, texts, st.dictionaries(texts, numbers, max_size=3), intervals, st.none() | intervals, st.none(), numbers
)


@given(st.lists(entries, min_size=1, max_size=3), texts, st.none() | texts, st.integers(0, 10**9))
def test_any_record_survives_json(found, text, lead, count):
    record = replace(RECORD, entries=found, preset=text, lead=lead, num_evaluations=count, switches={text: text})
    assert from_plain(RunRecord, json.loads(record.to_json()), "run.json") == record


def test_numbers_that_were_not_finite_come_back_as_nan():
    entry = replace(ENTRIES[0], num_samples=math.inf)
    assert math.isnan(from_plain(Entry, as_plain(entry), "x").num_samples)


def test_later_versions_may_say_more():
    content = {**json.loads(RECORD.to_json()), "something_new": 1}
    assert from_plain(RunRecord, content, "run.json").preset == RECORD.preset


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda run: run.pop("entries"), "run.json: entries is missing"),
        (lambda run: run.update(entries=[]), "entries is empty"),
        (lambda run: run.update(seed="7"), "run.json: seed must be int, got '7'"),
        (lambda run: run.update(seed=True), "seed must be int, got True"),
        (lambda run: run.update(notes={}), "notes must be list"),
        (lambda run: run["entries"][1].pop("scores"), "run.json: entries[1]: scores is missing"),
        (lambda run: run["entries"][1]["f1"].update(lower="low"), "entries[1]: f1: lower must be int or float"),
        (lambda run: run["environment"].update(packages=3), "environment: packages must be dict"),
        (lambda run: run["environment"].update(finished="then"), "run.json: environment: finished is no ISO 8601 time"),
        (lambda run: run["entries"][0]["scores"].pop("accuracy"), "run.json: entries[0]: scores lacks accuracy"),
    ],
)
def test_a_record_of_another_shape_is_named_with_the_place(directory, change, fault):
    content = json.loads((directory / "run.json").read_text())
    change(content)
    (directory / "run.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(fault)):
        read_run(directory)


def test_a_record_that_was_cut_off_is_named_with_its_line(directory):
    text = (directory / "run.json").read_text()
    cut = text[: len(text) // 2]
    (directory / "run.json").write_text(cut)
    with pytest.raises(ValueError, match=rf"run\.json, line {len(cut.splitlines())}: no JSON"):
        read_run(directory)


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("history.csv", "8000.0", "many", "history.csv, line 6: num_samples_seen must be a number, got 'many'"),
        ("history.csv", ",0.5,0.3,", ",0.5,", "history.csv, line 2: expected 11 columns"),
        ("history.csv", "num_samples_seen", "forwards", "history.csv, line 2: num_samples_seen is missing"),
        ("front.csv", "0.96", "good", "front.csv, line 2: validation_accuracy must be a number, got 'good'"),
        ("front.csv", "1.0,0.97", ",0.97", "front.csv, line 3: kept is empty"),
        ("scores.png", "PNG", "JPG", "scores.png is no PNG file"),
        ("run.json", "{", "\udcff", "run.json is no text"),
    ],
)
def test_a_damaged_file_is_named_with_line_and_fault(directory, file, old, new, fault):
    content = (directory / file).read_bytes()
    changed = content.replace(old.encode(), new.encode(errors="surrogateescape"), 1)
    assert changed != content
    (directory / file).write_bytes(changed)
    with pytest.raises(ValueError, match=re.escape(fault)):
        read_run(directory)


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no run\.json"):
        read_run(tmp_path)


def test_every_column_of_a_history_is_read(directory):
    row = replace(ROWS[0], held_out=None, hypervolume=0.25, front_size=3)
    history = History()
    history.add(row)
    history.to_csv(directory / "history.csv")
    assert read_run(directory).rows == [row]
    assert isinstance(read_run(directory).rows[0], Row)
