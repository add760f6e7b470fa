"""Do `fine_tune` and `prune`, stopped anywhere, give what they would have given?"""

from functools import partial

import pytest
import torch

from evohbde import TensorData, fine_tune, journal, prune
from evohbde.checkpoint import checkpointing
from evohbde.hbde_2024 import HBDE2024
from evohbde.staged import Staged
from evohbde.strategies import choice
from tests.checkpoint.programs import Killed, die_at
from tests.small_networks import cnn, digits, mlp

DATA = digits(500)
TRAIN, TEST = DATA.subset(torch.arange(350)), DATA.subset(torch.arange(350, 500))

JOBS = {
    "default, a small network": partial(fine_tune, mlp(), TRAIN, test=TEST, num_evaluations=150, seed=1),
    "default, in stages": partial(
        fine_tune,
        cnn(),
        TRAIN,
        test=TEST,
        preset=Staged(recalibration_samples=100, small_batch_size=20),
        num_samples=6_000,
        seed=1,
    ),
    "hbde-2024, trained first": partial(
        fine_tune,
        mlp(),
        TRAIN,
        test=TEST,
        preset=HBDE2024(num_bins=50, popsize=20, batch_size=100),
        num_evaluations=100,
        pretrain_epochs=1,
        seed=1,
    ),
    "pruning": partial(prune, mlp(), TRAIN, test=TEST, num_evaluations=130, seed=1),
    "pruning as published": partial(prune, mlp(), TRAIN, preset="hierarchical-2026", num_evaluations=220, seed=1),
}


@pytest.fixture(autouse=True)
def plain_passes(monkeypatch):
    """What is fastest is measured, and may differ between runs that know nothing of each other."""
    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice, "ADVANTAGE", 0.0)


def said_by(result) -> list[object]:
    """Everything that a result shows, but for times."""
    rows = [{**vars(row), "seconds": None} for row in result.history.rows]
    facts = [result.notes, rows, result.num_evaluations, result.num_samples_seen, result.stop_reason]
    facts += [result.history.strategies, result.arguments]
    if hasattr(result, "entries") and isinstance(result.entries, list):
        weights = [value.tolist() for value in result.network.state_dict().values()]
        return [*facts, result.entries, weights]
    points = [*result.points, result.unpruned, *result.baselines]
    return [*facts, *((point.origin, point.kept, point.scores, point.bits.tolist()) for point in points)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "pruning as published" else []) for name in JOBS]
)
def test_wherever_it_dies_the_result_is_the_same_bit_for_bit(name, tmp_path, monkeypatch):
    job = JOBS[name]
    undisturbed = said_by(job())
    number, deaths = 2, 0
    while True:
        with monkeypatch.context() as patch:
            die_at(patch, number)
            try:
                result = job(checkpoint=tmp_path)
                break
            except Killed:
                deaths += 1
        number += 9
    assert deaths >= 1
    assert said_by(result) == undisturbed


def test_the_strategy_is_that_of_the_first_run_and_in_the_record(tmp_path, monkeypatch):
    def measured(fastest, strategies, batch_size, z, features, precision, signature):
        ratios = {name: 0.1 if name == fastest else 1.0 for name in strategies}
        return dict(choice._known.setdefault(signature, ratios))

    def run(fastest, directory):
        """Run as in a new process, in which another strategy is the fastest."""
        monkeypatch.setattr(choice, "_known", {})
        monkeypatch.setattr(choice, "ADVANTAGE", 1.0)
        monkeypatch.setattr(choice, "_ratios", partial(measured, fastest))
        return fine_tune(
            mlp(), TRAIN, num_evaluations=150, monitor=False, compare_with_adam=False, checkpoint=directory
        )

    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 16)
        run("batched", tmp_path)
    assert run("views", tmp_path).record().strategy == {"pilot": "batched", "blocks": "batched"}
    assert run("views", tmp_path / "new").record().strategy == {"pilot": "views", "blocks": "views"}


def test_after_ctrl_c_the_search_goes_on_from_there(tmp_path):
    job = JOBS["hbde-2024, trained first"]
    undisturbed = said_by(job(checkpoint=tmp_path / "whole"))
    rows = []

    def stop(row):
        rows.append(row)
        if len(rows) == 2:
            raise KeyboardInterrupt

    interrupted = job(checkpoint=tmp_path / "stopped", on_row=stop)
    assert (interrupted.stop_reason, interrupted.num_evaluations) == ("interrupted", 40)
    assert said_by(job(checkpoint=tmp_path / "stopped")) == undisturbed


def test_time_goes_on_where_it_stopped(tmp_path, monkeypatch):
    job = partial(JOBS["default, a small network"], checkpoint=tmp_path)
    now = 1_000.0
    monkeypatch.setattr(journal.time, "monotonic", lambda: now)
    seconds = []

    def spend(row):
        nonlocal now
        now += 10
        seconds.append(row.seconds)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        die_at(patch, 12)
        job(on_row=spend)
    before, seconds = list(seconds), []
    now = 5_000.0
    rows = job(on_row=lambda row: None).history.rows
    assert len(before) == 3
    assert [row.seconds for row in rows[: len(before)]] == before
    assert max(row.seconds for row in rows) < 10 * len(rows)


def test_other_arguments_data_and_networks_are_named(tmp_path):
    job = partial(fine_tune, test=TEST, num_evaluations=20, seed=1, checkpoint=tmp_path, compare_with_adam=False)
    job(mlp(), TRAIN)
    other = TensorData(TRAIN.x.where(TRAIN.x > 0.1, 0), TRAIN.y)
    changed = mlp()
    with torch.no_grad():
        changed[1].bias[0] += 1
    for expected, call in {
        r"`seed` was 1 and is 2": lambda: job(mlp(), TRAIN, seed=2),
        r"`num_evaluations` was 20 and is 30": lambda: job(mlp(), TRAIN, num_evaluations=30),
        r"`train` was '350 samples": lambda: job(mlp(), other),
        r"`model` was 'Sequential, 1,210 numbers": lambda: job(changed, TRAIN),
        r"`switches` was .*'popsize': 10": lambda: job(mlp(), TRAIN, preset=Staged(popsize=12)),
        r"`preset` was 'default' and is 'hbde-2024'": lambda: job(mlp(), TRAIN, preset="hbde-2024"),
    }.items():
        with pytest.raises(ValueError, match=f"is that of another run: .*{expected}"):
            call()


def test_a_directory_holds_one_job_and_none_within_a_job(tmp_path):
    with checkpointing(tmp_path / "outer", {"what": "two jobs"}) as kept:
        for seed in range(2):
            fine_tune(mlp(), TRAIN, num_evaluations=20, seed=seed, compare_with_adam=False, monitor=False)
        num_added = kept.num_added
    assert num_added > 4
    with checkpointing(tmp_path / "outer", {"what": "two jobs"}) as kept:
        for seed in range(2):
            fine_tune(mlp(), TRAIN, num_evaluations=20, seed=seed, compare_with_adam=False, monitor=False)
        assert (kept.num_recalled, kept.num_added) == (num_added, 0)
    with checkpointing(None, {}) as kept:
        assert kept is None
