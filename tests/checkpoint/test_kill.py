"""Does a run survive kill -9?"""

import sys

import pytest

from benchmarks import kill
from evohbde.rundir import JOB, RECORD
from tests.test_cli import FACTORIES, QUICK


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setitem(sys.modules, "evohbde.plots", None)


@pytest.mark.slow
@pytest.mark.parametrize("command", kill.COMMANDS)
def test_a_killed_and_resumed_run_equals_an_undisturbed_one(command):
    rows = kill.trials(command, times=6, seed=7)
    assert sum(row["kills"] for row in rows) >= 6
    assert all(row["equal"] for row in rows), rows


@pytest.mark.slow
def test_before_every_single_operation_on_files_it_may_die(tmp_path, monkeypatch):
    path = tmp_path / "factories_to_be_killed.py"
    path.write_text(FACTORIES)
    words = ("tune", f"{path}:parts", *QUICK)
    monkeypatch.setitem(kill.COMMANDS, "quick", words)
    undisturbed = kill._undisturbed("quick", tmp_path / "run")
    assert undisturbed.num_operations > 20
    for number in range(undisturbed.num_operations):
        directory = tmp_path / f"killed-{number}"
        kill._run((*words, "--out", str(directory)), lambda number=number: kill._die_before_operation(number), None)
        if not directory.exists():
            continue
        names = {one.name for one in directory.iterdir()}
        assert RECORD in names or JOB in names
        if JOB in names:
            assert kill._run(("resume", str(directory), "--trust"), kill._live, None)[0] is False
        assert kill.contents(directory) == undisturbed.contents, f"killed before operation {number}"
        assert not [one.name for one in directory.iterdir() if one.name.startswith(".")]


@pytest.mark.slow
def test_before_every_single_operation_on_files_a_comparison_may_die(tmp_path, monkeypatch):
    words = ("compare", "tests.comparison.factories:small_task", "--searcher", "DE", "--searcher", "RandomSearch")
    words += ("--seeds", "0-1", "--num-evaluations", "40", "--num-workers", "1")
    monkeypatch.setitem(kill.COMMANDS, "quick", words)
    undisturbed = kill._undisturbed("quick", tmp_path / "run")
    assert undisturbed.num_operations > 40
    for number in range(undisturbed.num_operations):
        directory = tmp_path / f"killed-{number}"
        command = (*words, "--out", str(directory))
        kill._run(command, lambda number=number: kill._die_before_operation(number), None)
        if (directory / JOB).exists():
            command = ("resume", str(directory), "--trust")
        assert kill._run(command, kill._live, None)[0] is False
        assert kill.contents(directory) == undisturbed.contents, f"killed before operation {number}"
        assert not [one.name for one in directory.iterdir() if one.name.startswith(".")]
