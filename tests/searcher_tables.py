"""Which searchers are there to be tested, ours and EvoTorch's, each with options for a small problem?

They are made for problems with a `center` and initial bounds from -1 to 1. pymoo's are in `pymoo_algorithms`.
"""

from evotorch import Problem
from evotorch.algorithms import (
    CEM,
    CMAES,
    PGPE,
    SNES,
    XNES,
    Cosyne,
    GeneticAlgorithm,
    PyCMAES,
    SteadyStateGA,
)
from evotorch.operators import GaussianMutation, OnePointCrossOver, SimulatedBinaryCrossOver

from evohbde import searchers
from evohbde.searchers import DE, JADE, JDE, LSHADE, SHADE

OURS = {
    "CMAES": lambda p: searchers.CMAES(p, popsize=10, stdev_init=0.5),
    "DE": lambda p: DE(p, popsize=20),
    "DE, rand/1/exp": lambda p: DE(p, popsize=20, strategy="rand/1/exp"),
    "DE, best/1/bin": lambda p: DE(p, popsize=20, strategy="best/1/bin", differential_weight=0.7),
    "DE, rand/2/bin": lambda p: DE(p, popsize=20, strategy="rand/2/bin", differential_weight=(0.2, 0.5)),
    "DE, best/2/exp": lambda p: DE(p, popsize=20, strategy="best/2/exp", differential_weight=0.4),
    "DE, current-to-best/1/bin": lambda p: DE(p, popsize=20, strategy="current-to-best/1/bin", bounds="clip"),
    "DE, order/1/bin": lambda p: DE(p, popsize=20, strategy="order/1/bin", accept_equal=False),
    "DE, dithered": lambda p: DE(p, popsize=20, differential_weight=(0.1, 1.0), dither="dimension"),
    "DE, around the centre": lambda p: DE(p, popsize=20, stdev_init=0.5, include_center=True, bounds="reflect"),
    "DE, re-scoring": lambda p: DE(p, popsize=20, rescore_parents=True, bounds="resample"),
    "JDE": lambda p: JDE(p, popsize=20),
    "JADE": lambda p: JADE(p, popsize=20),
    "JADE, no archive": lambda p: JADE(p, popsize=20, archive_rate=0, bounds="midpoint", accept_equal=True),
    "SHADE": lambda p: SHADE(p, popsize=20),
    "SHADE, re-scoring": lambda p: SHADE(p, popsize=20, memory_size=5, rescore_parents=True),
    "LSHADE": lambda p: LSHADE(p, popsize=20, num_evaluations=600),
    "LSHADE, around the centre": lambda p: LSHADE(
        p, popsize=20, min_popsize=8, num_evaluations=900, stdev_init=0.5, include_center=True, rescore_parents=True
    ),
    "RandomSearch": lambda p: searchers.RandomSearch(p, popsize=1),
    "RandomSearch, re-scoring": lambda p: searchers.RandomSearch(p, popsize=1, stdev_init=0.5, rescore_parents=True),
    "SimulatedAnnealing": lambda p: searchers.SimulatedAnnealing(p, cooling_rate=0.9),
    "SimulatedAnnealing, logarithmic": lambda p: searchers.SimulatedAnnealing(
        p, cooling="logarithmic", temperature_init=0.1, bounds="reflect"
    ),
    "SimulatedAnnealing, adaptive": lambda p: searchers.SimulatedAnnealing(
        p, popsize=2, cooling="adaptive", cooling_rate=0.9, move_rate=0.5, rescore_parents=True
    ),
    "TabuSearch": lambda p: searchers.TabuSearch(p),
    "TabuSearch, re-scoring": lambda p: searchers.TabuSearch(
        p, stdev_init=0.5, patience=None, bounds="resample", rescore_parents=True
    ),
    "BinaryTabuSearch": lambda p: searchers.BinaryTabuSearch(p, popsize=2),
    "BinaryTabuSearch, re-scoring": lambda p: searchers.BinaryTabuSearch(
        p, popsize=2, num_neighbours=3, rescore_parents=True
    ),
    "IteratedLocalSearch": lambda p: searchers.IteratedLocalSearch(p, popsize=4, patience=15),
    "IteratedLocalSearch, always": lambda p: searchers.IteratedLocalSearch(
        p, popsize=4, patience=10, acceptance="always", kick_rate=0.3, kick_stdev=0.2
    ),
    "IteratedLocalSearch, restart": lambda p: searchers.IteratedLocalSearch(
        p, popsize=4, patience=15, acceptance="restart", rescore_parents=True
    ),
    "CoordinateSearch": lambda p: searchers.CoordinateSearch(p),
    "CoordinateSearch, authors": lambda p: searchers.CoordinateSearch(p, popsize=3, rule="authors"),
    "CoordinateSearch, re-scoring": lambda p: searchers.CoordinateSearch(
        p, popsize=3, intervals="own", rescore_parents=True
    ),
    "NSGA2": lambda p: searchers.NSGA2(p, popsize=20),
    "NSGA2, by rank": lambda p: searchers.NSGA2(p, popsize=21, tournament="rank", eliminate_duplicates=False),
    "MOEAD": lambda p: searchers.MOEAD(p, popsize=20),
    "MOEAD, normalised": lambda p: searchers.MOEAD(p, popsize=20, normalize=True, max_replacements=2),
}
OURS_FOR_TWO_OBJECTIVES = ("NSGA2", "NSGA2, by rank", "MOEAD", "MOEAD, normalised")


def crossing(problem: Problem, **options) -> GeneticAlgorithm:
    operators = [OnePointCrossOver(problem, tournament_size=3), GaussianMutation(problem, stdev=0.1)]
    return GeneticAlgorithm(problem, operators=operators, popsize=20, re_evaluate=False, **options)


def steady(problem: Problem) -> SteadyStateGA:
    searcher = SteadyStateGA(problem, popsize=20)
    searcher.use(SimulatedBinaryCrossOver(problem, tournament_size=3, cross_over_rate=1.0, eta=8))
    searcher.use(GaussianMutation(problem, stdev=0.1))
    return searcher


# MAPElites is left out: it sorts solutions by extra evaluation data, of which none of our problems has any.
EVOTORCHS = {
    "CEM": lambda p: CEM(p, popsize=20, parenthood_ratio=0.5, stdev_init=0.5),
    "CMAES": lambda p: CMAES(p, popsize=10, stdev_init=0.5),
    "CMAES, separable": lambda p: CMAES(p, popsize=10, stdev_init=0.5, separable=True),
    "Cosyne": lambda p: Cosyne(p, popsize=20, tournament_size=3, mutation_stdev=0.1),
    "GeneticAlgorithm": crossing,
    "PGPE": lambda p: PGPE(p, popsize=20, center_learning_rate=0.2, stdev_learning_rate=0.1, stdev_init=0.5),
    "PyCMAES": lambda p: PyCMAES(p, popsize=10, stdev_init=0.5, cma_options={"verbose": -9}),
    "SNES": lambda p: SNES(p, popsize=20, stdev_init=0.5),
    "SteadyStateGA": steady,
    "XNES": lambda p: XNES(p, popsize=20, stdev_init=0.5),
}
EVOTORCHS_FOR_TWO_OBJECTIVES = ("GeneticAlgorithm", "SteadyStateGA")
