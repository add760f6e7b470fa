"""Do the digits tasks hold the promised data, networks and shift, and depend on the seed alone?"""

import math

import pytest
import torch
from torch import Tensor

from evohbde.data import Task, TensorData
from problems import digits


def accuracy(task: Task) -> float:
    with torch.no_grad():
        return (task.model(task.test.x).argmax(1) == task.test.y).double().mean().item()


def rows(data: TensorData) -> set[tuple[float, ...]]:
    return {tuple(row) for row in data.x.flatten(1).tolist()}


def weights(task: Task) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Keep threads from waiting for each other: on a busy machine that made these tiny networks 50 times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def clean() -> Task:
    return digits.mlp(seed=3)


@pytest.fixture(scope="module")
def shifted() -> Task:
    return digits.shifted_mlp(seed=3)


@pytest.mark.parametrize(
    ("build", "shape", "expected"), [(digits.build_mlp, (64,), 2778), (digits.build_cnn, (1, 8, 8), 3658)]
)
def test_networks_have_the_stated_size_and_ten_outputs(build, shape, expected):
    network = build()
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert network(torch.rand(5, *shape)).shape == (5, 10)


def test_splits_are_disjoint_complete_and_stratified():
    parts = digits.splits(seed=1)
    assert [len(part) for part in parts] == [600, 300, 897]
    first, second, third = (rows(part) for part in parts)
    assert not (first & second or first & third or second & third)
    everything = torch.cat([part.y for part in parts]).bincount() / 1797
    for part in parts:
        assert (part.y.bincount(minlength=10) - everything * len(part)).abs().max() <= 1.0


def test_pixels_and_labels_have_the_promised_types_and_ranges(clean, shifted):
    for data in (clean.train, clean.test, shifted.train, shifted.test):
        assert data.x.dtype == torch.float32 and data.y.dtype == torch.int64
        assert data.x.shape[1:] == (64,)
        assert data.x.min() >= 0.0 and data.x.max() <= 1.0


def test_shift_rotates_scales_and_adds_noise_of_the_stated_size():
    generator = torch.Generator().manual_seed(0)
    square = torch.zeros(4000, 8, 8)
    square[:, 3:5, 3:5] = 0.5
    pixels = digits.shift(square, generator=generator)[:, 3:5, 3:5]
    angle = math.radians(10)
    outside = 0.5 * (math.cos(angle) + math.sin(angle)) - 0.5  # how far a turned corner pixel looks over the edge
    assert pixels.mean().item() == pytest.approx(0.8 * 0.5 * (1 - outside), abs=0.003)
    assert pixels.std(dim=0).mean().item() == pytest.approx(0.09, rel=0.02)


def test_a_seed_gives_the_same_task_and_another_seed_another(shifted):
    again, other = digits.shifted_mlp(seed=3), digits.shifted_mlp(seed=4)
    assert torch.equal(weights(again), weights(shifted))
    assert torch.equal(again.train.x, shifted.train.x) and torch.equal(again.test.x, shifted.test.x)
    assert not torch.equal(weights(other), weights(shifted))
    assert not torch.equal(other.train.x, shifted.train.x)


def test_the_shifted_task_has_the_clean_network_and_the_same_digits(clean, shifted):
    assert torch.equal(weights(clean), weights(shifted))
    assert torch.equal(clean.train.y, shifted.train.y) and torch.equal(clean.test.y, shifted.test.y)
    assert not torch.equal(clean.test.x, shifted.test.x)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    digits.shifted_mlp(seed=0)
    assert torch.equal(torch.rand(3), expected)


def test_the_shift_costs_much_and_leaves_something_to_find(clean, shifted):
    assert accuracy(clean) >= 0.93
    assert 0.5 <= accuracy(shifted) <= 0.85


def test_the_convolutional_network_is_better_under_shift_than_chance_and_worse_than_clean():
    assert accuracy(digits.cnn(seed=0)) >= 0.93
    assert 0.5 <= accuracy(digits.shifted_cnn(seed=0)) <= 0.85
