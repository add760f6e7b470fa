"""Does every search algorithm of EvoTorch run on our problems as on its own, and go on after a copy?

MAPElites is left out: it sorts solutions by extra evaluation data, of which a network problem has none.
"""

import copy
import pickle

import numpy as np
import pytest
import torch
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
from torch import Tensor

from evohbde.data import SuperBatches
from evohbde.problem import NetworkProblem
from evohbde.reductions import GroupMask, HistogramBlocking
from evohbde.run import run_until
from evohbde.searchers import CMAES as OurCMAES
from evohbde.searchers import (
    DE,
    JADE,
    JDE,
    LSHADE,
    MOEAD,
    NSGA2,
    SHADE,
    BinaryTabuSearch,
    CoordinateSearch,
    IteratedLocalSearch,
    RandomSearch,
    SimulatedAnnealing,
    TabuSearch,
)
from tests.small_networks import cnn, digits, f1_of_scikit_learn, mlp

DATA = digits(60)


def few_bins(theta0: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, 14)


def problem_of(build=mlp, data=DATA, objectives="f1_macro", **options) -> NetworkProblem:
    return NetworkProblem(build(), data, objectives, reduction=few_bins, **{"seed": 4, **options})


def operators(problem: NetworkProblem) -> list:
    return [OnePointCrossOver(problem, tournament_size=3), GaussianMutation(problem, stdev=0.05)]


def around(problem: NetworkProblem) -> dict:
    return {"center_init": problem.center, "stdev_init": 0.05}


SEARCHERS = {
    "DE": lambda p: DE(p, popsize=10),
    "DE around the centre": lambda p: DE(p, popsize=10, stdev_init=0.05, include_center=True),
    "JDE": lambda p: JDE(p, popsize=10),
    "JADE": lambda p: JADE(p, popsize=10),
    "SHADE": lambda p: SHADE(p, popsize=10),
    "LSHADE": lambda p: LSHADE(p, popsize=10, num_evaluations=60),
    "RandomSearch": lambda p: RandomSearch(p, popsize=10, stdev_init=0.05, include_center=True),
    "SimulatedAnnealing": lambda p: SimulatedAnnealing(p, popsize=2),
    "TabuSearch": lambda p: TabuSearch(p, stdev_init=0.05),
    "IteratedLocalSearch": lambda p: IteratedLocalSearch(p, popsize=4),
    "CoordinateSearch": lambda p: CoordinateSearch(p, popsize=4),
    "NSGA2": lambda p: NSGA2(p, popsize=10, stdev_init=0.05, include_center=True),
    "MOEAD": lambda p: MOEAD(p, popsize=10, stdev_init=0.05, include_center=True),
    "our CMAES": lambda p: OurCMAES(p, popsize=10, stdev_init=0.05),
    "SNES": lambda p: SNES(p, popsize=10, **around(p)),
    "XNES": lambda p: XNES(p, popsize=10, **around(p)),
    "CEM": lambda p: CEM(p, popsize=10, parenthood_ratio=0.5, **around(p)),
    "PGPE": lambda p: PGPE(p, popsize=10, center_learning_rate=0.05, stdev_learning_rate=0.1, **around(p)),
    "PGPE, Adam": lambda p: PGPE(
        p, popsize=10, center_learning_rate=0.05, stdev_learning_rate=0.1, optimizer="adam", **around(p)
    ),
    "CMAES": lambda p: CMAES(p, popsize=10, **around(p)),
    "CMAES, separable": lambda p: CMAES(p, popsize=10, separable=True, **around(p)),
    "PyCMAES": lambda p: PyCMAES(p, popsize=10, **around(p)),
    "GA": lambda p: GeneticAlgorithm(p, operators=operators(p), popsize=10, re_evaluate=False),
    "steady-state GA": lambda p: steady(p),
    "Cosyne": lambda p: Cosyne(p, popsize=10, tournament_size=3, mutation_stdev=0.05),
}


def steady(problem: NetworkProblem) -> SteadyStateGA:
    searcher = SteadyStateGA(problem, popsize=10)
    searcher.use(SimulatedBinaryCrossOver(problem, tournament_size=3, cross_over_rate=1.0, eta=8))
    searcher.use(GaussianMutation(problem, stdev=0.05))
    return searcher


def state_of(searcher) -> Tensor:
    population = searcher.population
    return torch.cat([population.values.as_subclass(Tensor), population.evals.as_subclass(Tensor)], dim=1)


@pytest.fixture(autouse=True)
def known_numpy_state():
    np.random.seed(0)  # noqa: NPY002 - PyCMAES draws from the global generator


@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("name", SEARCHERS)
def test_it_runs_and_its_best_is_what_it_says(name, build):
    model, problem = build(), problem_of(build)
    center = problem.center.clone()
    searcher = SEARCHERS[name](problem)
    searcher.run(1)
    first = searcher.status["best_eval"]
    assert run_until(searcher, num_evaluations=60) == "num_evaluations"
    best, best_eval = searcher.status["best"], searcher.status["best_eval"]
    assert best_eval >= first
    assert best_eval == pytest.approx(f1_of_scikit_learn(model, problem.decode(best), DATA), abs=1e-6)
    assert problem.score(problem.make_network(best), DATA)["f1_macro"] == pytest.approx(best_eval, abs=1e-6)
    assert torch.equal(problem.center, center)
    assert 0 < searcher.status["num_evaluations"] == problem.num_evaluations


# The others draw from generators of their own, or from the global one.
@pytest.mark.parametrize("name", sorted(set(SEARCHERS) - {"PyCMAES"}))
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda searcher: pickle.loads(pickle.dumps(searcher))])
@pytest.mark.parametrize("parents", ["refresh", "stale"])
def test_a_copy_made_mid_run_continues_bit_for_bit(name, copied, parents):
    data = SuperBatches(DATA, 20, parents=parents)
    searcher = SEARCHERS[name](problem_of(data=data, objectives="cross_entropy"))
    searcher.run(2)
    twin = copied(searcher)
    searcher.run(3)
    twin.run(3)
    assert torch.equal(state_of(searcher), state_of(twin))
    assert searcher.problem.num_evaluations == twin.problem.num_evaluations
    assert searcher.problem.num_samples_seen == twin.problem.num_samples_seen
    assert searcher.status["best_eval"] == twin.status["best_eval"]


@pytest.mark.parametrize("name", sorted(set(SEARCHERS) - {"PyCMAES"}))
def test_a_seed_gives_the_same_search(name):
    runs = []
    for seed in (4, 4, 5):
        searcher = SEARCHERS[name](problem_of(objectives="cross_entropy", seed=seed))
        searcher.run(3)
        runs.append(state_of(searcher))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_two_objectives_are_searched_at_once():
    problem = problem_of(objectives=("f1_macro", "density"))
    searcher = GeneticAlgorithm(problem, operators=operators(problem), popsize=10, re_evaluate=False)
    searcher.run(4)
    most_right, sparsest = searcher.status["best"]
    assert float(most_right.evals[0]) == pytest.approx(f1_of_scikit_learn(mlp(), problem.decode(most_right), DATA))
    theta = problem.decode(sparsest)
    assert float(sparsest.evals[1]) == pytest.approx(float((theta != 0).double().mean()))


def test_one_of_two_objectives_is_followed():
    both = problem_of(objectives=("density", "f1_macro"))
    searchers = [DE(problem_of(), popsize=10), DE(both, popsize=10, obj_index=1)]
    for searcher in searchers:
        searcher.run(4)
    assert torch.equal(searchers[0].population.values, searchers[1].population.values)


def test_a_longer_search_improves_the_network():
    problem = problem_of(objectives="cross_entropy")
    before = problem.score(mlp(), DATA, ["cross_entropy"])["cross_entropy"]
    searcher = DE(problem, popsize=20, stdev_init=0.02, include_center=True)
    searcher.run(40)
    found = problem.score(searcher.status["best"], DATA, ["cross_entropy"])["cross_entropy"]
    assert found == pytest.approx(searcher.status["best_eval"], rel=1e-5)
    assert found < 0.9 * before


def groups_of_40(theta0: Tensor) -> GroupMask:
    return GroupMask(theta0, torch.arange(len(theta0)) // 40)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: BinaryTabuSearch(p, popsize=2, num_neighbours=5, include_center=True),
        lambda p: NSGA2(p, popsize=10, variation="binary", include_center=True),
        lambda p: MOEAD(p, popsize=10, variation="binary", include_center=True),
    ],
)
def test_binary_searchers_choose_which_weights_are_kept(make):
    model = mlp()
    problem = NetworkProblem(model, DATA, "f1_macro", reduction=groups_of_40, seed=4)
    searcher = make(problem)
    assert run_until(searcher, num_evaluations=120) == "num_evaluations"
    best = searcher.status["best"]
    theta = problem.decode(best)
    assert set(best.values.tolist()) == {0.0, 1.0} and int((theta == 0).sum()) >= 1
    assert searcher.status["best_eval"] == pytest.approx(f1_of_scikit_learn(model, theta, DATA), abs=1e-6)
    assert searcher.status["best_eval"] > f1_of_scikit_learn(model, problem.decode(problem.center), DATA)
