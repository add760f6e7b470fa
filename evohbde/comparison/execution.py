"""How do many runs share a machine, and what if one of their processes dies?"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ray import cloudpickle

from evohbde.comparison.plan import Job, Plan
from evohbde.comparison.single import run_job, without_result

KNOWN_WARNINGS = ("ignore:`torch.jit.script` is deprecated", "ignore:To copy construct from a tensor")

_PLANS: list[Plan] = []
"""The plan of a worker process, so that what it keeps of a seed's task serves the next run."""


def execute(plan: Plan, jobs: list[Job], num_workers: int) -> Iterator[dict[str, Any]]:
    """Yield the record of every run as it ends; with one worker in this process, else in fresh ones.

    A process that dies (killed for its memory, say) takes the runs in flight with it: these are tried again one by one,
    and the one that dies alone is recorded as failed.

    Args:
        plan: What is compared; it travels by cloudpickle, so that functions of a notebook work too.
        jobs: Which of its runs.
        num_workers: Processes at a time.
    """
    if num_workers == 1:
        for job in jobs:
            yield run_job(plan, job)
        return
    payload, waiting, suspects = cloudpickle.dumps(plan), list(jobs), []
    while waiting:
        with _quiet_imports(), _Pool(payload, min(num_workers, len(waiting))) as pool:
            lost = yield from pool.run(waiting)
        suspects += lost
    while suspects:
        with _quiet_imports(), _Pool(payload, 1) as pool:
            lost = yield from pool.run(suspects)
        for searcher, reduction, seed in lost:
            record = {"searcher": searcher, "reduction": reduction, "seed": seed}
            yield {**record, **without_result(0.0), "error": "the process of this run died: out of memory?"}


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """Spare every new process the known warnings of EvoTorch's import, which its parent has shown already."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, (before, *KNOWN_WARNINGS)))
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


class _Pool:
    """Some processes, ended at once when the `with` is left early."""

    def __init__(self, payload: bytes, num_workers: int) -> None:
        self.num_workers = num_workers
        self._before = set(multiprocessing.active_children())
        self._executor = ProcessPoolExecutor(
            num_workers,
            mp_context=multiprocessing.get_context("spawn"),  # torch and Ray have threads, which a fork would break
            initializer=_begin,
            initargs=(payload,),
        )

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for process in set(multiprocessing.active_children()) - self._before:
                process.terminate()
        self._executor.shutdown(cancel_futures=True)

    def run(self, waiting: list[Job]) -> Any:
        """Yield records; takes jobs out of `waiting`, and returns those that were in flight when a process died."""
        flying: dict[Future[dict[str, Any]], Job] = {}
        while waiting or flying:
            for job in list(islice(waiting, self.num_workers - len(flying))):
                try:
                    flying[self._executor.submit(_run, job)] = job
                except BrokenProcessPool:
                    return list(flying.values())
                waiting.remove(job)
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                if not isinstance(future.exception(), BrokenProcessPool):
                    del flying[future]
                    yield future.result()
            if any(isinstance(future.exception(), BrokenProcessPool) for future in done & set(flying)):
                return list(flying.values())
        return []


def _begin(payload: bytes) -> None:
    """Set up a worker: Ctrl-C is the parent's affair, and where the parent is gone there is nothing left to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _PLANS.append(cloudpickle.loads(payload))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(job: Job) -> dict[str, Any]:
    return run_job(_PLANS[0], job)
