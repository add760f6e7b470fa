"""How is one searcher run once, and what is written down on the way?"""

from __future__ import annotations

import math
import random
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from evotorch import SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor

from evohbde.checkpoint import checkpointing, describe_data
from evohbde.comparison.contestants import make_searcher
from evohbde.comparison.plan import HELD_OUT, Instance, Job, Plan, searcher_kind
from evohbde.gradient_searcher import GradientSearcher
from evohbde.problem import NetworkProblem
from evohbde.run import run_until

FIRST_CHECKPOINT = 0.02
"""Share of the budget at which the answer is scored first on held-out samples; the others follow geometrically."""


def run_job(plan: Plan, job: Job) -> dict[str, Any]:
    """Run one searcher on a fresh problem; what fails becomes the record's `error`.

    Returns:
        A line of `runs.jsonl`, see `evohbde.comparison.records`.
    """
    searcher, reduction, seed = job
    record = {"searcher": searcher, "reduction": reduction, "seed": seed, "error": None}
    started = time.monotonic()
    with own_random_state(seed, plan.num_threads):
        try:
            instance = plan.make(reduction, seed)
            with checkpointing(plan.journal_of(job), _fingerprint(plan, job, instance)) as journal:
                found = _search(plan, searcher, instance)
            if journal is not None:
                found["seconds"] = round(found["seconds"] + journal.seconds_saved, 4)
            return {**record, **found}
        except Exception as error:  # noqa: BLE001, whatever a foreign searcher raises is a result of the comparison
            where = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"
            return {**record, **without_result(time.monotonic() - started), "error": " ".join(words.split())}


def rehearse(plan: Plan) -> None:
    """Build every searcher and every reduction once, so that what is misspelt is told before anything runs.

    Raises:
        ValueError, TypeError: What the builders raise.
    """
    seed, reductions = plan.seeds[0], plan.reduction_labels
    with own_random_state(seed, plan.num_threads):
        for number, reduction in enumerate(reductions):
            for part in list(plan.searchers.values()) if number == 0 else []:
                kind, instance = searcher_kind(part), plan.make(reduction, seed)
                make_searcher(kind, instance.problem, part.settings, plan.num_evaluations)
                _check_budget(plan, part.label, kind, instance)
            if number:
                instance = plan.make(reduction, seed)
    plan.objective_sense = str(instance.problem.senses[0])
    plan.held_out = instance_metrics(instance)


def without_result(seconds: float) -> dict[str, Any]:
    """What is recorded of a run that failed."""
    return {
        "solution_length": None,
        "num_evaluations": 0,
        "num_samples_seen": 0.0,
        "seconds": round(seconds, 4),
        "stop_reason": "error",
        "best": None,
        "first": None,
        "untouched": {},
        "held_out": {},
        "trajectory": [],
    }


def instance_metrics(instance: Instance) -> tuple[str, ...]:
    """What a run's answer is scored by on held-out samples; nothing where there are none."""
    return HELD_OUT if instance.held_out is not None else ()


def _check_budget(plan: Plan, label: str, kind: Any, instance: Instance) -> None:
    if plan.num_samples is not None:
        if not hasattr(instance.problem, "num_samples_seen"):
            raise ValueError(
                f"`num_samples` cannot limit {plan.reference}, which counts no sample forwards: use num_evaluations"
            )
        return
    if isinstance(kind, type) and issubclass(kind, GradientSearcher):
        raise ValueError(
            f"{label!r} follows gradients, whose cost `num_evaluations` does not count: give the budget as num_samples "
            "(a gradient step counts 3 forwards per sample)"
        )


def _fingerprint(plan: Plan, job: Job, instance: Instance) -> dict[str, object]:
    """What decides a run, so that it goes on only where it would repeat itself."""
    return {**plan.describe(), "job": list(job), "train": describe_data(instance.train)}


def _search(plan: Plan, label: str, instance: Instance) -> dict[str, Any]:
    part, problem = plan.searchers[label], instance.problem
    untouched = _untouched(instance)
    started = time.monotonic()
    searcher = make_searcher(searcher_kind(part), problem, part.settings, plan.num_evaluations)
    watch = _Recorder(plan, instance, searcher, started)
    reason = run_until(
        searcher, num_evaluations=plan.num_evaluations, num_samples=plan.num_samples, after_step=watch.after_step
    )
    if reason == "interrupted":
        raise KeyboardInterrupt
    return watch.finish(reason, untouched)


class _Recorder:
    """Writes a row where the best improves and at fixed shares of the budget, there with held-out scores.

    A share of the budget is judged by the last generation that did not exceed it. Scoring costs no budget.
    """

    def __init__(self, plan: Plan, instance: Instance, searcher: SearchAlgorithm, started: float) -> None:
        self.plan, self.instance, self.searcher, self.started = plan, instance, searcher, started
        self.sign = 1.0 if instance.problem.senses[0] == "max" else -1.0
        self.first_samples, self.spent_scoring = self._samples(), 0.0
        self.counter = _Counter()
        instance.problem.after_eval_hook.append(self.counter)
        self.rows: list[dict[str, Any]] = []
        self.best = math.nan
        self.last: tuple[dict[str, Any], Tensor | None] | None = None
        self.marks = np.geomspace(FIRST_CHECKPOINT, 1.0, plan.num_checkpoints).tolist()

    def after_step(self) -> None:
        row, is_better = self._row(), False
        while self.marks and self._share(row) > self.marks[0]:
            self._checkpoint()
            self.marks.pop(0)
        value = _best(self.searcher)
        if value is not None and (math.isnan(self.best) or (value - self.best) * self.sign > 0):
            self.best, is_better = value, True
        row["best"] = self.best
        if is_better:
            self.rows.append(row)
        self.last = row, self._answer()

    def finish(self, reason: str, untouched: dict[str, float]) -> dict[str, Any]:
        self.instance.problem.after_eval_hook.remove(self.counter)
        self._checkpoint()
        row = self.rows[-1]
        return {
            "solution_length": self.instance.problem.solution_length,
            "num_evaluations": row["num_evaluations"],
            "num_samples_seen": row["num_samples_seen"],
            "seconds": row["seconds"],
            "stop_reason": reason,
            "best": row["best"],
            "first": self.counter.first,
            "untouched": untouched,
            "held_out": row["held_out"] or {},
            "trajectory": self.rows,
        }

    def _checkpoint(self) -> None:
        """Score the answer of the last generation, once."""
        if self.last is None:
            return
        row, answer = self.last
        if not self.rows or self.rows[-1] is not row:
            self.rows.append(row)
        if row["held_out"] is None and answer is not None:
            began = time.monotonic()
            row["held_out"] = _score(self.instance, answer)
            self.spent_scoring += time.monotonic() - began

    def _row(self) -> dict[str, Any]:
        mean = self.searcher.status.get("mean_eval") if "mean_eval" in self.searcher.status else None
        return {
            "num_evaluations": self.counter.total,
            "num_samples_seen": self._samples() - self.first_samples,
            "seconds": round(time.monotonic() - self.started - self.spent_scoring, 4),
            "best": self.best,
            "mean": None if mean is None else float(mean),
            "held_out": None,
        }

    def _answer(self) -> Tensor | None:
        """What the searcher would answer now: its centre, or its best; of the last generation where samples change."""
        if self.instance.held_out is None:
            return None
        status, problem = self.searcher.status, self.instance.problem
        if "center" in status:
            found = status["center"]
        else:
            changes = isinstance(problem, NetworkProblem) and len(problem.batches) > 1
            key = "pop_best" if changes or "best" not in status else "best"
            found = status[key].values
        return torch.as_tensor(found).as_subclass(Tensor).detach().clone().reshape(-1)

    def _share(self, row: dict[str, Any]) -> float:
        limits = {"num_evaluations": self.plan.num_evaluations, "num_samples_seen": self.plan.num_samples}
        return max(row[name] / limit for name, limit in limits.items() if limit)

    def _samples(self) -> float:
        return float(getattr(self.instance.problem, "num_samples_seen", 0.0))


class _Counter:
    """A hook of its own, because hooks travel with the problem into actors, clones and pickles."""

    def __init__(self) -> None:
        self.total = 0
        self.first: float | None = None

    def __call__(self, batch: SolutionBatch) -> None:
        if self.total == 0:
            self.first = float(batch.evals[0, 0])
        self.total += len(batch)


def _best(searcher: SearchAlgorithm) -> float | None:
    """The best score so far in the problem's own sense; None before any finite one."""
    status = searcher.status
    for key in ("best_eval", "pop_best_eval"):
        if key in status and status[key] is not None:
            value = float(status[key])
            return value if math.isfinite(value) else None
    return None


def _score(instance: Instance, z: Tensor) -> dict[str, float]:
    assert isinstance(instance.problem, NetworkProblem) and instance.held_out is not None
    return instance.problem.score(z, instance.held_out, instance_metrics(instance))


def _untouched(instance: Instance) -> dict[str, float]:
    """The network as given: what is searched, on the samples of the search, and what is held out."""
    problem = instance.problem
    if not isinstance(problem, NetworkProblem) or instance.train is None or instance.held_out is None:
        return {}
    searched = problem.score(problem.center, instance.train, [instance.objective])
    return {"selection": next(iter(searched.values())), **_score(instance, problem.center)}


@contextmanager
def own_random_state(seed: int, num_threads: int) -> Iterator[None]:
    """Seed what draws from global generators, and put everything back; so many threads of torch."""
    states = random.getstate(), np.random.get_state(), torch.get_num_threads()  # noqa: NPY002, some searchers use it
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        torch.set_num_threads(num_threads)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_num_threads(states[2])
