"""Is Ftrl its paper's algorithm, and does it keep the weights it is given?"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.gradient import train
from evohbde.optimizers import Ftrl
from tests.optimizer_formulas import NUM_STEPS, ftrl, gradient_by_hand, softmax_regression
from tests.small_networks import digits, mlp


@settings(max_examples=40)
@given(
    lr=st.floats(0.01, 3.0),
    l1=st.sampled_from([0.0, 0.05, 1.0]),
    l2=st.sampled_from([0.0, 0.3]),
    beta=st.sampled_from([0.0, 1.0]),
    n=st.sampled_from([0.0, 0.1]),
    power=st.sampled_from([-0.5, -0.3, 0.0]),
    warm_start=st.booleans(),
)
def test_ftrl_is_algorithm_1_from_either_start(lr, l1, l2, beta, n, power, warm_start):
    model, data = softmax_regression()
    options = {"l1": l1, "l2": l2, "beta": beta, "learning_rate_power": power}
    options |= {"initial_accumulator_value": n, "warm_start": warm_start}
    optimizer, gradient = Ftrl(model.parameters(), lr, **options), gradient_by_hand(data)
    expected = ftrl(model.weight.detach().numpy().ravel().copy(), gradient, lr, l1, l2, beta, n, power, warm_start)
    for _ in range(NUM_STEPS):
        model.weight.grad = torch.from_numpy(gradient(model.weight.detach().numpy().ravel())).view(3, 4)
        optimizer.step()
    np.testing.assert_allclose(model.weight.detach().numpy().ravel(), expected, rtol=1e-7, atol=1e-10)


@settings(max_examples=30)
@given(lr=st.floats(0.01, 2.0), beta=st.floats(0.0, 2.0), n=st.floats(0.01, 1.0), falls=st.booleans())
def test_warm_ftrl_without_penalties_is_adagrad_also_while_the_rate_falls(lr, beta, n, falls):
    weights = [nn.Parameter(torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)) for _ in range(2)]
    ours = Ftrl(weights[:1], lr, beta=beta, initial_accumulator_value=n)
    theirs = torch.optim.Adagrad(weights[1:], lr, eps=beta, initial_accumulator_value=n)
    for step in range(20):
        for optimizer, one in zip((ours, theirs), weights, strict=True):
            optimizer.param_groups[0]["lr"] = lr * (1 - step / 20 if falls else 1.0)
            one.grad = torch.tensor([1.0, -0.5, 0.2, 0.0], dtype=torch.float64) * (one.detach() - 0.3)
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-9, atol=1e-12)


def test_ftrl_without_a_start_equals_that_of_pytorch_optimizer():
    theirs = pytest.importorskip("pytorch_optimizer").FTRL
    weights = [nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)) for _ in range(2)]
    options = {"initial_accumulator_value": 0.0, "warm_start": False, "l1": 0.1, "l2": 0.2, "beta": 1.0}
    optimizers = [Ftrl(weights[:1], 0.5, **options), theirs(weights[1:], 0.5, lambda_1=0.1, lambda_2=0.2, beta=1.0)]
    for factor in (1.0, -0.7, 0.3, 2.0):
        for optimizer, one in zip(optimizers, weights, strict=True):
            one.grad = factor * (one.detach() + 0.3)
            optimizer.step()
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-10, atol=1e-12)


def accuracy(model: nn.Module, data: TensorData) -> float:
    return float((model.eval()(data.x).argmax(1) == data.y).double().mean())


def after_one_step(model: nn.Module, data: TensorData, **options) -> nn.Module:
    model = deepcopy(model).eval()
    optimizer = Ftrl(model.parameters(), 0.001, **options)
    functional.cross_entropy(model(data.x), data.y).backward()
    optimizer.step()
    return model


def norm_of(model: nn.Module) -> float:
    return float(nn.utils.parameters_to_vector(model.parameters()).detach().norm())


def test_the_textbook_start_wipes_a_trained_network_out_and_the_warm_start_keeps_it():
    data = digits()
    trained = train(mlp(), data, num_samples=3 * 60 * len(data), lr=0.01)
    before, norm = accuracy(trained, data), norm_of(trained)
    wiped, kept = (after_one_step(trained, data, warm_start=warm) for warm in (False, True))
    assert before > 0.85
    assert norm_of(wiped) < 0.05 * norm and accuracy(wiped, data) < 0.2
    assert norm_of(kept) == pytest.approx(norm, rel=0.01) and accuracy(kept, data) >= before - 0.02


@pytest.mark.parametrize("n", [0.0, 0.1])
def test_weights_without_a_gradient_stay_under_the_warm_start(n):
    weights = nn.Parameter(torch.tensor([0.7, -1.5]))
    optimizer = Ftrl([weights], 0.1, initial_accumulator_value=n)
    for _ in range(3):
        weights.grad = torch.tensor([0.0, 1.0])
        optimizer.step()
    assert float(weights.detach()[0]) == pytest.approx(0.7) and float(weights.detach()[1]) < -1.6


def test_ftrl_sets_weights_that_do_not_matter_to_exactly_zero():
    data = digits()
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    nn.init.zeros_(model[1].weight)
    optimizer = Ftrl(model.parameters(), 0.3, l1=0.5, beta=1.0, initial_accumulator_value=0.0)
    for _ in range(60):
        optimizer.zero_grad()
        functional.cross_entropy(model(data.x), data.y).backward()
        optimizer.step()
    share = float((model[1].weight == 0).double().mean())
    assert 0.3 < share < 0.99 and accuracy(model, data) > 0.8


def test_ftrl_goes_on_from_its_state_and_takes_a_closure():
    def closure() -> torch.Tensor:
        weights.grad = 2 * weights.detach()
        return (weights.detach() ** 2).sum()

    weights = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Ftrl([weights], 0.1)
    assert float(optimizer.step(closure)) == 5.0
    state, values = deepcopy(optimizer.state_dict()), weights.detach().clone()
    optimizer.step(closure)
    expected = weights.detach().clone()
    weights.data = values
    again = Ftrl([weights], 0.7)
    again.load_state_dict(state)
    again.step(closure)
    assert torch.equal(weights, expected)
