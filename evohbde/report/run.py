"""How is one finished run told?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from evohbde.judge import COLUMNS, Entry
from evohbde.record import Environment, RunRecord, as_plain
from evohbde.report.blocks import Block, Cell, Command, Figure, Items, Pairs, Section, Table, Text
from evohbde.report.page import render

CAPTIONS = {
    "scores.png": "Macro-F1 of each network on the held-out samples, with its 95 % bootstrap interval. Dotted: the "
    "network as it was.",
    "convergence.png": "Above, what was searched, generation by generation, in its own units; below, macro-F1 of the "
    "current result on held-out samples, by which nothing was decided. Dotted lines part the stages.",
    "front.png": "What the pruned networks of the front score on samples that the search never saw, over the share of "
    "prunable weights that they keep, with pruning by magnitude beside them.",
    "hypervolume.png": "Hypervolume of the front on the samples that were searched on, over the budget. Rounds on "
    "other samples begin anew.",
    "weights.png": "Left, the weights of the network as it was; right, how many of them each block ties together. A "
    "block of equal weights cannot move in the published start population.",
}

SETTINGS = "Settings, machine and versions"

NO_FIGURES = "No figures: matplotlib is not installed (pip install 'evohbde[plots]')."


def run_page(record: RunRecord, figures: Mapping[str, bytes]) -> str:
    """Write the page of one run: HTML without outside resources, every text in it escaped.

    Args:
        record: What is known of the run.
        figures: PNG files by name.
    """
    return render(f"{record.title}: {record.preset}", subtitle(record), run_blocks(record, figures))


def run_blocks(record: RunRecord, figures: Mapping[str, bytes], tables: Sequence[Table] = ()) -> list[Block]:
    """Tell one run.

    Args:
        record: What is known of it.
        figures: PNG files by name.
        tables: Further tables, that of a front say.
    """
    return [
        Text(verdict(record), "lead"),
        Text(_what_was_done(record)),
        _score_table(record),
        *tables,
        Section("What happened", [Items(record.notes), *_figures(figures)]),
        Section("Run it again", _settings(record)),
    ]


def verdict(record: RunRecord) -> str:
    """Say in one or two sentences what the run showed: whether the network is better, unless the record has it."""
    if record.lead is not None:
        return record.lead
    before, after = record.entries[0], record.result
    gain = after.f1_gain
    if gain is None:
        return f"Held-out macro-F1 is {before.f1.value:.4f}."
    return (
        f"Held-out macro-F1 went from {before.f1.value:.4f} to {after.f1.value:.4f}, a change of {gain.value:+.4f} "
        f"(95 % interval {gain.lower:+.4f} to {gain.upper:+.4f}). {_judgement(gain.lower, gain.upper)}"
    )


def subtitle(record: RunRecord) -> str:
    """Preset, seed and when it was finished."""
    ended = ", interrupted before its budget was spent" if record.stop_reason == "interrupted" else ""
    finished = datetime.fromisoformat(record.environment.finished)
    return f"Preset {record.preset}, seed {record.seed}{ended}. Finished {finished:%Y-%m-%d %H:%M} UTC."


def environment_pairs(environment: Environment) -> Pairs:
    """What it ran on."""
    values = {
        "git commit": environment.commit or "none",
        "Python": environment.python,
        **environment.packages,
        "system": environment.system,
        "CPU cores": environment.num_cpus,
        "device": environment.device,
    }
    return as_pairs("Machine and versions", values)


def as_pairs(caption: str, values: Mapping[str, object]) -> Pairs:
    """Settings with their values."""
    return Pairs(caption, {key: in_words(value) for key, value in values.items()})


def in_words(value: object) -> str:
    """A setting as text."""
    plain = as_plain(value)
    if plain is None:
        return "not set"
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _judgement(lower: float, upper: float) -> str:
    if lower > 0:
        return "The network is better."
    if upper < 0:
        return "The network is worse."
    return "The interval includes zero: these samples do not show a difference."


def _what_was_done(record: RunRecord) -> str:
    work = record.work or "A trained network was improved by forward passes only."
    return (
        f"{work} {record.num_evaluations:,} candidate networks were "
        f"scored on training samples, which took {record.num_samples_seen:,.0f} sample forwards and "
        f"{record.seconds:,.1f} seconds. The networks below are compared on {record.num_held_out:,} {record.samples}; "
        "gains are paired with the network as it was, over the same samples."
    )


def _score_table(record: RunRecord) -> Table:
    rows = [
        [Cell(text, key) for text, key in zip(entry.cells(), _keys(entry), strict=True)] for entry in record.entries
    ]
    marked = frozenset(line for line, entry in enumerate(record.entries) if entry.name == record.preset)
    return Table("Networks on held-out samples", COLUMNS, rows, marked)


def _keys(entry: Entry) -> tuple[float | None, ...]:
    gain = None if entry.f1_gain is None else entry.f1_gain.value
    return None, entry.f1.value, gain, entry.scores["accuracy"], entry.scores["cross_entropy"], entry.num_samples


def _figures(figures: Mapping[str, bytes]) -> list[Block]:
    if not figures:
        return [Text(NO_FIGURES, "soft")]
    return [Figure(image, CAPTIONS.get(name, name)) for name, image in figures.items()]


def _settings(record: RunRecord) -> list[Block]:
    tables = [
        as_pairs("Arguments", {"seed": record.seed, **record.arguments}),
        as_pairs(f"Settings of {record.preset}", record.switches),
        as_pairs("How candidates were run, by stage", record.strategy),
        environment_pairs(record.environment),
    ]
    command = [] if record.origin is None else [Command(record.origin.command)]
    return [*command, Section(SETTINGS, tables, is_folded=True)]
