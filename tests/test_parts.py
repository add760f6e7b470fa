"""Are normalisation layers, biases and the head found by what the modules are?"""

import pytest
import torch
from torch import nn

from evohbde.layout import ParameterLayout
from evohbde.parts import bias_names, head_names, norm_names, prunable_names
from problems.networks import resnet20


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.GroupNorm(2, 4))
        self.second = nn.Sequential(nn.RMSNorm(4), nn.InstanceNorm1d(4, affine=True), nn.BatchNorm1d(4, affine=False))
        self.attention = nn.MultiheadAttention(4, 2)
        self.bias_like = nn.Parameter(torch.zeros(4))


def test_norm_layers_are_told_by_their_class():
    names = norm_names(Norms())
    expected = [f"first.{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")]
    assert names == [*expected, "second.0.weight", "second.1.weight", "second.1.bias"]
    resnet = resnet20()
    owners = {name.rpartition(".")[0] for name in norm_names(resnet)}
    assert owners == {name for name, module in resnet.named_modules() if isinstance(module, nn.BatchNorm2d)}


def test_biases_are_vectors_that_are_called_so():
    names = bias_names(Norms())
    assert "attention.in_proj_bias" in names and "attention.out_proj.bias" in names and "first.0.bias" in names
    assert not any(name.endswith("weight") for name in names)
    assert bias_names(nn.LSTM(2, 3)) == ["bias_ih_l0", "bias_hh_l0"]
    table = nn.Module()
    table.relative_position_bias_table = nn.Parameter(torch.zeros(3, 2))
    assert bias_names(table) == []


def test_the_head_is_the_last_linear_layer():
    assert head_names(resnet20()) == ["linear.weight", "linear.bias"]
    assert head_names(nn.Linear(2, 3)) == ["weight", "bias"]
    assert head_names(nn.Sequential(nn.Linear(2, 2), nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)))) == [
        "1.bias",
        "1.parametrizations.weight.original0",
        "1.parametrizations.weight.original1",
    ]


def test_a_tied_head_goes_by_its_first_name():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))
    model[1].weight = model[0].weight
    assert head_names(model) == ["0.weight", "1.bias"]


@pytest.mark.parametrize("names", [norm_names, bias_names, head_names, prunable_names])
def test_frozen_parameters_are_left_out_and_what_is_found_suits_a_layout(names):
    model = Norms()
    model.first.requires_grad_(False)
    found = names(model)
    assert found and not any(name.startswith("first.") for name in found)
    assert list(ParameterLayout(model, found).names) == found


def test_weights_of_convolutions_and_linear_layers_can_be_pruned_and_nothing_else():
    resnet = resnet20()
    kinds = (nn.Conv2d, nn.Linear)
    assert set(prunable_names(resnet)) == {
        f"{name}.weight" for name, module in resnet.named_modules() if isinstance(module, kinds)
    }
    assert ParameterLayout(resnet, prunable_names(resnet)).size == 268_336
    several = nn.Sequential(nn.ConvTranspose1d(2, 3, 3), nn.Conv3d(1, 1, 1), nn.Embedding(5, 4), Norms())
    expected = ["0.weight", "1.weight", "3.first.0.weight"]
    assert prunable_names(several) == [*expected, "3.attention.in_proj_weight", "3.attention.out_proj.weight"]
    apart = nn.MultiheadAttention(4, 2, kdim=3, vdim=3)
    assert prunable_names(apart) == [*(f"{kind}_proj_weight" for kind in "qkv"), "out_proj.weight"]


def test_a_linear_layer_that_shares_an_embedding_is_not_pruned():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7))
    model[2].weight = model[0].weight
    assert prunable_names(model) == ["1.weight"]


@pytest.mark.parametrize(
    "model",
    [
        nn.BatchNorm1d(4),
        nn.Linear(2, 2).requires_grad_(False),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)),
        nn.Embedding(4, 2),
    ],
)
def test_a_network_without_prunable_weights_is_an_error(model):
    with pytest.raises(ValueError, match=f"nothing in this {type(model).__name__} can be pruned.*unfreeze some"):
        prunable_names(model)


def test_a_missing_part_has_no_names():
    bare = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False))
    assert norm_names(bare) == bias_names(bare) == head_names(bare) == []
