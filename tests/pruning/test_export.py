"""Do pruned networks come back from files bit for bit, and do damaged files say so?"""

import copy
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from evohbde.compress.compact import CODINGS, load_compact, save_compact
from evohbde.layout import ParameterLayout
from evohbde.pruning.cost import StoredBits
from evohbde.pruning.export import save_onnx, with_masks, zeroed
from evohbde.reductions import HistogramBlocking
from evohbde.rundir import load_network, save_network
from problems.digits import build_cnn
from problems.networks import initialised
from tests.small_networks import cnn, digits


def random_mask(layout: ParameterLayout, density: float, seed: int = 0) -> torch.Tensor:
    return torch.rand(layout.size, generator=torch.Generator().manual_seed(seed)) < density


def pruned(model: nn.Module, density: float, seed: int = 0) -> nn.Module:
    layout = ParameterLayout(model)
    return zeroed(model, layout, random_mask(layout, density, seed))


def tied(model: nn.Module, num_bins: int = 20) -> nn.Module:
    """Give all weights of a bin, zeros apart, one value."""
    layout = ParameterLayout(model)
    theta = layout.flatten(model)
    blocking = HistogramBlocking(theta, num_bins)
    return layout.load_(copy.deepcopy(model), torch.where(theta == 0, 0.0, blocking.expand(blocking.center)))


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Tied(nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def test_zeros_stand_where_the_mask_says_and_nothing_else_changes():
    model = cnn()
    layout = ParameterLayout(model)
    mask = random_mask(layout, 0.5)
    network = zeroed(model, layout, mask)
    theta = layout.flatten(model)
    assert torch.equal(layout.flatten(network), torch.where(mask, theta, 0.0))
    assert torch.equal(layout.flatten(model), theta)
    model.load_state_dict(network.state_dict())
    assert same(model, network)


def test_registered_masks_are_those_of_torch_prune():
    model, x = cnn().eval(), digits(10).x
    layout = ParameterLayout(model, ["conv.weight", "head.weight"])
    mask = random_mask(layout, 0.4)
    network = with_masks(model, layout, mask)
    plain, views = cnn().eval(), layout.views(mask)
    for module, name in ((plain.conv, "conv.weight"), (plain.head, "head.weight")):
        prune.custom_from_mask(module, "weight", views[name])
    assert same(network, plain)
    assert torch.equal(network(x), zeroed(model, layout, mask)(x))
    # A state dict with masks loads into any network that was prepared by PyTorch alone.
    fresh = initialised(lambda: copy.deepcopy(cnn()), 1).eval()
    for module in (fresh.conv, fresh.head):
        prune.identity(module, "weight")
    fresh.load_state_dict(network.state_dict())
    assert torch.equal(fresh(x), network(x))
    for module in (network.conv, network.head):
        prune.remove(module, "weight")
    assert same(network, zeroed(model, layout, mask))


def test_masked_weights_stay_zero_in_training():
    model, data = cnn(), digits(30)
    layout = ParameterLayout(model, ["conv.weight", "head.weight"])
    mask = random_mask(layout, 0.4)
    network = with_masks(model, layout, mask)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    nn.functional.cross_entropy(network(data.x), data.y).backward()
    optimizer.step()
    network(data.x)
    weights = torch.cat([network.conv.weight.flatten(), network.head.weight.flatten()])
    assert not bool(weights[~mask].any()) and not torch.equal(weights[mask], layout.flatten(model)[mask])


def test_a_tied_weight_is_masked_under_all_its_names():
    model = initialised(Tied, 0)
    layout = ParameterLayout(model, "first.weight")
    mask = random_mask(layout, 0.5)
    network = with_masks(model, layout, mask)
    assert network.first.weight_orig is network.second.weight_orig
    x = torch.rand(5, 8)
    torch.testing.assert_close(network(x), zeroed(model, layout, mask)(x))
    assert not hasattr(with_masks(model, layout, torch.ones_like(mask)).first, "weight_orig")


@settings(deadline=None, max_examples=12)
@pytest.mark.parametrize("coding", CODINGS)
@given(density=st.floats(0, 1), seed=st.integers(0, 99))
def test_what_is_loaded_equals_what_was_saved(tmp_path_factory, coding, density, seed):
    path = tmp_path_factory.mktemp("compact") / "network.safetensors"
    model = cnn()
    network = pruned(tied(model) if coding != "values" else model, density, seed)
    network.norm.running_mean[0] = 0.123
    num_bytes = save_compact(network, path, coding=coding)
    assert num_bytes == path.stat().st_size
    loaded = load_compact(path, model)
    assert same(loaded, network) and not loaded.training
    x = digits(10).x
    assert torch.equal(loaded(x), network.eval()(x))


def test_files_shrink_with_the_density_and_with_shared_values(tmp_path):
    model = initialised(build_cnn, 0)
    save_network(model, tmp_path / "dense")
    sizes = [save_compact(pruned(model, density), tmp_path / "file") for density in (1.0, 0.5, 0.1)]
    assert (tmp_path / "dense").stat().st_size + 600 > sizes[0] > sizes[1] > sizes[2]
    network = pruned(tied(model), 0.5)
    codings = [save_compact(network, tmp_path / "file", coding=coding) for coding in CODINGS]
    assert codings[0] > codings[1] > codings[2]


def test_the_objective_counts_what_the_file_holds(tmp_path):
    network = pruned(tied(initialised(build_cnn, 0)), 0.4)
    matrices = ParameterLayout(network, "*.weight")
    theta = matrices.flatten(network)
    for coding, objective in (("values", StoredBits()), ("codebook", StoredBits(codebook=True))):
        save_compact(network, tmp_path / "file", coding=coding)
        with safe_open(tmp_path / "file", framework="pt") as file:
            held = sum(file.get_tensor(name).nbytes for name in file.keys() if not name.startswith("dense:"))  # noqa: SIM118
        least = math.ceil(objective.total(theta) / 8)
        assert least <= held <= least + 2 * len(matrices.names)  # each tensor ends at a whole byte


def test_tied_weights_other_types_and_what_is_dense_come_back(tmp_path):
    model = initialised(Tied, 0)
    network = pruned(model, 0.3)
    save_compact(network, tmp_path / "file")
    loaded = load_compact(tmp_path / "file", initialised(Tied, 1))
    assert same(loaded, network) and loaded.first.weight is loaded.second.weight
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        for coding in CODINGS:
            network = pruned(tied(cnn(), 4), 0.5).to(dtype)
            save_compact(network, tmp_path / "file", coding=coding)
            assert same(load_compact(tmp_path / "file", cnn().to(dtype)), network)


def test_not_a_number_and_infinity_are_kept(tmp_path):
    network = pruned(cnn(), 0.2)
    with torch.no_grad():
        network.head.weight[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    for coding in ("values", "huffman"):
        save_compact(tied_nothing := copy.deepcopy(network), tmp_path / "file", coding=coding)
        loaded = load_compact(tmp_path / "file", cnn()).head.weight
        assert torch.equal(loaded.nan_to_num(7.0), tied_nothing.head.weight.nan_to_num(7.0))


def test_every_damaged_byte_is_noticed(tmp_path):
    network = pruned(tied(cnn()), 0.2)
    save_compact(network, tmp_path / "good", coding="huffman")
    content = (tmp_path / "good").read_bytes()
    model, bad = cnn(), tmp_path / "bad"
    for place in [*range(0, len(content), 3), len(content) - 1]:
        bad.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match="bad is "):
            load_compact(bad, model)
    for length in range(0, len(content), 97):
        bad.write_bytes(content[:length])
        with pytest.raises(ValueError, match="bad is cut short"):
            load_compact(bad, model)
    assert same(model, cnn())


def test_what_cannot_be_read_or_written_says_what_to_do(tmp_path):
    network = pruned(cnn(), 0.9)
    with pytest.raises(ValueError, match="`coding` must be one of values, codebook, huffman"):
        save_compact(network, tmp_path / "file", coding="zip")
    with pytest.raises(ValueError, match="a codebook saves nothing"):
        save_compact(network, tmp_path / "file", coding="codebook")
    assert not (tmp_path / "file").exists()
    with pytest.raises(FileNotFoundError, match="no file at"):
        load_compact(tmp_path / "file", cnn())
    save_network(network, tmp_path / "dense")
    with pytest.raises(ValueError, match="not written by save_compact: read it by evohbde"):
        load_compact(tmp_path / "dense", cnn())
    save_compact(network, tmp_path / "file")
    with pytest.raises(ValueError, match="are not those of this Sequential"):
        load_compact(tmp_path / "file", build_cnn())
    with pytest.raises(ValueError, match="are not those of this Sequential"):
        load_network(cnn(), tmp_path / "file")
    save_file({"a": torch.ones(1)}, tmp_path / "other", metadata={"evohbde.compact": "{", "sha256": "0"})
    with pytest.raises(ValueError, match="no JSON"):
        load_compact(tmp_path / "other", cnn())
    mixed = cnn()
    mixed.head.double()
    with pytest.raises(ValueError, match="of one type, these are of 2"):
        save_compact(mixed, tmp_path / "file", coding="codebook")
    with pytest.raises(ValueError, match=r"expected `mask` of shape \(622,\), bool"):
        zeroed(cnn(), ParameterLayout(cnn()), torch.ones(5, dtype=torch.bool))


def test_onnx_runtime_gives_the_outputs_of_a_smaller_network(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx: pip install 'evohbde[onnx]'")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pytest.importorskip("torch_pruning", reason="needs torch-pruning: pip install 'evohbde[structured]'")
    from evohbde.pruning.structured import StructuredPruning

    model, x = cnn(), digits(12).x
    small = StructuredPruning(model, x).network(torch.tensor([0.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own dependencies
        difference = save_onnx(small, x, tmp_path / "small.onnx")
        with pytest.raises(ValueError, match="differ from the network's by"):
            save_onnx(small, x, tmp_path / "never.onnx", tolerance=-1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["small.onnx"]
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    for num in (1, 5, 12):
        found = torch.from_numpy(session.run(["logits"], {"x": x[:num].numpy()})[0])
        torch.testing.assert_close(found, small(x[:num]).detach(), rtol=0, atol=max(difference, 1e-6) * 2)
    weights = {w.name: tuple(w.dims) for w in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert (3, 1, 3, 3) in weights.values() and (6, 1, 3, 3) not in weights.values()
    with pytest.raises(ValueError, match="at least 2 samples"):
        save_onnx(small, x[:1], tmp_path / "never.onnx")
