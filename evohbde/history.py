"""What happened in each generation of a run?"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor

from evohbde.journal import current


@dataclass(frozen=True)
class Row:
    """One generation.

    Attributes:
        stage: Which step of the method this was.
        objective: Name of what was searched, `"cross_entropy"` say.
        generation: Counted within the stage, from 1.
        num_evaluations: Candidate networks scored so far in the whole run.
        num_samples_seen: Sample forwards so far in the whole run.
        best: Best score of this generation's population, in the searched objective's own units.
        mean: Mean score of this generation's population.
        held_out: Macro-F1 of the current result on data that the search does not see; None where it was not taken.
        seconds: Wall time since the run began.
        hypervolume: Of the front found so far in the stage, where several objectives are followed; else None.
        front_size: Networks on that front.
    """

    stage: str
    objective: str
    generation: int
    num_evaluations: int
    num_samples_seen: float
    best: float
    mean: float
    held_out: float | None
    seconds: float
    hypervolume: float | None = None
    front_size: int | None = None


class History:
    """The rows of one run, with the budget spent so far.

    Args:
        on_row: Called with every new row (progress bars).
        on_stage: Called with the name of every stage that begins.

    Attributes:
        strategies: How candidates were run in each stage (`evohbde.strategies`).
    """

    def __init__(
        self, on_row: Callable[[Row], None] | None = None, on_stage: Callable[[str], None] | None = None
    ) -> None:
        self.rows: list[Row] = []
        self.on_row, self.on_stage = on_row, on_stage
        self.num_evaluations = 0
        self.num_samples_seen = 0.0
        self.strategies: dict[str, str] = {}
        self._started, self._saved = time.monotonic(), 0.0
        self._saved_before = self._seconds_saved()

    @property
    def seconds(self) -> float:
        """Wall time since the run began, that of an interrupted part included, and not that in between."""
        return time.monotonic() - self._started + self._seconds_saved() - self._saved_before

    def _seconds_saved(self) -> float:
        journal = current()
        if journal is not None:
            self._saved = journal.seconds_saved
        return self._saved

    def begin(self, stage: str) -> None:
        """Say that a stage begins."""
        if self.on_stage is not None:
            self.on_stage(stage)

    def spend(self, num_evaluations: int, num_samples: float) -> None:
        """Add the cost of a finished stage."""
        self.num_evaluations += num_evaluations
        self.num_samples_seen += num_samples

    def record(self, stage: str, searcher: SearchAlgorithm, held_out: float | None) -> None:
        """Add the searcher's last generation; its problem counts from the beginning of the stage."""
        status, problem = searcher.status, searcher.problem
        row = Row(
            stage=stage,
            objective=problem.objective_names[0],
            generation=searcher.step_count,
            num_evaluations=self.num_evaluations + problem.num_evaluations,
            num_samples_seen=self.num_samples_seen + problem.num_samples_seen,
            best=float(status["pop_best_eval"]),
            mean=float(status["mean_eval"]),
            held_out=held_out,
            seconds=self.seconds,
        )
        self.add(row)

    def add(self, row: Row) -> None:
        """Keep a row and show it."""
        self.rows.append(row)
        if self.on_row is not None:
            self.on_row(row)

    def to_csv(self, path: str | Path) -> None:
        """Write one line per generation."""
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in self.rows)


def current_solution(searcher: SearchAlgorithm) -> Tensor:
    """What the searcher would answer now: its centre if it has one, else its best individual; `(d,)`."""
    status = searcher.status
    found = status["center"] if "center" in status else status["pop_best"].values
    return found.as_subclass(Tensor).detach().clone().reshape(-1)
