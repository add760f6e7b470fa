"""Does a mask zero exactly the groups that are decided against?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from evohbde.layout import ParameterLayout
from evohbde.outputs import score
from evohbde.reductions import GroupMask, HistogramBlocking, RandomBlocking, Reduction, channel_groups
from evohbde.testing import check_reduction
from tests.small_networks import cnn, digits


def weights(size=60, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


GROUPS = st.lists(st.integers(-1, 9), min_size=60, max_size=60).filter(lambda groups: max(groups) >= 0)


@given(GROUPS, st.integers(0, 99), st.sampled_from([0.0, 0.3, 0.5]))
def test_weights_are_kept_where_their_group_is_above_the_threshold(groups, seed, threshold):
    reduction = GroupMask(weights(), torch.tensor(groups), threshold)
    numbers = sorted(set(groups) - {-1})
    assert reduction.dim == len(numbers)
    z = torch.rand(3, reduction.dim, generator=torch.Generator().manual_seed(seed))
    for one, theta, mask in zip(z, reduction.expand(z), reduction.mask(z), strict=True):
        kept = np.array([group == -1 or one[numbers.index(group)].item() > threshold for group in groups])
        assert np.array_equal(mask.numpy(), kept)
        assert np.array_equal(theta.numpy(), np.where(kept, weights().numpy(), 0))


@given(GROUPS, st.integers(0, 2**10 - 1))
def test_decisions_are_found_again(groups, bits):
    reduction = GroupMask(weights(), torch.tensor(groups))
    z = torch.tensor([float(bits >> k & 1) for k in range(reduction.dim)])
    assert torch.equal(reduction.reduce(reduction.expand(z)), z)
    assert torch.equal(reduction.counts, torch.tensor([groups.count(k) for k in sorted(set(groups) - {-1})]))


def test_a_value_at_the_threshold_does_not_keep_its_group():
    reduction = GroupMask(weights(), torch.zeros(60, dtype=torch.int64))
    assert not reduction.expand(torch.tensor([0.5])).any()
    assert torch.equal(reduction.expand(torch.tensor([0.5001])), weights())


def test_the_start_keeps_everything_and_ranges_over_all_decisions():
    reduction = GroupMask(weights(), torch.arange(60) % 8)
    assert torch.equal(reduction.expand(reduction.center), weights())
    assert reduction.center.tolist() == reduction.upper.tolist() == [1.0] * 8
    assert reduction.lower.tolist() == [0.0] * 8


def test_pruned_channels_of_pytorch_are_the_ones_decided_against():
    layer = nn.Conv2d(3, 8, 3)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    layout = ParameterLayout(layer)
    reduction = GroupMask(layout.flatten(layer), channel_groups(layout.shapes))
    prune.ln_structured(layer, "weight", amount=3, n=2, dim=0)
    pruned = torch.cat([layer.weight.detach().flatten(), layer.bias.detach()])
    z = reduction.reduce(pruned)
    norms = layer.weight_orig.detach().flatten(1).norm(dim=1)
    assert set(torch.where(z == 0)[0].tolist()) == set(norms.argsort()[:3].tolist())
    assert torch.equal(reduction.expand(z), pruned)


@pytest.mark.parametrize("kind", ["blocks", "random blocks", "tensors", "channels", "weights"])
def test_groups_of_every_grain_keep_the_contract(kind):
    model = cnn()
    layout = ParameterLayout(model)
    theta0 = layout.flatten(model)
    groups = {
        "blocks": HistogramBlocking(theta0, 20).block,
        "random blocks": RandomBlocking(theta0, 20).block,
        "tensors": layout.tensor_index,
        "channels": channel_groups(layout.shapes),
        "weights": torch.arange(len(theta0)),
    }
    reduction = GroupMask(theta0, groups[kind])
    check_reduction(reduction)
    assert reduction.dim == {"tensors": 6, "channels": 16, "weights": 622}.get(kind, len(groups[kind].unique()))


def test_exempt_weights_stay_whatever_is_decided():
    model = cnn()
    layout = ParameterLayout(model)
    groups = layout.tensor_index.masked_fill(~layout.mask("*.weight", exclude="norm.*"), -1)
    reduction = GroupMask(layout.flatten(model), groups)
    network = layout.load_(cnn(), reduction.expand(torch.zeros(reduction.dim)))
    changed = {name for name, old in model.named_parameters() if not torch.equal(old, network.get_parameter(name))}
    assert reduction.dim == 2 and changed == {"conv.weight", "head.weight"}


def test_density_falls_by_the_share_of_the_masked_weights():
    model = cnn()
    layout = ParameterLayout(model)
    reduction = GroupMask(layout.flatten(model), channel_groups(layout.shapes))
    z = torch.ones(16)
    z[[0, 5, 7]] = 0  # two filters of 9 weights, one neuron of 54
    network = layout.load_(cnn(), reduction.expand(z))
    before, after = (score(one, digits(), ["density"], layout=layout)["density"] for one in (model, network))
    assert before - after == pytest.approx((9 + 9 + 54) / 622)


def test_a_group_of_zeros_makes_decisions_ambiguous_and_is_declared():
    theta0 = weights().clone()
    theta0[:10] = 0
    reduction = GroupMask(theta0, torch.arange(60) // 10)
    assert not reduction.is_unique and GroupMask(weights(), torch.arange(60) // 10).is_unique
    assert reduction.center.tolist() == [0, 1, 1, 1, 1, 1]
    assert torch.equal(reduction.expand(reduction.center), theta0)
    check_reduction(reduction)


def test_it_survives_its_state():
    reduction = GroupMask(weights(), torch.arange(60) % 9 - 1, threshold=0.2)
    again = Reduction.from_state_dict(reduction.state_dict())
    z = torch.rand(4, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.expand(z), reduction.expand(z))
    assert again.is_binary and again.threshold == 0.2


@pytest.mark.parametrize(
    ("groups", "threshold", "message"),
    [
        (torch.zeros(59, dtype=torch.int64), 0.5, r"one integer per weight, shape \(60,\), got torch.int64 \(59,\)"),
        (torch.zeros(60), 0.5, "one integer per weight.*got torch.float32"),
        (torch.ones(60, dtype=torch.bool), 0.5, "one integer per weight.*got torch.bool"),
        (torch.full((60,), -2), 0.5, "numbered from 0, with -1 for weights that are always kept, got -2"),
        (torch.full((60,), -1), 0.5, "`groups` is -1 everywhere.*give some of them a number"),
        (torch.arange(60), 1.0, r"`threshold` must lie in \[0, 1\).*got 1\.0"),
        (torch.arange(60), float("nan"), r"`threshold` must lie in \[0, 1\).*got nan"),
    ],
)
def test_wrong_arguments_name_what_was_expected(groups, threshold, message):
    with pytest.raises(ValueError, match=message):
        GroupMask(weights(), groups, threshold)


def test_groups_that_are_no_tensor_are_an_error():
    with pytest.raises(TypeError, match=r"`groups` to be a torch\.Tensor of shape \(D,\), got list"):
        GroupMask(weights(), [0] * 60)
