"""One candidate at a time, BatchNorm folded into the convolution before it, in channels-last memory.

In evaluation mode BatchNorm is one multiplication and one addition per channel, which the convolution can do in its
own weights and bias (Jacob et al. 2018, section 3.2). Folding costs one pass over the weights per candidate and saves
two over the activations per layer. Outputs differ in the last bits of float32; a probe batch proves that it is no more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from evohbde.reductions import Reduction
from evohbde.strategies.views import Strategy, Working


class _Fold:
    """A convolution of the network, the BatchNorm behind it if there is one, and the convolution that runs instead."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, memory_format: torch.memory_format) -> None:
        self.conv, self.norm = conv, norm
        self.executed = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            norm is not None or conv.bias is not None,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        self.executed.to(memory_format=memory_format).requires_grad_(False)
        if norm is not None:
            assert norm.running_var is not None and norm.running_mean is not None
            self.inverse = (norm.running_var.double() + norm.eps).rsqrt().to(conv.weight.dtype)
            self.shift = -norm.running_mean * self.inverse

    def refresh(self) -> None:
        conv, executed, norm = self.conv, self.executed, self.norm
        if norm is None:
            executed.weight.copy_(conv.weight)
            if conv.bias is not None and executed.bias is not None:
                executed.bias.copy_(conv.bias)
            return
        scale = self.inverse if norm.weight is None else norm.weight * self.inverse
        torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=executed.weight)
        bias = self.shift if norm.weight is None else self.shift * norm.weight
        if norm.bias is not None:
            bias = bias + norm.bias
        if conv.bias is not None:
            bias = torch.addcmul(bias, conv.bias, scale)
        assert executed.bias is not None
        executed.bias.copy_(bias)


class Folded(Strategy):
    """See the module. `Folded.build` returns None where the network cannot be traced, folded or has no convolution."""

    name = "folded"

    def __init__(
        self, working: Working, reduction: Reduction, graph: fx.GraphModule, memory_format: torch.memory_format
    ) -> None:
        super().__init__(working, reduction)
        self._folds = _replace_convolutions(graph, memory_format)
        self._graph, self._memory_format = graph, memory_format

    @staticmethod
    def build(
        working: Working, reduction: Reduction, memory_format: torch.memory_format = torch.channels_last
    ) -> Folded | None:
        if not any(isinstance(part, nn.Conv2d) for module in working.tail for part in module.modules()):
            return None
        try:
            graph = fx.symbolic_trace(nn.Sequential(*working.tail))
        except Exception:  # noqa: BLE001 - whatever a user's forward raises when traced, it then runs as it is
            return None
        strategy = Folded(working, reduction, graph, memory_format)
        return strategy if strategy._folds else None

    def prepare(self, features: Tensor) -> Tensor:
        return features.contiguous(memory_format=self._memory_format) if features.ndim == 4 else features

    def load(self, z: Tensor) -> Tensor:
        theta = self.reduction.expand_into(z[0], self.working.theta)
        self.refresh()
        return theta[None]

    def refresh(self) -> None:
        """Fold the weights that the network has now."""
        for fold in self._folds:
            fold.refresh()

    def run(self, features: Tensor) -> Tensor:
        return self._graph.forward(features)[None]  # calling the graph itself would print what a probe may raise


def _replace_convolutions(graph: fx.GraphModule, memory_format: torch.memory_format) -> list[_Fold]:
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    modules: dict[fx.Node, Any] = {node: graph.get_submodule(str(node.target)) for node in nodes}
    calls = [id(module) for module in modules.values()]
    folds: list[_Fold] = []
    for node in nodes:
        conv = modules[node]
        if not _is_plain(conv, nn.Conv2d, calls) or conv.padding_mode != "zeros":
            continue
        norm_node = _norm_behind(node, modules, calls)
        fold = _Fold(conv, None if norm_node is None else modules[norm_node], memory_format)
        name = f"folded_{len(folds)}"
        graph.add_submodule(name, fold.executed)
        last = norm_node or node
        with graph.graph.inserting_before(node):
            last.replace_all_uses_with(graph.graph.call_module(name, node.args, node.kwargs))
        graph.graph.erase_node(last)
        if last is not node:
            graph.graph.erase_node(node)
        folds.append(fold)
    graph.recompile()
    return folds


def _norm_behind(node: fx.Node, modules: dict[fx.Node, Any], calls: list[int]) -> fx.Node | None:
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    norm = modules[users[0]]
    return users[0] if _is_plain(norm, nn.BatchNorm2d, calls) and norm.running_var is not None else None


def _is_plain(module: nn.Module, kind: type[nn.Module], calls: list[int]) -> bool:
    """Whether nothing but this module's own arithmetic happens here, and happens once."""
    has_hooks = bool(module._forward_hooks or module._forward_pre_hooks)
    return type(module) is kind and calls.count(id(module)) == 1 and not has_hooks
