"""Are blocks kept, zeroed and moved as their two values say?"""

import numpy as np
import pytest
import torch
from evotorch.algorithms import GeneticAlgorithm
from evotorch.operators import GaussianMutation, SimulatedBinaryCrossOver
from hypothesis import given
from hypothesis import strategies as st
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from torch import Tensor

from evohbde.layout import ParameterLayout
from evohbde.outputs import predict
from evohbde.parts import prunable_names
from evohbde.problem import NetworkProblem
from evohbde.pymoo_bridge import PymooSearcher
from evohbde.reductions import GroupMask, HistogramBlocking, Reduction, SparseBlocks, magnitude_blocks
from evohbde.searchers import MOEAD, NSGA2
from tests.small_networks import cnn, digits

SIZE = 60
GROUPS = st.lists(st.integers(-1, 6), min_size=SIZE, max_size=SIZE).filter(lambda groups: max(groups) >= 0)


def weights():
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(0))


@given(GROUPS, st.integers(0, 99), st.sampled_from(["outward", "alike"]))
def test_weights_follow_the_two_values_of_their_block(groups, seed, move):
    theta0 = weights()
    theta0[::7] = 0
    reduction = SparseBlocks(theta0, torch.tensor(groups), move=move)
    numbers = sorted(set(groups) - {-1})
    assert reduction.dim == 2 * len(numbers) == 2 * reduction.num_blocks
    z = torch.rand(3, reduction.dim, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.3
    for one, theta in zip(z.numpy(), reduction.expand(z).numpy(), strict=True):
        for weight, group, found in zip(theta0.numpy(), groups, theta, strict=True):
            if group == -1:
                assert found == weight
                continue
            block = numbers.index(group)
            step = one[len(numbers) + block] * (np.sign(weight) if move == "outward" else 1)
            assert found == pytest.approx(weight + step if one[block] > 0.5 else 0, abs=1e-6)


def test_the_start_is_the_network_as_given_and_lies_within_its_range():
    reduction = SparseBlocks(weights(), torch.arange(SIZE) // 10)
    assert torch.equal(reduction.expand(reduction.center), weights())
    assert reduction.center.tolist() == [1.0] * 6 + [0.0] * 6
    size = weights().abs().view(6, 10)
    torch.testing.assert_close(reduction.lower[6:], size.amin(1) - size.mean(1))
    torch.testing.assert_close(reduction.upper[6:], size.amax(1) - size.mean(1))


def test_decisions_alone_are_those_of_a_group_mask():
    blocks = magnitude_blocks(weights(), torch.arange(SIZE) // 30, 8)
    reduction, mask = SparseBlocks(weights(), blocks), GroupMask(weights(), blocks)
    z = torch.rand(5, mask.dim, generator=torch.Generator().manual_seed(0)).round()
    assert torch.equal(reduction.expand(torch.cat([z, torch.zeros_like(z)], dim=1)), mask.expand(z))


def test_moves_alike_without_decisions_are_those_of_histogram_blocks():
    blocking = HistogramBlocking(weights(), 9, mode="offset")
    reduction = SparseBlocks(weights(), blocking.block, move="alike")
    moves = torch.rand(4, blocking.dim, generator=torch.Generator().manual_seed(0)) - 0.5
    found = reduction.expand(torch.cat([torch.ones_like(moves), moves], dim=1))
    torch.testing.assert_close(found, blocking.expand(moves))
    torch.testing.assert_close(reduction.lower[blocking.dim :], blocking.lower, rtol=0, atol=1e-6)
    torch.testing.assert_close(reduction.upper[blocking.dim :], blocking.upper, rtol=0, atol=1e-6)


def test_outward_moves_keep_the_signs_and_grow_the_sizes():
    reduction = SparseBlocks(weights(), torch.arange(SIZE) // 30)
    theta = reduction.expand(torch.tensor([1.0, 1.0, 0.2, 0.3]))
    torch.testing.assert_close(theta.abs() - weights().abs(), torch.tensor([0.2, 0.3]).repeat_interleave(30))
    assert torch.equal(theta.sign(), weights().sign())


@given(st.integers(0, 99), st.integers(2, 12))
def test_blocks_by_size_are_intervals_of_the_size_in_every_tensor(seed, num_bins):
    theta0, groups = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)), torch.arange(SIZE) // 20
    blocks = magnitude_blocks(theta0, groups, num_bins)
    for group in range(3):
        inside = groups == group
        size, order = theta0[inside].abs(), theta0[inside].abs().argsort()
        edges = np.linspace(float(size.min()), float(size.max()), num_bins)
        expected = np.digitize(size.numpy().astype(np.float64), edges[1:-1])
        assert np.array_equal(np.unique(expected, return_inverse=True)[1], blocks[inside] - blocks[inside].min())
        assert (blocks[inside][order].diff() >= 0).all()


def of_network():
    model = cnn()
    layout = ParameterLayout(model, prunable_names(model))
    return model, layout, layout.flatten(model)


def zeroed_smallest(theta0, blocks, groups, tensor):
    """Zero the block of one tensor that holds the weights nearest to zero: `(D,)`, and how many they are."""
    reduction = SparseBlocks(theta0, blocks)
    inside = groups == tensor
    nearest = int(theta0.abs().masked_fill(~inside, torch.inf).argmin())
    z = reduction.center.clone()
    z[reduction.group[nearest].long()] = 0
    theta = reduction.expand(z)
    return theta, int((theta == 0).sum())


def test_zeroing_signed_blocks_shifts_a_layer_and_blocks_by_size_do_not():
    _, layout, theta0 = of_network()
    groups, head = layout.tensor_index, 1
    signed = HistogramBlocking(theta0, 7, groups=groups).block
    one_sided, num = zeroed_smallest(theta0, signed, groups, head)
    by_size = magnitude_blocks(theta0, groups, 5)
    two_sided, num_by_size = zeroed_smallest(theta0, by_size, groups, head)
    lost = (theta0 - one_sided)[groups == head], (theta0 - two_sided)[groups == head]
    assert num > 50 and num_by_size > 50
    shift = [float(one.sum().abs() / one.abs().sum()) for one in lost]
    assert shift[0] > 3 * shift[1]


def test_blocks_by_size_lose_the_least_that_so_many_weights_can():
    _, layout, theta0 = of_network()
    groups = layout.tensor_index
    theta, num = zeroed_smallest(theta0, magnitude_blocks(theta0, groups, 5), groups, 1)
    least = theta0[groups == 1].square().sort().values[:num].sum()
    torch.testing.assert_close((theta0 - theta).square().sum(), least)
    one_sided, num = zeroed_smallest(theta0, HistogramBlocking(theta0, 7, groups=groups).block, groups, 1)
    assert (theta0 - one_sided).square().sum() > 1.2 * theta0[groups == 1].square().sort().values[:num].sum()


def test_it_survives_its_state():
    reduction = SparseBlocks(weights(), torch.arange(SIZE) % 9 - 1, move="alike")
    again = Reduction.from_state_dict(reduction.state_dict())
    z = torch.rand(4, reduction.dim, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.expand(z), reduction.expand(z)) and again.move == "alike"


def f1_and_density():
    model, layout, theta0 = of_network()
    reduction = SparseBlocks(theta0, magnitude_blocks(theta0, layout.tensor_index, 8))
    return NetworkProblem(model, digits(60), ["f1_macro", "density"], layout=layout, reduction=reduction, seed=0)


def genetic(problem):
    operators = [SimulatedBinaryCrossOver(problem, tournament_size=3, eta=15), GaussianMutation(problem, stdev=0.1)]
    return GeneticAlgorithm(problem, operators=operators, popsize=16)


SEARCHERS = {
    "NSGA2": lambda problem: NSGA2(problem, popsize=16),
    "MOEAD": lambda problem: MOEAD(problem, popsize=16, normalize=True),
    "EvoTorch's GeneticAlgorithm": genetic,
    "pymoo's NSGA2": lambda problem: PymooSearcher(problem, PymooNSGA2(pop_size=16)),
}


@pytest.mark.parametrize("name", SEARCHERS)
def test_any_searcher_of_several_objectives_trades_f1_for_sparsity(name):
    problem = f1_and_density()
    searcher = SEARCHERS[name](problem)
    searcher.run(4)
    population = searcher.population
    evals, values = (batch.as_subclass(Tensor) for batch in (population.evals, population.values))
    mask = problem.reduction.mask(values)
    # A block that is kept can still be moved onto zero, but for rounding never is.
    assert evals[:, 1].tolist() == pytest.approx(mask.double().mean(1).tolist(), abs=1e-6)
    assert len(evals[:, 1].unique()) >= 3 and float(evals[:, 0].max()) > 0.3
    best = problem.make_network(population[int(evals[:, 0].argmax())])
    accuracy = (predict(best, digits(60)).argmax(1) == digits(60).y).float().mean()
    assert accuracy > 0.3


@pytest.mark.parametrize(
    ("groups", "move", "message"),
    [
        (torch.zeros(59, dtype=torch.int64), "outward", r"one integer per weight, shape \(60,\)"),
        (torch.zeros(60, dtype=torch.int64), "up", r"`move` must be 'outward' \(.*got 'up'"),
        (torch.full((60,), -1), "outward", "`groups` is -1 everywhere"),
    ],
)
def test_wrong_arguments_name_what_was_expected(groups, move, message):
    with pytest.raises(ValueError, match=message):
        SparseBlocks(weights(), groups, move=move)
