"""Which searchers of three packages meet, each as `evohbde compare` would start it?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from evotorch.algorithms.searchalgorithm import SearchAlgorithm

from evohbde import NetworkProblem
from evohbde.comparison.contestants import make_searcher
from evohbde.comparison.plan import parse_part, searcher_kind

NUM_EVALUATIONS = 2_000

Setup = Callable[[NetworkProblem], SearchAlgorithm]

DE_FAMILY = {
    "DE": "DE",
    "DE/best/1/bin": "DE:strategy=best/1/bin",
    "jDE": "JDE",
    "JADE": "JADE",
    "SHADE": "SHADE",
    "L-SHADE": "LSHADE",
    "DE, published start": "DE:stdev_init=None",
}

OURS = {
    **DE_FAMILY,
    "CMA-ES": "CMAES",
    "separable CMA-ES": "CMAES:separable=true",
    "simulated annealing": "SimulatedAnnealing",
    "iterated local search": "IteratedLocalSearch",
    "tabu search": "TabuSearch",
    "coordinate search": "CoordinateSearch",
    "random search": "RandomSearch",
    "NSGA-II": "NSGA2",
}

EVOTORCH = {
    "SNES": "evotorch.algorithms:SNES",
    "XNES": "evotorch.algorithms:XNES",
    "PGPE": "evotorch.algorithms:PGPE",
    "CEM": "evotorch.algorithms:CEM",
    "CMA-ES": "evotorch.algorithms:CMAES",
    "separable CMA-ES": "evotorch.algorithms:CMAES:separable=true",
    "genetic algorithm": "evotorch.algorithms:GeneticAlgorithm",
    "steady-state GA": "evotorch.algorithms:SteadyStateGA",
    "CoSyNE": "evotorch.algorithms:Cosyne",
}

PYMOO = {
    "DE/rand/1/bin": "pymoo.algorithms.soo.nonconvex.de:DE:variant=DE/rand/1/bin",
    "PSO": "pymoo.algorithms.soo.nonconvex.pso:PSO",
    "GA": "pymoo.algorithms.soo.nonconvex.ga:GA",
    "CMA-ES": "pymoo.algorithms.soo.nonconvex.cmaes:CMAES",
    "Nelder-Mead": "pymoo.algorithms.soo.nonconvex.nelder:NelderMead",
    "pattern search": "pymoo.algorithms.soo.nonconvex.pattern:PatternSearch",
}

PACKAGES = {"evohbde": OURS, "EvoTorch": EVOTORCH, "pymoo": PYMOO}


def set_up(text: str, problem: NetworkProblem) -> SearchAlgorithm:
    """Build the searcher that a text names, for a budget of `NUM_EVALUATIONS`."""
    part = parse_part(text)
    return make_searcher(searcher_kind(part), problem, part.settings, NUM_EVALUATIONS)


CONTENDERS: dict[tuple[str, str], Setup] = {
    (package, name): partial(set_up, text) for package, texts in PACKAGES.items() for name, text in texts.items()
}
