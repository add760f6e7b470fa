"""How is a finished run told on one page that needs nothing else?"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape

from evohbde.judge import COLUMNS, Entry
from evohbde.record import Environment, Origin, RunRecord, as_plain

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

NO_FIGURES = "No figures: matplotlib is not installed (pip install 'evohbde[plots]')."

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --soft: #5c5c5c; --line: #d8d8d8; --box: #f4f4f2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e6; --paper: #16181a; --soft: #a5a8ab; --line: #3a3d40; --box: #212426; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 64rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
.lead { font-size: 1.1rem; }
.soft, figcaption { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .94rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { font-weight: 600; }
.scores td:nth-child(n+4), .scores th:nth-child(n+4) { text-align: right; }
.scores th { white-space: normal; }
tr.result td { font-weight: 600; }
pre { background: var(--box); padding: .8rem 1rem; border-radius: .3rem; overflow-x: auto; margin: .4rem 0; }
figure { margin: 1rem 0 1.8rem; }
figure img { display: block; width: 100%; min-width: 34rem; background: #ffffff; border-radius: .3rem; }
figcaption { font-size: .9rem; margin-top: .4rem; }
"""


def run_page(record: RunRecord, figures: Mapping[str, bytes]) -> str:
    """Write the page of one run: HTML without scripts or outside resources, every text in it escaped.

    Args:
        record: What is known of the run.
        figures: PNG files by name.
    """
    title = f"{record.title}: {record.preset}"
    parts = [
        f"<h1>{escape(record.title)}</h1>",
        f'<p class="soft">{escape(_subtitle(record))}</p>',
        f'<p class="lead">{escape(verdict(record))}</p>',
        f"<p>{escape(_what_was_done(record))}</p>",
        "<h2>Networks on held-out samples</h2>",
        _score_table(record.entries, record.preset),
        "<h2>What happened</h2>",
        _list(record.notes),
        *(_figure(name, image) for name, image in figures.items()),
        "" if figures else f'<p class="soft">{escape(NO_FIGURES)}</p>',
        "<h2>Run it again</h2>",
        _settings(record),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def verdict(record: RunRecord) -> str:
    """Say in one or two sentences what the run showed: whether the network is better, unless the record has it."""
    if record.lead is not None:
        return record.lead
    before, after = record.entries[0], record.result
    gain = after.f1_gain
    if gain is None:
        return f"Held-out macro-F1 is {before.f1.value:.4f}."
    if gain.lower > 0:
        judgement = "The network is better."
    elif gain.upper < 0:
        judgement = "The network is worse."
    else:
        judgement = "The interval includes zero: these samples do not show a difference."
    return (
        f"Held-out macro-F1 went from {before.f1.value:.4f} to {after.f1.value:.4f}, a change of {gain.value:+.4f} "
        f"(95 % interval {gain.lower:+.4f} to {gain.upper:+.4f}). {judgement}"
    )


def _subtitle(record: RunRecord) -> str:
    ended = ", interrupted before its budget was spent" if record.stop_reason == "interrupted" else ""
    finished = datetime.fromisoformat(record.environment.finished)
    return f"Preset {record.preset}, seed {record.seed}{ended}. Finished {finished:%Y-%m-%d %H:%M} UTC."


def _what_was_done(record: RunRecord) -> str:
    work = record.work or "A trained network was improved by forward passes only."
    return (
        f"{work} {record.num_evaluations:,} candidate networks were "
        f"scored on training samples, which took {record.num_samples_seen:,.0f} sample forwards and "
        f"{record.seconds:,.1f} seconds. The networks below are compared on {record.num_held_out:,} {record.samples}; "
        "gains are paired with the network as it was, over the same samples."
    )


def _score_table(entries: Sequence[Entry], preset: str) -> str:
    lines = [_row("th", COLUMNS)]
    lines += [_row("td", entry.cells(), "result" if entry.name == preset else "") for entry in entries]
    return f'<div class="scroll"><table class="scores">{"".join(lines)}</table></div>'


def _row(tag: str, cells: Iterable[str], css_class: str = "") -> str:
    inner = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
    return f'<tr class="{css_class}">{inner}</tr>' if css_class else f"<tr>{inner}</tr>"


def _list(notes: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""


def _figure(name: str, image: bytes) -> str:
    caption = CAPTIONS.get(name, name)
    source = f"data:image/png;base64,{b64encode(image).decode('ascii')}"
    picture = f'<div class="scroll"><img alt="{escape(caption)}" src="{source}"></div>'
    return f"<figure>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


def _settings(record: RunRecord) -> str:
    parts = [] if record.origin is None else [_command(record.origin)]
    parts += [
        _pairs({"seed": record.seed, **record.arguments}),
        f"<h2>Settings of {escape(record.preset)}</h2>",
        _pairs(record.switches),
        "<h2>Machine and versions</h2>",
        _pairs(_flat(record.environment)),
    ]
    return "".join(parts)


def _command(origin: Origin) -> str:
    return f"<pre>{escape(origin.command)}</pre>"


def _pairs(values: Mapping[str, object]) -> str:
    lines = [_row("td", (key, _text(value))) for key, value in values.items()]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _text(value: object) -> str:
    plain = as_plain(value)
    if plain is None:
        return "not set"
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _flat(environment: Environment) -> dict[str, object]:
    return {
        "git commit": environment.commit or "none",
        "Python": environment.python,
        **environment.packages,
        "system": environment.system,
        "CPU cores": environment.num_cpus,
        "device": environment.device,
    }
