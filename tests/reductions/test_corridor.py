"""Do all masks of a corridor lie between its two ends?"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evohbde.layout import ParameterLayout
from evohbde.parts import prunable_names
from evohbde.problem import NetworkProblem
from evohbde.reductions import CorridorMask, Reduction, ThresholdPruning
from evohbde.searchers import MOEAD, NSGA2
from tests.small_networks import cnn, digits

SIZE = 40
ENDS = st.lists(st.sampled_from(["core", "free", "out"]), min_size=SIZE, max_size=SIZE).filter(lambda e: "free" in e)


def weights():
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(0))


def masks(ends) -> tuple[Tensor, Tensor]:
    return torch.tensor([e == "core" for e in ends]), torch.tensor([e != "out" for e in ends])


@given(ENDS, st.integers(0, 999))
def test_masks_lie_between_core_and_upper_and_follow_the_bits(ends, seed):
    core, upper = masks(ends)
    reduction = CorridorMask(weights(), core, upper)
    assert reduction.free.tolist() == [i for i, end in enumerate(ends) if end == "free"]
    z = torch.rand(5, reduction.dim, generator=torch.Generator().manual_seed(seed))
    mask = reduction.mask(z)
    assert (mask | ~core).all() and not (mask & ~upper).any()
    assert torch.equal(mask[:, reduction.free], z > 0.5)
    assert torch.equal(reduction.expand(z), weights() * mask)


@given(ENDS, st.integers(0, 999))
def test_decisions_are_found_again(ends, seed):
    reduction = CorridorMask(weights(), *masks(ends))
    z = torch.rand(reduction.dim, generator=torch.Generator().manual_seed(seed)).round()
    assert torch.equal(reduction.reduce(reduction.expand(z)), z)


def test_both_ends_are_the_masks_themselves():
    core, upper = masks(["core", "free", "out", "free"] * 10)
    reduction = CorridorMask(weights(), core, upper)
    assert torch.equal(reduction.expand(torch.zeros(20)), weights() * core)
    assert torch.equal(reduction.expand(torch.ones(20)), weights() * upper)
    assert torch.equal(reduction.center, torch.ones(20)) and reduction.is_unique


def test_a_free_weight_of_zero_makes_decisions_ambiguous_and_is_declared():
    theta0 = weights()
    theta0[1] = 0
    reduction = CorridorMask(theta0, *masks(["core", "free", "out", "free"] * 10))
    assert not reduction.is_unique and reduction.center.tolist() == [0.0] + [1.0] * 19


def test_it_survives_its_state():
    reduction = CorridorMask(weights(), *masks(["core", "free", "out", "free"] * 10))
    again = Reduction.from_state_dict(reduction.state_dict())
    z = torch.rand(4, 20, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.expand(z), reduction.expand(z)) and torch.equal(again.free, reduction.free)


def of_network(core_is_empty):
    """Free weights between pruning 20 % and 60 % of each tensor of a small network, or all of the former."""
    model = cnn()
    layout = ParameterLayout(model, prunable_names(model))
    theta0 = layout.flatten(model)
    ends = ThresholdPruning(theta0, layout.tensor_index)
    core, upper = ends.mask(ends.uniform(0.6)), ends.mask(ends.uniform(0.2))
    reduction = CorridorMask(theta0, core & (not core_is_empty), upper)
    problem = NetworkProblem(model, digits(40), ["error", "density"], layout=layout, reduction=reduction, seed=0)
    return problem, core, upper


@pytest.mark.parametrize("kind", [NSGA2, MOEAD])
def test_a_search_in_the_corridor_leaves_it_nowhere(kind):
    problem, core, upper = of_network(core_is_empty=False)
    searcher = kind(problem, popsize=10, variation="binary")
    searcher.run(3)
    found = problem.reduction.mask(searcher.population.values.as_subclass(Tensor))
    assert (found | ~core).all() and not (found & ~upper).any()
    shares = found.float().mean(1)
    assert shares.min() >= core.float().mean() and shares.max() <= upper.float().mean()


@pytest.mark.parametrize("kind", [NSGA2, MOEAD])
def test_without_a_core_a_constraint_keeps_the_density_in_range(kind):
    problem, core, upper = of_network(core_is_empty=True)
    low, high = float(core.float().mean()), float(upper.float().mean())

    def violation(z):
        share = problem.reduction.mask(z).float().mean(-1)
        return (low - share).clamp(min=0) + (share - high).clamp(min=0)

    start = (torch.rand(10, problem.solution_length, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    start[:5] = torch.linspace(0.55, 0.9, 5)[:, None] > torch.rand(
        5, problem.solution_length, generator=torch.Generator().manual_seed(1)
    )
    assert bool((violation(start) > 0).any()) and bool((violation(start) == 0).any())
    searcher = kind(problem, popsize=10, variation="binary", violation=violation, initial_population=start)
    searcher.run(4)
    front = searcher.pareto_front.values.as_subclass(Tensor)
    assert len(front) and not bool((violation(front) > 0).any())


@pytest.mark.parametrize(
    ("core", "upper", "message"),
    [
        (torch.ones(SIZE, dtype=torch.bool), torch.arange(SIZE) > 2, "3 weights of `core` lie outside `upper`"),
        (torch.arange(SIZE) > 2, torch.arange(SIZE) > 2, "the same mask.*widen `upper`"),
        (torch.ones(SIZE), torch.arange(SIZE) > 2, r"`core` to be a bool tensor of shape \(40,\), got torch.float32"),
        (torch.arange(SIZE) > 2, torch.arange(9) > 2, r"`upper` to be a bool tensor of shape \(40,\).*\(9,\)"),
        ([True] * SIZE, torch.arange(SIZE) > 2, "`core` to be a bool tensor"),
    ],
)
def test_wrong_masks_name_what_was_expected(core, upper, message):
    with pytest.raises(ValueError, match=message):
        CorridorMask(weights(), core, upper)
