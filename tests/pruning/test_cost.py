"""Do bits and multiply-adds agree with a count by hand, and are times taken fairly?"""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evohbde.layout import ParameterLayout
from evohbde.problem import NetworkProblem
from evohbde.pruning.cost import (
    MultiplyAdds,
    MultiplyAddsShare,
    ParameterShare,
    StoredBits,
    index_width,
    multiply_adds,
    weight_uses,
)
from evohbde.pruning.latency import Latency, measure, time_networks
from evohbde.reductions import GroupMask, HistogramBlocking
from evohbde.rundir import save_network
from problems.digits import build_cnn
from problems.networks import initialised, resnet20
from tests.small_networks import cnn, digits


def some_weights(seed: int, size: int, density: float, num_values: int) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    values = generator.integers(1, num_values + 1, size) / 8
    return torch.from_numpy(np.where(generator.random(size) < density, values, 0.0)).float()


def bits_of(counts) -> float:
    """Bits of a sequence of independent symbols that occur so often, in the best code for them."""
    counts = np.asarray(counts, dtype=float)
    return float(counts.sum() * entropy(counts, base=2)) if counts.sum() else 0.0


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.integers(1, 300), st.floats(0, 1), st.integers(1, 40))
def test_stored_bits_are_those_of_a_count_by_hand(seed, size, density, num_values):
    theta = some_weights(seed, size, density, num_values)
    kept = theta[theta != 0].numpy()
    different, counts = np.unique(kept, return_counts=True)
    mask = bits_of([len(kept), size - len(kept)])
    codes = len(kept) * math.ceil(math.log2(len(different))) if len(different) else 0
    expected = {
        ("raw", False): size + 32 * len(kept),
        ("raw", True): size + codes + 32 * len(different),
        ("entropy", False): mask + 32 * len(kept),
        ("entropy", True): mask + bits_of(counts) + 32 * len(different),
    }
    for (coding, codebook), bits in expected.items():
        objective = StoredBits(coding, codebook=codebook)
        assert objective.total(theta) == pytest.approx(bits)
        assert float(objective(theta)) == pytest.approx(bits / size)


def test_the_mask_of_each_group_has_an_entropy_of_its_own():
    theta = torch.cat([torch.ones(40), torch.zeros(20), torch.tensor([1.0, 0.0] * 10)])
    groups = torch.repeat_interleave(torch.arange(3), torch.tensor([40, 20, 20]))
    assert StoredBits("entropy", groups=groups).total(theta) == pytest.approx(20 + 32 * 50)
    assert StoredBits("entropy").total(theta) == pytest.approx(bits_of([50, 30]) + 32 * 50)


def test_a_dense_float32_network_takes_32_bits_a_weight_and_half_precision_half():
    theta = torch.ones(64)
    assert float(StoredBits("entropy")(theta)) == 32 and float(StoredBits()(theta)) == 33
    assert float(StoredBits("entropy")(theta.half())) == 16


@pytest.mark.parametrize(("num_values", "width"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)])
def test_an_index_is_as_wide_as_it_must_be(num_values, width):
    assert index_width(num_values) == width


def odd_network() -> nn.Module:
    """Transposed, grouped and strided convolutions in one and two dimensions, and a layer that runs twice."""
    twice = nn.Linear(6, 6)
    layers = [nn.Conv2d(1, 4, 3, stride=2), nn.ConvTranspose2d(4, 6, 2, stride=2), nn.Conv2d(6, 6, 3, groups=3)]
    layers += [nn.Flatten(2), nn.Conv1d(6, 2, 4, stride=3), nn.Flatten(), nn.Linear(10, 6), twice, nn.ReLU(), twice]
    return initialised(lambda: nn.Sequential(*layers), 0)


@pytest.mark.parametrize(
    ("build", "shape"),
    [(cnn, (1, 8, 8)), (build_cnn, (1, 8, 8)), (resnet20, (3, 32, 32)), (odd_network, (1, 8, 8))],
)
def test_multiply_adds_are_half_of_the_operations_that_pytorch_counts(build, shape):
    model = build().eval()
    x = torch.rand(3, *shape)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert 2 * 3 * multiply_adds(model, x) == counter.get_total_flops()


def test_zeros_save_the_multiply_adds_of_their_weight():
    model, x = cnn(), digits(5).x
    layout = ParameterLayout(model)
    theta = layout.flatten(model)
    objective = MultiplyAdds(model, layout, x)
    assert float(objective(theta)) == 1
    views = layout.views(theta)
    views["conv.weight"][2] = 0  # 9 weights, used at 3 x 3 places
    views["head.weight"][:, :4] = 0  # 40 weights, used once
    views["head.bias"].zero_()  # added, not multiplied
    total = 54 * 9 + 540
    assert float(objective(theta)) == pytest.approx((total - 9 * 9 - 40) / total)


def test_zeros_of_weights_that_are_not_searched_count_as_they_are():
    model, x = cnn(), digits(5).x
    with torch.no_grad():
        model.conv.weight[:3] = 0
    layout = ParameterLayout(model, "head.*")
    objective = MultiplyAdds(model, layout, x)
    assert float(objective(torch.zeros(len(layout)))) == pytest.approx(27 * 9 / (54 * 9 + 540))


def test_counting_leaves_no_trace_in_the_network():
    model, x = cnn(), digits(5).x
    before = copy.deepcopy(model.state_dict())
    assert weight_uses(model, x) == {"conv.weight": 9, "head.weight": 1}
    assert model.training and not model.conv._forward_hooks
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    with pytest.raises(ValueError, match="no convolution or linear layer"):
        weight_uses(nn.Flatten(), x)


def test_costs_are_objectives_of_a_problem_like_any_other():
    model, data = cnn(), digits(40)
    layout = ParameterLayout(model, ["conv.weight", "head.weight"])
    groups = layout.tensor_index
    costs = [StoredBits(), MultiplyAdds(model, layout, data.x)]
    problem = NetworkProblem(
        model, data, ["error", *costs], layout=layout, reduction=lambda theta0: GroupMask(theta0, groups)
    )
    batch = problem.generate_batch(2)
    batch.set_values(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    problem.evaluate(batch)
    assert problem.objective_names == ("error", "stored_bits", "multiply_adds")
    expected = torch.tensor([[1 + 32 * 54 / 594, 486 / 1026], [1 + 32 * 540 / 594, 540 / 1026]])
    torch.testing.assert_close(batch.evals[:, 1:], expected)


def test_a_codebook_of_tied_weights_is_counted():
    theta = HistogramBlocking(torch.randn(5000, generator=torch.Generator().manual_seed(0)), 64)
    tied = theta.expand(theta.center)
    assert StoredBits(codebook=True).total(tied) == 5000 + 5000 * math.ceil(math.log2(theta.dim)) + 32 * theta.dim


def test_shares_of_a_smaller_network_are_those_of_its_own_counts():
    x = digits(4).x
    small = nn.Sequential(copy.deepcopy(cnn()), nn.Identity())[0]
    small.conv, small.norm, small.head = nn.Conv2d(1, 2, 3, stride=2), nn.BatchNorm2d(2), nn.Linear(18, 10)
    assert MultiplyAddsShare(cnn(), x)(small) == multiply_adds(small, x) / multiply_adds(cnn(), x)
    assert ParameterShare(cnn())(small) == (20 + 4 + 190) / (60 + 12 + 550)


class Noted(nn.Module):
    """Write down who runs, and in which mode."""

    def __init__(self, name: str, notes: list) -> None:
        super().__init__()
        self.name, self.notes = name, notes

    def forward(self, x):
        self.notes.append((self.name, self.training, len(x)))
        return x


def test_networks_take_turns_and_warm_up():
    notes: list = []
    first, second = Noted("first", notes), Noted("second", notes).eval()
    times = time_networks([first, second], torch.zeros(7, 2), num_repeats=4, num_warmups=2)
    a, b = ("first", False, 7), ("second", False, 7)
    assert notes == [a, b, b, a] * 3  # who starts changes from repeat to repeat
    assert times.shape == (2, 4) and (times > 0).all()
    assert first.training and not second.training


def test_latency_is_a_ratio_with_its_noise():
    model, x = cnn(), digits(20).x
    latency = Latency(model, x, batch_size=5, num_repeats=6)
    timing = latency.timing(initialised(build_cnn, 0))
    for found in (latency.noise, timing):
        assert 0 < found.lower <= found.median <= found.upper
        assert found.spread == (found.upper - found.lower) / found.median
    assert latency(model) > 0 and latency.name == "latency" and latency.sense == "min"


def test_a_footprint_is_what_lies_on_disk(tmp_path):
    networks = [cnn(), initialised(build_cnn, 0)]
    for network, found in zip(networks, measure(networks, digits(20), num_repeats=3), strict=True):
        save_network(network, tmp_path / "n.safetensors")
        assert found.num_bytes == (tmp_path / "n.safetensors").stat().st_size
        assert found.parameters == sum(p.numel() for p in network.parameters())
        assert found.multiply_adds == multiply_adds(network, digits(20).x)
        assert found.latency.lower <= found.latency.median <= found.latency.upper


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`coding` must be 'raw'"):
        StoredBits("zip")
    with pytest.raises(ValueError, match="`groups` change nothing"):
        StoredBits(groups=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="`groups` are of shape"):
        StoredBits("entropy", groups=torch.zeros(3, dtype=torch.int64)).total(torch.zeros(4))
    with pytest.raises(ValueError, match="`num_repeats` must be at least 2"):
        time_networks([cnn()], digits(4).x, num_repeats=1)
    with pytest.raises(ValueError, match="`num_warmups` must be at least 0"):
        time_networks([cnn()], digits(4).x, num_warmups=-1)
