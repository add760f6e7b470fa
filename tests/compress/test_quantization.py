"""Are quantized weights the integers that torchao and NumPy make of them, and does only what is not an integer move?"""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from evohbde.compress.compact import load_compact, save_compact
from evohbde.compress.quantization import KINDS, quantize, quantized_weights, scale_names, train_quantized
from evohbde.layout import ParameterLayout
from evohbde.outputs import predict, score
from evohbde.problem import NetworkProblem
from evohbde.recovery import repair
from evohbde.reductions import Identity
from evohbde.rundir import save_network
from problems.digits import build_cnn
from problems.networks import initialised
from tests.small_networks import cnn, digits, mlp

torchao = pytest.importorskip("torchao.quantization", reason="needs torchao: pip install 'evohbde[quantization]'")


class Shared(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def rounded_by_numpy(weight: torch.Tensor, bits: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric affine rounding: the largest number of a group lies half a step above the largest integer."""
    groups = weight.detach().numpy().reshape(len(weight), -1, size)
    half = np.float32((2**bits - 1) / 2)
    scale = np.abs(groups).max(-1) / half
    codes = np.clip(np.rint(groups / scale[..., None]), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes.reshape(weight.shape), scale


@pytest.mark.parametrize("kind", KINDS)
def test_integers_and_scales_are_those_of_affine_rounding(kind):
    model = cnn().eval()
    found = quantized_weights(quantize(model, kind))
    assert list(found) == ["conv.weight", "head.weight"]
    for name, held in found.items():
        weight = dict(model.named_parameters())[name]
        codes, scale = rounded_by_numpy(weight, KINDS[kind].bits, weight[0].numel())
        np.testing.assert_allclose(held.scale.detach().numpy(), scale, rtol=1e-6)
        place = weight.detach().numpy() / scale.reshape(-1, *[1] * (weight.ndim - 1))
        is_sure = np.abs(place % 1 - 0.5) > 1e-4  # a number halfway between two may go either way
        assert np.array_equal(held.codes.numpy()[is_sure], codes[is_sure]) and is_sure.mean() > 0.8


def test_integers_of_linear_layers_are_those_that_torchao_runs():
    model, x = mlp().eval(), digits(40).x
    int4 = torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=torchao.PerAxis(0))
    grouped = torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=torchao.PerGroup(8))
    for kind, group_size, config in (
        ("int8", None, torchao.Int8WeightOnlyConfig()),
        ("int8-dynamic", None, torchao.Int8DynamicActivationInt8WeightConfig()),
        ("int4", None, int4),
        ("int4", 8, grouped),
    ):
        ours, theirs = quantize(model, kind, group_size=group_size), copy.deepcopy(model)
        torchao.quantize_(theirs, config)
        for name, held in quantized_weights(ours).items():
            weight = dict(theirs.named_parameters())[name]
            assert torch.equal(held.codes, weight.qdata)
            torch.testing.assert_close(held.scale.flatten(), weight.scale.flatten())
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group_size", [None, 9])
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_outputs_are_exactly_those_of_the_dequantized_weights(kind, group_size):
    model, x = initialised(build_cnn, 0), digits(20).x
    network, plain = quantize(model, kind, group_size=group_size), copy.deepcopy(model)
    with torch.no_grad():
        for name, held in quantized_weights(network).items():
            groups = held.codes.float().reshape(len(held.codes), held.scale.shape[1], -1)
            weight = (groups * held.scale[..., None]).reshape(held.codes.shape)
            dict(plain.named_parameters())[name].copy_(weight)
    assert torch.equal(network(x), plain.eval()(x))


def test_rows_that_a_group_does_not_divide_have_one_scale():
    held = quantized_weights(quantize(initialised(build_cnn, 0), "int4", group_size=16))
    assert {name: tuple(found.scale.shape) for name, found in held.items()} == {
        "conv1.weight": (8, 1),
        "conv2.weight": (16, 1),
        "hidden.weight": (32, 4),
        "output.weight": (10, 2),
    }


def test_a_layout_finds_scales_biases_and_norms_and_no_integers():
    network = quantize(cnn(), "int4")
    layout = ParameterLayout(network)
    scales = ["conv.parametrizations.weight.original1", "head.parametrizations.weight.original1"]
    assert scale_names(network) == scales
    assert set(layout.names) == {"conv.bias", "norm.weight", "norm.bias", "head.bias", *scales}
    assert scale_names(cnn()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", [cnn, mlp])
@pytest.mark.parametrize("strategy", ["views", "vmap", "auto"])
def test_a_search_scores_the_network_that_it_makes(kind, build, strategy):
    network, data = quantize(build(), kind), digits(60)
    problem = NetworkProblem(network, data, "cross_entropy", reduction=Identity, strategy=strategy, seed=0)
    batch = problem.generate_batch(3)
    problem.evaluate(batch)
    for solution in batch:
        made = problem.make_network(solution)
        found = score(made, data, ["cross_entropy"])["cross_entropy"]
        assert float(solution.evals[0]) == pytest.approx(found, rel=1e-4)
        before, after = quantized_weights(network), quantized_weights(made)
        assert all(torch.equal(held.codes, after[name].codes) for name, held in before.items())


@pytest.mark.parametrize("build", [cnn, mlp])
def test_repair_wins_back_what_rounding_lost_and_leaves_integers(build):
    everything = digits(900)
    train, validation, test = (everything.subset(torch.arange(start, start + 300)) for start in (0, 300, 600))
    model = build().eval()
    network = quantize(model, "int4")
    with torch.no_grad():  # as if by a far coarser rounding
        for held in quantized_weights(network).values():
            held.scale.mul_(1 + 0.6 * torch.randn(held.scale.shape, generator=torch.Generator().manual_seed(0)))
    found = repair(network, train, validation, num_samples=40_000)
    assert "scales" in found.kept
    before, after = (score(one, test, ["cross_entropy"])["cross_entropy"] for one in (network, found.network))
    assert after < before - 0.05
    for name, held in quantized_weights(found.network).items():
        assert torch.equal(held.codes, quantized_weights(network)[name].codes)


def test_training_with_rounded_weights_ends_at_the_rounding_it_trained_with():
    data = digits(300)
    plain = quantize(mlp(), "int4")
    trained = train_quantized(mlp(), data, "int4", num_samples=9_000, lr=3e-3)
    again = quantize(mlp(), "int4")
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), again.state_dict().values(), strict=True))
    losses = [score(network, data, ["cross_entropy"])["cross_entropy"] for network in (plain, trained)]
    assert losses[1] < losses[0] - 0.1
    assert list(quantized_weights(trained)) == list(quantized_weights(plain))


@pytest.mark.parametrize("group_size", [None, 9])
@pytest.mark.parametrize("coding", ["values", "huffman"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_gives_back_equal_outputs(tmp_path, kind, coding, group_size):
    model, data = initialised(build_cnn, 0), digits(30)
    network = quantize(model, kind, group_size=group_size)
    num_bytes = save_compact(network, tmp_path / "file", coding=coding)
    assert num_bytes == (tmp_path / "file").stat().st_size
    loaded = load_compact(tmp_path / "file", initialised(build_cnn, 1))
    assert torch.equal(predict(loaded, data), predict(network, data))
    save_network(model, tmp_path / "dense")
    saved = (tmp_path / "dense").stat().st_size - num_bytes
    num_weights = sum(held.codes.numel() for held in quantized_weights(network).values())
    num_scales = sum(held.scale.numel() for held in quantized_weights(network).values())
    expected = num_weights * (32 - KINDS[kind].bits) / 8 - 4 * num_scales
    assert saved > expected - 2_300  # names, description, lengths of codes


def test_integers_need_no_torchao_to_be_read(tmp_path, monkeypatch):
    network = quantize(cnn(), "int4")
    save_compact(network, tmp_path / "file")
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(ImportError, match=r"evohbde\[quantization\]"):
        quantize(cnn(), "int4")
    x = digits(10).x
    assert torch.equal(load_compact(tmp_path / "file", cnn())(x), network(x))


def test_a_weight_of_two_layers_is_rounded_once_and_stays_shared(tmp_path):
    network = quantize(initialised(Shared, 0), "int8")
    first, second = (getattr(network, name).parametrizations.weight for name in ("first", "second"))
    assert first.original0 is second.original0 and first.original1 is second.original1
    save_compact(network, tmp_path / "file")
    loaded, x = load_compact(tmp_path / "file", initialised(Shared, 1)), torch.rand(5, 8)
    assert torch.equal(loaded(x), network(x))
    assert loaded.first.parametrizations.weight.original1 is loaded.second.parametrizations.weight.original1


def test_frozen_weights_are_rounded_and_stay_frozen():
    model = mlp()
    model.hidden.weight.requires_grad_(False)
    network = quantize(model)
    assert set(quantized_weights(network)) == {"hidden.weight", "head.weight"}
    assert scale_names(network) == ["head.parametrizations.weight.original1"]
    assert not model.hidden.weight.requires_grad and model.head.weight.requires_grad


def test_attention_can_be_rounded():
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    network, x = quantize(layer, "int8"), torch.rand(3, 5, 16, generator=torch.Generator().manual_seed(0))
    assert "self_attn.in_proj_weight" in quantized_weights(network)
    torch.testing.assert_close(network(x), layer.eval()(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantize(mlp(), "int3"), "one of int8, int8-dynamic, int4, got 'int3'"),
        (lambda: quantize(mlp(), group_size=0), "`group_size` must be at least 1"),
        (lambda: quantize(mlp(), include="tail.*"), "names no weight to quantize; there are: hidden.weight"),
        (lambda: quantize(quantize(mlp())), "quantized already"),
        (lambda: train_quantized(mlp(), digits(), "int8-dynamic", num_samples=300), "only weights are rounded"),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_integer_weight_cannot_be_assigned_to():
    network = quantize(mlp())
    with pytest.raises(RuntimeError, match="quantize it anew"):
        network.head.weight = torch.zeros(10, 16)


def test_a_file_for_another_network_changes_nothing(tmp_path):
    save_compact(quantize(cnn()), tmp_path / "file")
    other = mlp()
    before = list(other.state_dict())
    with pytest.raises(ValueError, match=r"not those of this Sequential: conv.weight is \[6, 1, 3, 3\] in the file"):
        load_compact(tmp_path / "file", other)
    assert list(other.state_dict()) == before
    with pytest.raises(ValueError, match="use coding='values' or 'huffman'"):
        save_compact(quantize(cnn()), tmp_path / "file", coding="codebook")


def test_damaged_files_of_integers_are_refused_and_leave_the_network_alone(tmp_path):
    save_compact(quantize(cnn(), "int4"), tmp_path / "good", coding="huffman")
    content, bad, model = (tmp_path / "good").read_bytes(), tmp_path / "bad", cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for place in range(0, len(content), 11):
        bad.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(ValueError, match="bad"):
            load_compact(bad, model)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_else_is_rounded_can_be_told_from_the_state():
    plain, rounding = (quantize(mlp(), kind).state_dict() for kind in ("int8", "int8-dynamic"))
    assert set(plain) < set(rounding)
