"""Which standard functions are searched, and what counts as one search?"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]
"""Minimised: `(n, D) -> (n,)`, float64."""


def sphere(x: np.ndarray) -> np.ndarray:
    return np.square(x).sum(1)


def rosenbrock(x: np.ndarray) -> np.ndarray:
    return (100 * np.square(x[:, 1:] - np.square(x[:, :-1])) + np.square(1 - x[:, :-1])).sum(1)


def rastrigin(x: np.ndarray) -> np.ndarray:
    return (np.square(x) - 10 * np.cos(2 * np.pi * x) + 10).sum(1)


def ackley(x: np.ndarray) -> np.ndarray:
    distance, waves = np.sqrt(np.square(x).mean(1)), np.cos(2 * np.pi * x).mean(1)
    return 20 - 20 * np.exp(-0.2 * distance) + np.e - np.exp(waves)


def griewank(x: np.ndarray) -> np.ndarray:
    waves = np.cos(x / np.sqrt(np.arange(1, x.shape[1] + 1))).prod(1)
    return np.square(x).sum(1) / 4000 - waves + 1


CLASSIC: dict[str, tuple[Function, float]] = {
    "sphere": (sphere, 100.0),
    "rosenbrock": (rosenbrock, 30.0),
    "rastrigin": (rastrigin, 5.12),
    "ackley": (ackley, 32.0),
    "griewank": (griewank, 600.0),
}
"""Function and half width of its box around 0; the best score is 0, at 0 (rosenbrock: at 1)."""


def shifted(function: Function, box: float, dim: int) -> Function:
    """The same function moved by a shift that is drawn once, within 80 % of the box."""
    shift = np.random.default_rng(2026).uniform(-0.8 * box, 0.8 * box, dim)
    return lambda x: function(x - shift)


class TaskDone(Exception):  # noqa: N818 - no error: how a search is stopped that has no other way to be
    """The budget is spent, or the last target is hit."""


class Task:
    """A function in a box that counts its evaluations, and stops the search that asks for more than the budget.

    All searches are counted here, and none by its own count: the first population is included, and of a batch that
    goes beyond the budget only the first rows count.

    Args:
        function: To be minimised, `(n, D) -> (n,)`.
        box: Half width of the box around 0 in which searches start.
        dim: D.
        budget: Evaluations.
        targets: Scores whose first hit is noted; the search stops at the lowest.

    Attributes:
        best: The lowest score within the budget.
        hits: Per target that was hit the number of evaluations it took.
    """

    def __init__(self, function: Function, box: float, dim: int, budget: int, targets: Sequence[float] = ()) -> None:
        self.function, self.box, self.dim, self.budget = function, box, dim, budget
        self.targets = sorted(targets, reverse=True)
        self.num_evaluations, self.best = 0, np.inf
        self.hits: dict[float, int] = {}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        if self.num_evaluations >= self.budget or (self.targets and len(self.hits) == len(self.targets)):
            raise TaskDone
        scores = np.asarray(self.function(x), dtype=np.float64)
        counted = scores[: self.budget - self.num_evaluations]
        for target in self.targets[len(self.hits) :]:
            if not (counted <= target).any():
                break
            self.hits[target] = self.num_evaluations + int((counted <= target).argmax()) + 1
        self.num_evaluations += len(counted)
        self.best = min(self.best, float(np.nanmin(counted, initial=np.inf)))
        return scores

    def start(self, num: int, seed: int) -> np.ndarray:
        """First candidates for searches that cannot draw their own, uniform in the box: `(num, D)`."""
        return np.random.default_rng(seed).uniform(-self.box, self.box, (num, self.dim))


Search = Callable[[Task, int], None]
"""Searches a task with a seed and never ends by itself."""


def run(search: Search, task: Task, seed: int) -> Task:
    """Search until the task is done."""
    with contextlib.suppress(TaskDone):
        search(task, seed)
    return task
