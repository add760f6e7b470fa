"""Does `evohbde prune` do the whole job, can its record be run again, and is a mistake explained in one sentence?"""

import csv
import json
import re
import shlex
import sys

import pytest
import torch
from typer.testing import CliRunner

from evohbde.cli import app
from evohbde.history import Row
from evohbde.progress import SearchProgress
from evohbde.rundir import load_network
from tests.small_networks import cnn

FACTORY = """
import torch
from torch import nn
from evohbde import Task
from tests.small_networks import cnn, digits

def parts(seed: int = 0):
    everything = digits(400)
    train, test = (everything.subset(torch.arange(start, start + 200)) for start in (0, 200))
    return cnn(), train, None, test

def flat():
    model, train, _, _ = parts()
    return nn.Sequential(nn.Flatten(), nn.LayerNorm(64)), train
"""

QUICK = ("--num-evaluations", "60")


@pytest.fixture(scope="module")
def factory(tmp_path_factory):
    path = tmp_path_factory.mktemp("factories") / "prunable_of_a_user.py"
    path.write_text(FACTORY)
    yield path
    sys.modules.pop(path.stem, None)
    sys.path.remove(str(path.parent))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evohbde(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def done(factory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("done") / "run"
    result = evohbde("prune", f"{factory}:parts", "--out", directory, "--max-loss", "0.05", "--repair", *QUICK)
    assert result.exit_code == 0, result.output
    return directory, result


def record_of(directory):
    return json.loads((directory / "run.json").read_text())


def front_of(directory):
    with open(directory / "front.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_front_and_the_table_are_printed(done):
    directory, result = done
    record = record_of(directory)
    names = ["unpruned", "default", "global magnitude", "uniform magnitude", "default, repaired", "unpruned, repaired"]
    assert [entry["name"] for entry in record["entries"]] == names
    for entry in record["entries"]:
        assert f"{entry['f1']['value']:.4f} [{entry['f1']['lower']:.4f}, {entry['f1']['upper']:.4f}]" in result.stdout
    for row in front_of(directory):
        if row["row"] in ("0", "1"):
            assert f"{100 * float(row['kept']):.1f} %" in result.stdout
    assert record["lead"] in " ".join(result.stderr.split())
    assert "hypervolume" in result.stderr and "on the front" in result.stderr


def test_the_saved_network_is_the_lightest_within_the_loss_and_repaired(done):
    directory, _ = done
    rows = front_of(directory)
    before = next(float(row["validation_accuracy"]) for row in rows if row["origin"] == "unpruned" and not row["row"])
    points = [row for row in rows if row["row"]]
    fitting = [row for row in points if float(row["validation_accuracy"]) >= before - 0.05 - 1e-9]
    lightest = min(float(row["kept"]) for row in fitting)
    network = load_network(cnn(), directory)
    kept = sum(int((weight != 0).sum()) for weight in (network.conv.weight, network.head.weight)) / 594
    assert kept == pytest.approx(lightest)
    notes = record_of(directory)["notes"]
    assert any(note.startswith("repair of unpruned: ") for note in notes)


def test_a_record_can_be_run_again(done, here):
    before = record_of(done[0])
    words = shlex.split(before["origin"]["command"])
    assert words[:2] == ["evohbde", "prune"]
    assert evohbde(*words[1:], "--out", "again").exit_code == 0
    again = record_of(here / "again")
    for key in ("entries", "arguments", "switches", "notes", "origin"):
        assert again[key] == before[key]
    assert (here / "again" / "masks.safetensors").read_bytes() == (done[0] / "masks.safetensors").read_bytes()


MISTAKES = {
    "unknown preset": ("{path}:parts --preset hierarchical", r"no pruning preset 'hierarchical'; did you mean 'hier"),
    "unknown switch": ("{path}:parts --preset-set popsiz=5", r"does not know 'popsiz': .*did you mean 'popsize'\?"),
    "bad switch": ("{path}:parts --preset-set most=2.0", r"`most` must lie in \(0, 1\)"),
    "two choices": ("{path}:parts --knee --density 0.5", r"choose by one of --max-loss, --density and --knee only"),
    "bad loss": ("{path}:parts --max-loss -1", r"--max-loss must be at least 0"),
    "bad density": ("{path}:parts --density 2", r"--density must lie in \(0, 1\]"),
    "no budget": ("{path}:parts --num-samples 0", r"--num-samples must be positive"),
    "unknown objective": ("{path}:parts --objective errors --objective density", r"unknown objective 'errors'"),
    "nothing to prune": ("{path}:flat", r"can be pruned"),
    "a file in the way": ("{path}:parts --out {path}", r"is a file: choose another directory with --out"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake, factory, here):
    words, message = MISTAKES[mistake]
    result = evohbde("prune", *words.format(path=factory).split())
    assert result.exit_code == 2
    sentence = result.stderr.rstrip("\n").splitlines()[-1]
    assert sentence.startswith("Error: ")
    assert re.search(message, sentence), sentence
    assert list(here.iterdir()) == []


def test_a_size_that_no_network_has_does_not_lose_the_run(factory, here):
    result = evohbde("prune", f"{factory}:parts", "--density", "0.0001", "--out", "run", *QUICK)
    assert result.exit_code == 0
    assert "the network with the best accuracy is saved instead" in " ".join(result.stderr.split())
    assert (here / "run" / "network.safetensors").is_file()


def test_ctrl_c_saves_what_was_found(factory, here, monkeypatch):
    show = SearchProgress.on_row

    def on_row(self: SearchProgress, row: Row) -> None:
        show(self, row)
        if row.num_evaluations >= 40:
            raise KeyboardInterrupt

    monkeypatch.setattr(SearchProgress, "on_row", on_row)
    words = ("--preset", "hierarchical-2026", "--num-evaluations", "200", "--quiet")
    result = evohbde("prune", f"{factory}:parts", *words)
    assert result.exit_code == 130
    record = record_of(here / "runs" / "parts-pruned-hierarchical-2026-0")
    assert record["stop_reason"] == "interrupted"
    assert 40 <= record["num_evaluations"] < 200
    assert result.stderr == ""
    assert torch.isfinite(load_network(cnn(), here / "runs" / "parts-pruned-hierarchical-2026-0").head.weight).all()
