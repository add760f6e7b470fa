"""Do adapters change nothing at first, hold all that is searched, and end as plain weights?"""

import pickle
import re
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from evohbde import (
    GradientSearcher,
    HistogramBlocking,
    Identity,
    NetworkProblem,
    ParameterLayout,
    RandomProjection,
    add_lora,
    merge_lora,
)
from evohbde.searchers import DE
from problems.networks import initialised
from problems.transformer import build_transformer
from tests.small_networks import cnn, digits

peft = pytest.importorskip("peft", reason="needs peft: pip install 'evohbde[lora]'")


@pytest.fixture(scope="module")
def network() -> nn.Sequential:
    return initialised(build_transformer, 0).eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return digits(60).x[:, 0]


def moved(adapted: nn.Module, seed: int = 0, size: float = 0.1) -> nn.Module:
    """The adapters at another place."""
    layout = ParameterLayout(adapted)
    step = torch.randn(len(layout), generator=torch.Generator().manual_seed(seed))
    return layout.load_(deepcopy(adapted), layout.flatten(adapted) + size * step)


@torch.no_grad()
def outputs(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x)


def test_nothing_changes_before_the_search(network, x):
    before = deepcopy(network.state_dict())
    random_state = torch.get_rng_state()
    adapted = add_lora(network, 2)
    assert torch.equal(outputs(adapted, x), outputs(network, x))
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(("targets", "num"), [("*", 14), ("*.query", 2), (["*.query", "*.value"], 4), ("head", 1)])
def test_only_adapters_of_the_targets_are_searched(network, targets, num):
    layout = ParameterLayout(add_lora(network, 3, targets))
    assert len(layout.names) == 2 * num
    assert all(re.search(r"\.lora_[AB]\.default\.weight$", name) for name in layout.names)
    ranks = [shape[0 if "lora_A" in name else 1] for name, shape in zip(layout.names, layout.shapes, strict=True)]
    assert ranks == [3] * 2 * num
    assert layout == ParameterLayout(add_lora(network, 3, targets), "*lora_*")


@settings(max_examples=10)
@given(rank=st.integers(1, 5), scale=st.floats(0.1, 8.0), seed=st.integers(0, 1_000))
def test_an_adapted_layer_computes_what_the_paper_says(rank, scale, seed):
    layer = initialised(lambda: nn.Linear(6, 4), seed)
    adapted = moved(add_lora(nn.Sequential(layer), rank, scale=scale), seed)
    a, b = (adapted[0].get_parameter(f"lora_{name}.default.weight") for name in "AB")
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed))
    weight = (layer.weight.double() + scale * b.double() @ a.double()).detach()
    expected = nn.functional.linear(x.double(), weight, layer.bias.double()).detach()
    torch.testing.assert_close(outputs(adapted, x).double(), expected, rtol=1e-4, atol=1e-5)
    merged = merge_lora(adapted)
    torch.testing.assert_close(merged[0].weight.detach().double(), weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("four_bit", [False, True])
def test_merging_keeps_the_outputs_and_gives_the_plain_network_back(network, x, four_bit):
    if four_bit:
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'evohbde[lora]'")
    adapted = moved(add_lora(network, 2, four_bit=four_bit))
    merged = merge_lora(adapted)
    expected = outputs(adapted, x)
    assert not torch.allclose(expected, outputs(network, x), atol=0.1)
    assert float((outputs(merged, x) - expected).abs().max()) < 1e-6 * 10 * float(expected.abs().max())
    assert [type(part) for part in merged.modules()] == [type(part) for part in network.modules()]
    plain = initialised(build_transformer, 1)
    plain.load_state_dict(merged.state_dict())
    assert torch.equal(outputs(plain.eval(), x), outputs(merged, x))
    assert torch.equal(outputs(adapted, x), expected), "the adapted network is left as it was"
    assert len(ParameterLayout(merged)) == len(ParameterLayout(network))


def test_convolutions_and_embeddings_take_adapters_too():
    convolutional, images = cnn().eval(), digits(20).x
    adapted = moved(add_lora(convolutional, 2))
    assert {name.split(".")[0] for name in ParameterLayout(adapted).names} == {"conv", "head"}
    torch.testing.assert_close(outputs(merge_lora(adapted), images), outputs(adapted, images), rtol=1e-4, atol=1e-4)
    words = nn.Sequential(nn.Embedding(7, 5), nn.Flatten(), nn.Linear(15, 3))
    adapted, tokens = moved(add_lora(words, 2)), torch.arange(6).reshape(2, 3)
    assert not torch.allclose(outputs(adapted, tokens), outputs(words, tokens))
    torch.testing.assert_close(outputs(merge_lora(adapted), tokens), outputs(adapted, tokens), rtol=1e-4, atol=1e-5)


def test_four_bits_hold_sixteen_levels_and_an_eighth_of_the_memory(network, x):
    functional = pytest.importorskip(
        "bitsandbytes", reason="needs bitsandbytes: pip install 'evohbde[lora]'"
    ).functional
    adapted = add_lora(network, 2, "*.inner.widen", four_bit=True)
    base = adapted.get_submodule("block1.inner.widen").get_base_layer()
    given = network.get_submodule("block1.inner.widen").weight
    assert base.weight.dtype == torch.uint8 and base.weight.numel() * 2 == given.numel()
    blocks = functional.dequantize_4bit(base.weight.data, base.weight.quant_state).reshape(-1, 64)
    assert all(len(block.unique()) <= 16 for block in blocks)
    # The levels of NF4 lie at most 0.304 apart where the largest weight of a block is 1; scales are rounded too.
    error, largest = (blocks - given.reshape(-1, 64)).abs().amax(1), given.reshape(-1, 64).abs().amax(1)
    assert bool((error <= 0.2 * largest).all())
    assert float((outputs(adapted, x) - outputs(network, x)).abs().max()) > 0


@pytest.mark.parametrize("four_bit", [False, True])
def test_candidates_score_what_their_merged_networks_do(network, four_bit):
    if four_bit:
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'evohbde[lora]'")
    data = digits(60)
    data = type(data)(data.x[:, 0], data.y)
    adapted = add_lora(network, 2, ["*.query", "*.value"], four_bit=four_bit)
    problem = NetworkProblem(adapted, data, "cross_entropy", reduction=Identity, seed=0)
    searcher = DE(problem, popsize=5, stdev_init=0.3)
    searcher.run(2)
    for z, loss in zip(searcher.population.values, searcher.population.evals[:, 0].tolist(), strict=True):
        merged = merge_lora(problem.make_network(z))
        assert float(nn.functional.cross_entropy(outputs(merged, data.x), data.y)) == pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("reduce", [lambda theta0: HistogramBlocking(theta0, 20), lambda t: RandomProjection(t, 60)])
def test_reductions_and_gradients_work_on_adapters(network, reduce):
    data = digits(60)
    data = type(data)(data.x[:, 0], data.y)
    problem = NetworkProblem(add_lora(network, 2), data, "cross_entropy", reduction=reduce, seed=0)
    assert problem.reduction.full_dim == len(ParameterLayout(add_lora(network, 2)))
    before = problem.score(problem.center, data)["cross_entropy"]
    searcher = GradientSearcher(problem, "adam", lr=0.03)
    searcher.run(5)
    assert problem.score(searcher.center, data)["cross_entropy"] < before


@pytest.mark.parametrize("four_bit", [False, True])
def test_adapted_networks_can_be_copied_and_pickled(network, x, four_bit):
    if four_bit:
        pytest.importorskip("bitsandbytes", reason="needs bitsandbytes: pip install 'evohbde[lora]'")
    adapted = moved(add_lora(network, 2, four_bit=four_bit))
    for copy in (deepcopy(adapted), pickle.loads(pickle.dumps(adapted)), deepcopy(adapted).to("cpu").eval()):
        assert torch.equal(outputs(copy, x), outputs(adapted, x))


def test_the_seed_decides_the_first_directions(network):
    first, again, other = (ParameterLayout(n).flatten(n) for n in (add_lora(network, seed=seed) for seed in (1, 1, 2)))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda network: add_lora(network, 0), "`rank` must be an integer of at least 1, got 0"),
        (lambda network: add_lora(network, scale=0.0), "`scale` must be a finite number above 0, got 0.0"),
        (
            lambda network: add_lora(network, targets="*.q"),
            r"`targets` '\*.q' match no layer .* embedding.rows, block1",
        ),
        (lambda network: add_lora(nn.Sequential(nn.ReLU())), "layers that do: none"),
        (lambda network: add_lora(cnn(), targets="conv", four_bit=True), "match no layer .* layers that do: head"),
        (lambda network: add_lora(add_lora(network)), r"has adapters already: .* merge_lora\(network\)"),
        (lambda network: merge_lora(network), r"no adapters to merge: make some by add_lora\(network\)"),
        (lambda network: add_lora(nn.TransformerEncoderLayer(8, 2, 16)), "match no layer that takes adapters"),
    ],
)
def test_what_does_not_fit_is_refused(network, call, message):
    with pytest.raises(ValueError, match=message):
        call(network)
