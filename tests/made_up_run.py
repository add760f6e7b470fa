"""What does a finished run look like? One made up by hand, so that tests of what is shown need no search."""

from dataclasses import replace

from evohbde.history import Row
from evohbde.judge import Entry
from evohbde.record import Environment, Origin, RunRecord
from evohbde.statistics import Interval

SCORES = {"f1_macro": 0.6543, "accuracy": 0.6611, "balanced_accuracy": 0.6502, "cross_entropy": 1.2345}

ENTRIES = [
    Entry("untouched", SCORES, Interval(0.6543, 0.6301, 0.6799), None, None, 0.0),
    Entry(
        "hbde-2024",
        {**SCORES, "f1_macro": 0.7017, "accuracy": 0.7122},
        Interval(0.7017, 0.6765, 0.7269),
        Interval(0.0474, 0.0251, 0.0698),
        Interval(0.0511, 0.0277, 0.0733),
        150_000.0,
    ),
]

ROWS = [
    Row("coarse", "f1_macro", 1, 10, 1_000.0, 0.50, 0.30, 0.61, 0.1),
    Row("coarse", "f1_macro", 2, 20, 2_000.0, 0.55, 0.40, None, 0.2),
    Row("fine", "f1_macro", 1, 30, 4_000.0, 0.60, 0.50, 0.64, 0.3),
    Row("fine", "f1_macro", 2, 40, 6_000.0, 0.65, 0.55, None, 0.4),
    Row("fine", "f1_macro", 3, 50, 8_000.0, 0.70, 0.60, 0.68, 0.5),
]

RECORD = RunRecord(
    preset="hbde-2024",
    switches={"num_bins": 10_000, "rule": "closed", "differential_weight": (0.1, 1.0)},
    arguments={"num_evaluations": 500, "num_samples": None},
    seed=7,
    entries=ENTRIES,
    num_held_out=897,
    notes=["2,778 weights in 2,207 blocks"],
    num_evaluations=500,
    num_samples_seen=150_000.0,
    seconds=12.3,
    stop_reason="budget",
    environment=Environment(
        python="3.11.7",
        system="Linux 6.1",
        packages={"evohbde": "0.1.0", "torch": "2.15.0"},
        num_cpus=2,
        device="cpu",
        commit="0123abc",
        finished="2026-01-02T03:04:05+00:00",
    ),
    origin=Origin("digits", "problems.digits:mlp", {"seed": 1}, "evohbde tune problems.digits:mlp --set seed=1"),
)


def with_gain(gain: Interval) -> RunRecord:
    """Give the same run with another gain."""
    return replace(RECORD, entries=[ENTRIES[0], replace(ENTRIES[1], f1_gain=gain)])
