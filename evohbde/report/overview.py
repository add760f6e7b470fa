"""What do several runs show together?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from statistics import median

from evohbde.record import as_plain
from evohbde.report.blocks import Block, Cell, Figure, Items, Table, Text, number
from evohbde.report.read import FrontLine, SavedRun
from evohbde.report.run import NO_FIGURES, in_words

Group = list[SavedRun]

UNPRUNED = "unpruned"
"""Origin of the network as it was, in `front.csv`."""


def overview_blocks(runs: Sequence[SavedRun], anchors: Sequence[str]) -> list[Block]:
    """Tell several runs side by side: what each method did over its seeds, a table of all, and figures.

    Args:
        runs: The runs.
        anchors: Section of the page for each run.
    """
    tasks: dict[str, list[SavedRun]] = {}
    for run in runs:
        tasks.setdefault(run.record.title, []).append(run)
    by_task = {task: label_groups(found) for task, found in tasks.items()}
    verdicts = [
        _in_words(f"{task}, {label}", group) for task, groups in by_task.items() for label, group in groups.items()
    ]
    figures = [figure for task, groups in by_task.items() for figure in _figures(task, groups)]
    return [Items(verdicts, "lead"), _run_table(runs, anchors), *figures]


def front_tables(run: SavedRun) -> list[Table]:
    """The front of a run that pruned, scored on samples that the search never saw; nothing for one that did not."""
    if not run.front:
        return []
    split = _split(run)
    names = ("accuracy", "f1_macro", "cross_entropy")
    rows = [
        [Cell(line.origin), number(100 * line.kept, ".1f"), *(number(_score(line, split, name)) for name in names)]
        for line in sorted(run.front, key=lambda line: line.kept, reverse=True)
        if line.is_on_front or line.origin == UNPRUNED
    ]
    decided = "by which it was decided" if split == "validation" else "by which nothing was decided"
    caption = f"The front and the network as it was, on {split} samples, {decided}"
    return [Table(caption, ("found by", "weights kept, %", "accuracy", "macro-F1", "cross-entropy"), rows)]


def label_groups(runs: Sequence[SavedRun]) -> dict[str, Group]:
    """Put runs of one task that differ in their seed alone together, under a label that says what sets them apart."""
    groups: dict[str, Group] = {}
    for run in runs:
        groups.setdefault(json.dumps(_identity(run), sort_keys=True), []).append(run)
    found: dict[str, Group] = {}
    for group in groups.values():
        preset = group[0].record.preset
        twins = [one[0] for one in groups.values() if one is not group and one[0].record.preset == preset]
        label = ", ".join([preset, *_differences(group[0], twins)])
        found[label if label not in found else f"{label} ({group[0].name})"] = group
    return found


def _identity(run: SavedRun) -> dict[str, object]:
    """All that a run was told but its seed."""
    record = run.record
    origin = {} if record.origin is None else {"reference": record.origin.reference, **record.origin.settings}
    values = {"preset": record.preset, **origin, **record.switches, **record.arguments}
    return {key: as_plain(value) for key, value in values.items()}


def _differences(run: SavedRun, twins: Sequence[SavedRun]) -> list[str]:
    ours, others = _identity(run), [_identity(twin) for twin in twins]
    return [f"{key}={in_words(ours[key])}" for key in ours if any(other.get(key) != ours[key] for other in others)]


def _in_words(label: str, group: Group) -> str:
    metric, what = ("accuracy", "accuracy") if group[0].front else ("f1_macro", "macro-F1")
    changes = [run.record.result.scores[metric] - run.record.entries[0].scores[metric] for run in group]
    if len(group) == 1:
        return f"{label}: {what} on held-out samples changed by {changes[0]:+.4f} on the one seed."
    rose = sum(change > 0 for change in changes)
    return (
        f"{label}: {what} on held-out samples changed by {median(changes):+.4f} in the median of {len(group)} seeds "
        f"({min(changes):+.4f} to {max(changes):+.4f}); it rose on {rose} of them."
    )


def _run_table(runs: Sequence[SavedRun], anchors: Sequence[str]) -> Table:
    headings = ("run", "task", "preset", "seed", "before", "after", "gain [95 %]", "accuracy", "forwards", "seconds",
                "ended by")  # fmt: skip
    rows = [_run_row(run, anchor) for run, anchor in zip(runs, anchors, strict=True)]
    return Table(
        "All runs: macro-F1 before and after, its gain, and accuracy after, on held-out samples", headings, rows
    )


def _run_row(run: SavedRun, anchor: str) -> list[Cell]:
    record = run.record
    before, after = record.entries[0], record.result
    gain = after.f1_gain
    change = "" if gain is None else f"{gain.value:+.4f} [{gain.lower:+.4f}, {gain.upper:+.4f}]"
    return [
        Cell(run.name, anchor=anchor),
        Cell(record.title),
        Cell(record.preset),
        number(record.seed, "d"),
        number(before.f1.value),
        number(after.f1.value),
        Cell(change, None if gain is None else gain.value),
        number(after.scores["accuracy"]),
        number(record.num_samples_seen, ",.0f"),
        number(record.seconds, ",.1f"),
        Cell(record.stop_reason),
    ]


def _figures(task: str, groups: dict[str, Group]) -> list[Block]:
    try:
        from evohbde import plots
    except ImportError:
        return [Text(NO_FIGURES, "soft")]
    blocks: list[Block] = []
    curves = {label: found for label, group in groups.items() if (found := _curves(group))}
    if curves:
        figure = plots.plot_convergence_bands(curves, "macro-F1, held out", untouched=_common_before(groups))
        caption = (
            f"{task}: macro-F1 on held-out samples of what each run would have answered then; median over the seeds, "
            "and the band between the quartiles."
        )
        blocks.append(Figure(plots.to_png(figure), caption))
    fronts = [run for group in groups.values() for run in group if any(line.is_on_front for line in run.front)]
    if len(fronts) > 1:
        blocks.append(_front_figure(task, fronts))
    return blocks


def _common_before(groups: dict[str, Group]) -> float:
    return median(run.record.entries[0].f1.value for group in groups.values() for run in group)


def _curves(group: Group) -> list[list[tuple[float, float, float]]]:
    """Per run the points (networks scored, sample forwards, macro-F1) at which held-out samples were looked at."""
    curves = []
    for run in group:
        taken = [(row, row.held_out) for row in run.rows if row.held_out is not None]
        curves.append([(float(row.num_evaluations), row.num_samples_seen, score) for row, score in taken])
    return [curve for curve in curves if curve]


def _front_figure(task: str, runs: Sequence[SavedRun]) -> Figure:
    """All fronts in one plot; what they are compared with is the same for all and taken from the first."""
    from evohbde import plots

    split = _split(runs[0])
    series = {run.name: [_point(line, split) for line in run.front if line.is_on_front] for run in runs}
    others: dict[str, list[tuple[float, float]]] = {}
    for line in runs[0].front:
        if not line.is_on_front:
            others.setdefault(line.origin, []).append(_point(line, split))
    unpruned = others.pop(UNPRUNED, [(1.0, math.nan)])[0][1]
    figure = plots.plot_front(
        {**series, **others}, f"accuracy, {split} samples", unpruned=unpruned, num_fronts=len(series)
    )
    caption = (
        f"{task}: accuracy of the networks of each front on {split} samples, over the share of prunable weights that "
        "they keep, with pruning by magnitude beside them."
    )
    return Figure(plots.to_png(figure), caption)


def _point(line: FrontLine, split: str) -> tuple[float, float]:
    return line.kept, _score(line, split, "accuracy")


def _split(run: SavedRun) -> str:
    """Test samples where there are any, by which nothing was decided."""
    return "test" if "test_accuracy" in run.front[0].scores else "validation"


def _score(line: FrontLine, split: str, name: str) -> float:
    return line.scores.get(f"{split}_{name}", math.nan)
