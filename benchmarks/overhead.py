"""What does a generation of our DE cost beside a plain loop and others' DE?"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from evotorch import Problem

from benchmarks.functions import Task
from benchmarks.tables import markdown, publish, write_csv
from evohbde.searchers import DE, JADE, JDE, LSHADE, SHADE

DIM = 3_430
NUM_STEPS = {100: 10, 1_000: 2}
"""Generations timed at once, per popsize."""

Step = Callable[[], object]


def plain(popsize: int, dim: int = DIM) -> Step:
    """DE/rand/1/bin as one writes it down in torch: the reference. F = 0.5, CR = 0.9, float32, no bounds.

    Donors are the first three of an argsort of random keys, the target's own key being the largest.
    """
    generator = torch.Generator().manual_seed(1)
    population = [2 * torch.rand(popsize, dim, generator=generator) - 1]
    score = [population[0][:, 0].clone()]
    rows = torch.arange(popsize)

    def step() -> None:
        x = population[0]
        r = torch.rand(popsize, popsize, generator=generator).fill_diagonal_(2.0).argsort(dim=1)
        mutant = x[r[:, 0]] + 0.5 * (x[r[:, 1]] - x[r[:, 2]])
        mask = torch.rand(popsize, dim, generator=generator) < 0.9
        mask[rows, torch.randint(dim, (popsize,), generator=generator)] = True
        trial = torch.where(mask, mutant, x)
        trial_score = trial[:, 0]
        wins = trial_score <= score[0]
        population[0] = torch.where(wins[:, None], trial, x)
        score[0] = torch.where(wins, trial_score, score[0])

    return step


def ours(searcher: Callable[..., Any], popsize: int, **options: object) -> Step:
    """EvoTorch's `step`: its batch, its status, its hooks; the score is a gene, as everywhere here."""
    problem = Problem(
        "min",
        lambda x: x[:, 0],
        solution_length=DIM,
        initial_bounds=(-1, 1),
        vectorized=True,
        dtype=torch.float32,
        seed=1,
    )
    return searcher(problem, popsize=popsize, **options).step


def ask_and_tell(popsize: int) -> Step:
    """Our DE without EvoTorch's share of a step."""
    searcher = ours(DE, popsize).__self__

    def step() -> None:
        z = searcher.ask()
        searcher.tell(z, z[:, 0])

    return step


def scipys(popsize: int) -> Step:
    """SciPy's solver, a private class, one generation of it at a time."""
    from scipy.optimize._differentialevolution import DifferentialEvolutionSolver

    task = Task(lambda x: x[:, 0], 1.0, DIM, budget=2**62)
    solver = DifferentialEvolutionSolver(
        lambda x: task(x.T),
        [(-1.0, 1.0)] * DIM,
        strategy="rand1bin",
        init=task.start(popsize, 1),
        mutation=0.5,
        recombination=0.9,
        updating="deferred",
        vectorized=True,
        rng=1,
    )
    return lambda: next(solver)


def pymoos(popsize: int) -> Step:
    """pymoo's DE without its polynomial mutation."""
    from pymoo.algorithms.soo.nonconvex.de import DE as PymooDE
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.termination import NoTermination

    class FirstGene(PymooProblem):
        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: object, **kwargs: object) -> None:
            out["F"] = X[:, :1]

    algorithm = PymooDE(pop_size=popsize, variant="DE/rand/1/bin", F=0.5, CR=0.9, prob_mut=0.0)
    algorithm.setup(FirstGene(n_var=DIM, n_obj=1, xl=-1, xu=1), seed=1, termination=NoTermination())
    return algorithm.next


REFERENCE = "plain loop in torch"
STEPS: dict[str, Callable[[int], Step]] = {
    REFERENCE: plain,
    "DE": lambda n: ours(DE, n),
    "DE, ask and tell only": ask_and_tell,
    "jDE": lambda n: ours(JDE, n),
    "JADE": lambda n: ours(JADE, n),
    "SHADE": lambda n: ours(SHADE, n),
    # So large a budget that the population does not shrink while it is timed.
    "L-SHADE": lambda n: ours(LSHADE, n, num_evaluations=10**9),
    "SciPy's DE": scipys,
    "pymoo's DE": pymoos,
}


def measure(repeats: int) -> None:
    """Time all of them in turn, `repeats` times; ratios are taken within a turn, so that a slow spell hits both."""
    rows: list[dict[str, object]] = []
    for popsize, num_steps in NUM_STEPS.items():
        steps = {name: make(popsize) for name, make in STEPS.items()}
        for step in steps.values():  # to warm up; the first generation of most only scores
            _time(step, 2)
        for repeat in range(repeats):
            seconds = {name: _time(step, num_steps) / num_steps for name, step in steps.items()}
            rows += [{"popsize": popsize, "repeat": repeat, "search": s, "seconds": t} for s, t in seconds.items()]
        print(f"popsize {popsize}: done", flush=True)
    write_csv("overhead", rows)
    cells = [[name, *(cell for popsize in NUM_STEPS for cell in _cells(rows, popsize, name))] for name in STEPS]
    header = [f"{what}, popsize {popsize:,}" for popsize in NUM_STEPS for what in ("ms", "ratio [quartiles]")]
    publish(
        "overhead", markdown(["one generation", *header], cells), f"python -m benchmarks overhead{_option(repeats)}"
    )


def _option(repeats: int) -> str:
    return "" if repeats == 9 else f" --repeats {repeats}"


def _time(step: Step, num_steps: int) -> float:
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    return time.perf_counter() - start


def _cells(rows: list[dict[str, object]], popsize: int, name: str) -> list[str]:
    """Median time in ms, and the median of the ratios to the reference of the same turn."""
    seconds, reference = (
        [row["seconds"] for row in rows if (row["popsize"], row["search"]) == (popsize, label)]
        for label in (name, REFERENCE)
    )
    low, middle, high = np.quantile([t / base for t, base in zip(seconds, reference, strict=True)], (0.25, 0.5, 0.75))
    return [f"{1e3 * median(seconds):.1f}", f"{middle:.2f} [{low:.2f}, {high:.2f}]"]
