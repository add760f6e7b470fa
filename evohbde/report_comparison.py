"""How is a comparison of searchers told on a page, also one that has not come to its end?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evohbde.comparison import Comparison
from evohbde.comparison.result import SELECTION
from evohbde.objectives import resolve
from evohbde.report.blocks import Block, Cell, Command, Figure, Items, Section, Table, Text, number
from evohbde.report.run import NO_FIGURES, SETTINGS, as_pairs, in_words

WORDS = {"f1_macro": "macro-F1", "cross_entropy": "cross-entropy", "balanced_accuracy": "balanced accuracy"}

FOLDED_FROM = 3
"""Reductions from which on each one's figures are folded away."""


def comparison_subtitle(comparison: Comparison) -> str:
    """Searchers, seeds, budget, and how far it has come."""
    settings = comparison.settings
    limits = {"candidate networks": settings.get("num_evaluations"), "sample forwards": settings.get("num_samples")}
    budget = " or ".join(f"{value:,.0f} {words}" for words, value in limits.items() if value is not None)
    total = len(comparison.methods) * len(settings["seeds"])
    return (
        f"{_counted(len(settings['searchers']), 'searcher')} on {_counted(len(settings['seeds']), 'seed')}, "
        f"{budget or 'no budget'} a run. {total - comparison.num_missing} of {total} runs are done."
    )


def comparison_blocks(comparison: Comparison) -> list[Block]:
    """Tell one comparison: what the runs show, tables, figures, and how to run it again."""
    return [
        Items(comparison.verdicts(), "lead"),
        *_what_is_lacking(comparison),
        Text(_what_was_done(comparison)),
        *_tables(comparison),
        Section("Figures", _figures(comparison)),
        Section("All runs", [_run_table(comparison)]),
        Section("Run it again", _settings(comparison.settings)),
    ]


def spoken(name: str) -> str:
    """A metric in words."""
    return WORDS.get(name, name.replace("_", " "))


def _searched(comparison: Comparison) -> str:
    return spoken(str(comparison.settings.get("objective") or "objective"))


def _judged_by(comparison: Comparison, metric: str) -> str:
    return f"{_searched(comparison)}, best found" if metric == SELECTION else f"{spoken(metric)}, held out"


def _what_was_done(comparison: Comparison) -> str:
    judged = (
        "There are no held-out samples: each run is judged by the best score that it found."
        if comparison.metric == SELECTION
        else f"What each run found is judged by {spoken(comparison.metric)} on held-out samples, by which nothing was "
        "decided; scoring them is not counted in the budget."
    )
    goal = "maximised" if comparison.settings["objective_sense"] == "max" else "minimised"
    return (
        f"Each searcher began anew on a fresh problem, with the same data, start and budget for the same seed, and "
        f"{goal} {_searched(comparison)}. {judged}"
    )


def _parts(comparison: Comparison) -> Iterator[tuple[str, Comparison]]:
    """Each method with its runs alone."""
    settings = comparison.settings
    pairs = [(one, other) for one in list(settings["reductions"]) or [None] for other in settings["searchers"]]
    for method, (reduction, searcher) in zip(comparison.methods, pairs, strict=True):
        only = None if reduction is None else [reduction]
        yield method, comparison.only(searchers=[searcher], reductions=only)


def _what_is_lacking(comparison: Comparison) -> list[Block]:
    failed = [f"{name}: {error}" for name, error in comparison.errors.items()]
    missing = []
    for method, part in _parts(comparison):
        known = {run["seed"] for run in part.runs}
        missing += [f"{method}, seed {seed}" for seed in comparison.settings["seeds"] if seed not in known]
    lists = {"Missing": missing, "Failed": failed}
    return [
        Section(f"{words}: {_counted(len(found), 'run')}", [Items(found, "warning")], is_folded=True)
        for words, found in lists.items()
        if found
    ]


def _tables(comparison: Comparison) -> list[Block]:
    tables: list[Block] = [_method_table(comparison)]
    if len(comparison.settings["reductions"]) > 1:
        tables.append(_grid_table(comparison))
    return tables


def _method_table(comparison: Comparison) -> Table:
    """One line per method, the best mean rank first, and one for the network as it was."""
    metrics = list(comparison.settings["held_out"]) or [SELECTION]
    ranks = comparison.mean_ranks()
    parts = dict(_parts(comparison))
    order = sorted(parts, key=lambda method: ranks.get(method, math.inf))
    rows = [_method_row(method, parts[method], metrics, ranks.get(method)) for method in order]
    values = [comparison.untouched(metric) for metric in metrics]
    if any(values):
        before = [_quartiles(values[0]), *(number(_median(one)) for one in values[1:])]
        rows.append([Cell("network as it was"), Cell(""), Cell(""), *before, *[Cell("")] * 4])
    where = "of the search" if metrics == [SELECTION] else "on held-out samples"
    names = ["best" if name == SELECTION else spoken(name) for name in metrics]
    caption = (
        f"Scores {where}: median over the seeds [quartiles], the best mean rank first. Change and seeds on which the "
        f"method is ahead: against the network as it was, by {names[0]}. Change and cost of a run: medians."
    )
    headings = ["method", "seeds", "rank", *names, "change", "ahead on", "forwards", "seconds"]
    return Table(caption, headings, rows)


def _method_row(method: str, part: Comparison, metrics: Sequence[str], rank: float | None) -> list[Cell]:
    done = [run for run in part.runs if run["error"] is None]
    costs = (("num_samples_seen", ",.0f"), ("seconds", ",.1f"))
    changes = _changes(part)
    gains = sum(change > 0 for change in changes) if _is_larger_better(part) else sum(change < 0 for change in changes)
    return [
        Cell(method),
        number(len(done), "d"),
        number(rank, ".2f"),
        _quartiles(_values(part, metrics[0])),
        *(number(_median(_values(part, metric))) for metric in metrics[1:]),
        number(_median(changes), "+.4f"),
        Cell(f"{gains} of {len(changes)}", gains / len(changes)) if changes else Cell(""),
        *(number(_median([run[name] for run in done]), form) for name, form in costs),
    ]


def _grid_table(comparison: Comparison) -> Table:
    """Medians, reductions down and searchers across."""
    searchers = list(comparison.settings["searchers"])
    medians = iter([number(_median(_values(part, comparison.metric))) for _, part in _parts(comparison)])
    rows = [[Cell(one), *(next(medians) for _ in searchers)] for one in comparison.settings["reductions"]]
    words = _judged_by(comparison, comparison.metric)
    return Table(f"Median of {words}, by reduction and searcher", ["reduction", *searchers], rows)


def _run_table(comparison: Comparison) -> Table:
    metrics = list(comparison.settings["held_out"])
    headings = ["searcher", "reduction", "seed", "best", *map(spoken, metrics), "networks", "forwards", "seconds",
                "ended by"]  # fmt: skip
    rows = [
        [
            Cell(str(run["searcher"])),
            Cell(str(run["reduction"] or "")),
            number(run["seed"], "d"),
            number(run["best"]),
            *(number(run["held_out"].get(name)) for name in metrics),
            number(run.get("num_evaluations"), ",.0f"),
            number(run.get("num_samples_seen"), ",.0f"),
            number(run.get("seconds"), ",.1f"),
            Cell("error" if run["error"] is not None else str(run.get("stop_reason") or "")),
        ]
        for run in comparison.runs
    ]
    caption = f"Every run: the best {_searched(comparison)} on the samples that were searched on"
    return Table(caption + (", and scores on held-out samples" if metrics else ""), headings, rows)


def _figures(comparison: Comparison) -> list[Block]:
    try:
        from evohbde.plots import plot_ranks, to_png
    except ImportError:
        return [Text(NO_FIGURES, "soft")]
    blocks: list[Block] = []
    ranks = comparison.mean_ranks()
    if len(ranks) > 1:
        caption = (
            f"Mean rank over the seeds by {_judged_by(comparison, comparison.metric)}; 1 is best. A bar joins methods "
            "between which these runs show no difference."
        )
        blocks.append(Figure(to_png(plot_ranks(ranks, cliques=comparison.cliques())), caption))
    reductions = list(comparison.settings["reductions"])
    if len(reductions) < 2:
        return [*blocks, *_score_figures(comparison, "")]
    is_folded = len(reductions) >= FOLDED_FROM
    for reduction in reductions:
        found = _score_figures(comparison.only(reductions=[reduction]), f" With {reduction}.")
        if found:
            blocks.append(Section(reduction, found, is_folded=is_folded))
    return blocks


def _score_figures(comparison: Comparison, remark: str) -> list[Block]:
    """Seeds and convergence of all searchers with one reduction."""
    from evohbde.plots import plot_convergence_bands, plot_seeds, to_png

    judged = comparison.metric
    scores = {name: list(found.values()) for name, found in comparison.scores().items() if found}
    if not scores:
        return []
    untouched = _median(comparison.untouched())
    figure = plot_seeds(scores, _judged_by(comparison, judged), untouched=untouched)
    blocks: list[Block] = [Figure(to_png(figure), f"What each run came to. Dotted: the network as it was.{remark}")]
    for metric in dict.fromkeys((judged, SELECTION)):
        curves = comparison.curves(metric)
        if curves:
            start = _median(comparison.untouched(metric))
            figure = plot_convergence_bands(curves, _judged_by(comparison, metric), untouched=start)
            blocks.append(Figure(to_png(figure), f"{_in_band(comparison, metric)}{remark}"))
    return blocks


def _in_band(comparison: Comparison, metric: str) -> str:
    what = (
        f"Best {_searched(comparison)} on the samples that were searched on"
        if metric == SELECTION
        else f"The answer that each run would have given then, by {spoken(metric)} on held-out samples"
    )
    return f"{what}: median over the seeds, and the band between the quartiles."


def _settings(settings: Mapping[str, Any]) -> list[Block]:
    kinds = {"searcher": settings["searchers"], "reduction": settings["reductions"]}
    parts = {f"{kind} {name}": _part(part) for kind, group in kinds.items() for name, part in group.items()}
    left_out = {"format", "searchers", "reductions", "environment", "command", "settings"}
    arguments = {key: value for key, value in settings.items() if key not in left_out}
    of_factory = {f"{settings['reference']}, {key}": value for key, value in (settings.get("settings") or {}).items()}
    environment = dict(settings.get("environment") or {})
    packages = environment.pop("packages", {})
    tables = [
        as_pairs("Searchers and reductions", parts),
        as_pairs("Arguments", {**arguments, **of_factory}),
        as_pairs("Machine and versions", {**environment, **packages}),
    ]
    command = [Command(str(settings["command"]))] if settings.get("command") else []
    return [*command, Section(SETTINGS, tables, is_folded=True)]


def _part(part: Mapping[str, Any]) -> str:
    return " ".join([part["reference"], *(f"{key}={in_words(value)}" for key, value in part["settings"].items())])


def _values(part: Comparison, metric: str) -> list[float]:
    """Scores of the one method that `part` holds."""
    return [value for found in part.scores(metric).values() for value in found.values()]


def _changes(part: Comparison) -> list[float]:
    """What the search of each seed changed, by the metric that judges."""
    key = "selection" if part.metric == SELECTION else part.metric
    before = {run["seed"]: run["untouched"].get(key) for run in part.runs if run["error"] is None}
    after = [(seed, value) for found in part.scores().values() for seed, value in found.items()]
    return [value - before[seed] for seed, value in after if before[seed] is not None]


def _is_larger_better(comparison: Comparison) -> bool:
    if comparison.metric == SELECTION:
        return comparison.settings["objective_sense"] == "max"
    return resolve(comparison.metric)[0].sense == "max"


def _quartiles(values: Sequence[float]) -> Cell:
    if not values:
        return Cell("")
    lower, median, upper = np.quantile(values, (0.25, 0.5, 0.75))
    return Cell(f"{median:.4f} [{lower:.4f}, {upper:.4f}]", float(median))


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"
