"""Are weights scored as the formulas of pruning say?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from torch import nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.parts import prunable_names
from evohbde.pruning import importance
from tests.small_networks import cnn, digits


def prunable(model):
    return ParameterLayout(model, prunable_names(model))


def softmax_regression():
    model = nn.Linear(3, 4).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    return model, TensorData(x, torch.tensor([0, 1, 2, 3, 1, 1, 0]))


def gradients_by_hand(model, data):
    """Of cross-entropy in the weights of a linear layer: (softmax - one-hot) times the input, `(B, C, F)`."""
    logits = data.x @ model.weight.T + model.bias
    error = logits.softmax(1) - functional.one_hot(data.y, 4)
    return (error[:, :, None] * data.x[:, None]).detach()


def test_scores_by_gradients_equal_those_by_hand():
    model, data = softmax_regression()
    layout, single = prunable(model), gradients_by_hand(model, data)
    weight = model.weight.detach()
    expected = (weight * single.mean(0)).abs().flatten()
    torch.testing.assert_close(importance.taylor(model, layout, data), expected)
    torch.testing.assert_close(importance.taylor(model, layout, data, batch_size=2), expected)
    expected = (weight.square() * single.square().mean(0) / 2).flatten()
    torch.testing.assert_close(importance.fisher(model, layout, data), expected)


def test_scores_of_a_network_are_those_of_autograd_without_dropout_and_leave_it_alone(monkeypatch):
    model, data = cnn(), digits(12)
    model.zero_grad()
    layout, before = prunable(model), {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(importance, "GRADIENT_BYTES", 5 * 4 * layout.size)
    found = importance.taylor(model, layout, data, batch_size=5), importance.fisher(model, layout, data)
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    network, weights = cnn().eval(), layout.flatten(model)
    singles = []
    for x, y in zip(data.x, data.y, strict=True):
        network.zero_grad()
        functional.cross_entropy(network(x[None]), y[None]).backward()
        singles.append(torch.cat([network.get_parameter(name).grad.flatten() for name in layout.names]).clone())
    gradients = torch.stack(singles)
    torch.testing.assert_close(found[0], (weights * gradients.mean(0)).abs(), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(found[1], weights.square() * gradients.square().mean(0) / 2, rtol=1e-4, atol=1e-9)


def test_magnitudes_are_compared_within_their_tensor():
    theta0, groups = torch.tensor([3.0, -4.0, 0.03, 0.04, 0.0, 0.0]), torch.tensor([0, 0, 1, 1, 2, 2])
    expected = np.array([3, 4, 3, 4, 0, 0]) / np.array([12.5**0.5] * 4 + [1] * 2)
    np.testing.assert_allclose(importance.magnitude(theta0, groups), expected, rtol=1e-6)


def test_the_scale_of_a_tensor_does_not_matter():
    model = cnn()
    layout = prunable(model)
    theta0, groups = layout.flatten(model), layout.tensor_index
    scores = importance.magnitude(theta0, groups)
    torch.testing.assert_close(importance.magnitude(theta0 * torch.tensor([7.0, 0.01])[groups], groups), scores)
    for group in range(2):
        assert float(scores[groups == group].square().mean()) == pytest.approx(1, rel=1e-5)


@given(st.lists(st.integers(-3, 3) | st.floats(-5, 5), min_size=2, max_size=50))
def test_ranks_are_those_of_scipy(scores):
    expected = (rankdata(np.array(scores, dtype=np.float32)) - 1) / (len(scores) - 1)
    np.testing.assert_allclose(importance.ranks(torch.tensor(scores, dtype=torch.float32)), expected, rtol=1e-6)


def test_ranks_of_a_million_scores_are_all_different():
    scores = torch.randperm(1_000_000, generator=torch.Generator().manual_seed(0)).float()
    found = importance.ranks(scores)
    assert len(found.unique()) == 1_000_000 and (found.min(), found.max()) == (0, 1)


def test_one_score_is_in_the_middle():
    assert importance.ranks(torch.tensor([3.0])).tolist() == [0.5]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 2), r"`scores` of shape \(d,\).*got \(2, 2\)"),
        (torch.zeros(0), r"got \(0,\)"),
        (torch.tensor([1, torch.nan]), "`scores` has 1 NaN"),
    ],
)
def test_scores_without_an_order_are_an_error(scores, message):
    with pytest.raises(ValueError, match=message):
        importance.ranks(scores)
