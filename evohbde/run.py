"""When does a search stop?"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from evotorch import SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import Tensor

from evohbde.journal import seal

FAILED_CALLS, FAILED_CANDIDATES = 10, 100
"""A run has failed when so many batches in a row, and so many candidates, had no finite score at all."""


def run_until(
    searcher: SearchAlgorithm,
    *,
    num_evaluations: int | None = None,
    num_samples: float | None = None,
    target: float | None = None,
    patience: int | None = None,
    seconds: float | None = None,
    after_step: Callable[[], None] | None = None,
) -> str:
    """Step any EvoTorch searcher, ours or not, until a limit is reached, and say which.

    Budgets are never exceeded but by the first step: the run ends before a step that does not fit any more, which is
    taken to cost as much as the last one where the searcher does not know (`next_num_evaluations`,
    `next_num_samples`). Ctrl-C ends the run and loses the generation in flight; the searcher stays usable.

    Args:
        searcher: The search algorithm.
        num_evaluations: Candidates scored, counted from the start of this call.
        num_samples: Sample forwards (problems that count `num_samples_seen`), from the start of this call.
        target: Stop once the best score is at least this good, in the problem's own sense.
        patience: Stop after this many steps without a better best score.
        seconds: Wall-clock limit.
        after_step: Called after every step (progress bars, logs).

    Returns:
        `"num_evaluations"`, `"num_samples"`, `"target"`, `"patience"`, `"seconds"`, `"terminated"` (the searcher says
        that it is done), `"failed"` (the last 10 batches, of 100 candidates at least, had no finite score at all: the
        step size has overflowed, or the network gives NaN wherever it looks) or `"interrupted"`.

    Raises:
        ValueError: If no limit is given, a limit is not positive, or what it limits is not counted or reported.
    """
    limits = {"num_evaluations": num_evaluations, "num_samples": num_samples, "patience": patience, "seconds": seconds}
    if target is None and all(limit is None for limit in limits.values()):
        raise ValueError("give at least one limit: num_evaluations, num_samples, target, patience or seconds")
    for name, limit in limits.items():
        if limit is not None and not limit > 0:
            raise ValueError(f"`{name}` must be positive, got {limit}")
    if searcher.is_terminated:
        return "terminated"
    watch = _Watch(searcher, num_evaluations, num_samples, target, patience, seconds)
    reason = None
    try:
        while reason is None:
            searcher.step()
            reason = watch.update()
            if after_step is not None:
                after_step()
    except KeyboardInterrupt:
        reason = "interrupted"
        seal()
        # A step begins by clearing the status, which the one that was interrupted has not filled again.
        searcher.update_status({"iter": searcher.step_count, **searcher.problem.status})
    finally:
        watch.close()
    if len(searcher.end_of_run_hook) and searcher.step_count:
        searcher.end_of_run_hook(dict(searcher.status))
    return reason


class _Watch:
    """Counts what a run costs and compares it with the limits."""

    def __init__(
        self,
        searcher: SearchAlgorithm,
        num_evaluations: int | None,
        num_samples: float | None,
        target: float | None,
        patience: int | None,
        seconds: float | None,
    ) -> None:
        self.searcher, self.target, self.patience = searcher, target, patience
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.budgets = [
            _Budget("num_evaluations", num_evaluations),
            _Budget("num_samples", num_samples),
        ]
        self.first_samples = self._samples()
        self.counter, self.failures = _Counter(), _Failures()
        self.best: float | None = None
        self.stale_steps = 0
        problem = searcher.problem
        self.sign = 1.0 if problem.senses[getattr(searcher, "obj_index", None) or 0] == "max" else -1.0
        problem.before_eval_hook.append(self.counter)
        problem.after_eval_hook.append(self.failures)

    def close(self) -> None:
        self.searcher.problem.before_eval_hook.remove(self.counter)
        self.searcher.problem.after_eval_hook.remove(self.failures)

    def _samples(self) -> float:
        return float(getattr(self.searcher.problem, "num_samples_seen", 0.0))

    def update(self) -> str | None:
        growth = self._growth()
        for budget, spent in zip(self.budgets, (self.counter.total, self._samples() - self.first_samples), strict=True):
            if budget.is_spent(spent, growth, getattr(self.searcher, f"next_{budget.name}", None)):
                return budget.name
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "seconds"
        if self.target is not None or self.patience is not None:
            reason = self._judge()
            if reason:
                return reason
        if self.searcher.is_terminated:
            return "terminated"
        return "failed" if self.failures.is_hopeless else None

    def _growth(self) -> float:
        """How many candidates the next step scores for each one of the last step."""
        upcoming = getattr(self.searcher, "next_num_evaluations", None)
        last, self.counter.last_step = self.counter.last_step, 0
        return upcoming / last if upcoming is not None and last else 1.0

    def _judge(self) -> str | None:
        status = self.searcher.status
        value = status.get("best_eval", status.get("pop_best_eval"))
        if value is None:
            raise ValueError("`target` and `patience` need a single-objective searcher that reports its best score")
        if self.target is not None and (value - self.target) * self.sign >= 0:
            return "target"
        if self.best is None or (value - self.best) * self.sign > 0:
            self.best, self.stale_steps = value, 0
        else:
            self.stale_steps += 1
        return "patience" if self.patience is not None and self.stale_steps >= self.patience else None


class _Budget:
    def __init__(self, name: str, limit: float | None) -> None:
        self.name, self.limit, self.spent = name, limit, 0.0

    def is_spent(self, spent: float, growth: float, upcoming: float | None) -> bool:
        if self.limit is None:
            return False
        if not spent:
            raise ValueError(
                f"`{self.name}` cannot limit this run, a step counted none: either the problem does not count them, or "
                "the searcher scores candidates in its actors (distributed=True)"
            )
        last_step, self.spent = spent - self.spent, spent
        return spent + (growth * last_step if upcoming is None else upcoming) > self.limit


class _Counter:
    """A hook of its own, because hooks travel with the problem into actors, clones and pickles."""

    def __init__(self) -> None:
        self.total = self.last_step = 0

    def __call__(self, batch: SolutionBatch) -> None:
        self.total += len(batch)
        self.last_step += len(batch)


class _Failures:
    """Counts batches and candidates since one had a finite score."""

    def __init__(self) -> None:
        self.num_calls = self.num_candidates = 0

    def __call__(self, batch: SolutionBatch) -> None:
        scores = batch._evdata[:, : len(batch.senses)].as_subclass(Tensor)
        # Our problems give the largest number to those that failed.
        has_score = scores.isfinite() & (scores.abs() < torch.finfo(scores.dtype).max)
        if bool(has_score.all(1).any()):
            self.num_calls = self.num_candidates = 0
        else:
            self.num_calls, self.num_candidates = self.num_calls + 1, self.num_candidates + len(batch)

    @property
    def is_hopeless(self) -> bool:
        return self.num_calls >= FAILED_CALLS and self.num_candidates >= FAILED_CANDIDATES
