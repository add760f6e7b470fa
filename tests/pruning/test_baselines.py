"""Are the baselines what PyTorch prunes, and random masks random within their bounds?"""

import pytest
import torch
from scipy import stats
from torch.nn.utils import prune

from evohbde.layout import ParameterLayout
from evohbde.pruning.baselines import global_magnitude_masks, random_masks, uniform_magnitude_masks
from tests.small_networks import cnn

FRACTIONS = (0.0, 0.1, 0.37, 0.5, 0.9)
NAMES = ("conv.weight", "head.weight")


def weights():
    model = cnn()
    layout = ParameterLayout(model, NAMES)
    return model, layout.flatten(model), layout.tensor_index


def pruned_by_torch(model):
    return torch.cat([model.conv.weight.detach().flatten(), model.head.weight.detach().flatten()]) != 0


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_global_pruning_is_pytorchs(fraction):
    model, theta0, groups = weights()
    mask = global_magnitude_masks(theta0, groups, [fraction])[0]
    parameters = [(model.conv, "weight"), (model.head, "weight")]
    prune.global_unstructured(parameters, prune.L1Unstructured, amount=int(fraction * len(theta0)))
    assert torch.equal(mask, pruned_by_torch(model))


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_uniform_pruning_is_pytorchs_layer_by_layer(fraction):
    model, theta0, groups = weights()
    mask = uniform_magnitude_masks(theta0, groups, [fraction])[0]
    for module in (model.conv, model.head):
        prune.l1_unstructured(module, "weight", amount=int(fraction * module.weight.numel()))
    assert torch.equal(mask, pruned_by_torch(model))


def test_one_row_per_fraction_and_a_weight_left_in_every_tensor():
    _, theta0, groups = weights()
    for make in (global_magnitude_masks, uniform_magnitude_masks):
        masks = make(theta0, groups, FRACTIONS)
        assert masks.shape == (len(FRACTIONS), len(theta0))
        assert (masks[:-1] >= masks[1:]).all()
        rest = make(theta0, groups, [1.0])[0]
        assert torch.equal(groups[rest].unique(), torch.tensor([0, 1], dtype=groups.dtype))


def test_a_fraction_beyond_one_is_refused():
    _, theta0, groups = weights()
    with pytest.raises(ValueError, match="fraction"):
        uniform_magnitude_masks(theta0, groups, [1.2])


def test_random_masks_stay_in_the_corridor_and_keep_what_is_wanted():
    generator = torch.Generator().manual_seed(0)
    core = torch.rand(1_000, generator=generator) < 0.2
    upper = core | (torch.rand(1_000, generator=generator) < 0.7)
    wanted = [0.0, 0.3, 0.5, 1.0]
    masks = random_masks(core, upper, wanted, generator)
    assert (masks >= core).all() and (masks <= upper).all()
    low, high = int(core.sum()), int(upper.sum())
    assert masks.sum(1).tolist() == [min(high, max(low, round(share * 1_000))) for share in wanted]


def test_random_masks_prefer_no_weight():
    core, upper = torch.zeros(20, dtype=torch.bool), torch.ones(20, dtype=torch.bool)
    masks = random_masks(core, upper, [0.3] * 2_000, torch.Generator().manual_seed(1))
    # Weights of one mask exclude each other, which makes the counts more even than independent ones would be.
    assert stats.chisquare(masks.sum(0).numpy()).pvalue > 1e-3
    assert len(masks.unique(dim=0)) > 1_900
