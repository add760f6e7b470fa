"""Does `evohbde compare` do what its help says, and tell mistakes in a sentence?"""

import io
import itertools
import json
import re
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks.kill import contents
from evohbde.cli import app
from evohbde.compare_command import CompareRequest, _Progress, parse_seeds
from evohbde.comparison import records, single
from evohbde.unfinished import Job
from tests.checkpoint.programs import Killed, die_at
from tests.comparison.test_result import made_up

FACTORY = "tests.comparison.factories:sphere"


def run(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)])


def test_a_comparison_is_shown_kept_and_continued(tmp_path):
    out = tmp_path / "out"
    words = [FACTORY, "--searcher", "RandomSearch:popsize=10", "--searcher", "evotorch.algorithms:SNES"]
    words += ["--num-evaluations", 40, "--seeds", "0-2", "--num-workers", 1, "--out", out]
    first = run(*words)
    assert first.exit_code == 0, first.output
    assert "median best" in first.stdout and "SNES" in first.stdout
    assert "cannot show a difference" in first.stderr and f"evohbde report {out}" in first.stderr.replace("\n", "")
    assert "6/6" in first.stderr
    about = json.loads((out / records.SETTINGS).read_text())
    assert about["command"].startswith(f"evohbde compare {FACTORY} --searcher RandomSearch:popsize=10")
    second = run(*words)
    assert second.exit_code == 0 and "6 runs are there already; 0 to go" in second.stderr
    assert second.stdout == first.stdout


def test_a_killed_comparison_is_resumed_from_its_directory_alone(tmp_path, monkeypatch):
    def evohbde(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    words = ["compare", "tests.comparison.factories:small_task", "--searcher", "DE", "--searcher", "RandomSearch"]
    words += ["--num-evaluations", 40, "--seeds", "0-1", "--num-workers", 1, "--out"]
    undisturbed = evohbde(*words, tmp_path / "whole")
    assert undisturbed.exit_code == 0
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 12)
        CliRunner().invoke(app, [str(word) for word in (*words, killed)], catch_exceptions=False)
    assert {path.name for path in killed.iterdir()} == {"compare.json", "runs.jsonl", "in-flight", "job.json"}
    refused = evohbde("resume", killed)
    assert refused.exit_code == 2 and "add --trust" in refused.stderr
    resumed = evohbde("resume", killed, "--trust")
    assert resumed.exit_code == 0, resumed.output
    assert contents(killed) == contents(tmp_path / "whole")
    again = evohbde("resume", killed, "--trust")
    assert again.exit_code == 2 and "the run there is finished" in " ".join(again.stderr.split())


@pytest.mark.parametrize(("number", "words"), [(0, "Nothing had been scored"), (5, "evohbde resume .* --trust")])
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(number, words, tmp_path, monkeypatch):
    count = itertools.count()
    run_job = single.run_job

    def stopped(*arguments):
        if number == 0 or next(count) == 2:
            raise KeyboardInterrupt
        return run_job(*arguments)

    # The package exports a function of the module's name, so that the module itself has to be asked for.
    module, name = ("compare", "rehearse") if number == 0 else ("execution", "run_job")
    monkeypatch.setattr(sys.modules[f"evohbde.comparison.{module}"], name, stopped)
    found = run(FACTORY, "--searcher", "RandomSearch", "--num-evaluations", 20, "--seeds", "0-4", "--num-workers", 1,
                "--out", tmp_path / "out")  # fmt: skip
    assert found.exit_code == 130
    assert re.search(f"Interrupted. .*{words}", found.stderr), found.stderr


def test_a_directory_that_sets_more_than_its_command_takes_is_not_resumed(tmp_path):
    request = {"reference": FACTORY, "searchers": ["DE"], "num_evaluations": 40, "out": "/elsewhere"}
    (tmp_path / "job.json").write_bytes(Job("compare", request).to_json())
    found = CliRunner().invoke(app, ["resume", str(tmp_path), "--trust"])
    assert found.exit_code == 2 and "damaged, or of another version: out" in " ".join(found.stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([FACTORY, "--num-evaluations", "10"], "name the searchers to compare"),
        ([FACTORY, "--searcher", "DE"], "needs a budget: give --num-evaluations, --num-samples"),
        ([FACTORY, "--searcher", "DEE", "--num-evaluations", "10"], "did you mean"),
        ([FACTORY, "--searcher", "DE", "--num-evaluations", "10", "--seeds", "a"], "--seeds must look like 0-10"),
        (["tests.comparison.factories:nothing", "--searcher", "DE", "--num-evaluations", "10"], "has no 'nothing'"),
    ],
)
def test_mistakes_are_one_sentence(words, message, tmp_path):
    found = run(*words, "--out", tmp_path / "out", "--num-workers", 1)
    assert found.exit_code == 2
    assert message in re.sub(r"\s+", " ", found.stderr) and "Traceback" not in found.stderr
    assert not (tmp_path / "out").exists()


def test_on_a_terminal_a_table_is_redrawn_and_cleared():
    found = made_up(3)
    found.runs[0]["error"] = "it broke"
    screen = io.StringIO()
    with _Progress(Console(file=screen, force_terminal=True, width=100), "a:b", is_quiet=False) as progress:
        progress.on_run(None, found)
        progress.on_run(found.runs[1], found)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "9 runs are there already; 1 to go" in shown
    (line,) = {line.strip() for line in shown.splitlines() if line.strip().startswith("A ")}
    assert line.split()[:3] == ["A", "2/3", "1"]


def test_seeds_are_ranges_and_lists():
    assert parse_seeds("0-2,5,7-8") == [0, 1, 2, 5, 7, 8]
    assert parse_seeds("3") == [3]


def test_the_recorded_command_repeats_what_was_asked_for():
    request = CompareRequest("a:b", ("x y=DE",), ("full",), num_evaluations=5, seeds="1", settings=("k=v",))
    assert request.command() == (
        "evohbde compare a:b --searcher 'x y=DE' --reduction full --objective cross_entropy --num-evaluations 5 "
        "--seeds 1 --num-threads 1 --set k=v"
    )
