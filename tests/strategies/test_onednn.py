"""Do oneDNN's products take part wherever they may, and nowhere else?"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import resolve
from evohbde.reductions import Identity
from evohbde.strategies import batched, onednn
from evohbde.strategies.onednn import OneDNN, has_product, product
from evohbde.strategies.views import Working
from problems.transformer import build_transformer
from tests.small_networks import digits, mlp

DATA = digits(96)
EVERYTHING = slice(0, 96)

pytestmark = pytest.mark.skipif(not has_product(torch.device("cpu")), reason="this build of PyTorch has no oneDNN")


def built(network: nn.Module, x: Tensor = DATA.x) -> OneDNN | None:
    layout = ParameterLayout(network)
    return OneDNN.build(Working(network.eval(), layout, x, None), Identity(layout.flatten(network)))


@torch.inference_mode()
def outputs_of(strategy: OneDNN, x: Tensor = DATA.x) -> Tensor:
    strategy.load(strategy.reduction.center[None])
    working = strategy.working
    return strategy.run(working.stages.run(x, 0, working.depth))[0]


@pytest.fixture
def calls(monkeypatch) -> list[bool]:
    """Whether each product had a ReLU."""
    seen = []
    original = onednn.product

    def spy(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, has_relu: bool = False) -> Tensor:
        seen.append(has_relu)
        return original(x, weight, bias, has_relu=has_relu)

    monkeypatch.setattr(onednn, "product", spy)
    return seen


@torch.inference_mode()
@given(
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 40), st.integers(1, 40)),
    has_bias=st.booleans(),
    has_relu=st.booleans(),
)
def test_a_product_is_a_linear_layer(sizes, has_bias, has_relu):
    num, num_inputs, num_outputs = sizes
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, num_inputs, generator=generator) for rows in (num, num_outputs))
    bias = torch.randn(num_outputs, generator=generator) if has_bias else None
    exact = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    expected = (exact.relu() if has_relu else exact).float()
    torch.testing.assert_close(product(x, weight, bias, has_relu=has_relu), expected, rtol=1e-5, atol=1e-5)


class Forked(nn.Module):
    """Needs what a layer gives before its ReLU as well, and calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.again, self.head, self.relu = (
            nn.Linear(64, 32),
            nn.Linear(32, 32),
            nn.Linear(32, 10),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x.flatten(1))
        return self.head(self.relu(self.again(self.again(self.relu(hidden) + hidden))))


def hooked() -> nn.Module:
    network = mlp()
    network[1].register_forward_hook(lambda module, inputs, output: output * 2.0)
    return network


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (mlp, [False, False]),  # a dropout stands between the layer and its ReLU
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)), [True, False]),
        (Forked, [False, False, True, False]),
        (hooked, [False]),
    ],
    ids=["dropout", "chain", "forked", "hooked"],
)
def test_a_relu_goes_along_where_nobody_else_looks(build, expected, calls):
    torch.manual_seed(0)
    network = build().eval()
    found = outputs_of(built(network))
    with torch.no_grad():
        torch.testing.assert_close(found, network(DATA.x), rtol=1e-5, atol=1e-5)
    assert calls == expected


def test_a_transformer_of_tokens_runs_on_it(calls):
    torch.manual_seed(0)
    network, tokens = build_transformer().eval(), DATA.x[:, 0]
    found = outputs_of(built(network, tokens), tokens)
    with torch.no_grad():
        torch.testing.assert_close(found, network(tokens), rtol=1e-4, atol=1e-5)
    assert len(calls) == sum(type(module) is nn.Linear for module in network.modules())


def test_it_is_for_linear_layers_without_convolutions(monkeypatch):
    assert built(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10))) is None
    assert built(nn.Sequential(nn.Flatten(), nn.LayerNorm(64))) is None
    monkeypatch.setattr(onednn, "has_product", lambda device: False)
    assert built(mlp()) is None


@pytest.mark.parametrize("strategy", ["batched", "onednn"])
def test_a_build_without_onednn_scores_as_well(strategy, monkeypatch):
    network = mlp().eval()
    layout = ParameterLayout(network)
    reduction = Identity(layout.flatten(network))
    z = reduction.center + 0.1 * torch.randn(5, reduction.dim, generator=torch.Generator().manual_seed(0))

    def evaluator() -> NetworkEvaluator:
        objectives = resolve("cross_entropy")
        return NetworkEvaluator(copy.deepcopy(network), layout, reduction, objectives, DATA, strategy=strategy)

    expected = evaluator()(z, EVERYTHING)
    for module in (onednn, batched):
        monkeypatch.setattr(module, "has_product", lambda device: False)
    if strategy == "onednn":
        with pytest.raises(ValueError, match="'onednn' cannot run this network: it needs oneDNN, linear layers"):
            evaluator()(z, EVERYTHING)
        return
    torch.testing.assert_close(evaluator()(z, EVERYTHING), expected, rtol=1e-5, atol=1e-6)
