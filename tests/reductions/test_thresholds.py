"""Do thresholds prune exactly the weights that they should?"""

from fractions import Fraction
from itertools import pairwise
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from evohbde.gradient_searcher import GradientSearcher
from evohbde.layout import ParameterLayout
from evohbde.parts import prunable_names
from evohbde.problem import NetworkProblem
from evohbde.reductions import Reduction, ThresholdPruning
from evohbde.searchers import NSGA2
from tests.small_networks import cnn, digits

KINDS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def tensors(draw):
    """Weights in up to four tensors, single weights, constants and ties among them."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    values = st.sampled_from([0.0, 0.25, -0.25, 0.5, -1.0]) | st.floats(-2, 2, width=16)
    theta0 = [draw(st.lists(values, min_size=size, max_size=size) | st.just([0.5] * size)) for size in sizes]
    groups = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return torch.tensor([weight for tensor in theta0 for weight in tensor]), groups


def thresholds(reduction, seed, rows=None, most=1.0):
    generator = torch.Generator().manual_seed(seed)
    shape = (reduction.dim,) if rows is None else (rows, reduction.dim)
    return most * torch.rand(shape, generator=generator, dtype=torch.float64).to(reduction.center)


def network():
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 3))
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    layout = ParameterLayout(model, prunable_names(model))
    return model, layout


@given(tensors(), st.integers(0, 999), st.sampled_from(KINDS))
def test_exactly_the_whole_part_of_the_share_goes_from_each_tensor(given_tensors, seed, kind):
    theta0, groups = given_tensors
    reduction = ThresholdPruning(theta0.to(kind), groups)
    z = thresholds(reduction, seed)
    counts = groups.bincount().tolist()
    expected = [n - floor(Fraction(t) * n) for n, t in zip(counts, z.tolist(), strict=True)]
    assert reduction.kept(z).tolist() == expected
    assert [int(reduction.mask(z)[groups == g].sum()) for g in range(len(counts))] == expected


@given(st.integers(1, 3000), st.data())
def test_a_share_that_is_a_whole_number_of_weights_prunes_that_many(size, data):
    num = data.draw(st.integers(0, size * 9 // 10))
    reduction = ThresholdPruning(torch.ones(size), torch.zeros(size, dtype=torch.int64))
    assert int(reduction.kept(reduction.uniform(num / size))) == size - num
    nearest = torch.tensor([num / size])
    assert int(reduction.kept(nearest)) == size - floor(Fraction(nearest.item()) * size)


@given(tensors(), st.integers(0, 999), st.sampled_from(["quantile", "max", "std"]))
def test_higher_thresholds_prune_the_same_weights_and_more(given_tensors, seed, rule):
    reduction = ThresholdPruning(*given_tensors, rule=rule)
    low, high = thresholds(reduction, seed, rows=2).sort(dim=0).values
    assert not (reduction.mask(high) & ~reduction.mask(low)).any()
    assert (reduction.kept(high) <= reduction.kept(low)).all()


@given(tensors(), st.integers(0, 999), st.sampled_from(["quantile", "max", "std"]))
def test_no_weight_is_kept_that_is_smaller_than_one_pruned_in_its_tensor(given_tensors, seed, rule):
    theta0, groups = given_tensors
    reduction = ThresholdPruning(theta0, groups, rule=rule)
    mask = reduction.mask(thresholds(reduction, seed))
    for group in range(reduction.dim):
        size, kept = theta0[groups == group].abs(), mask[groups == group]
        if kept.any() and not kept.all():
            assert size[kept].min() >= size[~kept].max()


@given(tensors(), st.integers(0, 999), st.sampled_from(["quantile", "max", "std"]), st.sampled_from(KINDS))
def test_thresholds_of_the_same_network_are_found_again(given_tensors, seed, rule, kind):
    theta0, groups = given_tensors
    reduction = ThresholdPruning(theta0.to(kind), groups, rule=rule)
    theta = reduction.expand(thresholds(reduction, seed, rows=3))
    assert torch.equal(reduction.expand(reduction.reduce(theta)), theta)


def test_of_equal_weights_the_first_go_first():
    reduction = ThresholdPruning(torch.tensor([1.0, -1, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1]))
    assert reduction.mask(torch.tensor([0.5, 0.5])).int().tolist() == [0, 0, 1, 1, 0, 1]


@pytest.mark.parametrize("num", [0, 1, 17, 100, 107])
def test_one_tensor_is_pruned_as_by_pytorch(num):
    layer = nn.Linear(12, 9)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    reduction = ThresholdPruning(layer.weight.flatten(), torch.zeros(108, dtype=torch.int64), most=0.999)
    found = reduction.expand(reduction.uniform(num / 108))
    prune.l1_unstructured(layer, "weight", amount=num)
    assert torch.equal(found, layer.weight.detach().flatten())


@pytest.mark.parametrize("num", [1, 40, 200, 300])
def test_all_tensors_together_are_pruned_as_by_pytorch(num):
    model, layout = network()
    theta0 = layout.flatten(model)
    reduction = ThresholdPruning(theta0, layout.tensor_index, most=0.999)
    found = reduction.expand(reduction.global_magnitude(num / len(theta0)))
    layers = [(module, "weight") for module in (model[0], model[2], model[3])]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=num)
    assert torch.equal(found, torch.cat([module.weight.detach().flatten() for module, _ in layers]))


@given(tensors(), st.floats(0, 1))
def test_global_magnitude_prunes_exactly_its_share_with_ties(given_tensors, fraction):
    theta0, groups = given_tensors
    reduction = ThresholdPruning(theta0, groups, most=0.9999999)
    mask = reduction.mask(reduction.global_magnitude(fraction))
    order = np.argsort(np.abs(theta0.numpy()), kind="stable")
    expected = np.ones(len(order), dtype=bool)
    expected[order[: floor(fraction * (1 + 1e-12) * len(order))]] = False
    capped = [np.floor(0.9999999 * n) for n in groups.bincount().numpy()]
    for group, most in enumerate(capped):
        inside = groups.numpy() == group
        if (~expected[inside]).sum() <= most:
            assert np.array_equal(mask.numpy()[inside], expected[inside])
        else:
            assert (~mask.numpy()[inside]).sum() == most


def test_rules_follow_their_formulas():
    model, layout = network()
    theta0, groups = layout.flatten(model), layout.tensor_index
    z = torch.tensor([0.1, 0.25, 0.4])
    for rule, unit in (("max", lambda w: np.abs(w).max()), ("std", lambda w: 3 * w.std())):
        mask = ThresholdPruning(theta0, groups, rule=rule).mask(z)
        for group in range(3):
            weights = theta0[groups == group].double().numpy()
            assert np.array_equal(
                mask[groups == group].numpy(), np.abs(weights) > z[group].double().item() * unit(weights)
            )
    tau = [np.quantile(np.abs(theta0[groups == g].numpy()), z[g].item(), method="inverted_cdf") for g in range(3)]
    mask = ThresholdPruning(theta0, groups).mask(z)
    for group in range(3):
        size = np.abs(theta0[groups == group].numpy())
        pruned = size[~mask[groups == group].numpy()]
        assert pruned.max() <= tau[group] and (size <= tau[group]).sum() - len(pruned) in (0, 1)


def test_constant_tensors_and_zeros_have_a_meaning_under_every_rule():
    theta0, groups = torch.tensor([2.0, 2.0, 0.0, 0.0, 3.0]), torch.tensor([0, 0, 1, 1, 2])
    for rule in ("max", "std"):
        reduction = ThresholdPruning(theta0, groups, rule=rule)
        assert torch.equal(reduction.expand(reduction.upper), theta0)
    quantile = ThresholdPruning(theta0, groups)
    assert quantile.expand(quantile.upper).tolist() == [0.0, 2.0, 0.0, 0.0, 3.0]


def test_the_start_prunes_nothing_and_exempt_weights_stay():
    theta0 = torch.randn(60, generator=torch.Generator().manual_seed(0))
    reduction = ThresholdPruning(theta0, torch.arange(60) // 20 - 1)
    assert reduction.dim == 2 and torch.equal(reduction.expand(reduction.center), theta0)
    theta = reduction.expand(torch.ones(2))
    assert torch.equal(theta[:20], theta0[:20]) and not theta[20:].any()
    assert int((reduction.expand(reduction.global_magnitude(0.5)) == 0).sum()) == 20


@pytest.mark.parametrize("rule", ["quantile", "max", "std"])
def test_uniform_thresholds_take_the_same_share_of_every_tensor(rule):
    model, layout = network()
    reduction = ThresholdPruning(layout.flatten(model), layout.tensor_index, rule=rule, most=0.95)
    for percent in (0, 29, 57, 60):
        expected = [n - percent * n // 100 for n in (108, 240, 30)]
        assert reduction.kept(reduction.uniform(percent / 100)).tolist() == expected


def test_seeds_lie_within_the_bounds_of_the_search():
    model, layout = network()
    reduction = ThresholdPruning(layout.flatten(model), layout.tensor_index, most=0.6)
    for seed in (reduction.uniform(0.9), reduction.global_magnitude(0.9)):
        assert (seed >= reduction.lower).all() and (seed <= reduction.upper).all()
        assert (reduction.kept(seed) >= (0.4 * reduction.counts).ceil()).all()


def test_it_survives_its_state():
    model, layout = network()
    reduction = ThresholdPruning(layout.flatten(model), layout.tensor_index, rule="std", most=0.5)
    again = Reduction.from_state_dict(reduction.state_dict())
    z = thresholds(reduction, 1, rows=4)
    assert torch.equal(again.expand(z), reduction.expand(z)) and (again.rule, again.most) == ("std", 0.5)


def test_density_as_an_objective_is_the_kept_share_of_every_candidate():
    model = cnn()
    layout = ParameterLayout(model, prunable_names(model))
    reduction = ThresholdPruning(layout.flatten(model), layout.tensor_index)
    problem = NetworkProblem(model, digits(), ["error", "density"], layout=layout, reduction=reduction, seed=0)
    searcher = NSGA2(problem, popsize=12, bounds=(reduction.lower, reduction.upper), include_center=True)
    searcher.run(3)
    population = searcher.population
    shares = reduction.kept(population.values.as_subclass(torch.Tensor)).sum(1) / layout.size
    assert population.evals[:, 1].tolist() == pytest.approx(shares.tolist())
    ordered = sorted(zip(shares.tolist(), population.evals[:, 0].tolist(), strict=True))
    front = [pair for pair in ordered if not any(o[0] <= pair[0] and o[1] < pair[1] for o in ordered)]
    assert len(front) >= 2 and all(a[1] > b[1] for a, b in pairwise(front) if a[0] < b[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "mean"}, "`rule` must be one of quantile, max, std, got 'mean'"),
        ({"most": 1.0}, r"`most` must lie in \(0, 1\).*got 1.0"),
        ({"groups": torch.zeros(5, dtype=torch.int64)}, r"one integer per weight, shape \(6,\)"),
    ],
)
def test_wrong_arguments_name_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        ThresholdPruning(**{"theta0": torch.ones(6), "groups": torch.zeros(6, dtype=torch.int64), **options})


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_share_lies_between_nothing_and_all(fraction):
    reduction = ThresholdPruning(torch.ones(6), torch.zeros(6, dtype=torch.int64))
    for method in (reduction.uniform, reduction.global_magnitude):
        with pytest.raises(ValueError, match="`fraction` must lie in"):
            method(fraction)


def test_thresholds_have_neither_a_step_size_of_their_own_nor_gradients():
    model = cnn()
    layout = ParameterLayout(model, prunable_names(model))
    reduction = ThresholdPruning(layout.flatten(model), layout.tensor_index)
    problem = NetworkProblem(model, digits(), layout=layout, reduction=reduction)
    with pytest.raises(ValueError, match="ThresholdPruning has no derivative: give `stdev_init` as a number"):
        _ = problem.stdev
    with pytest.raises(ValueError, match="ThresholdPruning has no derivative: search it with NSGA2"):
        GradientSearcher(problem)
