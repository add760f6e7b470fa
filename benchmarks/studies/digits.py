"""Which searcher goes with which reduction, on the digits, within few evaluations?"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.contenders import OURS, PACKAGES
from benchmarks.studies.records import keep, resume
from benchmarks.tables import markdown, publish
from evohbde.comparison import Comparison
from evohbde.comparison.evidence import Pair, in_words

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
    publish(name, overview(found) if all_searchers else f"{matrix(found)}\n\n{words(found)}", command)


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
    return markdown(["searcher", *found.settings["reductions"]], _lines(found))


def overview(found: Comparison, control: str = "DE") -> str:
    """The matrix, best searcher first, with what is shown against `control` beside it; reductions that differ below."""
    first, *others = found.settings["reductions"]
    alone = found.only(reductions=[first])
    medians = {name: median(of.values()) for name, of in alone.scores().items()}
    beside = {alone.methods[pair.second]: _against(pair) for pair in alone.pairs(control=control)}
    lines = [
        [name, beside.get(name, ""), *cells]
        for name, *cells in sorted(_lines(found), key=lambda line: medians.get(line[0], 0.0), reverse=True)
    ]
    table = markdown(["searcher", f"against {control}, {first}", first, *others], lines)
    shown, num_pairs = [], 0
    for searcher in found.settings["searchers"]:
        own = found.only(searchers=[searcher])
        pairs = own.pairs(control=f"{searcher}, {first}")
        num_pairs += len(pairs)
        shown += [
            in_words(one, own.methods[one.first], own.methods[one.second], len(pairs)) for one in pairs if one.is_shown
        ]
    said = alone.verdicts(control=control)
    remarks = [f"- In {first}: {line[0].lower()}{line[1:]}" for line in said[: len(said) - len(beside)]]
    remarks.append(
        f"- Of {num_pairs} pairs of {first} and another reduction under the same searcher, {len(shown)} are shown to "
        f"differ (Wilcoxon, Holm's correction within a searcher){':' if shown else '.'}"
    )
    return "\n".join((table, "", *remarks, *(f"    - {one}" for one in shown)))


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


def _lines(found: Comparison) -> list[list[str]]:
    scores = found.scores()
    lines = []
    for searcher in found.settings["searchers"]:
        cells = [_cell(list(scores[f"{searcher}, {one}"].values())) for one in found.settings["reductions"]]
        lines.append([searcher, *cells])
    return [*lines, ["untouched", _cell(found.untouched())] + [""] * (len(found.settings["reductions"]) - 1)]


def _against(pair: Pair) -> str:
    """What is shown of the second against the first."""
    ahead = pair.num_behind >= pair.num_ahead
    seeds = f"{max(pair.num_ahead, pair.num_behind)} of {pair.num_seeds}, p = {pair.p_holm:.2g}"
    if not pair.is_shown:
        return f"not shown ({'ahead' if ahead else 'behind'} on {seeds})"
    return f"{'ahead' if ahead else 'behind'} on {seeds}"


def _cell(values: list[float]) -> str:
    if not values:
        return "failed"
    low, high = np.quantile(values, [0.25, 0.75])
    return f"{median(values):.3f} [{low:.3f}, {high:.3f}]"
