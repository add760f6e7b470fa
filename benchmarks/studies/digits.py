"""Which searcher goes with which reduction, on the digits, within few evaluations?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.contenders import OURS, PACKAGES
from benchmarks.studies.records import keep, resume
from benchmarks.tables import markdown, publish
from evohbde.comparison import Comparison

NUM_TRAIN = 300
"""Samples of the search, so that both budgets of a run are the same."""

SEARCHERS = {
    "DE": "DE",
    "SHADE": "SHADE",
    "separable CMA-ES": "CMAES:separable=true",
    "SNES": "evotorch.algorithms:SNES",
    "PGPE": "evotorch.algorithms:PGPE",
    "random search": "RandomSearch",
    "Adam": "GradientSearcher:optimizer=adam,steps_per_generation=30",
}

REDUCTIONS = {
    "offset blocks": "HistogramBlocking:num_bins=300,mode=offset",
    "replaced blocks": "HistogramBlocking:num_bins=300,mode=replace",
    "quantile blocks": "QuantileBlocking:num_blocks=250,mode=offset",
    "random blocks": "RandomBlocking:num_blocks=250,mode=offset",
    "projection": "RandomProjection:dim=250",
    "channel gains": "ChannelScaling:include_vectors=true",
    "head": "Subspace:selected=head_names,mode=offset",
    "full": "full",
}
"""The first one is what the others are tested against."""

SLOW = ("XNES", "NSGA-II")
"""Left out of `--all-searchers`: one inverts matrices of all variables, the other is for several objectives."""


def measure(
    network: str,
    seeds: list[int],
    num_evaluations: int,
    all_searchers: bool = False,
    out: Path | None = None,
    num_workers: int | None = None,
) -> None:
    """All searchers with all reductions on one network of the digits, `mlp`, `shifted_mlp`, `cnn` or `shifted_cnn`."""
    name = f"study-digits-{network.replace('_', '-')}" + ("-all" if all_searchers else "")
    found = resume(
        f"problems.digits:{network}",
        every_searcher() if all_searchers else SEARCHERS,
        reductions=REDUCTIONS,
        num_evaluations=num_evaluations,
        num_samples=num_evaluations * NUM_TRAIN,
        seeds=seeds,
        out=out or Path("runs") / name,
        num_workers=num_workers,
    )
    keep(name, found)
    options = "" if num_evaluations == 500 else f" --num-evaluations {num_evaluations}"
    options += " --all-searchers" if all_searchers else ""
    command = f"python -m benchmarks study-digits --network {network} --seeds {seeds[0]}-{seeds[-1]}{options}"
    publish(name, f"{matrix(found)}\n\n{words(found)}", command)


def every_searcher() -> dict[str, str]:
    """All of three packages, ours by their own names, and Adam."""
    found = {"Adam": SEARCHERS["Adam"]}
    for package, texts in PACKAGES.items():
        for name, text in texts.items():
            if name not in SLOW:
                found[name if texts is OURS else f"{name} ({package})"] = text
    return found


def matrix(found: Comparison) -> str:
    """Median held-out macro-F1 over seeds, searchers by reductions, with quartiles below."""
    scores = found.scores()
    lines = []
    for searcher in found.settings["searchers"]:
        cells = [_cell(list(scores[f"{searcher}, {one}"].values())) for one in found.settings["reductions"]]
        lines.append([searcher, *cells])
    untouched = found.untouched()
    lines.append(["untouched", _cell(untouched)] + [""] * (len(found.settings["reductions"]) - 1))
    return markdown(["searcher", *found.settings["reductions"]], lines)


def words(found: Comparison) -> str:
    """What the runs show, with both controls chosen beforehand: the first searcher, and the first reduction."""
    first = next(iter(found.settings["reductions"]))
    lines = [f"Searchers in {first}, each against the first:"]
    lines += found.only(reductions=[first]).verdicts(control=next(iter(found.settings["searchers"])))
    for searcher in ("SNES", "DE"):
        if searcher in found.settings["searchers"]:
            lines += ["", f"Reductions under {searcher}, each against {first}:"]
            lines += found.only(searchers=[searcher]).verdicts(control=f"{searcher}, {first}")
    return "\n".join(f"- {line}" if line and not line.endswith(":") else f"{line}\n" for line in lines)


def _cell(values: list[float]) -> str:
    if not values:
        return "failed"
    low, high = np.quantile(values, [0.25, 0.75])
    return f"{median(values):.3f} [{low:.3f}, {high:.3f}]"
