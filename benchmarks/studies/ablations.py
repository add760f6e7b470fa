"""Which part of the method matters: blocks, their number and grouping, step size, super-batches, or the objective?

Every part is a comparison of its own on the shifted digits, with all else as in the first of its settings.
"""

from __future__ import annotations

from pathlib import Path

from evotorch.algorithms import SNES
from evotorch.algorithms.searchalgorithm import SearchAlgorithm

from benchmarks.studies.digits import matrix
from benchmarks.studies.records import keep, resume
from benchmarks.tables import markdown, publish
from evohbde import HistogramBlocking, NetworkProblem, SuperBatches, TensorData
from evohbde.comparison import Comparison
from problems.digits import shifted_mlp

TASK = "problems.digits:shifted_mlp"
HERE = "benchmarks.studies.ablations"
SEARCHERS = {"SNES": "evotorch.algorithms:SNES", "DE": "DE"}
BLOCKS = {"300 bins, offset": "HistogramBlocking:num_bins=300,mode=offset"}

BINS = {
    **BLOCKS,
    "30 bins, offset": "HistogramBlocking:num_bins=30,mode=offset",
    "100 bins, offset": "HistogramBlocking:num_bins=100,mode=offset",
    "1,000 bins, offset": "HistogramBlocking:num_bins=1000,mode=offset",
    "10,000 bins, offset": "HistogramBlocking:num_bins=10000,mode=offset",
    "300 bins, replace": "HistogramBlocking:num_bins=300,mode=replace",
    "10,000 bins, replace": "HistogramBlocking:num_bins=10000,mode=replace",
    "60 bins per tensor, offset": "HistogramBlocking:num_bins=60,mode=offset,groups=tensor",
}

STEPS = {f"step times {factor:g}": f"{HERE}:scaled:factor={factor}" for factor in (1.0, 0.25, 0.5, 2.0, 4.0)}

BATCHES: dict[str, dict[str, object]] = {
    "all 300 samples": {"batch_size": 300, "parents": "refresh"},
    "100 samples, parents refreshed": {"batch_size": 100, "parents": "refresh"},
    "100 samples, parents stale": {"batch_size": 100, "parents": "stale"},
    "100 samples, fixed": {"batch_size": 100, "parents": "fixed"},
    "50 samples, parents refreshed": {"batch_size": 50, "parents": "refresh"},
    "50 samples, parents stale": {"batch_size": 50, "parents": "stale"},
}

OBJECTIVES = ("cross_entropy", "f1_macro", "smooth_f1")


def scaled(problem: NetworkProblem, factor: float = 1.0) -> SearchAlgorithm:
    """Build SNES with its first step at a multiple of the default's."""
    return SNES(problem, popsize=20, center_init=problem.center, stdev_init=factor * problem.stdev)


def batched(seed: int = 0, batch_size: int = 300, parents: str = "refresh") -> tuple[NetworkProblem, TensorData]:
    """Build the problem whose generations meet other samples, with those that judge."""
    task = shifted_mlp(seed)
    problem = NetworkProblem(
        task.model,
        SuperBatches(task.train, batch_size, seed=seed, parents=parents),
        "cross_entropy",
        reduction=lambda theta0: HistogramBlocking(theta0, 300, mode="offset"),
        seed=seed,
    )
    assert task.test is not None
    return problem, task.test


def measure(seeds: list[int], num_evaluations: int, out: Path | None = None, num_workers: int | None = None) -> None:
    """All parts; each goes on where it stopped."""
    out = out or Path("runs") / "study-ablations"
    options = {"seeds": seeds, "num_evaluations": num_evaluations, "num_workers": num_workers}
    sections = []
    bins = resume(TASK, SEARCHERS, reductions=BINS, out=out / "bins", **options)
    keep("study-ablations-bins", bins)
    sections.append(f"Blocks:\n\n{matrix(bins)}\n\n{_words(bins.only(searchers=['SNES']))}")
    for title, name, found in (
        ("Step size", "steps", resume(TASK, STEPS, reductions=BLOCKS, out=out / "steps", **options)),
        ("Super-batches", "batches", _batches(out, options)),
        ("Objective", "objectives", _objectives(out, options)),
    ):
        keep(f"study-ablations-{name}", found)
        sections.append(f"{title}:\n\n{_column(found)}\n\n{_words(found)}")
    command = f"python -m benchmarks study-ablations --seeds {seeds[0]}-{seeds[-1]}"
    publish("study-ablations", "\n\n".join(sections), command)


def merge(parts: dict[str, Comparison]) -> Comparison:
    """Put comparisons that differ in one setting side by side: a method is `"searcher, setting"`."""
    settings = dict(next(iter(parts.values())).settings)
    settings["searchers"] = {
        f"{one}, {label}": {} for label, part in parts.items() for one in part.settings["searchers"]
    }
    runs = {}
    for label, part in parts.items():
        for run in part.runs:
            name = f"{run['searcher']}, {label}"
            runs[name, run["reduction"], run["seed"]] = {**run, "searcher": name}
    return Comparison(settings, runs)


def _batches(out: Path, options: dict) -> Comparison:
    parts = {}
    for number, (label, settings) in enumerate(BATCHES.items()):
        where = out / f"batches-{number}"
        parts[label] = resume(f"{HERE}:batched", {"DE": "DE"}, settings=settings, out=where, **options)
    return merge(parts)


def _objectives(out: Path, options: dict) -> Comparison:
    parts = {}
    for objective in OBJECTIVES:
        where = out / f"objective-{objective}"
        parts[objective] = resume(TASK, SEARCHERS, reductions=BLOCKS, objective=objective, out=where, **options)
    return merge(parts)


def _column(found: Comparison) -> str:
    header = ["method", "median held-out macro-F1", "quartiles", "mean rank", "sample forwards"]
    return markdown(header, [[row[0], row[1], row[2], row[4], row[6]] for row in found.rows("f1_macro")])


def _words(found: Comparison) -> str:
    return "\n".join(f"- {line}" for line in found.verdicts("f1_macro", control=found.methods[0]))
