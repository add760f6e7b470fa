"""How is each searcher set up to start at a network, with a step by the size of the weights?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from evotorch import Problem, algorithms
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from evotorch.operators import GaussianMutation, SimulatedBinaryCrossOver
from torch import Tensor

from evohbde import NetworkProblem
from evohbde.searchers import (
    CMAES,
    DE,
    JADE,
    JDE,
    LSHADE,
    NSGA2,
    SHADE,
    CoordinateSearch,
    IteratedLocalSearch,
    RandomSearch,
    SimulatedAnnealing,
    TabuSearch,
)

NUM_EVALUATIONS = 2_000
POPSIZE = 50
"""Of searchers that have a population; 40 generations."""

DISTRIBUTION_POPSIZE = 20
"""Of searchers that have a distribution; 100 generations."""

BOX = 10.0
"""Half the width of the box for searchers that need one, in steps."""

Setup = Callable[[NetworkProblem], SearchAlgorithm]


def _step(problem: NetworkProblem) -> float:
    """One step size for searchers that take no vector: the root mean square of all."""
    return float(problem.stdev.square().mean().sqrt())


def _box(problem: NetworkProblem) -> tuple[Tensor, Tensor]:
    width = BOX * problem.stdev
    return problem.center - width, problem.center + width


def _first(problem: NetworkProblem, popsize: int = POPSIZE) -> Tensor:
    """First population of searchers that draw none by themselves: normal around the centre, which is one of it."""
    drawn = torch.randn(popsize, problem.solution_length, generator=problem.generator)
    drawn[0] = 0
    return problem.center + problem.stdev * drawn


def _auto(searcher: Callable[..., SearchAlgorithm], problem: NetworkProblem, **options: Any) -> SearchAlgorithm:
    return searcher(problem, stdev_init="auto", **options)


def _coordinates(problem: NetworkProblem) -> SearchAlgorithm:
    """Its intervals reach two steps to either side, so that the first trials lie one step away."""
    intervals = problem.center - 2 * problem.stdev, problem.center + 2 * problem.stdev
    return CoordinateSearch(problem, stdev_init=0.0, intervals=intervals)


def _nsga2(problem: NetworkProblem) -> SearchAlgorithm:
    return NSGA2(problem, popsize=POPSIZE, stdev_init="auto", bounds=_box(problem))


DE_FAMILY: dict[str, Setup] = {
    "DE": partial(_auto, DE, popsize=POPSIZE),
    "DE/best/1/bin": partial(_auto, DE, popsize=POPSIZE, strategy="best/1/bin"),
    "jDE": partial(_auto, JDE, popsize=POPSIZE),
    "JADE": partial(_auto, JADE, popsize=POPSIZE),
    "SHADE": partial(_auto, SHADE, popsize=POPSIZE),
    "L-SHADE": partial(_auto, LSHADE, popsize=POPSIZE, num_evaluations=NUM_EVALUATIONS),
    "DE, published start": partial(DE, popsize=POPSIZE),
}

OURS: dict[str, Setup] = {
    **DE_FAMILY,
    "CMA-ES": partial(_auto, CMAES, popsize=DISTRIBUTION_POPSIZE),
    "separable CMA-ES": partial(_auto, CMAES, popsize=DISTRIBUTION_POPSIZE, separable=True),
    "simulated annealing": partial(_auto, SimulatedAnnealing),
    "iterated local search": partial(_auto, IteratedLocalSearch),
    "tabu search": partial(_auto, TabuSearch),
    "coordinate search": _coordinates,
    "random search": partial(_auto, RandomSearch, popsize=POPSIZE),
    "NSGA-II": _nsga2,
}


def _gaussian(
    searcher: Callable[..., SearchAlgorithm], popsize: int, problem: NetworkProblem, **options: Any
) -> SearchAlgorithm:
    return searcher(problem, popsize=popsize, center_init=problem.center, stdev_init=problem.stdev, **options)


def _pgpe(problem: NetworkProblem) -> SearchAlgorithm:
    """Adam on the centre at half a step, as the default preset of this package does."""
    return _gaussian(
        algorithms.PGPE,
        DISTRIBUTION_POPSIZE,
        problem,
        center_learning_rate=0.5 * _step(problem),
        stdev_learning_rate=0.1,
        optimizer="adam",
        ranking_method="centered",
    )


def _evotorch_cmaes(problem: NetworkProblem, separable: bool) -> SearchAlgorithm:
    return algorithms.CMAES(
        problem,
        stdev_init=_step(problem),
        popsize=DISTRIBUTION_POPSIZE,
        center_init=problem.center,
        separable=separable,
    )


def _operators(problem: Problem, stdev: float) -> list[Any]:
    crossover = SimulatedBinaryCrossOver(problem, tournament_size=4, eta=8, cross_over_rate=1.0)
    return [crossover, GaussianMutation(problem, stdev=stdev)]


def _genetic(searcher: Callable[..., SearchAlgorithm], problem: NetworkProblem) -> SearchAlgorithm:
    """Scores are kept, since all candidates meet the same samples."""
    operators = _operators(problem, _step(problem))
    found = searcher(problem, popsize=POPSIZE, operators=operators, re_evaluate=False)
    found.population.set_values(_first(problem))
    return found


def _cosyne(problem: NetworkProblem) -> SearchAlgorithm:
    found = algorithms.Cosyne(
        problem,
        popsize=POPSIZE,
        tournament_size=4,
        mutation_stdev=_step(problem),
        num_elites=POPSIZE // 10,
    )
    found.population.set_values(_first(problem))
    return found


EVOTORCH: dict[str, Setup] = {
    "SNES": partial(_gaussian, algorithms.SNES, DISTRIBUTION_POPSIZE),
    "XNES": partial(_gaussian, algorithms.XNES, DISTRIBUTION_POPSIZE),
    "PGPE": _pgpe,
    "CEM": partial(_gaussian, algorithms.CEM, POPSIZE, parenthood_ratio=0.2),
    "CMA-ES": partial(_evotorch_cmaes, separable=False),
    "separable CMA-ES": partial(_evotorch_cmaes, separable=True),
    "genetic algorithm": partial(_genetic, algorithms.GeneticAlgorithm),
    "steady-state GA": partial(_genetic, algorithms.SteadyStateGA),
    "CoSyNE": _cosyne,
}


def _pymoo(module: str, name: str, problem: NetworkProblem, **options: Any) -> SearchAlgorithm:
    from importlib import import_module

    from evohbde import PymooSearcher

    algorithm = getattr(import_module(f"pymoo.algorithms.soo.nonconvex.{module}"), name)
    return PymooSearcher(problem, algorithm(**options), bounds=_box(problem))


def _population(module: str, name: str, problem: NetworkProblem, **options: Any) -> SearchAlgorithm:
    first = _first(problem).double().numpy()
    return _pymoo(module, name, problem, pop_size=POPSIZE, sampling=first, **options)


def _local(module: str, name: str, problem: NetworkProblem, **options: Any) -> SearchAlgorithm:
    """Their first step is a share of the box: one step of ours."""
    return _pymoo(module, name, problem, x0=problem.center.double().numpy(), **options)


PYMOO: dict[str, Setup] = {
    "DE/rand/1/bin": partial(_population, "de", "DE", variant="DE/rand/1/bin"),
    "PSO": partial(_population, "pso", "PSO"),
    "GA": partial(_population, "ga", "GA"),
    "CMA-ES": partial(_local, "cmaes", "CMAES", sigma=0.5 / BOX, pop_size=DISTRIBUTION_POPSIZE),
    "Nelder-Mead": partial(_local, "nelder", "NelderMead", init_simplex_scale=0.5 / BOX),
    "pattern search": partial(_local, "pattern", "PatternSearch", init_delta=0.5 / BOX),
}

CONTENDERS: dict[tuple[str, str], Setup] = {
    (package, name): setup
    for package, setups in (("evohbde", OURS), ("EvoTorch", EVOTORCH), ("pymoo", PYMOO))
    for name, setup in setups.items()
}
