"""What came out of a comparison?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evohbde.comparison import evidence, export, records
from evohbde.comparison.plan import Job
from evohbde.objectives import resolve

if TYPE_CHECKING:
    from evohbde.plots import Figure

SELECTION = "best"
"""The metric of problems without held-out samples: the best score that the search has met."""

ALL_PAIRS = 5
"""Methods up to which every pair is tested; more are each tested against the first one named."""

MANY_PAIRS = 30
"""Comparisons above which one sentence says that the seeds are too few, in place of one for each."""


class Comparison:
    """The runs of a comparison, finished or not.

    A method is a searcher, or `"searcher, reduction"` where there are several reductions. Methods are compared on the
    seeds that all of them have finished. Scores are held-out ones where the problem has such samples: what was searched
    on is never judged by then.

    Attributes:
        settings: What `compare.json` says.
        runs: What the lines of `runs.jsonl` say, one dictionary per run; those that failed have an `error`.
    """

    def __init__(self, settings: Mapping[str, Any], runs: Mapping[Job, Mapping[str, Any]]) -> None:
        self.settings: dict[str, Any] = dict(settings)
        order = {name: place for place, name in enumerate(self.methods)}
        found = [dict(run) for run in runs.values()]
        self.runs: list[dict[str, Any]] = sorted(found, key=lambda run: (order[self._label(run)], run["seed"]))

    @classmethod
    def load(cls, directory: str | Path) -> Comparison:
        """Read a directory that `compare(..., out=directory)` wrote; it may be unfinished.

        Raises:
            FileNotFoundError: If there is no comparison.
            ValueError: If a file is damaged; the message names file, line and fault.
        """
        directory = Path(directory)
        return cls(records.read_settings(directory), records.read_runs(directory))

    @property
    def methods(self) -> list[str]:
        """All methods, in the order in which they were named."""
        reductions = list(self.settings["reductions"])
        if len(reductions) < 2:
            return list(self.settings["searchers"])
        return [f"{searcher}, {one}" for one in reductions for searcher in self.settings["searchers"]]

    @property
    def metric(self) -> str:
        """What methods are judged by if not told otherwise."""
        return next(iter(self.settings["held_out"]), SELECTION)

    @property
    def num_missing(self) -> int:
        """Runs that are still to be done, or failed."""
        finished = sum(run["error"] is None for run in self.runs)
        return len(self.methods) * len(self.settings["seeds"]) - finished

    @property
    def errors(self) -> dict[str, str]:
        """What went wrong, by `"method, seed n"`."""
        return {
            f"{self._label(run)}, seed {run['seed']}": run["error"] for run in self.runs if run["error"] is not None
        }

    def only(self, *, searchers: Sequence[str] | None = None, reductions: Sequence[str] | None = None) -> Comparison:
        """The same runs without the other searchers or reductions, to be judged as a family of their own."""
        settings = dict(self.settings)
        for key, wanted in (("searchers", searchers), ("reductions", reductions)):
            if wanted is not None:
                unknown = [name for name in wanted if name not in settings[key]]
                if unknown:
                    raise ValueError(f"no {unknown[0]!r} among the {key}: {', '.join(settings[key])}")
                settings[key] = {name: settings[key][name] for name in wanted}
        chosen = {
            (run["searcher"], run["reduction"], run["seed"]): run
            for run in self.runs
            if run["searcher"] in settings["searchers"]
            and (not settings["reductions"] or run["reduction"] in settings["reductions"])
        }
        return Comparison(settings, chosen)

    def scores(self, metric: str | None = None, *, num_evaluations: float | None = None) -> dict[str, dict[int, float]]:
        """Scores of all finished runs, by method and seed.

        Args:
            metric: One of `settings["held_out"]`, or `"best"`: the best score that the search has met.
            num_evaluations: Judge what the runs had by then, at the last checkpoint before; None: at their end.
        """
        metric = self._check(metric)
        found: dict[str, dict[int, float]] = {method: {} for method in self.methods}
        for run in self.runs:
            value = None if run["error"] is not None else _score(run, metric, num_evaluations)
            if value is not None and math.isfinite(value):
                found[self._label(run)][run["seed"]] = value
        return found

    def untouched(self, metric: str | None = None) -> list[float]:
        """Scores of the network as given, one per seed; nothing where the problem has none."""
        metric = self._check(metric)
        key = "selection" if metric == SELECTION else metric
        by_seed = {run["seed"]: run["untouched"].get(key) for run in self.runs if run["error"] is None}
        return [by_seed[seed] for seed in sorted(by_seed) if by_seed[seed] is not None]

    def table(self, metric: str | None = None) -> str:
        """All methods as Markdown, the best mean rank first: median, quartiles, interval, rank."""
        header = ("method", f"median {self.metric if metric is None else metric}", "quartiles", "95 % of the median",
                  "mean rank", "runs", "forwards", "seconds")  # fmt: skip
        lines = [header, ("---",) * len(header), *self.rows(metric)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def rows(self, metric: str | None = None) -> list[tuple[str, ...]]:
        """The cells of `table`, line by line, and a last line for the network as given."""
        scores, ranks = self.scores(metric), self.mean_ranks(metric)
        lines: list[tuple[str, ...]] = []
        for method in sorted(self.methods, key=lambda name: ranks.get(name, math.inf)):
            values = np.array(list(scores[method].values()))
            if len(values) == 0:
                lines.append((method, "", "", "", "", f"0 of {len(self.settings['seeds'])}", "", ""))
                continue
            runs = [run for run in self.runs if self._label(run) == method and run["error"] is None]
            rank = f"{ranks[method]:.2f}" if method in ranks else ""
            count = f"{len(values)} of {len(self.settings['seeds'])}"
            forwards = np.median([run["num_samples_seen"] for run in runs])
            lines.append((method, *_summary(values), rank, count, f"{forwards:,.0f}",
                          f"{np.median([run['seconds'] for run in runs]):.1f}"))  # fmt: skip
        untouched = np.array(self.untouched(metric))
        if len(untouched):
            lines.append(("untouched", *_summary(untouched), "", str(len(untouched)), "0", "0.0"))
        return lines

    def mean_ranks(self, metric: str | None = None) -> dict[str, float]:
        """Mean rank of each method over the seeds that all have finished, 1 is best; empty where there are none."""
        methods, scores = self._matrix(metric)
        if not len(scores):
            return {}
        return dict(zip(methods, evidence.mean_ranks(scores).tolist(), strict=True))

    def cliques(self, metric: str | None = None) -> list[list[str]]:
        """Groups of methods that cannot be told apart (Wilcoxon, Holm over all pairs), as bars of a rank plot."""
        methods, scores = self._matrix(metric)
        return [[methods[one] for one in group] for group in evidence.cliques(scores)] if len(scores) else []

    def pairs(self, metric: str | None = None, *, control: str | None = None) -> list[evidence.Pair]:
        """Tests of pairs of `methods`, as one family: all, or each one against `control`."""
        methods, scores = self._matrix(metric)
        if control is not None and control not in methods:
            raise ValueError(f"`control` {control!r} is no method with runs: {', '.join(methods)}")
        chosen = None
        if control is not None:
            place = methods.index(control)
            chosen = [(place, other) for other in range(len(methods)) if other != place]
        return evidence.compare_pairs(scores, chosen) if len(scores) else []

    def verdicts(self, metric: str | None = None, *, control: str | None = None) -> list[str]:
        """Say in plain words what the runs show, and what they cannot show.

        Args:
            metric: As for `scores`.
            control: Test each method against this one; None: all pairs of up to five methods, else against the first
                one named. A control is to be chosen before the runs, not by looking at them.
        """
        methods, scores = self._matrix(metric)
        words = self._remarks(methods, scores)
        if len(methods) < 2 or not len(scores):
            return [*words, "There are not two methods with runs on the same seeds: nothing to compare."]
        overall = evidence.friedman(scores)
        if overall is not None:
            shown = "some methods differ" if overall < evidence.LEVEL else "no difference that these runs can show"
            words.append(f"Over all {len(methods)} methods: {shown} (Friedman, p = {overall:.2g}).")
        if control is None and len(methods) > ALL_PAIRS:
            control = methods[0]
        pairs = self.pairs(metric, control=control)
        if len(pairs) > MANY_PAIRS and evidence.smallest_p(len(scores), len(pairs)) >= evidence.LEVEL:
            return [
                *words,
                f"{len(scores)} seed{'' if len(scores) == 1 else 's'} cannot show a difference among {len(pairs)} "
                "comparisons, however large: run more seeds, or look at fewer methods at a time.",
            ]
        return words + [evidence.in_words(one, methods[one.first], methods[one.second], len(pairs)) for one in pairs]

    def plot(self, metric: str | None = None) -> Figure:
        """Score over budget, median and quartiles over seeds; needs matplotlib (`evohbde[plots]`)."""
        from evohbde.plots import plot_convergence_bands

        metric = self._check(metric)
        untouched = self.untouched(metric)
        middle = float(np.median(untouched)) if untouched else None
        return plot_convergence_bands(self.curves(metric), metric, untouched=middle)

    def plot_ranks(self, metric: str | None = None) -> Figure:
        """Critical-difference diagram: mean ranks, with a bar over methods that cannot be told apart."""
        from evohbde.plots import plot_ranks

        return plot_ranks(self.mean_ranks(metric), cliques=self.cliques(metric))

    def curves(self, metric: str | None = None) -> dict[str, list[list[tuple[float, float, float]]]]:
        """`(num_evaluations, num_samples_seen, score)` of every run, by method."""
        metric = self._check(metric)
        found: dict[str, list[list[tuple[float, float, float]]]] = {}
        for run in self.runs:
            points = []
            for row in run["trajectory"]:
                value = row["best"] if metric == SELECTION else (row["held_out"] or {}).get(metric)
                if value is not None and math.isfinite(value):
                    points.append((row["num_evaluations"], row["num_samples_seen"], value))
            if points and run["error"] is None:
                found.setdefault(self._label(run), []).append(points)
        return found

    def to_csv(self, path: str | Path) -> None:
        """Write one line per run, without trajectories."""
        export.frame(self.runs).to_csv(path, index=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write one line per row of the trajectories; needs pyarrow (`evohbde[comparisons]`)."""
        export.to_parquet(self.runs, Path(path))

    def to_ioh(self, directory: str | Path) -> None:
        """Write what IOHanalyzer and iohinspector read: one folder per method, best score over evaluations."""
        runs = {method: [run for run in self.runs if self._label(run) == method] for method in self.methods}
        export.to_ioh(runs, self.settings, Path(directory))

    def _exceeds(self, run: Mapping[str, Any]) -> bool:
        limits = {"num_evaluations": self.settings["num_evaluations"], "num_samples_seen": self.settings["num_samples"]}
        return any(limit is not None and run[name] > limit for name, limit in limits.items())

    def _label(self, run: Mapping[str, Any]) -> str:
        several = len(self.settings["reductions"]) > 1
        return f"{run['searcher']}, {run['reduction']}" if several else str(run["searcher"])

    def _check(self, metric: str | None) -> str:
        metric = self.metric if metric is None else metric
        known = [*self.settings["held_out"], SELECTION]
        if metric not in known:
            raise ValueError(f"`metric` {metric!r} was not taken: there are {', '.join(known)}")
        return metric

    def _matrix(self, metric: str | None) -> tuple[list[str], np.ndarray]:
        """Methods that have runs, and their scores on the seeds that all of them have, larger is better: `(n, k)`."""
        metric = self._check(metric)
        scores = {method: found for method, found in self.scores(metric).items() if found}
        seeds = [seed for seed in self.settings["seeds"] if all(seed in found for found in scores.values())]
        sense = self.settings["objective_sense"] if metric == SELECTION else resolve(metric)[0].sense
        sign = 1.0 if sense == "max" else -1.0
        values = [[sign * found[seed] for found in scores.values()] for seed in seeds]
        return list(scores), np.array(values, dtype=np.float64).reshape(len(values), len(scores))

    def _remarks(self, methods: list[str], scores: np.ndarray) -> list[str]:
        words = []
        if self.errors:
            words.append(f"{len(self.errors)} runs failed, the first with: {next(iter(self.errors.values()))}")
        if self.num_missing:
            words.append(f"{self.num_missing} runs are missing: compared are the {len(scores)} seeds that all have.")
        over = {self._label(run) for run in self.runs if self._exceeds(run)}
        if over:
            words.append(f"More than the budget, since one step of theirs is that large: {', '.join(sorted(over))}.")
        without = [method for method in self.methods if method not in methods]
        if without:
            words.append(f"Without any finished run: {', '.join(without)}.")
        return words


def _score(run: Mapping[str, Any], metric: str, num_evaluations: float | None) -> float | None:
    if num_evaluations is None:
        return run["best"] if metric == SELECTION else run["held_out"].get(metric)
    found = None
    for row in run["trajectory"]:
        value = row["best"] if metric == SELECTION else (row["held_out"] or {}).get(metric)
        if row["num_evaluations"] <= num_evaluations and value is not None:
            found = value
    return found


def _summary(values: np.ndarray) -> tuple[str, str, str]:
    low, high = np.quantile(values, [0.25, 0.75])
    interval = evidence.median_interval(values)
    return f"{interval.value:.4f}", f"{low:.4f} to {high:.4f}", f"{interval.lower:.4f} to {interval.upper:.4f}"
