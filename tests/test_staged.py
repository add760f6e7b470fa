"""Does the default preset's staged part decide, count and step as it says?"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from evohbde import HistogramBlocking, ParameterLayout, TensorData, fine_tune
from evohbde.gate import Gate
from evohbde.outputs import predict
from evohbde.parts import head_names, norm_names
from evohbde.recalibrate import batch_norms, by_depth, recalibrated
from evohbde.sensitivity import probe_stdev
from evohbde.staged import Staged, _front_names
from problems.networks import initialised, resnet20


def data(n=200, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centers = torch.randn(classes, 3, 8, 8, generator=generator)
    return TensorData(centers[y] + 0.7 * torch.randn(n, 3, 8, 8, generator=generator), y)


def conv_net(seed=0):
    def build():
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(24, 4),
        )

    return initialised(build, seed)


class TestRecalibration:
    def test_full_mixing_takes_the_statistics_of_the_samples_layer_by_layer(self):
        model, x = conv_net().eval(), data().x
        found = recalibrated(model, x, [1.0] * 3)
        hidden = x
        for layer in found:
            if isinstance(layer, nn.BatchNorm2d):
                assert torch.allclose(layer.running_mean, hidden.mean((0, 2, 3)), atol=1e-5)
                assert torch.allclose(layer.running_var, hidden.var((0, 2, 3)), rtol=1e-4)
            hidden = layer(hidden)

    def test_zero_keeps_a_layer_and_parts_are_linear(self):
        model, x = conv_net().eval(), data().x
        nothing = recalibrated(model, x, [0.0] * 3)
        assert torch.equal(predict(nothing, data()), predict(model, data()))
        half, full = recalibrated(model, x, [0.5, 0, 0]), recalibrated(model, x, [1.0, 0, 0])
        old, new = batch_norms(model)[0].running_mean, batch_norms(full)[0].running_mean
        assert torch.allclose(batch_norms(half)[0].running_mean, (old + new) / 2, atol=1e-6)
        assert torch.equal(batch_norms(half)[1].running_mean, batch_norms(model)[1].running_mean)

    def test_the_given_model_keeps_its_statistics_and_hooks(self):
        model = conv_net()
        before = copy.deepcopy(model.state_dict())
        recalibrated(model, data().x, [0.3] * 3)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not batch_norms(model)[0]._forward_pre_hooks

    def test_wrong_fractions_are_refused(self):
        with pytest.raises(ValueError, match="one fraction per BatchNorm layer, 3, got 1"):
            recalibrated(conv_net(), data().x, [0.5])
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            recalibrated(conv_net(), data().x, [0.5, 2.0, 0])

    def test_profiles_are_spread_by_depth(self):
        assert by_depth([0, 0.2, 0.5], 6) == [0, 0, 0.2, 0.2, 0.5, 0.5]
        assert by_depth([0.3], 4) == [0.3] * 4
        assert by_depth([0, 1], 1) == [0]


class TestNames:
    def test_head_and_front_of_a_resnet(self):
        model = resnet20()
        assert head_names(model) == ["linear.weight", "linear.bias"]
        front = _front_names(model)
        assert front[:2] == ["bn1.weight", "bn1.bias"]
        assert len(front) == 14
        assert all(name.startswith(("bn1", "layer1")) for name in front)

    def test_frozen_parameters_are_left_out_and_missing_parts_are_empty(self):
        model = conv_net()
        model[10].weight.requires_grad_(False)
        assert head_names(model) == ["10.bias"]
        assert head_names(nn.Sequential(nn.Conv2d(1, 1, 1))) == []
        assert _front_names(nn.Sequential(nn.Linear(2, 2))) == []
        assert norm_names(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))) == ["1.weight", "1.bias"]


class TestProbe:
    @pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
    def test_the_step_moves_predictions_by_the_wanted_divergence(self, scale):
        """The law, against a direct computation with functional_call, on networks of very different scale."""
        model, samples = conv_net().eval(), data()
        with torch.no_grad():
            model[10].weight.mul_(scale)
        layout = ParameterLayout(model)
        theta0 = layout.flatten(model)
        blocks = HistogramBlocking(theta0, 1_000, mode="offset")
        directions = torch.randn(6, blocks.dim, generator=torch.Generator().manual_seed(1))
        stdev, count, spent = probe_stdev(
            model, samples, layout, blocks, divergence=0.01, directions=directions, num_rounds=5
        )
        assert count == 60
        assert spent == 61 * len(samples)
        reference = functional.log_softmax(predict(model, samples), -1)
        moved = []
        for direction in torch.cat([directions, -directions]):
            weights = layout.views(blocks.expand(stdev * direction))
            with torch.no_grad():
                other = functional.log_softmax(torch.func.functional_call(model, weights, samples.x), -1)
            moved.append(functional.kl_div(other, reference, log_target=True, reduction="batchmean").log())
        # The divergence is quadratic in the step only for small steps, so that few rounds end near, not on, the mark.
        assert 0.01 / 3 < torch.stack(moved).mean().exp().item() < 0.01 * 3


class TestGate:
    def network(self, bias):
        model = nn.Linear(1, 2)
        with torch.no_grad():
            model.weight.zero_()
            model.bias.copy_(torch.tensor(bias))
        return model

    def samples(self):
        return TensorData(torch.zeros(50, 1), torch.tensor([0] * 35 + [1] * 15))

    def test_it_passes_what_is_clearly_better_and_then_compares_with_that(self):
        spent = []
        gate = Gate(self.samples(), self.network([0.0, 2.0]), spent.append)
        assert gate.passes(self.network([0.8, 0.0]), num_errors=1)
        assert not gate.passes(self.network([0.8, 0.0]), num_errors=1)
        assert not gate.passes(self.network([0.0, 2.0]), num_errors=1)
        assert spent == [50] * 4

    def test_a_gain_within_its_error_does_not_pass(self):
        gate = Gate(self.samples(), self.network([0.80, 0.0]), lambda count: None)
        assert not gate.passes(self.network([0.81, 0.0]), num_errors=1)
        assert "validation cross-entropy" in gate.verdict

    def test_lower_loss_with_clearly_fewer_right_answers_does_not_pass(self):
        data = TensorData(torch.tensor([[1.0], [0.0]]).repeat(40, 1), torch.tensor([0, 1]).repeat(40))
        good, bad = nn.Linear(1, 2), nn.Linear(1, 2)
        with torch.no_grad():
            good.weight.copy_(torch.tensor([[0.2], [0.0]])), good.bias.copy_(torch.tensor([-0.1, 0.0]))
            bad.weight.copy_(torch.tensor([[-0.01], [0.0]])), bad.bias.copy_(torch.tensor([0.0, 3.0]))
        gate = Gate(data, bad, lambda count: None)
        assert gate.passes(good, num_errors=1)
        assert not gate.passes(bad, num_errors=-100)


def test_a_large_network_goes_through_the_stages_within_its_budget():
    """ResNet-20 on tiny images: every stage is tried, decided and counted."""
    model = initialised(resnet20, seed=0)
    samples = data(n=600, classes=4)
    result = fine_tune(
        model,
        samples,
        validation=data(n=150, seed=0),
        test=data(n=100, seed=0),
        preset=Staged(recalibration_samples=100, small_batch_size=10),
        num_samples=12_000,
        seed=0,
        pretrain_epochs=0,
        monitor=False,
        compare_with_adam=False,
    )
    assert result.num_samples_seen <= 12_000
    stages = {row.stage for row in result.history.rows}
    assert stages == {"front norms", "head"}
    assert [note.split(":")[0] for note in result.notes if "validation" in note] == [
        "statistics",
        "front norms",
        "head",
    ]
    assert result.history.rows[-1].num_samples_seen <= result.num_samples_seen


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"parts": ("tail",)}, r"unknown `parts` \['tail'\]; known: statistics"),
        ({"head_popsize": 0}, "`head_popsize` must be an integer of at least 2, got 0"),
        ({"popsize": True}, "`popsize` must be an integer of at least 2, got True"),
        ({"num_bins": None}, "`num_bins` must be an integer of at least 1, got None"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer of at least 1, got 2.5"),
        ({"divergence": float("nan")}, "`divergence` must be a finite number above 0, got nan"),
        ({"head_pull": -1e-3}, "`head_pull` must be a finite number >= 0, got -0.001"),
        ({"recalibration": (0.0, 0.5)}, "`recalibration` must be three shares from 0 to 1"),
        ({"recalibration": (0.0, 0.5, 1.5)}, "`recalibration` must be three shares from 0 to 1"),
    ],
    ids=str,
)
def test_switches_that_make_no_sense_are_refused_before_anything_runs(switches, message):
    with pytest.raises(ValueError, match=message):
        Staged(**switches)
