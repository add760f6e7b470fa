"""How long do our searchers take to a target on functions of the BBOB suite, beside others?"""

from __future__ import annotations

import numpy as np

from benchmarks.functions import Function, Search, Task, run
from benchmarks.ours import OURS
from benchmarks.peers import installed
from benchmarks.tables import markdown, publish, write_csv

DIM = 20
TARGETS = (1e1, 1e-1, 1e-3, 1e-8)
"""Above the best score; the lowest ends a run."""

FUNCTIONS = {
    1: "sphere",
    2: "ellipsoid, separable",
    3: "Rastrigin, separable",
    6: "attractive sector",
    8: "Rosenbrock",
    9: "Rosenbrock, rotated",
    10: "ellipsoid",
    13: "sharp ridge",
    15: "Rastrigin",
    17: "Schaffer F7",
    20: "Schwefel",
    21: "Gallagher, 101 peaks",
}
"""12 of the 24: some of each of the suite's five groups."""

OUR_NAMES = [name for name in OURS if "bounds" not in name]
LONG = ("SHADE", "L-SHADE, popsize 18 D to 4")
PEER_NAMES = [
    "scipy DE/rand/1/bin",
    "pymoo DE/rand/1/bin",
    "EvoX JaDE",
    "pymoo CMA-ES",
    "pycma CMA-ES",
]

Rows = list[dict[str, object]]


def measure(instances: list[int]) -> None:
    """Run every search once on every instance, with the instance's number as the seed."""
    searches = {name: OURS[name] for name in OUR_NAMES} | installed(PEER_NAMES)
    rows = _run_all(searches, instances, 2_000 * DIM)
    command = f"python -m benchmarks bbob --instances {instances[0]}-{instances[-1]}"
    _publish("bbob", rows, command)


def measure_long(instances: list[int]) -> None:
    """SHADE and L-SHADE with the 10,000 evaluations per dimension that L-SHADE is made for."""
    rows = _run_all({name: OURS[name] for name in LONG}, instances, 10_000 * DIM)
    command = f"python -m benchmarks bbob --long --instances {instances[0]}-{instances[-1]}"
    _publish("bbob-long", rows, command)


def _run_all(searches: dict[str, Search], instances: list[int], budget: int) -> Rows:
    rows: Rows = []
    for number, name in FUNCTIONS.items():
        for label, search in searches.items():
            found = [_run(search, number, instance, budget) for instance in instances]
            rows += [{"function": number, "name": name, "search": label, **row} for row in found]
            print(f"f{number} {name}, {label}: best {np.median([row['best'] for row in found]):.3g}", flush=True)
    return rows


def _publish(name: str, rows: Rows, command: str) -> None:
    write_csv(name, rows)
    publish(name, "\n\n".join(_table(rows, target) for target in TARGETS), command)


def _run(search: Search, number: int, instance: int, budget: int) -> dict[str, object]:
    function, box = _function(number, instance)
    task = run(search, Task(function, box, DIM, budget, TARGETS), seed=instance)
    hits = {f"{target:g}": task.hits.get(target, "") for target in TARGETS}
    return {"instance": instance, "best": task.best, "evaluations": task.num_evaluations, **hits}


def _function(number: int, instance: int) -> tuple[Function, float]:
    """One instance of a function, less its best score, and half the width of its box."""
    import ioh

    problem = ioh.get_problem(number, instance, DIM, ioh.ProblemClass.BBOB)
    return lambda x: np.asarray(problem(x)) - problem.optimum.y, float(problem.bounds.ub[0])


def running_time(hits: list[object], evaluations: list[int]) -> tuple[float, int]:
    """Expected running time to a target in evaluations, and how many runs hit it.

    All evaluations that were spent before a hit, those of the runs without one included, per hit.

    Source: Hansen, Auger, Finck & Ros (2010), Real-Parameter Black-Box Optimization Benchmarking, section 5.
    """
    spent = [hit if hit != "" else number for hit, number in zip(hits, evaluations, strict=True)]
    successes = sum(hit != "" for hit in hits)
    return (sum(spent) / successes if successes else np.inf), successes


def _table(rows: Rows, target: float) -> str:
    labels = list(dict.fromkeys(row["search"] for row in rows))
    cells = []
    for number in FUNCTIONS:
        found = {label: [r for r in rows if (r["function"], r["search"]) == (number, label)] for label in labels}
        cells.append([f"f{number} {FUNCTIONS[number]}", *(_cell(found[label], target) for label in labels)])
    return markdown([f"target {target:g}", *labels], cells)


def _cell(rows: Rows, target: float) -> str:
    """Expected running time per dimension, and successes where some runs fail."""
    time, successes = running_time([row[f"{target:g}"] for row in rows], [row["evaluations"] for row in rows])
    if not successes:
        return "-"
    return f"{time / DIM:,.0f}" + (f" ({successes}/{len(rows)})" if successes < len(rows) else "")
