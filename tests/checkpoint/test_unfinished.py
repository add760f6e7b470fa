"""Is a run directory, whenever its process died, either whole or one that `evohbde resume` makes whole?"""

import json
import os
import pathlib
import re
import shlex
import shutil
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from benchmarks.kill import contents
from evohbde import journal
from evohbde.cli import app
from evohbde.rundir import check_target, new_directory
from evohbde.strategies import choice
from evohbde.unfinished import Job, read_job, unfinished
from tests.checkpoint.programs import Killed, die_at
from tests.test_cli import FACTORIES, QUICK, interrupt_after
from tests.test_rundir import save

JOB = Job("tune", {"reference": "m:f", "settings": ("seed=1",), "preset": "default"})


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("factories") / "factories_of_another_user.py"
    path.write_text(FACTORIES)
    yield path
    sys.modules.pop(path.stem, None)
    sys.path.remove(str(path.parent))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No figures, and no strategy but that of plain passes."""
    monkeypatch.setattr(choice, "ADVANTAGE", 0.0)
    monkeypatch.setitem(sys.modules, "evohbde.plots", None)


def evohbde(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def dies(monkeypatch, number, *words):
    with monkeypatch.context() as patch:
        die_at(patch, number)
        with pytest.raises(Killed):
            CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def test_a_killed_run_is_resumed_and_ends_as_if_it_had_not_been(factories, tmp_path, monkeypatch):
    command = ("tune", f"{factories}:parts", "--set", "seed=3", "--quiet", *QUICK)
    undisturbed = evohbde(*command, "--out", tmp_path / "whole")
    assert undisturbed.exit_code == 0, undisturbed.output
    directory = tmp_path / "killed"
    dies(monkeypatch, 3, *command, "--out", directory)
    assert {path.name for path in directory.iterdir()} == {"job.json", "checkpoint"}
    dies(monkeypatch, 2, "resume", directory, "--trust")
    result = evohbde("resume", directory, "--trust")
    assert result.exit_code == 0, result.output
    assert contents(directory) == contents(tmp_path / "whole")
    assert result.stdout == undisturbed.stdout
    again = evohbde("resume", directory, "--trust")
    assert again.exit_code == 2
    assert "holds no unfinished run: the run there is finished" in " ".join(again.stderr.split())


def test_a_killed_pruning_with_repair_is_resumed(factories, tmp_path, monkeypatch):
    command = ("prune", f"{factories}:parts", "--num-evaluations", 60, "--repair", "--quiet")
    assert evohbde(*command, "--out", tmp_path / "whole").exit_code == 0
    directory = tmp_path / "killed"
    dies(monkeypatch, 5, *command, "--out", directory)
    assert (directory / "checkpoint" / journal.FILE).is_file()
    dies(monkeypatch, 60, "resume", directory, "--trust")
    assert evohbde("resume", directory, "--trust").exit_code == 0
    assert contents(directory) == contents(tmp_path / "whole")


def test_no_code_is_run_without_trust(factories, tmp_path, monkeypatch):
    dies(monkeypatch, 2, "tune", f"{factories}:parts", "--out", tmp_path / "run", *QUICK)
    calls = sys.modules[factories.stem].CALLS
    num_calls = len(calls)
    result = evohbde("resume", tmp_path / "run")
    assert result.exit_code == 2
    assert re.search(r"names .*:parts, and to resume means to run that code: .* add --trust", result.stderr)
    assert len(calls) == num_calls


def test_an_unfinished_run_is_not_replaced_unasked(factories, tmp_path, monkeypatch):
    command = ("tune", f"{factories}:parts", "--out", tmp_path / "run", *QUICK)
    dies(monkeypatch, 2, *command)
    before = (tmp_path / "run" / "checkpoint" / journal.FILE).read_bytes()
    refused = evohbde(*command)
    assert refused.exit_code == 2
    assert "holds an unfinished run: continue it (evohbde resume " in refused.stderr
    assert "replace it (--overwrite)" in refused.stderr
    assert (tmp_path / "run" / "checkpoint" / journal.FILE).read_bytes() == before
    other = evohbde(*command, "--overwrite", "--seed", 5)
    assert other.exit_code == 0, other.output
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["seed"] == 5


def test_a_finished_run_stays_until_its_replacement_is_whole(factories, tmp_path, monkeypatch):
    directory = tmp_path / "run"
    command = ("tune", f"{factories}:parts", "--out", directory, *QUICK)
    assert evohbde(*command).exit_code == 0
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    dies(monkeypatch, 2, *command, "--overwrite", "--seed", 5)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name in before} == before
    assert evohbde("resume", directory, "--trust").exit_code == 0
    assert set(before) == {path.name for path in directory.iterdir()}
    assert json.loads((directory / "run.json").read_text())["seed"] == 5


def test_a_damaged_checkpoint_is_told_in_a_sentence(factories, tmp_path, monkeypatch):
    dies(monkeypatch, 3, "tune", f"{factories}:parts", "--out", tmp_path / "run", *QUICK)
    path = tmp_path / "run" / "checkpoint" / journal.FILE
    path.write_bytes(path.read_bytes()[:-5])
    result = evohbde("resume", tmp_path / "run", "--trust")
    assert result.exit_code == 0
    assert "Warning: the checkpoint in " in result.stderr
    assert "is cut short or damaged behind 1 intact answers" in result.stderr


def test_what_keeps_a_run_from_being_resumed_is_a_sentence(factories, tmp_path, monkeypatch):
    missing = evohbde("resume", tmp_path / "nowhere", "--trust")
    assert missing.exit_code == 2 and "holds no unfinished run: it has no job.json" in missing.stderr
    dies(monkeypatch, 2, "tune", f"{factories}:parts", "--out", tmp_path / "run", *QUICK)
    job = json.loads((tmp_path / "run" / "job.json").read_text())
    for change, message in [
        ({"command": "remove"}, r"names an unknown command 'remove'; known: tune, prune"),
        ({"request": {**job["request"], "seed": "1"}}, r"is damaged, or of another version: seed"),
        ({"request": {**job["request"], "out": "elsewhere"}}, r"is damaged, or of another version: out"),
        ({"request": {}}, r"is damaged, or of another version: no reference"),
        ({"request": {**job["request"], "seed": 9}}, r"is that of another run: `seed` was 0 and is 9"),
    ]:
        (tmp_path / "run" / "job.json").write_text(json.dumps({**job, **change}))
        result = evohbde("resume", tmp_path / "run", "--trust")
        assert result.exit_code == 2
        assert re.search(message, result.stderr), result.stderr


def test_an_error_in_mid_run_says_how_to_go_on(factories, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_write", full)
        result = evohbde("tune", f"{factories}:parts", "--out", tmp_path / "run", *QUICK)
    assert result.exit_code == 2
    assert "No space left on device" in result.stderr
    # Nothing had been kept yet, so nothing is left behind.
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_an_error_before_anything_is_kept_leaves_what_was_there(tmp_path, is_there):
    directory = tmp_path / "deep" / "run"
    if is_there:
        save(directory)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="no"), unfinished(directory, JOB, overwrite=True) as checkpoint:
        assert read_job(directory) == replace(JOB, request={**JOB.request, "settings": ["seed=1"]})
        checkpoint.mkdir()
        raise ValueError("no")
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_kept_stays_after_an_error(tmp_path):
    with pytest.raises(MemoryError), unfinished(tmp_path / "run", JOB) as checkpoint:
        checkpoint.mkdir()
        (checkpoint / journal.FILE).write_bytes(b"scores")
        raise MemoryError
    assert (tmp_path / "run" / "checkpoint" / journal.FILE).read_bytes() == b"scores"
    with pytest.raises(FileExistsError, match="holds an unfinished run"):
        check_target(tmp_path / "run")
    save(tmp_path / "run", overwrite=True, keep_checkpoint=True)
    assert (tmp_path / "run" / "checkpoint" / journal.FILE).read_bytes() == b"scores"
    save(tmp_path / "run", overwrite=True)
    assert not {"job.json", "checkpoint"} & {path.name for path in (tmp_path / "run").iterdir()}


def test_a_record_comes_last_and_leaves_first(tmp_path, monkeypatch):
    """Whatever operation on files is the last one: a directory with a record is whole."""
    directory, seen = save(tmp_path / "run"), []
    whole = {path.name for path in directory.iterdir()}

    def watched(act):
        def watch(*arguments, **options):
            names = {path.name for path in directory.iterdir()}
            seen.append("run.json" not in names or whole <= names)
            return act(*arguments, **options)

        return watch

    with new_directory(directory, overwrite=True) as folder:
        for name in whole:
            (folder / name).write_text("new")
        for owner, name in ((pathlib.Path, "unlink"), (pathlib.Path, "replace"), (shutil, "rmtree"), (os, "fsync")):
            monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    assert len(seen) > 2 * len(whole) and all(seen)


JSON = st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)


@given(st.binary(max_size=200) | JSON)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_job_that_cannot_be_read_is_a_value_error(tmp_path, content):
    (tmp_path / "job.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        read_job(tmp_path)


def test_ctrl_c_is_judged_saved_and_can_be_taken_up(factories, tmp_path, monkeypatch):
    command = ("tune", f"{factories}:parts", "--quiet", *QUICK)
    evohbde(*command, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        result = evohbde("tune", f"{factories}:parts", *QUICK, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert json.loads((tmp_path / "run" / "run.json").read_text())["stop_reason"] == "interrupted"
    words = shlex.split(next(line for line in result.stderr.splitlines() if "is kept, to go on from there" in line))
    assert words[-4:] == ["evohbde", "resume", str(tmp_path / "run"), "--trust"]
    assert evohbde(*words[-3:]).exit_code == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
