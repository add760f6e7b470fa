"""Can every multi-objective searcher trade quality against zeros, block by block?"""

import pytest
import torch
from evotorch.algorithms import GeneticAlgorithm
from evotorch.operators import GaussianMutation, SimulatedBinaryCrossOver
from sklearn.metrics import f1_score
from torch import Tensor

from evohbde.layout import ParameterLayout
from evohbde.problem import NetworkProblem
from evohbde.pruning.archive import hypervolume
from evohbde.reductions import SparseBlocks, magnitude_blocks
from evohbde.run import run_until
from evohbde.searchers import MOEAD, NSGA2
from problems.digits import cnn

NUM_EVALUATIONS = 200


def evotorch_genetic(problem):
    operators = [
        SimulatedBinaryCrossOver(problem, tournament_size=3, eta=15),
        GaussianMutation(problem, stdev=0.1, mutation_probability=0.1),
    ]
    return GeneticAlgorithm(problem, popsize=20, operators=operators, re_evaluate=False)


def pymoo_nsga2(problem):
    pytest.importorskip("pymoo", reason="needs pymoo: pip install 'evohbde[pymoo]'")
    from pymoo.algorithms.moo.nsga2 import NSGA2 as Theirs

    from evohbde.pymoo_bridge import PymooSearcher

    return PymooSearcher(problem, Theirs(pop_size=20))


SEARCHERS = {
    "our NSGA2": lambda problem: NSGA2(
        problem, popsize=20, bounds=(problem.reduction.lower, problem.reduction.upper), include_center=True
    ),
    "our MOEAD": lambda problem: MOEAD(
        problem, popsize=20, bounds=(problem.reduction.lower, problem.reduction.upper), include_center=True
    ),
    "EvoTorch's": evotorch_genetic,
    "pymoo's": pymoo_nsga2,
}


@pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS)
def test_the_front_grows_and_its_networks_are_scored_as_they_are(make):
    task = cnn(seed=0)
    layout = ParameterLayout(task.model, "*.weight")
    data = task.train.subset(torch.arange(150))
    problem = NetworkProblem(
        task.model,
        data,
        ["f1_macro", "density"],
        layout=layout,
        reduction=lambda theta0: SparseBlocks(theta0, magnitude_blocks(theta0, layout.tensor_index)),
        seed=0,
    )
    searcher = make(problem)
    areas = []
    for num_evaluations in (20, NUM_EVALUATIONS):
        run_until(searcher, num_evaluations=num_evaluations)
        population = searcher.population
        front = population.take(population.arg_pareto_sort()[0][0])
        evals = front.evals.as_subclass(Tensor)
        areas.append(hypervolume(1 - evals[:, 0], evals[:, 1], reference=1.0))
    assert areas[1] > areas[0] + 0.02
    assert len(front) > 2
    for solution, (f1, density) in zip(front, evals[:, :2].tolist(), strict=True):
        network = problem.make_network(solution)
        theta = layout.flatten(network)
        assert density == pytest.approx(int(torch.count_nonzero(theta)) / len(theta), abs=1e-6)
        answers = network(data.x).argmax(-1)
        assert f1 == pytest.approx(f1_score(data.y, answers, average="macro"), abs=1e-6)
