"""Is a run directory complete or absent, and does the network come back as it was?"""

import csv
import json
import math
import os
import subprocess
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from evohbde.history import History
from evohbde.record import Origin, as_plain, describe_environment, git_commit
from evohbde.rundir import check_target, load_network, new_directory, save_network, save_run
from tests.made_up_run import ENTRIES, RECORD, ROWS


class Tied(nn.Module):
    """A small network with everything that is hard to save: tied weights, buffers, views, a state that is no tensor."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(6, 6)
            self.norm = nn.BatchNorm1d(6)
            self.last = nn.Linear(6, 6, bias=False)
            self.norm.running_mean.normal_()
        self.last.weight = self.first.weight
        self.register_buffer("turned", torch.arange(12.0).reshape(3, 4).t())
        self.register_buffer("nothing", torch.empty(0))

    def get_extra_state(self) -> dict[str, str]:
        return {"any": "thing"}

    def set_extra_state(self, state: dict[str, str]) -> None:
        pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)).relu())


def save(directory, **options):
    history = History()
    history.rows = list(ROWS)
    return save_run(directory, RECORD, history, Tied().eval(), {"scores.png": b"a picture"}, **options)


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_everything_is_there(tmp_path):
    directory = save(tmp_path / "deep" / "run")
    assert directory == tmp_path / "deep" / "run"
    assert set(contents(directory)) == {"run.json", "history.csv", "network.safetensors", "report.html", "scores.png"}
    assert [path.name for path in directory.parent.iterdir()] == ["run"]
    assert (directory / "scores.png").read_bytes() == b"a picture"


def test_the_record_says_all_of_it(tmp_path):
    written = json.loads((save(tmp_path / "run") / "run.json").read_text())
    assert written == as_plain(RECORD)
    assert written["origin"]["settings"] == {"seed": 1}
    assert written["switches"]["differential_weight"] == [0.1, 1.0]
    assert written["entries"][1]["f1_gain"] == {"value": 0.0474, "lower": 0.0251, "upper": 0.0698}


def test_the_history_has_a_line_per_generation(tmp_path):
    with open(save(tmp_path / "run") / "history.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["best"]) for line in lines] == [row.best for row in ROWS]
    assert [line["held_out"] for line in lines] == ["0.61", "", "0.64", "", "0.68"]


def test_numbers_that_are_not_finite_keep_the_record_readable():
    scores = {**ENTRIES[0].scores, "cross_entropy": math.inf}
    record = replace(RECORD, seconds=math.nan, entries=[replace(ENTRIES[0], scores=scores)])
    written = json.loads(record.to_json(), parse_constant=pytest.fail)
    assert written["seconds"] is None
    assert written["entries"][0]["scores"]["cross_entropy"] is None


def test_what_json_cannot_say_becomes_text():
    origin = Origin("n", "r", {"path": os.path, "device": torch.device("cpu"), 3: {1}}, "c")
    assert as_plain(origin)["settings"] == {"path": str(os.path), "device": "cpu", "3": [1]}


def test_files_are_as_readable_as_others(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    directory = save(tmp_path / "run")
    assert directory.stat().st_mode == (tmp_path / "other").stat().st_mode
    assert {path.stat().st_mode for path in directory.iterdir()} == {(tmp_path / "other" / "file").stat().st_mode}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_fails_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), new_directory(tmp_path / "run") as folder:
        (folder / "half").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_failing_replacement_keeps_the_old_run(tmp_path):
    before = contents(save(tmp_path / "run"))
    with pytest.raises(RuntimeError), new_directory(tmp_path / "run", overwrite=True) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert contents(tmp_path / "run") == before
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_replacement_leaves_nothing_of_the_old_run(tmp_path):
    directory = save(tmp_path / "run")
    (directory / "convergence.png").write_bytes(b"of the old run")
    save(directory, overwrite=True)
    assert "convergence.png" not in contents(directory)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_is_not_replaced_unasked(tmp_path):
    before = contents(save(tmp_path / "run"))
    with pytest.raises(FileExistsError, match=r"holds a run already: replace it \(overwrite=True\), or choose another"):
        save(tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_is_no_run_is_never_replaced(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"is not empty and no run directory"):
        save(tmp_path, overwrite=overwrite)
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty", overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match=r"file is a file"):
        check_target(tmp_path / "file", overwrite=True)
    with pytest.raises(FileExistsError, match=r"cannot be made because .*file is a file"):
        check_target(tmp_path / "file" / "run")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is writable for root")
def test_a_directory_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="not writable"):
        check_target(tmp_path / "run")


def test_a_network_comes_back_with_identical_outputs(tmp_path):
    network, other = Tied(seed=1).eval(), Tied(seed=2)
    save_network(network, tmp_path / "network.safetensors")
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(other.eval()(x), network(x))
    loaded = load_network(other.train(), tmp_path)
    assert loaded is other and not loaded.training
    assert torch.equal(loaded(x), network(x))
    assert torch.equal(loaded.turned, network.turned)
    assert loaded.last.weight is loaded.first.weight


def test_a_tied_tensor_is_written_once(tmp_path):
    save_network(Tied(), tmp_path / "file.safetensors")
    with safe_open(tmp_path / "file.safetensors", "pt") as file:
        assert "last.weight" not in file.keys()  # noqa: SIM118, it is no mapping
        assert file.metadata() == {"last.weight": "first.weight"}


def test_weights_of_another_network_are_refused(tmp_path):
    network = nn.Linear(3, 2)
    save_network(network, tmp_path / "network.safetensors")
    with pytest.raises(ValueError, match=r"weight is \(2, 3\) in the file and \(2, 4\) in the network"):
        load_network(nn.Linear(4, 2), tmp_path)
    with pytest.raises(ValueError, match=r"0\.weight is missing in the file; .*; and 1 more"):
        load_network(nn.Sequential(nn.Linear(3, 2)), tmp_path)
    target = nn.Linear(3, 5)
    before = target.weight.clone()
    with pytest.raises(ValueError, match="are not those of this Linear"):
        load_network(target, tmp_path)
    assert torch.equal(target.weight, before)


def test_missing_or_damaged_weights_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run directory with network\.safetensors"):
        load_network(nn.Linear(3, 2), tmp_path)
    (tmp_path / "network.safetensors").write_bytes(b"no such format")
    with pytest.raises(ValueError, match="is damaged or no safetensors file"):
        load_network(nn.Linear(3, 2), tmp_path)


def test_the_commit_is_that_of_the_directory(tmp_path):
    assert git_commit(tmp_path) is None
    run = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "add", "file"], cwd=tmp_path, check=True)
    subprocess.run([*run, "commit", "-q", "-m", "m"], cwd=tmp_path, check=True)
    clean = git_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"


def test_the_environment_names_versions():
    environment = describe_environment(torch.device("cpu"))
    assert environment.packages["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert set(environment.packages) == {"evohbde", "torch", "evotorch", "numpy"}
    assert environment.device == "cpu"
    assert environment.num_cpus >= 1
