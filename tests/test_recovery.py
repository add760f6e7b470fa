"""Does repair keep what is zero, change only what validation samples confirm, and count what it costs?"""

import pytest
import torch

from evohbde.layout import ParameterLayout
from evohbde.outputs import score
from evohbde.parts import prunable_names
from evohbde.pruning.baselines import uniform_magnitude_masks
from evohbde.pruning.scoring import MaskScorer
from evohbde.recovery import repair
from tests.small_networks import cnn, digits, mlp


def pruned(model, fraction=0.5):
    layout = ParameterLayout(model, prunable_names(model))
    scorer = MaskScorer(model, layout, 10)
    return scorer.network(uniform_magnitude_masks(scorer.theta0, layout.tensor_index, [fraction])[0])


def split():
    everything = digits(900)
    return [everything.subset(torch.arange(start, start + 300)) for start in (0, 300, 600)]


@pytest.mark.parametrize("build", [cnn, mlp])
def test_a_damaged_network_recovers_and_its_zeros_stay(build):
    train, validation, test = split()
    network = pruned(build())
    found = repair(network, train, validation, num_samples=40_000)
    assert found.kept
    before, after = (score(one, test)["cross_entropy"] for one in (network, found.network))
    assert after < before - 0.05
    for name in prunable_names(network):
        zeros = dict(network.named_parameters())[name] == 0
        assert zeros.any() and not dict(found.network.named_parameters())[name][zeros].any()


def test_weights_of_layers_with_norms_behind_them_stay_as_they_are():
    train, validation, _ = split()
    network = pruned(cnn())
    found = repair(network, train, validation, num_samples=20_000)
    assert torch.equal(found.network.conv.weight, network.conv.weight)
    assert torch.equal(found.network.head.weight, network.head.weight)


def test_the_network_given_is_not_changed():
    train, validation, _ = split()
    network = pruned(cnn())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    repair(network, train, validation, num_samples=5_000)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_validation_samples_do_not_confirm_is_dropped():
    train, _, _ = split()
    # The labels of the validation samples are those that the network gives: nothing can be better.
    network = pruned(cnn(), 0.0)
    with torch.no_grad():
        network.head.weight.mul_(20)
        network.head.bias.mul_(20)
        labels = network(train.x).argmax(1)
    validation = type(train)(train.x, labels)
    found = repair(network, train, validation, num_samples=5_000)
    assert found.kept == []
    assert all("dropped" in note for note in found.notes)
    assert torch.equal(found.network(train.x), network(train.x))


def test_every_forward_is_counted():
    train, validation, _ = split()
    network = pruned(cnn())
    found = repair(network, train, validation, parts=("statistics",))
    # One look at the network as it is, and per share of statistics one pass for them and one look.
    tried = len(found.notes)
    assert found.num_samples == 300 + tried * (300 + 300)
    assert found.num_evaluations == 0
    searched = repair(network, train, validation, parts=("scales",), num_samples=10_000)
    assert 4_000 < searched.num_samples - 600 < 5_000 + 3_000
    assert searched.num_evaluations >= 40


def test_parts_that_a_network_lacks_are_said_to_be_missing():
    train, validation, _ = split()
    found = repair(mlp(), train, validation, parts=("statistics",))
    assert found.notes == ["statistics: the network has none"]


@pytest.mark.parametrize(
    ("options", "message"), [({"parts": ("norms",)}, r"unknown `parts` \['norms'\]"), ({"num_samples": 0}, "positive")]
)
def test_a_mistake_is_named(options, message):
    train, validation, _ = split()
    with pytest.raises(ValueError, match=message):
        repair(cnn(), train, validation, **options)
