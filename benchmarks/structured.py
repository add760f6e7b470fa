"""How much smaller and faster does ResNet-20 get by whole channels?

NSGA-II searches the share of each block's inner channels; fresh training images choose what loses at most one point
there, test images report. The weights that are left are then fitted to the full network's layers, without gradients.
"""

from __future__ import annotations

import torch

from benchmarks.tables import markdown, publish, write_csv
from evohbde import run_until
from evohbde.outputs import score
from evohbde.pruning.latency import Latency, measure
from evohbde.pruning.structured import StructuredProblem
from evohbde.searchers import NSGA2
from problems.cifar import resnet20_jpeg

MAX_LOSS = 0.01
NUM_FITTED = 200
POPSIZE = 20
Row = dict[str, object]


def run(seeds: list[int], num_evaluations: int, images: int, fresh: int, test: int) -> None:
    """Search, choose, fit and measure, seed by seed."""
    rows: list[Row] = []
    for seed in seeds:
        rows += _seed_rows(seed, num_evaluations, images, fresh, test)
        write_csv("structured", rows)
    header = ["seed", "network", "multiply-adds", "bytes", "time of a batch", "test accuracy"]
    body = [[str(row[name]) for name in header] for row in rows]
    options = f"--seeds {seeds[0]}-{seeds[-1]} --num-evaluations {num_evaluations} --images {images}"
    publish("structured", markdown(header, body), f"python -m benchmarks structured {options}")


def _seed_rows(seed: int, num_evaluations: int, images: int, fresh: int, test: int) -> list[Row]:
    task = resnet20_jpeg(
        seed=seed, train_per_class=images // 10, validation_per_class=fresh // 10, test_per_class=test // 10
    )
    assert task.validation is not None and task.test is not None
    problem = StructuredProblem(task.model, task.train, ["cross_entropy", "multiply_adds"], seed=seed)
    searcher = NSGA2(problem, popsize=POPSIZE, include_center=True)
    run_until(searcher, num_evaluations=num_evaluations)
    pruning, x = problem.pruning, task.train.x[:NUM_FITTED]
    front = searcher.population.take(searcher.population.arg_pareto_sort()[0][0]).values.as_subclass(torch.Tensor)
    pairs = [(pruning.network(z), pruning.reconstructed(z, x, seed=seed)) for z in front]
    limit = score(task.model, task.validation, ["accuracy"])["accuracy"] - MAX_LOSS
    networks = {"full": task.model}
    for number, name in enumerate(("cut", "cut and fitted")):
        good = [
            pair[number] for pair in pairs if score(pair[number], task.validation, ["accuracy"])["accuracy"] >= limit
        ]
        networks[name] = min(good or [task.model], key=problem.objectives[1])
    latency = Latency(task.model, task.test.x, num_repeats=30)
    rows: list[Row] = []
    for (name, network), size in zip(networks.items(), measure(list(networks.values()), task.test), strict=True):
        time = latency.timing(network)
        accuracy = score(network, task.test, ["accuracy"])["accuracy"]
        rows.append(
            {
                "seed": seed,
                "network": name,
                "multiply-adds": f"{size.multiply_adds:,}",
                "bytes": f"{size.num_bytes:,}",
                "time of a batch": f"{time.median:.2f} [{time.lower:.2f}, {time.upper:.2f}] of the full one",
                "test accuracy": round(accuracy, 4),
            }
        )
        print(rows[-1], flush=True)
    return rows
