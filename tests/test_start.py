"""Does a search of a network start at the network, with steps as large as its weights call for?"""

import numpy as np
import pytest
import torch
from evotorch import Problem
from evotorch.algorithms import CEM, PGPE, SNES, XNES
from hypothesis import given
from hypothesis import strategies as st

from evohbde import (
    Chain,
    ChannelScaling,
    GroupMask,
    HistogramBlocking,
    Identity,
    LowRank,
    NetworkProblem,
    ParameterLayout,
    RandomBlocking,
    RandomProjection,
    ReducedProblem,
    Subspace,
)
from evohbde.scale import reduced_stdev, weight_stdev
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
from tests.small_networks import digits, mlp

SHAPES = ((12, 8), (12,), (5, 12), (5,))
SIZE = 12 * 8 + 12 + 5 * 12 + 5


def made_up_weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [0.3, 0.05, 1.5, 0.6]
    pieces = [
        size * torch.randn(shape, generator=generator).flatten() for size, shape in zip(sizes, SHAPES, strict=True)
    ]
    return torch.cat(pieces).double()


def tensor_index():
    return torch.repeat_interleave(torch.arange(4), torch.tensor([96, 12, 60, 5]))


THETA = made_up_weights()
STDEV = weight_stdev(THETA, tensor_index())
BLOCKS = HistogramBlocking(THETA, 40, mode="offset")

# Each weight is moved by one value at most.
SEPARATE = {
    "weights": Identity(THETA),
    "blocks": HistogramBlocking(THETA, 40),
    "offset blocks": BLOCKS,
    "random blocks": RandomBlocking(THETA, 20),
    "some weights": Subspace(THETA, tensor_index() == 2),
    "channels": ChannelScaling(THETA, SHAPES, include_vectors=True),
    "blocks of blocks": Chain(BLOCKS, RandomBlocking(BLOCKS.center, 7)),
}
OVERLAPPING = {
    "projection": RandomProjection(THETA, 20),
    "sparse projection": RandomProjection(THETA, 20, num_nonzeros=3),
    "low rank": LowRank(THETA, SHAPES, rank=2, freeze_a=True),
}


def jacobian(reduction):
    """Derivative of every weight by every value, from one `expand` per value: these maps are linear."""
    unit = torch.eye(reduction.dim, dtype=torch.float64)
    return np.stack(
        [(reduction.expand(reduction.center + row) - reduction.expand(reduction.center)).numpy() for row in unit], 1
    )


def stdev_by_definition(reduction, stdev):
    squares = jacobian(reduction) ** 2
    of_weights = squares.sum(1)
    share = np.divide(stdev.numpy() ** 2, of_weights, out=np.zeros(SIZE), where=of_weights > 1e-20)
    return np.sqrt(share @ squares / squares.sum(0))


def test_the_step_of_a_weight_is_a_tenth_of_the_root_mean_square_of_its_tensor():
    pieces = np.split(THETA.numpy(), np.cumsum([96, 12, 60]))
    expected = np.concatenate([np.full(len(piece), 0.1 * np.sqrt(np.mean(piece**2))) for piece in pieces])
    np.testing.assert_allclose(STDEV.numpy(), expected, rtol=1e-12)


def test_a_tensor_of_zeros_still_has_a_step():
    stdev = weight_stdev(torch.cat([torch.zeros(3), torch.ones(2)]), torch.tensor([0, 0, 0, 1, 1]))
    assert stdev.tolist() == pytest.approx([1e-4, 1e-4, 1e-4, 0.1, 0.1])


@pytest.mark.parametrize("name", SEPARATE)
def test_steps_of_separate_values_are_those_of_the_definition(name):
    reduction = SEPARATE[name]
    found = reduced_stdev(reduction, STDEV)
    np.testing.assert_allclose(found.numpy(), stdev_by_definition(reduction, STDEV), rtol=1e-5)


@pytest.mark.parametrize("name", OVERLAPPING)
def test_steps_of_overlapping_values_are_near_those_of_the_definition(name):
    reduction = OVERLAPPING[name]
    found = reduced_stdev(reduction, STDEV).numpy()
    np.testing.assert_allclose(found, stdev_by_definition(reduction, STDEV), rtol=0.35)
    assert np.mean(found / stdev_by_definition(reduction, STDEV)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("name", SEPARATE | OVERLAPPING)
def test_all_steps_together_move_the_weights_as_far_as_their_own_steps(name):
    reduction = (SEPARATE | OVERLAPPING)[name]
    squares = jacobian(reduction) ** 2
    moved = np.sqrt((squares * reduced_stdev(reduction, STDEV).numpy() ** 2).sum())
    is_searched = squares.sum(1) > 1e-20
    rtol = 1e-5 if name in SEPARATE else 0.1
    np.testing.assert_allclose(moved, np.linalg.norm(STDEV.numpy()[is_searched]), rtol=rtol)


def test_a_block_steps_by_the_root_mean_square_of_the_steps_of_its_weights():
    found = reduced_stdev(BLOCKS, STDEV)
    for k in range(BLOCKS.dim):
        members = STDEV[BLOCKS.block == k].numpy()
        assert float(found[k]) == pytest.approx(np.sqrt(np.mean(members**2)), rel=1e-6)


@given(factor=st.floats(0.1, 100), seed=st.integers(0, 100))
def test_a_network_of_larger_weights_gets_larger_steps_and_its_gains_do_not(factor, seed):
    theta = made_up_weights(seed)
    for make, expected in ((lambda t: RandomBlocking(t, 20), factor), (lambda t: ChannelScaling(t, SHAPES), 1)):
        steps, scaled = (reduced_stdev(make(t), weight_stdev(t, tensor_index())) for t in (theta, factor * theta))
        np.testing.assert_allclose(scaled.numpy(), expected * steps.numpy(), rtol=1e-6)


def test_steps_stay_the_same_when_weights_are_replaced_instead_of_shifted():
    replaced, shifted = (reduced_stdev(HistogramBlocking(THETA, 40, mode), STDEV) for mode in ("replace", "offset"))
    np.testing.assert_allclose(replaced.numpy(), shifted.numpy(), rtol=1e-6)


def test_decisions_have_no_step():
    with pytest.raises(ValueError, match=r"GroupMask.*decisions.*no step size"):
        reduced_stdev(GroupMask(THETA, tensor_index()), STDEV)


def test_values_that_move_nothing_are_counted_and_the_remedy_is_named():
    reduction = LowRank(THETA, SHAPES, rank=2)
    with pytest.raises(ValueError, match=rf"{2 * (8 + 12)} of {reduction.dim} values.*`stdev_init`.*freeze_a=True"):
        reduced_stdev(reduction, STDEV)


def network_problem(seed=0):
    return NetworkProblem(
        mlp(), digits(), "cross_entropy", reduction=lambda theta: HistogramBlocking(theta, 60, mode="offset"), seed=seed
    )


def test_the_step_of_a_problem_follows_from_its_layout_and_costs_nothing():
    problem = network_problem()
    state = problem.generator.get_state()
    stdev = problem.stdev
    layout = ParameterLayout(mlp())
    expected = torch.empty(layout.size)
    for piece, weights in zip(layout.views(expected).values(), mlp().parameters(), strict=True):
        piece.fill_(0.1 * weights.detach().square().mean().sqrt())
    members = [expected[problem.reduction.block == k] for k in range(problem.solution_length)]
    np.testing.assert_allclose(stdev, [np.sqrt(np.mean(m.numpy() ** 2)) for m in members], rtol=1e-4)
    assert problem.num_evaluations == 0 and problem.num_samples_seen == 0
    assert torch.equal(problem.generator.get_state(), state)


def test_a_reduced_problem_passes_on_the_steps_of_the_network_inside():
    inner = NetworkProblem(mlp(), digits(), "cross_entropy", reduction=Identity, seed=0)
    blocks = RandomBlocking(inner.center, 30)
    found = ReducedProblem(inner, blocks).stdev
    members = [inner.stdev[blocks.block == k] for k in range(30)]
    np.testing.assert_allclose(found, [np.sqrt(np.mean(m.numpy() ** 2)) for m in members], rtol=1e-4)


AUTO = {
    "DE": lambda p, s, c: DE(p, popsize=8, stdev_init=s, include_center=c),
    "jDE": lambda p, s, c: JDE(p, popsize=8, stdev_init=s, include_center=c),
    "JADE": lambda p, s, c: JADE(p, popsize=8, stdev_init=s, include_center=c),
    "SHADE": lambda p, s, c: SHADE(p, popsize=8, stdev_init=s, include_center=c),
    "L-SHADE": lambda p, s, c: LSHADE(p, popsize=8, num_evaluations=100, stdev_init=s, include_center=c),
    "annealing": lambda p, s, c: SimulatedAnnealing(p, popsize=4, stdev_init=s, include_center=c),
    "local search": lambda p, s, c: IteratedLocalSearch(
        p, popsize=4, stdev_init=s, include_center=c, acceptance="restart", patience=1, max_kicks=1
    ),
    "tabu": lambda p, s, c: TabuSearch(p, popsize=4, stdev_init=s, include_center=c),
    "coordinates": lambda p, s, c: CoordinateSearch(p, popsize=2, stdev_init=s, include_center=c),
    "random search": lambda p, s, c: RandomSearch(p, popsize=4, stdev_init=s, include_center=c),
    "NSGA-II": lambda p, s, c: NSGA2(p, popsize=8, stdev_init=s, include_center=c),
}


@pytest.mark.parametrize("name", AUTO)
def test_auto_is_the_centre_and_the_step_of_the_problem_and_the_centre_itself(name):
    automatic, by_hand = network_problem(), network_problem()
    searcher, other = AUTO[name](automatic, "auto", False), AUTO[name](by_hand, by_hand.stdev, True)
    assert torch.equal(searcher.population[0].values, automatic.center)
    for _ in range(4):
        searcher.step()
        other.step()
        assert torch.equal(searcher.population.values, other.population.values)


def test_cma_es_takes_auto_too():
    automatic, by_hand = network_problem(), network_problem()
    one, other = CMAES(automatic, stdev_init="auto"), CMAES(by_hand, stdev_init=by_hand.stdev)
    for searcher in (one, other):
        searcher.run(3)
    assert torch.equal(one.status["center"], other.status["center"])


@pytest.mark.parametrize("make", [SNES, XNES, CEM, PGPE])
def test_searchers_of_evotorch_take_the_centre_and_the_step_of_a_problem(make):
    problem = network_problem()
    options = {CEM: {"popsize": 200, "parenthood_ratio": 0.5}, PGPE: {"popsize": 200, "center_learning_rate": 0.1}}
    options[PGPE] |= {"stdev_learning_rate": 0.1}
    searcher = make(
        problem, **{"popsize": 200, **options.get(make, {})}, center_init=problem.center, stdev_init=problem.stdev
    )
    searcher.step()
    drawn = searcher.population.values.as_subclass(torch.Tensor) / problem.stdev
    # 200 draws each: the root mean square of all of them is 1 to a hundredth, that of one value to a fifth.
    assert float(drawn.square().mean().sqrt()) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(drawn.square().mean(0).sqrt(), 1, atol=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_de_from_the_network_is_never_worse_than_the_network(seed):
    problem = network_problem(seed)
    given_score = problem.score(problem.center, digits())["cross_entropy"]
    searcher = DE(problem, popsize=10, stdev_init="auto")
    searcher.step()
    assert float(searcher.population.evals.min()) <= given_score + 1e-6
    searcher.run(20)
    assert searcher.status["best_eval"] < given_score


def test_auto_on_a_problem_without_a_step_says_what_to_give():
    problem = Problem("min", lambda x: (x**2).sum(-1), solution_length=3, initial_bounds=(-1, 1), vectorized=True)
    problem.center = torch.zeros(3)
    for make in (DE, RandomSearch, CMAES):
        with pytest.raises(ValueError, match=r"'auto' needs a problem with a `stdev`.*Problem has none: give a number"):
            make(problem, stdev_init="auto")
    reduced = ReducedProblem(problem, Identity(torch.ones(3)))
    with pytest.raises(ValueError, match="ReducedProblem has none"):
        DE(reduced, stdev_init="auto")


def test_another_word_than_auto_is_refused():
    with pytest.raises(ValueError, match="one number per value, or 'auto', got 'automatic'"):
        DE(network_problem(), stdev_init="automatic")
