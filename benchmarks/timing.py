"""How are pieces of work compared on a machine that is never quite still?

They run in turn in one process, and ratios are taken within a turn, so that a slow spell hits all of them. On a CPU the
clock is the process's own time: with one thread, what else runs on the machine is not counted.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.tables import ROOT, machine

Work = Callable[[], object]
Times = dict[str, np.ndarray]

PACKAGES = ("torch", "numpy", "evotorch", "scikit-learn", "ray")


class Spread(NamedTuple):
    """Median and quartiles."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Row(NamedTuple):
    """One line of the table: a measured quantity, and what it should be (`"<= 0.8"`; empty: nothing was asked)."""

    what: str
    value: float
    low: float
    high: float
    unit: str
    target: str = ""

    @property
    def is_met(self) -> bool | None:
        if not self.target:
            return None
        relation, limit = self.target.split()
        return self.value <= float(limit) if relation == "<=" else self.value >= float(limit)


def in_turn(works: Mapping[str, Work], repeats: int, device: str = "cpu") -> Times:
    """Seconds of each piece of work, `(repeats,)`, after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            seconds[name].append(_seconds(work, device))
    return {name: np.array(found[1:]) for name, found in seconds.items()}


def _seconds(work: Work, device: str) -> float:
    is_cpu = torch.device(device).type == "cpu"
    if not is_cpu:
        torch.cuda.synchronize(device)
    clock = time.process_time if is_cpu else time.perf_counter
    start = clock()
    work()
    if not is_cpu:
        torch.cuda.synchronize(device)
    return clock() - start


def spread(values: np.ndarray) -> Spread:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return Spread(float(middle), float(low), float(high))


def ratio(times: Times, name: str, reference: str, scale: float = 1.0) -> Spread:
    """Median and quartiles of time over time within a turn, times `scale`."""
    return spread(scale * times[name] / times[reference])


def row(what: str, found: Spread, unit: str, target: str = "") -> Row:
    return Row(what, found.middle, found.low, found.high, unit, target)


def versions() -> dict[str, str]:
    """Versions of what was measured, and of the machine."""
    found = {"machine": machine(), "python": platform.python_version(), "processor": platform.processor()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write_json(name: str, content: Mapping[str, object]) -> None:
    """Write `docs/results/<name>.json`, with versions and machine."""
    path = ROOT / "docs" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"versions": versions(), **content}, indent=1, default=float) + "\n")


def cells(found: Row) -> list[str]:
    """What the tables print of a row."""
    met = {None: "", True: "met", False: "**missed**"}[found.is_met]
    middle = str(Spread(found.value, found.low, found.high))
    return [found.what, middle, found.unit, found.target, met]
