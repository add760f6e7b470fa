"""Which searcher suits: Differential Evolution, or one of EvoTorch's own?

Claim: on one problem, with 2,000 candidates each, held-out macro-F1 goes from .666 to .828 (DE), .869 (SNES), .870
(separable CMA-ES) and .861 (PGPE). One seed and no tuning: differences of .02 mean little, and DE likes larger steps.
Price: 600,000 sample forwards each, two seconds for all four on one CPU core.
Run: python -m examples.swap_the_searcher
"""

from collections.abc import Callable

import torch
from evotorch.algorithms import PGPE, SNES
from evotorch.algorithms.searchalgorithm import SearchAlgorithm

from evohbde import HistogramBlocking, NetworkProblem, run_until
from evohbde.searchers import CMAES, DE
from problems.digits import shifted_mlp

torch.set_num_threads(1)  # networks this small are fastest on one thread

STDEV = 0.02

task = shifted_mlp(seed=0)


def in_blocks(theta0: torch.Tensor) -> HistogramBlocking:
    """Shift the weights of a histogram bin together."""
    return HistogramBlocking(theta0, 1_000, mode="offset")


def make_problem() -> NetworkProblem:
    """Build the problem anew: EvoTorch keeps the best solution in the problem, so each searcher gets its own."""
    return NetworkProblem(task.model, task.train, "cross_entropy", reduction=in_blocks, seed=0)


searchers: dict[str, Callable[[NetworkProblem], SearchAlgorithm]] = {
    "DE": lambda p: DE(p, popsize=50, stdev_init=STDEV, include_center=True),
    "SNES": lambda p: SNES(p, popsize=50, stdev_init=STDEV, center_init=p.center),
    "CMAES": lambda p: CMAES(p, popsize=50, stdev_init=STDEV, separable=True),
    "PGPE": lambda p: PGPE(
        p,
        popsize=50,
        stdev_init=STDEV,
        center_init=p.center,
        center_learning_rate=STDEV / 2,
        stdev_learning_rate=0.0,
        optimizer="adam",
        ranking_method="centered",
    ),
}

for name, build in searchers.items():
    problem = make_problem()
    searcher = build(problem)
    run_until(searcher, num_evaluations=2_000)
    # Where there is a distribution its mean is the result, not the luckiest draw.
    found = searcher.status["center" if "center" in searcher.status else "pop_best"]
    held_out = problem.score(found, task.test)["f1_macro"]
    print(f"{name:6} {problem.num_evaluations} candidates, held-out F1 {held_out:.3f}")
