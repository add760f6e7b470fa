"""Does gradient training keep to its budget, its seed and its own random numbers?"""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.gradient import GRADIENT_STEP_COST, pretrain, train


def blobs(num: int = 90) -> TensorData:
    """Three clouds of points in the plane."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num) % 3
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
    return TensorData(centres[y] + 0.5 * torch.randn(num, 2, generator=generator), y)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def flat(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().float() for value in model.state_dict().values()])


class Watched(nn.Sequential):
    """Count the samples that pass in training mode."""

    seen = 0

    def forward(self, x):
        self.seen += len(x) * self.training
        return super().forward(x)


@pytest.mark.parametrize("num_samples", [0, 2, 3, 100, 269, 270, 299, 300, 1_000, 1e3])
def test_a_sample_of_a_step_costs_three_and_the_budget_is_never_passed(num_samples):
    model, spent = Watched(network()), [0]
    train(model, blobs(), num_samples=num_samples, batch_size=32, after_step=spent.append)
    assert spent[-1] == GRADIENT_STEP_COST * (num_samples // 3) <= num_samples
    assert all(0 < later - earlier <= 3 * 32 for earlier, later in pairwise(spent))
    assert spent[-1] - 3 * num_samples / 90 - 3 <= 3 * model.seen <= spent[-1], (
        "at most a lone sample per epoch is left out"
    )


def test_an_epoch_visits_every_sample_once():
    data, seen = blobs(), []

    class Recording(Watched):
        def forward(self, x):
            if self.training:
                seen.append(x)
            return super().forward(x)

    train(Recording(network()), data, num_samples=2 * 3 * 90, batch_size=40)
    assert [len(x) for x in seen] == [40, 40, 10] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.unique(dim=0), data.x.unique(dim=0)) and len(first.unique(dim=0)) == 90
    assert not torch.equal(first, second), "each epoch is a new permutation"


def test_training_improves_a_network_and_returns_it_in_evaluation_mode():
    data, model = blobs(), network()
    before = functional.cross_entropy(model.eval()(data.x), data.y)
    assert train(model, data, num_samples=3 * 90 * 40, lr=0.01, batch_size=30) is model
    assert not model.training
    after = functional.cross_entropy(model(data.x), data.y)
    assert after < 0.2 < before
    assert (model(data.x).argmax(1) == data.y).float().mean() > 0.97


@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "AdamW", "RMSprop"])
def test_equal_seeds_give_equal_networks_and_leave_the_global_generator(optimizer):
    def trained(seed: int) -> torch.Tensor:
        return flat(train(network(), blobs(), num_samples=600, optimizer=optimizer, batch_size=16, seed=seed))

    torch.manual_seed(1)
    state, first = torch.get_rng_state(), trained(5)
    assert torch.equal(torch.get_rng_state(), state), "dropout must not disturb the caller's random numbers"
    torch.manual_seed(2)
    assert torch.equal(trained(5), first), "the caller's random numbers must not disturb dropout"
    assert not torch.equal(trained(6), first)


def test_frozen_parameters_stay():
    model = network()
    model[0].requires_grad_(False)
    weight, bias = model[0].weight.clone(), model[4].bias.clone()
    train(model, blobs(), num_samples=600)
    assert torch.equal(model[0].weight, weight) and not torch.equal(model[4].bias, bias)


def test_a_lone_sample_left_over_is_no_error():
    train(network(), blobs(33), num_samples=3 * 33, batch_size=32)
    train(network(), blobs(3).subset(torch.tensor([2])), num_samples=9)


def plain() -> nn.Sequential:
    return nn.Sequential(*[module for module in network() if not isinstance(module, nn.BatchNorm1d)])


@pytest.mark.parametrize(
    ("optimizer", "sizes"), [("gd", [90]), ("sgd", [1] * 90), ("adam", [90]), ("Adam", [90]), ("ftrl", [90])]
)
def test_the_name_of_the_optimizer_says_how_many_samples_a_step_takes(optimizer, sizes):
    spent, model = [0], plain()
    before = flat(model)
    train(model, blobs(), num_samples=270, optimizer=optimizer, after_step=spent.append)
    assert [(later - earlier) // 3 for earlier, later in pairwise(spent)] == sizes
    assert not torch.equal(flat(model), before)


def test_a_step_on_single_samples_is_made_where_batch_norm_does_not_forbid_it():
    data, model = blobs(3), nn.Linear(2, 3)
    weights = nn.Parameter(model.weight.detach().clone()), nn.Parameter(model.bias.detach().clone())
    train(model, data, num_samples=9, optimizer="sgd", lr=0.1, seed=7)
    for i in torch.randperm(3, generator=torch.Generator().manual_seed(7)).tolist():
        loss = functional.cross_entropy(functional.linear(data.x[i : i + 1], *weights), data.y[i : i + 1])
        for one, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            one.data -= 0.1 * gradient
    torch.testing.assert_close(model.weight, weights[0])


def test_pretraining_is_epochs_of_adam():
    data = blobs()
    expected = train(network(), data, num_samples=3 * 2 * 90, optimizer="Adam", lr=1e-3, batch_size=128, seed=4)
    assert torch.equal(flat(pretrain(network(), data, epochs=2, seed=4)), flat(expected))
    with pytest.raises(ValueError, match="`epochs` must be at least 1, got 0"):
        pretrain(network(), data, epochs=0)


@pytest.mark.parametrize(
    ("model", "options", "remedy"),
    [
        (network(), {"optimizer": "adamm"}, "unknown optimizer 'adamm'; known: GD, SGD"),
        (network(), {"optimizer": "lbfgs"}, "LBFGS computes the loss several times a step.* run it by GradientSearch"),
        (network(), {"optimizer": "SGD"}, "no statistics of a single sample: give `batch_size` of at least 2"),
        (network(), {"batch_size": 0}, "`batch_size` must be at least 1 sample, got 0"),
        (network(), {"lr": float("inf")}, "`lr` must be a finite number >= 0, got inf"),
        (network().requires_grad_(False), {}, "no parameter with requires_grad=True: nothing to train"),
        (nn.Linear(3, 3), {}, r"the model fails on inputs of shape \(2, 2\) and type torch.float32"),
        (nn.Linear(2, 2), {}, "labels reach 2 but the model has only 2 outputs: give it at least 3"),
        (nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)), {}, r"return class scores of shape \(2, C\), got \(6,\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_training(model, options, remedy):
    before = flat(model)
    with pytest.raises(ValueError, match=remedy):
        train(model, blobs(), num_samples=300, **options)
    assert torch.equal(flat(model), before)


@pytest.mark.parametrize(("width", "expected"), [(16, {1}), (2_000, {2})])
def test_a_small_network_is_trained_on_one_thread_which_is_nobody_elses_affair(width, expected):
    trained = nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 10))
    found = set()
    trained.register_forward_hook(lambda module, *_: found.add(torch.get_num_threads()) if module.training else None)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pretrain(trained, blobs(), epochs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert found == expected
