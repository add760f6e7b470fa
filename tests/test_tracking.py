"""Do the recipes of docs/tracking.md log every generation, with no network connection?"""

import math
import os
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tracking.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
NUM_GENERATIONS = 5
"""Of 20 candidates each, from a budget of 100."""


def run(recipe):
    """Run the page's first block, which builds the searcher, and one recipe."""
    names: dict = {"__name__": "page"}
    for block in (BLOCKS[0], *(block for block in BLOCKS if recipe in block)):
        exec(block, names)
    assert names["searcher"].step_count == NUM_GENERATIONS
    return names


@pytest.fixture(autouse=True)
def own_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())


def test_tensorboard_reads_what_was_logged(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = run("TensorBoardLogger")
    found = EventAccumulator(str(tmp_path / "runs" / "tensorboard"))
    found.Reload()
    events = found.Scalars("best_eval")
    assert [event.step for event in events] == list(range(1, NUM_GENERATIONS + 1))
    assert events[-1].value == pytest.approx(float(names["searcher"].status["best_eval"]))


def test_mlflow_reads_what_was_logged():
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow without sqlalchemy has no store of its own")
    names = run("MlflowLogger")
    found = names["client"].get_metric_history(names["run"].info.run_id, "best_eval")
    assert len(found) == NUM_GENERATIONS
    assert found[-1].value == pytest.approx(float(names["searcher"].status["best_eval"]))


def test_wandb_keeps_a_run_offline(tmp_path):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    run("WandbLogger")
    (file,) = (tmp_path / "runs").glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 0 and wandb.run is None


def test_every_status_of_a_searcher_can_be_logged_as_numbers():
    names: dict = {}
    exec(BLOCKS[0], names)
    searcher = names["searcher"]
    searcher.step()
    numbers = {key: value for key, value in searcher.status.items() if isinstance(value, (int, float))}
    assert {"iter", "best_eval", "mean_eval", "num_evaluations"} <= set(numbers)
    assert all(math.isfinite(value) for value in numbers.values())
