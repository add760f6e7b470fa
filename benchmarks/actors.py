"""What travels to Ray actors in a generation, and what do actors cost and save?"""

from __future__ import annotations

import time

import numpy as np
import ray
import torch
from evotorch import SolutionBatch
from ray import cloudpickle

from benchmarks.tables import markdown, publish, write_csv
from evohbde import NetworkProblem, RandomBlocking, SuperBatches, TensorData
from problems.networks import initialised, resnet20

DIMS, POPSIZES, NUM_ACTORS = (100, 1_000, 10_000), (10, 100), (0, 1, 2)

NUM_SAMPLES = 96


def measure(repeats: int, is_timed: bool) -> None:
    """Count bytes, and time generations of 10 and 100 candidates of ResNet-20 on 96 samples, in turn."""
    rows = [_bytes(dim, popsize) for dim in DIMS for popsize in POPSIZES]
    write_csv("actors-bytes", rows)
    table = [[f"{row[name]:,}" for name in rows[0]] for row in rows]
    publish("actors-bytes", markdown(list(rows[0]), table), f"python -m benchmarks actors{_options(repeats, is_timed)}")
    if is_timed:
        _time_all(repeats)


def _problem(dim: int, num_actors: int = 0) -> NetworkProblem:
    model = initialised(lambda: resnet20(10), 0)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(NUM_SAMPLES, 3, 32, 32, generator=generator)
    data = TensorData(x, torch.arange(NUM_SAMPLES) % 10)
    return NetworkProblem(
        model,
        SuperBatches(data, NUM_SAMPLES, parents="fixed"),
        "cross_entropy",
        reduction=lambda theta: RandomBlocking(theta, dim),
        num_actors=num_actors,
        seed=0,
    )


def _bytes(dim: int, popsize: int) -> dict[str, object]:
    """Sizes of what EvoTorch hands to Ray for two actors: counters out, pieces out, scores back, counters back."""
    problem = _problem(dim)
    batch = problem.generate_batch(popsize)
    pieces = batch.split(2)
    counters = len(cloudpickle.dumps(problem._make_sync_data_for_actors()))
    out = sum(len(cloudpickle.dumps(piece)) for piece in pieces) + 2 * counters
    answers = sum(len(cloudpickle.dumps((i, pieces[i].access_evals()))) for i in range(len(pieces)))
    return {
        "d": dim,
        "candidates": popsize,
        "bytes to two actors": out,
        "numbers in them": 4 * popsize * (dim + 1),
        "bytes back": answers + 2 * len(cloudpickle.dumps((0.0, float(NUM_SAMPLES)))),
        "if weights travelled": 4 * popsize * problem.layout.size,
        "once, at the start": len(cloudpickle.dumps(problem)),
    }


def _time_all(repeats: int) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    problems = {num: _problem(1_000, num) for num in NUM_ACTORS}
    rows: list[dict[str, object]] = []
    for popsize in POPSIZES:
        batch = problems[0].generate_batch(popsize)
        for repeat in range(-1, repeats):  # the first turn starts the actors
            for num, problem in problems.items():
                copied = SolutionBatch(problem, popsize=popsize, empty=True)
                copied.set_values(batch.values)
                start = time.perf_counter()
                problem.evaluate(copied)
                seconds = time.perf_counter() - start
                if repeat >= 0:
                    rows.append({"candidates": popsize, "actors": num, "repeat": repeat, "seconds": seconds})
    for problem in problems.values():
        problem.kill_actors()
    ray.shutdown()
    write_csv("actors", rows)
    table = [[f"{popsize}", f"{num}", _spread(rows, popsize, num)] for popsize in POPSIZES for num in NUM_ACTORS]
    header = ["candidates", "actors", "seconds, median [quartiles]"]
    publish("actors", markdown(header, table), f"python -m benchmarks actors{_options(repeats, True)}")


def _spread(rows: list[dict[str, object]], popsize: int, num_actors: int) -> str:
    seconds = [row["seconds"] for row in rows if (row["candidates"], row["actors"]) == (popsize, num_actors)]
    low, middle, high = np.quantile(seconds, (0.25, 0.5, 0.75))  # type: ignore[arg-type]
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def _options(repeats: int, is_timed: bool) -> str:
    return ("" if repeats == 5 else f" --repeats {repeats}") + ("" if is_timed else " --no-times")
