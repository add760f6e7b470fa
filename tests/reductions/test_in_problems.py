"""Does a search through each part of a network move that part, and score what it says?"""

import pytest
import torch

from evohbde.layout import ParameterLayout
from evohbde.parts import norm_names
from evohbde.problem import NetworkProblem
from evohbde.reductions import ChannelScaling, GroupMask, LowRank, Subspace, channel_groups
from evohbde.searchers import DE
from tests.small_networks import cnn, digits, f1_of_scikit_learn

MODEL = cnn()
LAYOUT = ParameterLayout(MODEL)
BUILDS = {
    "low rank": lambda theta0: LowRank(theta0, LAYOUT.shapes, rank=2),
    "low rank, A frozen": lambda theta0: LowRank(theta0, LAYOUT.shapes, rank=2, freeze_a=True),
    "channels": lambda theta0: ChannelScaling(theta0, LAYOUT.shapes, include_vectors=True),
    "norms": lambda theta0: Subspace(theta0, LAYOUT.mask(norm_names(MODEL))),
    "mask": lambda theta0: GroupMask(theta0, channel_groups(LAYOUT.shapes)),
}
MOVING = {
    "low rank": {"conv.weight", "head.weight"},
    "low rank, A frozen": {"conv.weight", "head.weight"},
    "channels": set(LAYOUT.names),
    "norms": {"norm.weight", "norm.bias"},
    "mask": {"conv.weight", "head.weight"},
}


@pytest.mark.parametrize("name", BUILDS)
def test_three_generations_of_DE_move_their_part_and_score_the_network_they_made(name):
    data = digits()
    problem = NetworkProblem(MODEL, data, "f1_macro", reduction=BUILDS[name], seed=0)
    theta0 = LAYOUT.flatten(MODEL)
    assert torch.equal(problem.decode(problem.center), theta0)
    searcher = DE(problem, popsize=12)
    searcher.run(1)
    first = float(searcher.status["best_eval"])
    searcher.run(2)
    best = searcher.status["best"]
    assert float(best.evals) >= first
    assert float(best.evals) == pytest.approx(f1_of_scikit_learn(MODEL, problem.decode(best), data), abs=1e-6)
    theta = LAYOUT.views(torch.stack([problem.decode(one) for one in searcher.population]))
    moved = {key for key, old in LAYOUT.views(theta0).items() if not torch.equal(theta[key], old.expand_as(theta[key]))}
    assert moved == MOVING[name]
    assert len(problem.decode(best).unique()) > 1 and searcher.population.evals.unique().numel() > 1
