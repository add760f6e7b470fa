"""How are searchers compared so that a reviewer would believe it?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from evohbde.comparison import records
from evohbde.comparison.execution import execute
from evohbde.comparison.plan import DEFAULT_REDUCTION, Plan, check_objective, parse_parts
from evohbde.comparison.result import Comparison
from evohbde.comparison.single import own_random_state, rehearse
from evohbde.objectives import ObjectiveLike
from evohbde.record import describe_environment

OnRun = Callable[[Mapping[str, Any] | None, Comparison], None]


def compare(
    problem_factory: str | Callable[..., Any],
    searchers: Mapping[str, Any] | Iterable[str],
    *,
    num_evaluations: int | None = None,
    num_samples: float | None = None,
    seeds: Iterable[int] = range(11),
    reductions: Mapping[str, Any] | Iterable[str] | None = None,
    objective: ObjectiveLike = "cross_entropy",
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    num_workers: int | None = None,
    num_threads: int = 1,
    num_checkpoints: int = 10,
    device: str | None = None,
    command: str | None = None,
    on_run: OnRun | None = None,
) -> Comparison:
    """Run every searcher with every reduction on every seed: fresh problems, the same data, start and budget for all.

    At geometrically spaced shares of the budget, from 2 % on, the answer of each run (its centre, or its best) is
    scored on held-out samples. These forwards are not part of the budget, and no searcher sees their result.

    Args:
        problem_factory: A function, or a reference to it, `module:name`, that returns an `evohbde.Task`, a tuple
            `(model, train[, validation[, test]])`, an EvoTorch `Problem`, or `(problem, held-out TensorData)`. It is
            called with `seed=` if it takes one. Functions that are no references must be importable or picklable by
            cloudpickle.
        searchers: By label or alone: `"DE"`, `"DE:popsize=30"`, `"evotorch.algorithms:SNES"`,
            `"pymoo.algorithms.soo.nonconvex.pso:PSO"`, a class, or a function `problem -> searcher`. Where nothing is
            set, all start at the network as given with `problem.stdev` as their step.
        num_evaluations: Candidates that a run may score. Needed where `num_samples` is not given.
        num_samples: Sample forwards that a run may spend; a gradient step counts 3 per sample.
        seeds: Seeds of task, problem and searcher; 11 or more can show a difference of practical size.
        reductions: Of a task: `"full"`, `"HistogramBlocking:num_bins=300,mode=offset"`, a function
            `theta0 -> Reduction`, ...; None: `HistogramBlocking` in mode offset. All combinations are run.
        objective: What is searched, for a task.
        settings: Arguments of the factory.
        out: Directory for the records. If it holds the same comparison, only what is missing runs; None: no files.
        overwrite: Forget what the directory holds.
        num_workers: Processes; None: one per core. 1 runs in this process. A script needs the usual
            `if __name__ == "__main__":` for more.
        num_threads: Threads of torch in a run.
        num_checkpoints: How often held-out samples are asked in a run.
        device: Where networks of a task live.
        command: What `compare.json` says on how to repeat it.
        on_run: Called before the first run with None, and with the record of every run that ends.

    Raises:
        ValueError: If there is no budget, a name or setting is unknown, or the directory holds something else.
        TypeError: If a factory gives something else than expected.

    Example:
        >>> found = compare("problems.digits:shifted_mlp", ["DE", "evotorch.algorithms:SNES"], num_evaluations=500)
        >>> print(found.table(), *found.verdicts(), sep="\\n")
    """
    _check_budget(num_evaluations, num_samples)
    workers = _check_counts(num_workers, num_threads, num_checkpoints)
    reference = problem_factory if isinstance(problem_factory, str) else _name(problem_factory)
    plan = Plan(
        factory=problem_factory,
        reference=reference,
        settings=dict(settings or {}),
        searchers=parse_parts(searchers, "searchers"),
        reductions={} if reductions is None else parse_parts(reductions, "reductions"),
        objective=objective,
        num_evaluations=num_evaluations,
        num_samples=num_samples,
        seeds=_check_seeds(seeds),
        num_checkpoints=num_checkpoints,
        device=device,
        num_threads=num_threads,
    )
    check_objective(objective)
    if reductions is None:
        with own_random_state(plan.seeds[0], num_threads):
            is_task = plan.gives_task()
        plan.reductions = parse_parts([DEFAULT_REDUCTION], "reductions") if is_task else {}
    rehearse(plan)
    environment = describe_environment(torch.device(device or "cpu"))
    about = {**plan.describe(), "environment": environment, "command": command}
    directory = None if out is None else Path(out)
    done = {} if directory is None else records.start(directory, about, overwrite=overwrite)
    plan.in_flight = None if directory is None else directory.absolute() / records.IN_FLIGHT
    found = Comparison(about, done)
    if on_run is not None:
        on_run(None, found)
    jobs = [job for job in plan.jobs() if job not in done]
    for run in execute(plan, jobs, min(workers, max(1, len(jobs)))):
        job = run["searcher"], run["reduction"], run["seed"]
        if directory is not None:
            records.append(directory, run, plan.journal_of(job))
        done[job] = run
        found = Comparison(about, done)
        if on_run is not None:
            on_run(run, found)
    if plan.in_flight is not None:
        shutil.rmtree(plan.in_flight, ignore_errors=True)
    return found


def _check_budget(num_evaluations: int | None, num_samples: float | None) -> None:
    if num_evaluations is None and num_samples is None:
        raise ValueError("a comparison needs a budget: give `num_evaluations`, `num_samples` or both")
    for name, value in (("num_evaluations", num_evaluations), ("num_samples", num_samples)):
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be positive, got {value}")


def _check_counts(num_workers: int | None, num_threads: int, num_checkpoints: int) -> int:
    workers = (os.cpu_count() or 1) if num_workers is None else num_workers
    for name, value in (("num_workers", workers), ("num_threads", num_threads), ("num_checkpoints", num_checkpoints)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    return workers


def _check_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    found = tuple(seeds)
    if not found:
        raise ValueError("`seeds` is empty: give at least one")
    if len(set(found)) < len(found):
        raise ValueError(f"`seeds` has one twice, which would count as a run of its own: {list(found)}")
    if min(found) < 0:
        raise ValueError(f"`seeds` must not be negative, got {min(found)}")
    return found


def _name(factory: Callable[..., Any]) -> str:
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', type(factory).__name__)}"
