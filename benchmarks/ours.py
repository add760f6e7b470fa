"""How do our searchers search the standard functions? At the settings of their papers, and none tuned here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from evotorch import Problem

from benchmarks.functions import Search, Task
from evohbde.searchers import CMAES, DE, JADE, JDE, LSHADE, SHADE
from evohbde.searchers.jade import SPREAD, normal_rates


def _problem(task: Task, seed: int, **bounds: tuple[float, float]) -> Problem:
    return Problem(
        "min",
        lambda x: torch.from_numpy(task(x.as_subclass(torch.Tensor).numpy())),
        solution_length=task.dim,
        vectorized=True,
        dtype=torch.float64,
        seed=seed,
        **bounds,
    )


def _search(searcher: Callable[..., Any], task: Task, seed: int, **options: Any) -> None:
    algorithm = searcher(_problem(task, seed, bounds=(-task.box, task.box)), **options)
    while True:
        algorithm.step()


def _lshade(task: Task, seed: int, popsize: int | None) -> None:
    _search(LSHADE, task, seed, popsize=popsize, num_evaluations=task.budget)


def _cmaes(task: Task, seed: int) -> None:
    """From a point of the box, with a step size of 0.3 of its width, as pycma is run."""
    problem = _problem(task, seed, initial_bounds=(-task.box, task.box))
    algorithm = CMAES(problem, stdev_init=0.6 * task.box, center_init=torch.from_numpy(task.start(1, seed)[0]))
    while True:
        algorithm.step()


class NormalJADE(JADE):
    """JADE as EvoX has it: F from a normal distribution, not the paper's Cauchy distribution with its large values."""

    def _draw_parameters(self, popsize: int) -> tuple[torch.Tensor, torch.Tensor]:
        rate = normal_rates(self.randn(popsize), self.rate_mean)
        return (self.weight_mean + SPREAD * self.randn(popsize)).clamp(0, 1), rate


OURS: dict[str, Search] = {
    "DE/rand/1/bin": partial(_search, DE),
    "DE/rand/1/bin, resampled at the bounds": partial(_search, DE, bounds="resample"),
    "DE/rand/1/bin, no bounds": partial(_search, DE, bounds="none"),
    "jDE": partial(_search, JDE),
    "JADE": partial(_search, JADE),
    "JADE, no archive": partial(_search, JADE, archive_rate=0),
    "SHADE": partial(_search, SHADE),
    "L-SHADE, popsize 100 to 4": partial(_lshade, popsize=100),
    "L-SHADE, popsize 18 D to 4": partial(_lshade, popsize=None),
    "CMA-ES": _cmaes,
}

NORMAL_JADE: Search = partial(_search, NormalJADE, archive_rate=0)
SHADE_WITHOUT: Search = partial(_search, SHADE, archive_rate=0)
