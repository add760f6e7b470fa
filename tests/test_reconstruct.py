"""Are the weights that are left those of the least-squares fit, and does that mend pruned networks?"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from evohbde.outputs import score
from evohbde.reconstruct import Reconstructor, conjugate_gradients
from problems.digits import cnn as digits_cnn


def pruned(network, share, seed=0):
    found = deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) >= share)
    return found


def ridge_fit(inputs, wanted, start, ridge):
    """Least squares by NumPy in the free places of one output, pulled towards its start."""
    free = start != 0
    gram = inputs.T @ inputs
    pull = ridge * np.diagonal(gram).mean()
    stacked = np.concatenate([inputs[:, free], np.sqrt(pull) * np.eye(free.sum())])
    right = np.concatenate([wanted, np.sqrt(pull) * start[free]])
    found = np.zeros_like(start)
    found[free] = np.linalg.lstsq(stacked, right, rcond=None)[0]
    return found


def test_a_linear_layer_is_the_least_squares_fit_of_numpy():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(12, 5))
    x = torch.randn(300, 12) @ torch.randn(12, 12)
    smaller = pruned(network, 0.5)
    fitted = Reconstructor(network, x, ridge=0.02)(smaller)
    wanted = (x @ network[0].weight.mT).detach().double().numpy()
    for output in range(5):
        start = smaller[0].weight[output].detach().double().numpy()
        expected = ridge_fit(x.double().numpy(), wanted[:, output], start, 0.02)
        assert fitted[0].weight[output].detach().numpy() == pytest.approx(expected, abs=1e-4)
    assert torch.equal(fitted[0].bias, network[0].bias)


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (2, 1), "bias": False}]
)
def test_a_convolution_is_the_least_squares_fit_of_its_patches(options):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, **options))
    x = torch.randn(20, 3, 9, 8)
    smaller = pruned(network, 0.4)
    fitted = Reconstructor(network, x, ridge=0.01)(smaller)
    kept = {name: value for name, value in options.items() if name != "bias"}
    patches = functional.unfold(x, 3, **kept).mT.reshape(-1, 27).double().numpy()
    wanted = functional.conv2d(x, network[0].weight, **kept).flatten(2).mT.reshape(-1, 4).detach().double().numpy()
    for output in range(4):
        start = smaller[0].weight[output].detach().flatten().double().numpy()
        expected = ridge_fit(patches, wanted[:, output], start, 0.01)
        assert fitted[0].weight[output].detach().flatten().numpy() == pytest.approx(expected, abs=1e-4)


def test_later_layers_are_fitted_to_what_earlier_ones_now_give():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 4))
    x = torch.randn(400, 10)
    smaller = pruned(network, 0.5)
    fitted = Reconstructor(network, x)(smaller)
    hidden = fitted[1](fitted[0](x)).detach().double().numpy()
    wanted = (network(x) - network[2].bias).detach().double().numpy()
    for output in range(4):
        start = smaller[2].weight[output].detach().double().numpy()
        expected = ridge_fit(hidden, wanted[:, output], start, 0.01)
        assert fitted[2].weight[output].detach().numpy() == pytest.approx(expected, abs=1e-4)


@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=50, deadline=None)
def test_conjugate_gradients_solve_each_column_in_its_free_rows(size, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(2 * size, size, generator=generator, dtype=torch.float64)
    gram = half.mT @ half + 0.1 * torch.eye(size, dtype=torch.float64)
    right = torch.randn(size, columns, generator=generator, dtype=torch.float64)
    start = torch.randn(size, columns, generator=generator, dtype=torch.float64)
    free = torch.rand(size, columns, generator=generator) > 0.4
    found = conjugate_gradients(gram, right, start, free)
    for column, rows in enumerate(free.unbind(1)):
        expected = np.linalg.solve(gram[rows][:, rows].numpy(), right[rows, column].numpy())
        assert found[rows, column].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert not found[~rows, column].any()


def test_zeros_stay_and_what_has_none_is_not_touched():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    smaller = deepcopy(network)
    with torch.no_grad():
        smaller[4].weight[:, ::2] = 0
    before = deepcopy(smaller.state_dict())
    fit = Reconstructor(network, torch.randn(30, 1, 8, 8))
    fitted = fit(smaller)
    assert not fitted[4].weight[:, ::2].any() and not torch.equal(fitted[4].weight, before["4.weight"])
    for name in ("0.weight", "0.bias", "1.running_mean", "1.weight", "4.bias"):
        assert torch.equal(fitted.state_dict()[name], before[name])
    assert all(torch.equal(value, before[name]) for name, value in smaller.state_dict().items())
    assert fit.num_samples == 60  # one pass of the network as given, one for the layer with zeros


def test_the_same_seed_fits_the_same():
    network, x = digits_cnn(seed=0).model, digits_cnn(seed=0).train.x[:100]
    smaller = pruned(network, 0.5)
    first, second = (Reconstructor(network, x, max_rows=500, seed=4)(smaller) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_network_pruned_at_random_gets_back_most_of_what_it_lost():
    task = digits_cnn(seed=0)
    smaller = pruned(task.model, 0.5)
    fitted = Reconstructor(task.model, task.train.x[:200])(smaller)
    before, lost, after = (
        score(network, task.test, ["accuracy"])["accuracy"] for network in (task.model, smaller, fitted)
    )
    assert lost < before - 0.1
    assert after > lost + 0.8 * (before - lost)


def test_a_layer_that_the_unpruned_network_lacks_is_named():
    torch.manual_seed(0)
    fit = Reconstructor(nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4))
    other = pruned(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), 0.5)
    with pytest.raises(ValueError, match=r"no layer '1' of this kind.*before it was pruned"):
        fit(other)


class Twice(nn.Module):
    """A layer that is passed twice, one that is not passed, one that is."""

    def __init__(self):
        super().__init__()
        self.shared, self.idle, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.shared(self.shared(x).relu()).relu())


def test_layers_that_are_not_passed_once_stay_as_they_are():
    torch.manual_seed(5)
    network = Twice()
    smaller = pruned(network, 0.5)
    fit = Reconstructor(network, torch.randn(120, 6))
    fitted = fit(smaller)
    assert torch.equal(fitted.shared.weight, smaller.shared.weight)
    assert torch.equal(fitted.idle.weight, smaller.idle.weight)
    assert not torch.equal(fitted.head.weight, smaller.head.weight)
    assert fit.num_samples == 240


@pytest.mark.parametrize("option", ["ridge", "max_rows"])
def test_options_must_be_positive(option):
    with pytest.raises(ValueError, match=f"`{option}` must be positive, got 0"):
        Reconstructor(nn.Linear(2, 2), torch.zeros(1, 2), **{option: 0})
