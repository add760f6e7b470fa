"""Does a command do the whole job, can its record be run again, and is a newcomer's mistake explained?"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from evohbde import __version__
from evohbde.cli import app
from evohbde.history import Row
from evohbde.judge import judge
from evohbde.progress import SearchProgress
from evohbde.rundir import load_network
from evohbde.tune import load_task

FACTORIES = '''
import torch
from torch import nn
from evohbde import Task, TensorData

CALLS = []

def network(size=4, outputs=2):
    """A linear rule with noise on it, so that there is something to improve."""
    model = nn.Linear(size, outputs)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.3, 0.4, size * outputs).reshape(outputs, size))
        model.weight[0, 0] -= 1.0
        model.bias.zero_()
    return model

def data(seed, num=120, size=4):
    x = torch.randn(num, size, generator=torch.Generator().manual_seed(seed))
    return TensorData(x, (x[:, 0] > 0).long())

def parts(seed: int = 0, *, num: int = 120):
    CALLS.append(seed)
    return network(), data(seed, num), None, data(seed + 1)

def whole(): return Task(network(), data(0), test=data(1), name="a named task")
TASK = whole()
def two(): return network(), data(0)
def nothing(): pass
def lists(): return network(), [([1.0], 0)]
def swapped(): return data(0), network()
def five(): return 1, 2, 3, 4, 5
def narrow(): return network(size=3), data(0)
def one_output(): return network(outputs=1), data(0)
def untrained():
    model = network()
    nn.init.zeros_(model.weight)
    return model, data(0)
def needs(root): return root
def fails(): raise FileNotFoundError("no file at images.tar")
def stopped(): raise KeyboardInterrupt
model = network()
'''

QUICK = ("--preset", "hbde-2024", "--num-evaluations", "40", "--preset-set", "popsize=10", "--preset-set", "num_bins=5")


@pytest.fixture(scope="module")
def factories(tmp_path_factory):
    path = tmp_path_factory.mktemp("factories") / "factories_of_a_user.py"
    path.write_text(FACTORIES)
    yield path
    sys.modules.pop(path.stem, None)
    sys.path.remove(str(path.parent))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evohbde(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def done(factories, tmp_path_factory):
    """One finished run: its directory and what was printed."""
    directory = tmp_path_factory.mktemp("done") / "run"
    result = evohbde("tune", f"{factories}:parts", "--out", directory, "--set", "seed=3", *QUICK)
    assert result.exit_code == 0, result.output
    return directory, result


def record_of(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def test_a_run_leaves_its_files(done):
    directory, _ = done
    assert {path.name for path in directory.iterdir()} == {
        "run.json", "history.csv", "network.safetensors", "report.html", "scores.png", "convergence.png", "weights.png"
    }  # fmt: skip
    record = record_of(directory)
    assert record["num_evaluations"] == 40
    assert record["origin"]["settings"] == {"seed": 3}
    assert (record["switches"]["popsize"], record["switches"]["num_bins"]) == (10, 5)


def test_the_table_is_printed_with_the_numbers_of_the_record(done):
    directory, result = done
    for entry in record_of(directory)["entries"]:
        line = next(line for line in result.stdout.splitlines() if line.startswith(entry["name"]))
        assert f"{entry['f1']['value']:.4f} [{entry['f1']['lower']:.4f}, {entry['f1']['upper']:.4f}]" in line
        assert f"{entry['num_samples']:,.0f}" in line
    assert f"Saved to {directory}" in result.stderr
    assert "samples/s" in result.stderr and "100%" in result.stderr


def test_a_record_can_be_run_again(done, here):
    before = record_of(done[0])
    words = shlex.split(before["origin"]["command"])
    assert words[0] == "evohbde"
    assert evohbde(*words[1:], "--out", "again").exit_code == 0
    again = record_of(here / "again")
    for key in ("entries", "arguments", "switches", "notes", "num_samples_seen", "origin"):
        assert again[key] == before[key]


def test_the_saved_network_is_the_one_in_the_table(done, factories):
    directory, _ = done
    task = load_task(f"{factories}:parts", {"seed": 3})
    entries = judge(
        [
            ("untouched", task.model, 0.0),
            ("hbde-2024", load_network(load_task(f"{factories}:parts", {}).model, directory), 0.0),
        ],
        task.test,
    )
    table = {entry["name"]: entry for entry in record_of(directory)["entries"]}
    for entry in entries:
        assert entry.scores == table[entry.name]["scores"]
    assert set(load_file(directory / "network.safetensors")) == {"weight", "bias"}


def test_a_finished_task_and_a_factory_of_one_are_accepted(factories):
    for name in ("whole", "TASK"):
        assert load_task(f"{factories}:{name}", {}).name == "a named task"
    with pytest.raises(ValueError, match="takes no settings"):
        load_task(f"{factories}:TASK", {"seed": 1})
    task = load_task(f"{factories}:two", {})
    assert task.validation is None and task.test is None


MISTAKES = {
    "no function named": ("{path}", r"names a file and nothing in it: write .*:name_of_the_function"),
    "unknown function": ("{path}:part", r"has no 'part'; did you mean 'parts'\?"),
    "unknown file": ("no_such.py:parts", r"there is no file .*no_such\.py"),
    "unknown module": ("no_such_module_at_all:parts", r"there is no module 'no_such_module_at_all'"),
    "a network": ("{path}:model", r"is a network: expected a function that returns it with its data"),
    "returns nothing": ("{path}:nothing", r"returned None: expected an evohbde\.Task, or a tuple \(model, train"),
    "returns too much": ("{path}:five", r"returned a tuple of 5: expected an evohbde\.Task"),
    "other data": ("{path}:lists", r"gave a list as its train data: expected a TensorData, made by TensorData\(x, y\)"),
    "wrong order": ("{path}:swapped", r"gave a TensorData as its model: expected a torch\.nn\.Module"),
    "wrong shape": ("{path}:narrow", r"model fails on inputs of shape"),
    "too few outputs": ("{path}:one_output", r"only 1 outputs"),
    "untrained": ("{path}:untrained", r"looks untrained.*pass --pretrain-epochs 10"),
    "argument missing": ("{path}:needs", r"needs more settings, each as KEY=VALUE: .*'root'"),
    "argument unknown": ("{path}:parts --set sed=3", r"does not know 'sed': it takes seed, num; did you mean 'seed'\?"),
    "argument of another type": ("{path}:parts --set num=many", r"expected 'num' to be int, got 'many'"),
    "no value": ("{path}:parts --set seed", r"expected key=value, got 'seed'"),
    "factory fails": ("{path}:fails", r"fails: no file at images\.tar \(factories_of_a_user\.py, line \d+\)"),
    "unknown preset": ("{path}:parts --preset hbde2024", r"no preset 'hbde2024'; did you mean 'hbde-2024'\?"),
    "unknown switch": ("{path}:parts --preset-set popsiz=5", r"does not know 'popsiz': .*did you mean 'popsize'\?"),
    "bad switch": ("{path}:parts --preset-set inject=last", r"`inject` must be 'none' or 'first', got 'last'"),
    "no budget": ("{path}:parts --num-evaluations 0", r"--num-evaluations must be positive, got 0"),
    "unknown device": ("{path}:parts --device gpu", r"cannot use the device 'gpu'"),
    "a file in the way": ("{path}:parts --out {path}", r"is a file: choose another directory with --out"),
    "not a run directory": ("{path}:parts --out {path.parent}", r"is not empty and no run directory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, factories, here):
    words, message = MISTAKES[mistake]
    options = [] if "--preset " in words else ["--preset", "hbde-2024"]
    result = evohbde("tune", *options, *words.format(path=factories).split())
    assert result.exit_code == 2
    sentence = result.stderr.rstrip("\n").splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert re.search(message, sentence), sentence
    assert "Traceback" not in result.output
    assert list(here.iterdir()) == []


def test_the_traceback_is_there_for_who_asks(factories, here):
    result = evohbde("tune", f"{factories}:nothing", "--preset", "hbde-2024", "--debug")
    assert isinstance(result.exception, TypeError)


def test_the_directory_is_checked_before_the_factory_runs(done, factories):
    directory, _ = done
    before = record_of(directory)
    calls = sys.modules[factories.stem].CALLS
    num_calls = len(calls)
    result = evohbde("tune", f"{factories}:parts", "--out", directory, *QUICK)
    assert result.exit_code == 2
    assert "holds a run already: replace it (--overwrite), or choose another directory with --out" in result.stderr
    assert len(calls) == num_calls
    assert record_of(directory) == before


def interrupt_after(num_rows, monkeypatch):
    show = SearchProgress.on_row

    def on_row(self: SearchProgress, row: Row) -> None:
        show(self, row)
        if row.generation == num_rows:
            raise KeyboardInterrupt

    monkeypatch.setattr(SearchProgress, "on_row", on_row)


def test_ctrl_c_saves_what_was_found(factories, here, monkeypatch):
    interrupt_after(2, monkeypatch)
    result = evohbde("tune", f"{factories}:parts", *QUICK)
    assert result.exit_code == 130
    assert "Interrupted: this is what was found until then." in result.stderr
    directory = here / "runs" / "parts-hbde-2024-0"
    record = record_of(directory)
    assert record["stop_reason"] == "interrupted"
    assert record["num_evaluations"] == 20
    assert torch.isfinite(load_file(directory / "network.safetensors")["weight"]).all()
    assert "hbde-2024" in result.stdout


def test_ctrl_c_before_the_search_saves_nothing(factories, here):
    result = evohbde("tune", f"{factories}:stopped", *QUICK)
    assert result.exit_code == 130
    assert "nothing was saved" in result.stderr
    assert list(here.iterdir()) == []


def test_without_matplotlib_the_run_is_saved_all_the_same(factories, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "evohbde.plots", None)
    result = evohbde("tune", f"{factories}:parts", "--out", "run", "--no-adam", *QUICK)
    assert result.exit_code == 0
    assert "pip install 'evohbde[plots]'" in result.stderr
    assert {path.name for path in (here / "run").iterdir()} == {
        "run.json", "history.csv", "network.safetensors", "report.html"
    }  # fmt: skip
    assert [entry["name"] for entry in record_of(here / "run")["entries"]] == ["untouched", "blocked only", "hbde-2024"]

    again = evohbde("tune", f"{factories}:parts", "--out", "run", "--no-adam", "--overwrite", "--quiet", *QUICK)
    assert again.exit_code == 0
    assert again.stderr == ""
    assert again.stdout == result.stdout


def test_help_is_quick_and_warns_of_running_code():
    script = "import sys, evohbde.cli; assert not {'torch', 'evotorch', 'numpy'} & set(sys.modules), 'slow'"
    subprocess.run([sys.executable, "-c", script], check=True)
    words = " ".join(evohbde("tune", "--help").stdout.split())
    assert "a reference runs code" in words
    assert all(option in words for option in ("--out", "--num-samples", "--preset-set", "--pretrain-epochs"))


def test_versions():
    for words in (["version"], ["--version"]):
        result = evohbde(*words)
        assert result.exit_code == 0
        assert result.stdout.startswith(f"evohbde {__version__} (Python ")


@pytest.mark.parametrize(
    ("num_evaluations", "num_samples", "share"), [(100, None, 0.5), (None, 4e3, 0.25), (100, 1.6e3, 0.625)]
)
def test_progress_is_the_larger_share_of_the_two_budgets(num_evaluations, num_samples, share):
    progress = SearchProgress(Console(quiet=True, width=120), num_evaluations, num_samples)
    progress.on_row(Row("s", "f1_macro", 1, 50, 1_000.0, 0.9, 0.8, 0.7, 2.0))
    assert progress.share == share
    row = Row("s", "f1_macro", 2, 60, 1_000_000.0, 0.9, 0.8, None, 2.0)
    assert progress.facts(row) == "best 0.900  mean 0.800  held-out F1 0.700  500k samples/s"
