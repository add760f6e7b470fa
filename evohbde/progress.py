"""How far is the search, and how good, while it runs?"""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from evohbde.history import Row

NUM_LINES = 10
"""Lines of a whole run where there is no terminal to redraw."""

WIDE = 100
"""Columns of a terminal that has room for a bar and full words."""


class SearchProgress:
    """Shows each `Row` it is given: a bar on a terminal, a line now and then elsewhere, or nothing.

    Args:
        console: Where to.
        num_evaluations, num_samples: The budget, as given to `fine_tune`.
        quiet: Show nothing.
    """

    def __init__(
        self, console: Console, num_evaluations: int | None, num_samples: float | None, *, quiet: bool = False
    ) -> None:
        self.console, self.quiet = console, quiet
        self.num_evaluations, self.num_samples = num_evaluations, num_samples
        self.held_out: float | None = None
        self.share = 0.0
        self._next_line = 0.0
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=16),
                TaskProgressColumn(),
                TextColumn("{task.fields[facts]}", markup=False),
                TimeRemainingColumn(compact=True),
                console=console,
            )
            self._task = self._bar.add_task("starting", total=1.0, facts="")

    def __enter__(self) -> SearchProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def on_stage(self, stage: str) -> None:
        """Show what kind of work begins."""
        if self._bar is not None:
            self._bar.update(self._task, description=stage)
        elif not self.quiet:
            self.console.print(f"{self.share:4.0%}  {stage}", markup=False, highlight=False)

    def on_row(self, row: Row) -> None:
        """Show one generation."""
        self.held_out = self.held_out if row.held_out is None else row.held_out
        self.share = self._share(row)
        if self._bar is not None:
            self._bar.update(self._task, completed=self.share, facts=self.facts(row))
        elif not self.quiet and self.share >= self._next_line:
            self.console.print(f"{self.share:4.0%}  {row.stage}  {self.facts(row)}", markup=False, highlight=False)
            self._next_line = self.share + 1 / NUM_LINES

    def facts(self, row: Row) -> str:
        """What is said of a generation: scores, and speed in sample forwards per second."""
        is_narrow = self.console.width < WIDE
        gap, held_out = (" ", "F1") if is_narrow else ("  ", "held-out F1")
        words = [f"best {row.best:.3f}", f"mean {row.mean:.3f}"]
        if row.hypervolume is not None:
            words = [f"hypervolume {row.hypervolume:.4f}", f"{row.front_size} on the front"]
        if self.held_out is not None:
            words.append(f"{held_out} {self.held_out:.3f}")
        speed = row.num_samples_seen / row.seconds if row.seconds > 0 else 0.0
        return gap.join([*words, f"{_short(speed)} samples/s"])

    def _share(self, row: Row) -> float:
        spent = ((row.num_evaluations, self.num_evaluations), (row.num_samples_seen, self.num_samples))
        return min(1.0, max((done / limit for done, limit in spent if limit), default=0.0))


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
