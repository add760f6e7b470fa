"""Which programs are stopped and continued, and what does a program say that must not change by it?"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from evotorch import Problem
from evotorch.algorithms import PGPE, SNES
from pymoo.algorithms.soo.nonconvex.de import DE as PymooDE
from torch import Tensor

from evohbde import HistogramBlocking, NetworkProblem, ParameterLayout, PymooSearcher, StructuredProblem, SuperBatches
from evohbde.checkpoint import Checkpointer
from evohbde.journal import Journal
from evohbde.reductions import Identity, ThresholdPruning
from evohbde.run import run_until
from evohbde.searchers import CMAES, DE, NSGA2, SHADE
from tests.small_networks import cnn, digits, mlp


class Killed(BaseException):
    """Stands for the death of a process: nothing in the package catches it."""


def die_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Die when the answer of this number, from 1, is to be written; it is lost."""
    append, count = Journal._append, 0

    def dying(self: Journal, record: bytes) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed
        append(self, record)

    monkeypatch.setattr(Journal, "_append", dying)


def blocks(theta: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta, 20)


def raced(parents: str = "refresh") -> NetworkProblem:
    """Digits in super-batches; small pieces, so that candidates are given up early."""
    data = SuperBatches(digits(480), 160, parents=parents)
    return NetworkProblem(mlp(), data, "f1_macro", reduction=blocks, seed=3, batch_size=32, strategy="views")


def behind_a_prefix() -> NetworkProblem:
    """Only the head is searched, so that what lies in front of it is computed once and counted once."""
    model = cnn()
    data = SuperBatches(digits(480), 160, parents="stale")
    layout = ParameterLayout(model, "head.*")
    return NetworkProblem(
        model, data, "cross_entropy", layout=layout, reduction=lambda theta: Identity(theta, mode="offset"), seed=1
    )


def masked() -> NetworkProblem:
    """Two objectives, over thresholds of pruning."""

    def reduction(theta: Tensor) -> ThresholdPruning:
        return ThresholdPruning(theta, torch.arange(len(theta)) * 4 // len(theta))

    return NetworkProblem(mlp(), digits(), ["error", "density"], reduction=reduction, seed=2)


class Noisy(Problem):
    """A problem that is none of ours, and draws from its own generator while it scores."""

    def __init__(self) -> None:
        super().__init__("min", solution_length=6, initial_bounds=(-1, 1), seed=4, eval_data_length=1)
        self.num_scored = 0

    def _evaluate_batch(self, batch) -> None:
        self.num_scored += len(batch)
        noise = self.make_gaussian(len(batch))
        batch.set_evals(batch.values.square().sum(-1) + noise, torch.arange(len(batch)).float()[:, None])


SEARCHERS: dict[str, Callable[[], object]] = {
    "DE, raced, parents scored again": lambda: DE(raced(), popsize=12),
    "DE, raced, old scores": lambda: DE(raced("stale"), popsize=12),
    "SHADE": lambda: SHADE(raced(), popsize=12),
    "NSGA2": lambda: NSGA2(masked(), popsize=12),
    "NSGA2 over channels": lambda: NSGA2(StructuredProblem(cnn(), digits(60), seed=0), popsize=12),
    "SNES behind a prefix": lambda: SNES(behind_a_prefix(), popsize=10, stdev_init=0.1),
    "PGPE": lambda: PGPE(raced(), popsize=10, center_learning_rate=0.1, stdev_learning_rate=0.1, stdev_init=0.1),
    "CMA-ES": lambda: CMAES(raced(), popsize=10, stdev_init=0.1),
    "a problem of EvoTorch": lambda: SNES(Noisy(), popsize=10, stdev_init=0.1),
    "pymoo's DE": lambda: PymooSearcher(raced("fixed"), PymooDE(pop_size=12)),
}


def said_by(searcher: object) -> list[object]:
    """Everything that a run shows, tensors as lists of numbers."""
    problem = searcher.problem
    facts: list[object] = [searcher.step_count, getattr(problem, "num_evaluations", None)]
    facts += [getattr(problem, "num_samples_seen", None), getattr(problem, "num_calls", None)]
    for name, value in searcher.status.items():
        if hasattr(value, "values") and hasattr(value, "evals"):
            value = torch.cat([value.values.reshape(-1), value.evals.reshape(-1)])
        facts.append((name, value.tolist() if isinstance(value, Tensor) else repr(value)))
    population = searcher.population
    facts += [population.values.tolist(), population.evals.tolist()]
    order = getattr(getattr(problem, "_evaluator", None), "order", None)
    return facts if order is None else [*facts, order.errors.tolist(), order.margins.tolist()]


def search(name: str, directory: Path | None, num_evaluations: int = 120) -> tuple[list[list[object]], list[object]]:
    """Run one of `SEARCHERS` from its seed; what it showed after every generation, and at its end."""
    searcher = SEARCHERS[name]()
    seen: list[list[object]] = []

    def look() -> None:
        seen.append(said_by(searcher))

    if directory is None:
        run_until(searcher, num_evaluations=num_evaluations, after_step=look)
    else:
        with Checkpointer(searcher, directory):
            run_until(searcher, num_evaluations=num_evaluations, after_step=look)
    return seen, said_by(searcher)
