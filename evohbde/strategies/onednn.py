"""One candidate at a time, linear layers by oneDNN, with the ReLU behind them in the same pass.

PyTorch gives matrix products on an x86 processor to MKL and convolutions to oneDNN, whose products are the faster ones
on some processors. They are the ones that `torch.compile` writes into its code; networks without convolutions get them
here without a compiler.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from evohbde.reductions import Reduction
from evohbde.strategies.tracing import Calls, put_in_place, trace
from evohbde.strategies.views import Views, Working

CONVOLUTIONS = {nn.Conv1d, nn.Conv2d, nn.Conv3d}
"""Beside these, linear layers are a small part of the work."""


def has_product(device: torch.device) -> bool:
    """Whether `product` can be called."""
    is_built = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return device.type == "cpu" and is_built


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, has_relu: bool = False) -> Tensor:
    """A linear layer, and its ReLU: `(B, inputs), (outputs, inputs), (outputs,) -> (B, outputs)`, float32."""
    after = "relu" if has_relu else "none"
    out: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, after, [], "")
    return out


class _Product(nn.Module):
    """A linear layer of the network, and whether a ReLU follows."""

    def __init__(self, linear: nn.Linear, has_relu: bool) -> None:
        super().__init__()
        self.linear, self.has_relu = linear, has_relu

    def forward(self, x: Tensor) -> Tensor:
        linear = self.linear
        if torch.is_autocast_enabled("cpu"):  # which does not know this product
            return linear(x).relu() if self.has_relu else linear(x)
        rows = x.reshape(-1, linear.in_features)
        out = product(rows, linear.weight, linear.bias, has_relu=self.has_relu)
        return out.view(*x.shape[:-1], linear.out_features)


class OneDNN(Views):
    """See the module. `OneDNN.build` returns None where there are convolutions, no linear layers or no oneDNN."""

    name = "onednn"

    def __init__(self, working: Working, reduction: Reduction, graph: fx.GraphModule) -> None:
        super().__init__(working, reduction)
        self._graph = graph

    @staticmethod
    def build(working: Working, reduction: Reduction) -> OneDNN | None:
        kinds = {type(part) for module in working.tail for part in module.modules()}
        if not has_product(working.theta.device) or nn.Linear not in kinds or kinds & CONVOLUTIONS:
            return None
        graph = trace(working)
        if graph is None or not _replace_products(graph):
            return None
        return OneDNN(working, reduction, graph)

    def run(self, features: Tensor) -> Tensor:
        return self._graph.forward(features)[None]  # calling the graph itself would print what a probe may raise


def _replace_products(graph: fx.GraphModule) -> int:
    """Let oneDNN compute the linear layers of a graph; returns how many there were."""
    calls = Calls(graph)
    linears = [node for node in calls.modules if calls.is_plain(node, nn.Linear)]
    for number, node in enumerate(linears):
        relu = calls.behind(node, nn.ReLU)
        product_of = _Product(calls.modules[node], relu is not None)
        put_in_place(graph, [node] if relu is None else [node, relu], f"product_{number}", product_of)
    graph.recompile()
    return len(linears)
