"""How many sample forwards and how much time does racing save, and does the search take the same way?"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.tables import markdown, publish, write_csv
from evohbde import HistogramBlocking, NetworkProblem, TensorData
from evohbde.searchers import DE

Search = Callable[[bool], DE]


def published(network: nn.Module, data: TensorData, popsize: int) -> Search:
    """The settings of hbde-2024: 10,000 bins that are replaced, a start uniform in the ranges of the blocks."""

    def search(is_raced: bool) -> DE:
        problem = NetworkProblem(
            network, data, reduction=lambda theta: HistogramBlocking(theta, 10_000), seed=0, racing=is_raced
        )
        return DE(problem, popsize=popsize, differential_weight=0.5, crossover_rate=0.9, accept_equal=False)

    return search


def useful(network: nn.Module, data: TensorData, popsize: int, stdev: float = 0.002) -> Search:
    """Blocks that move as one, a start close around the trained network."""

    def search(is_raced: bool) -> DE:
        problem = NetworkProblem(
            network, data, reduction=lambda theta: HistogramBlocking(theta, 300, "offset"), seed=0, racing=is_raced
        )
        return DE(problem, popsize=popsize, differential_weight=0.5, crossover_rate=0.9, stdev_init=stdev)

    return search


def is_same(one: DE, other: DE) -> bool:
    """Whether both populations hold the same bits, candidates and scores."""
    ours, theirs = one.population, other.population
    return torch.equal(ours.values, theirs.values) and torch.equal(ours.evals, theirs.evals)


def race(label: str, search: Search, num_generations: int) -> list[dict[str, object]]:
    """Both searches in turn, a row per generation; the first one only scores, and chooses how networks are run."""
    searchers = {"raced": search(True), "in full": search(False)}
    rows: list[dict[str, object]] = []
    for generation in range(num_generations + 1):
        found: dict[str, object] = {"label": label, "generation": generation}
        for name, searcher in searchers.items():
            seen, start = searcher.problem.num_samples_seen, time.process_time()
            searcher.step()
            found[f"seconds {name}"] = time.process_time() - start
            found[f"samples {name}"] = searcher.problem.num_samples_seen - seen
        found["is_same"] = is_same(searchers["raced"], searchers["in full"])
        found["best"] = float(searchers["raced"].status["pop_best_eval"])
        rows.append(found)
        print(f"{label}, generation {generation}: same {found['is_same']}", flush=True)
    return rows


def saved(rows: list[dict[str, object]], what: str) -> float:
    """Share of samples or seconds that racing saved after the first generation, in which nobody has a parent."""
    raced, full = (sum(float(str(one[f"{what} {name}"])) for one in rows[1:]) for name in ("raced", "in full"))
    return 1 - raced / full


def measure(num_images: int, popsize: int, num_generations: int, is_quick: bool = False) -> None:
    """ResNet-20 on JPEG images of CIFAR-10 that it was not tuned on, with both settings."""
    from problems.cifar import resnet20_jpeg

    if is_quick:
        num_images, popsize, num_generations = 400, 6, 2
    task = resnet20_jpeg(train_per_class=10, validation_per_class=0, test_per_class=num_images // 10)
    assert task.test is not None
    settings = {"hbde-2024, 10,000 bins": published, "300 blocks, near the network": useful}
    runs = {
        label: race(label, make(task.model, task.test, popsize), num_generations) for label, make in settings.items()
    }
    body = [
        [
            label,
            f"{100 * saved(rows, 'samples'):.1f} %",
            f"{100 * saved(rows, 'seconds'):.1f} %",
            f"{sum(bool(one['is_same']) for one in rows)} of {len(rows)}",
            f"{rows[0]['best']:.4f} → {rows[-1]['best']:.4f}",
        ]
        for label, rows in runs.items()
    ]
    header = ["search", "sample forwards saved", "time saved", "generations with equal bits", "best macro-F1"]
    table = markdown(header, body)
    if is_quick:
        print(table)
        return
    write_csv("racing", [one for rows in runs.values() for one in rows])
    options = f" --images {num_images} --popsize {popsize} --generations {num_generations}"
    publish("racing", table, f"python -m benchmarks racing{options}")
