"""What does a comparison look like? One made up from a formula, so that tests of what is shown need no search."""

import json
import math
from pathlib import Path

import numpy as np

SEARCHERS = {"DE": 0.30, "SNES": 0.20, "RandomSearch": 0.05}
"""How far each one gets."""

SEEDS = range(7)
ENVIRONMENT = {
    "python": "3.11.7",
    "system": "Linux 6.1",
    "packages": {"evohbde": "0.1.0", "torch": "2.15.0"},
    "num_cpus": 2,
    "device": "cpu",
    "commit": "0123abc",
    "finished": "2026-01-02T03:04:05+00:00",
}


def made_up_settings(reductions=("HistogramBlocking",), **changes):
    """What `compare.json` says."""
    return {
        "format": 1,
        "reference": "problems.digits:mlp",
        "settings": {"hidden": 16},
        "searchers": {name: {"reference": name, "settings": {"popsize": 20}} for name in SEARCHERS},
        "reductions": {name: {"reference": name, "settings": {"mode": "offset"}} for name in reductions},
        "objective": "cross_entropy",
        "objective_sense": "min",
        "held_out": ["f1_macro", "accuracy", "cross_entropy"],
        "num_evaluations": 400,
        "num_samples": None,
        "seeds": list(SEEDS),
        "environment": ENVIRONMENT,
        "command": "evohbde compare problems.digits:mlp --searcher DE --searcher SNES --searcher RandomSearch",
        **changes,
    }


def made_up_run(searcher, reduction, seed):
    """A line of `runs.jsonl`: scores that approach a limit, with noise."""
    noise = np.random.default_rng([seed, len(searcher), len(reduction or "")])
    points = []
    for spent in range(40, 401, 40):
        gain = SEARCHERS[searcher] * (1 - math.exp(-spent / 150)) + noise.normal(0, 0.01)
        held_out = {"f1_macro": 0.6 + gain, "accuracy": 0.62 + gain, "cross_entropy": 1.2 - gain}
        points.append(
            {
                "num_evaluations": spent,
                "num_samples_seen": 300.0 * spent,
                "seconds": spent / 100,
                "best": 1.1 - gain,
                "mean": 1.2 - gain,
                "held_out": held_out if spent % 80 == 0 else None,
            }
        )
    untouched = {"selection": 1.1, "f1_macro": 0.6, "accuracy": 0.62, "cross_entropy": 1.2}
    last = points[-1]
    return {
        "searcher": searcher,
        "reduction": reduction,
        "seed": seed,
        **{key: last[key] for key in ("num_evaluations", "num_samples_seen", "seconds", "best", "held_out")},
        "stop_reason": "num_evaluations",
        "error": None,
        "untouched": untouched,
        "trajectory": points,
    }


def failed_run(searcher, reduction, seed, error):
    """A line of `runs.jsonl` of a run that came to nothing."""
    empty = {"num_evaluations": 0, "num_samples_seen": 0.0, "seconds": 0.1, "best": None, "stop_reason": None}
    found = {"searcher": searcher, "reduction": reduction, "seed": seed, **empty, "error": error}
    return {**found, "untouched": {}, "held_out": {}, "trajectory": []}


def all_runs(settings):
    """Every run of a comparison."""
    return [
        made_up_run(searcher, reduction, seed)
        for seed in settings["seeds"]
        for reduction in list(settings["reductions"]) or [None]
        for searcher in settings["searchers"]
    ]


def write_comparison(directory: Path, settings, runs) -> Path:
    """Write a directory as `evohbde compare` does."""
    directory.mkdir(parents=True)
    (directory / "compare.json").write_text(json.dumps(settings))
    (directory / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs))
    return directory
