"""What does a fine-tuning preset get, and what does it give back?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import nn

from evohbde.data import TensorData
from evohbde.history import History, current_solution
from evohbde.problem import NetworkProblem
from evohbde.reductions import Reduction
from evohbde.run import run_until


@dataclass
class Assignment:
    """One fine-tuning job.

    Attributes:
        model: The network to start from; a copy that the preset may change.
        train: What is searched on.
        validation: What decisions are made on; None: the preset sets a part of `train` aside if it decides anything.
        num_evaluations: Limit of candidate networks scored; None: no limit.
        num_samples: Limit of sample forwards; None: no limit.
        seed: Seed of everything random.
        history: Where generations and costs are written.
        monitor: Macro-F1 of a network on held-out samples, for curves only.
        num_monitored: How often the monitor is asked in a whole run.
    """

    model: nn.Module
    train: TensorData
    validation: TensorData | None
    num_evaluations: int | None
    num_samples: float | None
    seed: int
    history: History
    monitor: Callable[[nn.Module], float] | None = None
    num_monitored: int = 25
    interrupted: bool = field(default=False, init=False)

    @property
    def evaluations_left(self) -> int | None:
        return None if self.num_evaluations is None else self.num_evaluations - self.history.num_evaluations

    @property
    def samples_left(self) -> float | None:
        return None if self.num_samples is None else self.num_samples - self.history.num_samples_seen

    def search(
        self,
        stage: str,
        problem: NetworkProblem,
        searcher: SearchAlgorithm,
        *,
        num_evaluations: int | None = None,
        num_samples: float | None = None,
    ) -> None:
        """Run one stage within the given limits and what is left of the budget, and write it down."""
        self.history.begin(stage)
        limits = [limit for limit in (num_evaluations, self.evaluations_left) if limit is not None]
        sample_limits = [limit for limit in (num_samples, self.samples_left) if limit is not None]
        reason = run_until(
            searcher,
            num_evaluations=min(limits, default=None),
            num_samples=None if not sample_limits else min(sample_limits) - problem.num_samples_seen,
            after_step=_Recording(self, stage, problem, searcher),
        )
        self.history.spend(problem.num_evaluations, problem.num_samples_seen)
        if problem.strategy is not None:
            self.history.strategies[stage] = problem.strategy.name
        self.interrupted = self.interrupted or reason == "interrupted"


class _Recording:
    """Writes a row per generation, and asks the monitor now and then."""

    def __init__(self, job: Assignment, stage: str, problem: NetworkProblem, searcher: SearchAlgorithm) -> None:
        self.job, self.stage, self.problem, self.searcher = job, stage, problem, searcher
        self.next_look = 0.0

    def __call__(self) -> None:
        held_out = None
        if self.job.monitor is not None and self._progress() >= self.next_look:
            held_out = self.job.monitor(self.problem.make_network(current_solution(self.searcher)))
            self.next_look = self._progress() + 1 / self.job.num_monitored
        self.job.history.record(self.stage, self.searcher, held_out)

    def _progress(self) -> float:
        job, problem = self.job, self.problem
        shares = []
        if job.num_evaluations:
            shares.append((job.history.num_evaluations + problem.num_evaluations) / job.num_evaluations)
        if job.num_samples:
            shares.append((job.history.num_samples_seen + problem.num_samples_seen) / job.num_samples)
        return max(shares, default=0.0)


@dataclass
class Outcome:
    """What a preset found.

    Attributes:
        network: The improved network, in evaluation mode.
        notes: What was decided on the way, one sentence each.
        reduction: The reduction of the last or only search, for figures.
        round_trip: The network after blocking alone, where the preset replaces weights by block values.
    """

    network: nn.Module
    notes: list[str] = field(default_factory=list)
    reduction: Reduction | None = None
    round_trip: nn.Module | None = None


class Preset(Protocol):
    """A named way to fine-tune: a dataclass of its switches with a method `run`."""

    @property
    def name(self) -> str: ...

    def run(self, job: Assignment) -> Outcome: ...
