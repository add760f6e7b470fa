"""Which searcher improves a network most within the same few evaluations, from the same start?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import mean, quantiles

from torch import Tensor

from benchmarks.contenders import CONTENDERS, DE_FAMILY, NUM_EVALUATIONS, Setup, set_up
from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde import HistogramBlocking, Identity, NetworkProblem, Reduction, Task, run_until
from evohbde.gradient_searcher import GradientSearcher
from problems.digits import shifted_mlp

NUM_BINS = 300
SEEDS = range(20, 31)
STEPS_PER_SCORING = 30
"""Gradient steps between two scorings of Adam, which has no use for scores and pays for them."""

UNRANKED = "reference"
Row = dict[str, object]


def blocks(theta0: Tensor) -> Reduction:
    return HistogramBlocking(theta0, NUM_BINS, mode="offset")


GRADIENTS: dict[str, Callable[[Tensor], Reduction]] = {
    "Adam, same sample forwards, same blocks": blocks,
    "Adam, same sample forwards, all weights": Identity,
}


def measure(seeds: list[int]) -> None:
    """Every searcher on every seed, one table of all."""
    rows: list[Row] = []
    for seed in seeds:
        rows += _seed_rows(seed)
        write_csv("searchers", rows)
        print(f"seed {seed} done", flush=True)
    options = "" if seeds == list(SEEDS) else f" --seeds {seeds[0]}-{seeds[-1]}"
    publish("searchers", _table(rows), f"python -m benchmarks searchers{options}")


def _seed_rows(seed: int) -> Iterator[Row]:
    task = shifted_mlp(seed=seed)
    problem = _problem(task, seed)
    yield _row(task, problem, problem.center, seed, UNRANKED, "untouched")
    for (package, name), setup in CONTENDERS.items():
        yield _search(task, seed, package, name, setup)
    for name, text in DE_FAMILY.items():
        yield _search(task, seed, "evohbde", name, partial(set_up, text), "f1_macro")
    for name, reduction in GRADIENTS.items():
        yield _descend(task, seed, name, reduction)


def _problem(
    task: Task, seed: int, objective: str = "cross_entropy", reduction: Callable[[Tensor], Reduction] = blocks
) -> NetworkProblem:
    return NetworkProblem(task.model, task.train, objective, reduction=reduction, seed=seed)


def _search(task: Task, seed: int, package: str, name: str, setup: Setup, objective: str = "cross_entropy") -> Row:
    problem = _problem(task, seed, objective)
    searcher = setup(problem)
    run_until(searcher, num_evaluations=NUM_EVALUATIONS)
    # All candidates meet the same samples, so that the best of all generations is no luckier than the last one's.
    status = searcher.status
    answer = status["center"] if "center" in status else status["best"].values
    return _row(task, problem, answer, seed, package, name)


def _descend(task: Task, seed: int, name: str, reduction: Callable[[Tensor], Reduction]) -> Row:
    problem = _problem(task, seed, reduction=reduction)
    searcher = GradientSearcher(problem, "adam", steps_per_generation=STEPS_PER_SCORING)
    run_until(searcher, num_samples=NUM_EVALUATIONS * len(task.train))
    return _row(task, problem, searcher.center, seed, UNRANKED, name)


def _row(task: Task, problem: NetworkProblem, z: Tensor, seed: int, package: str, name: str) -> Row:
    assert task.test is not None
    found, held_out = problem.score(z, task.train), problem.score(z, task.test)
    return {
        "package": package,
        "searcher": name,
        "objective": problem.objective_names[0],
        "seed": seed,
        "num_evaluations": problem.num_evaluations,
        "num_samples": round(problem.num_samples_seen),
        "searched_cross_entropy": round(found["cross_entropy"], 5),
        "searched_f1_macro": round(found["f1_macro"], 5),
        "f1_macro": round(held_out["f1_macro"], 5),
        "accuracy": round(held_out["accuracy"], 5),
        "cross_entropy": round(held_out["cross_entropy"], 5),
    }


def _table(rows: list[Row]) -> str:
    """All that searched cross-entropy, the best mean first; references among them without a rank."""
    names = dict.fromkeys((str(row["package"]), str(row["searcher"])) for row in rows)
    by_mean = sorted(names, key=lambda name: -mean(_of(rows, *name, "f1_macro")))
    lines, rank = [], 0
    for package, name in by_mean:
        rank += package != UNRANKED
        values = _of(rows, package, name, "f1_macro")
        with_f1 = _of(rows, package, name, "f1_macro", objective="f1_macro")
        lines.append(
            [
                "" if package == UNRANKED else str(rank),
                name,
                package,
                spread(values),
                _quartiles(values),
                spread(_of(rows, package, name, "searched_cross_entropy")),
                spread(with_f1) if with_f1 else "",
            ]
        )
    header = ["rank", "searcher", "from", "held-out macro-F1", "median [quartiles]", "cross-entropy searched"]
    return markdown([*header, "held-out macro-F1 where macro-F1 is searched"], lines)


def _of(rows: list[Row], package: str, name: str, column: str, objective: str = "cross_entropy") -> list[float]:
    wanted = (package, name, objective)
    return [float(str(row[column])) for row in rows if (row["package"], row["searcher"], row["objective"]) == wanted]


def _quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    low, middle, high = quantiles(values, method="inclusive")
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
