"""What happens between `evohbde compare` and its tables?"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from evohbde.comparison import Comparison, compare
from evohbde.durable import write_whole
from evohbde.references import parse_settings
from evohbde.rundir import JOB
from evohbde.tune import check_device, way_on
from evohbde.unfinished import Job, has_job

MANY_VERDICTS = 12
"""Sentences shown at most; all are in the report."""


@dataclass(frozen=True)
class CompareRequest:
    """What was asked for on the command line; see `evohbde compare --help`."""

    reference: str
    searchers: tuple[str, ...]
    reductions: tuple[str, ...] = ()
    objective: str = "cross_entropy"
    num_evaluations: int | None = None
    num_samples: float | None = None
    seeds: str = "0-10"
    out: Path | None = None
    overwrite: bool = False
    num_workers: int | None = None
    num_threads: int = 1
    device: str | None = None
    settings: tuple[str, ...] = ()
    quiet: bool = False

    @property
    def directory(self) -> Path:
        """Where the records go."""
        return self.out or Path("runs") / f"{self.reference.rpartition(':')[2]}-compared"

    def command(self) -> str:
        """The line for a shell that does the same again."""
        options: list[tuple[str, object]] = [
            *(("--searcher", text) for text in self.searchers),
            *(("--reduction", text) for text in self.reductions),
            ("--objective", self.objective),
            ("--num-evaluations", self.num_evaluations),
            ("--num-samples", self.num_samples),
            ("--seeds", self.seeds),
            ("--num-threads", self.num_threads),
            ("--device", self.device),
            *(("--set", text) for text in self.settings),
        ]
        words = ["evohbde", "compare", self.reference]
        return shlex.join([*words, *(str(word) for option in options if option[1] is not None for word in option)])


def run_compare(request: CompareRequest, out: Console, messages: Console) -> Comparison | None:
    """Run what is missing, and show tables and verdicts.

    Args:
        request: What to do.
        out: Where the table goes.
        messages: Where progress and remarks go.

    Returns:
        What came out; None after Ctrl-C, with every finished run kept.

    Raises:
        ValueError, TypeError, OSError, ImportError: With a message for the person at the keyboard.
    """
    if not request.searchers:
        raise ValueError("name the searchers to compare, each with --searcher, for example --searcher DE")
    check_device(request.device)
    try:
        found = _compare(request, messages)
    except KeyboardInterrupt:
        directory = request.directory
        kept = way_on(directory) if has_job(directory) else "Nothing had been scored."
        messages.print(f"Interrupted. {kept}", markup=False, highlight=False, soft_wrap=True)
        return None
    out.print(result_table(found))
    if not request.quiet:
        _print_remarks(found, request.directory, messages)
    return found


def _compare(request: CompareRequest, messages: Console) -> Comparison:
    words = {name: value for name, value in vars(request).items() if name not in ("out", "overwrite")}
    job = Job("compare", words)
    with _Progress(messages, request.reference, is_quiet=request.quiet) as progress:

        def on_run(run: Mapping[str, Any] | None, found: Comparison) -> None:
            if run is None:
                write_whole(request.directory / JOB, job.to_json())
            progress.on_run(run, found)

        found = compare(
            request.reference,
            request.searchers,
            num_evaluations=request.num_evaluations,
            num_samples=request.num_samples,
            seeds=parse_seeds(request.seeds),
            reductions=request.reductions or None,
            objective=request.objective,
            settings=parse_settings(request.settings),
            out=request.directory,
            overwrite=request.overwrite,
            num_workers=request.num_workers,
            num_threads=request.num_threads,
            device=request.device,
            command=request.command(),
            on_run=on_run,
        )
    (request.directory / JOB).unlink()
    return found


def parse_seeds(text: str) -> list[int]:
    """Read `0-10`, `3` or `1,4,7-9`."""
    seeds: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*\d+(-\d+)?\s*", part):
            raise ValueError(f"--seeds must look like 0-10 or 1,4,7, got {text!r}")
        first, _, last = part.strip().partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return seeds


def result_table(found: Comparison) -> Table:
    """The final table, the best mean rank first."""
    headings = (f"median {found.metric}", "quartiles", "95 % of the median", "rank", "runs", "forwards", "seconds")
    return _lay_out("method", headings, found.rows())


def _lay_out(first: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, *cells in rows:
        table.add_row(Text(name), *map(Text, cells))
    return table


class _Progress:
    """A table that is redrawn as runs end; where there is no terminal, a line per run."""

    def __init__(self, console: Console, name: str, *, is_quiet: bool) -> None:
        self.console, self.is_quiet = console, is_quiet
        self._status = console.status(f"loading {escape(name)}")
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._is_drawn = console.is_terminal and not is_quiet

    def __enter__(self) -> _Progress:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()
        self._live.stop()

    def on_run(self, run: Mapping[str, Any] | None, found: Comparison) -> None:
        """Show one finished run, or with None how much is done already."""
        if run is None:
            self._status.stop()
            if self._is_drawn:
                self._live.start()
            if found.runs and not self.is_quiet:
                self.console.print(f"{len(found.runs)} runs are there already; {found.num_missing} to go")
        elif not self._is_drawn and not self.is_quiet:
            self.console.print(Text(self._line(run, found)), soft_wrap=True)
        if self._is_drawn:
            self._live.update(self._table(found), refresh=True)

    def _line(self, run: Mapping[str, Any], found: Comparison) -> str:
        total = len(found.methods) * len(found.settings["seeds"])
        name = ", ".join(str(word) for word in (run["searcher"], run["reduction"], f"seed {run['seed']}") if word)
        value = run["held_out"].get(found.metric, run["best"])
        words = run["error"] or f"{found.metric} {_number(value)}, {run['seconds']:.1f} s"
        return f"{len(found.runs)}/{total}  {name}: {words}"

    def _table(self, found: Comparison) -> Table:
        scores, total = found.scores(), len(found.settings["seeds"])
        failed = [f"{key.rpartition(', seed')[0]}" for key in found.errors]
        rows = []
        for method in found.methods:
            values = list(scores[method].values())
            middle = _number(float(np.median(values))) if values else ""
            rows.append((method, f"{len(values)}/{total}", str(failed.count(method) or ""), middle))
        return _lay_out("method", ("runs", "failed", f"median {found.metric}"), rows)


def _number(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _print_remarks(found: Comparison, directory: Path, messages: Console) -> None:
    words = found.verdicts()
    rest = len(words) - MANY_VERDICTS
    remarks = [*words[:MANY_VERDICTS], *([f"... and {rest} more"] if rest > 0 else [])]
    remarks.append(f"Saved to {directory}; a page of it: evohbde report {directory}")
    for remark in remarks:
        messages.print(remark, markup=False, highlight=False, soft_wrap=True)
