"""One candidate at a time, BatchNorm folded into the convolution before it, in channels-last memory.

In evaluation mode BatchNorm is one multiplication and one addition per channel, which the convolution can do in its
own weights and bias (Jacob et al. 2018, section 3.2). Folding costs one pass over the weights per candidate and saves
two over the activations per layer. Outputs differ in the last bits of float32; a probe batch proves that it is no more.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from evohbde.reductions import Reduction
from evohbde.strategies.views import Strategy, Working


class _Fold:
    """A convolution of the network, the BatchNorm behind it if there is one, and the convolution that runs instead."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, dtype: torch.dtype) -> None:
        self.conv, self.norm = conv, norm
        needs_bias = norm is not None or conv.bias is not None
        self.executed = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            needs_bias,
            device=conv.weight.device,
            dtype=dtype,
        )
        self.executed.to(memory_format=torch.channels_last).requires_grad_(False)
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
        weight = conv.weight * scale.view(-1, 1, 1, 1) if executed.weight.dtype != conv.weight.dtype else None
        if weight is None:
            torch.mul(conv.weight, scale.view(-1, 1, 1, 1), out=executed.weight)
        else:
            executed.weight.copy_(weight)
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

    def __init__(self, working: Working, reduction: Reduction, graph: fx.GraphModule) -> None:
        super().__init__(working, reduction)
        self._folds = _replace_convolutions(graph)
        self._graph = graph

    @staticmethod
    def build(working: Working, reduction: Reduction) -> Folded | None:
        if not any(isinstance(part, nn.Conv2d) for module in working.tail for part in module.modules()):
            return None
        try:
            graph = fx.symbolic_trace(nn.Sequential(*working.tail))
        except Exception:  # noqa: BLE001 - whatever a user's forward raises when traced, it then runs as it is
            return None
        strategy = Folded(working, reduction, graph)
        return strategy if strategy._folds else None

    def prepare(self, features: Tensor) -> Tensor:
        return features.contiguous(memory_format=torch.channels_last) if features.ndim == 4 else features

    def load(self, z: Tensor) -> Tensor:
        theta = self.reduction.expand_into(z[0], self.working.theta)
        self.refresh()
        return theta[None]

    def refresh(self) -> None:
        """Fold the weights that the network has now."""
        for fold in self._folds:
            fold.refresh()

    def run(self, features: Tensor) -> Tensor:
        return self._graph(features)[None]


def _replace_convolutions(graph: fx.GraphModule) -> list[_Fold]:
    modules = dict(graph.named_modules())
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    calls = [id(modules[str(node.target)]) for node in nodes]
    folds: list[_Fold] = []
    for node in nodes:
        conv = modules[str(node.target)]
        if type(conv) is not nn.Conv2d or calls.count(id(conv)) > 1 or conv.padding_mode != "zeros":
            continue
        norm_node = _norm_behind(node, modules, calls)
        norm = modules[str(norm_node.target)] if norm_node is not None else None
        fold = _Fold(conv, norm, conv.weight.dtype)
        name = f"folded_{len(folds)}"
        graph.add_submodule(name, fold.executed)
        with graph.graph.inserting_before(node):
            executed = graph.graph.call_module(name, node.args, node.kwargs)
        if norm_node is not None:
            norm_node.replace_all_uses_with(executed)
            graph.graph.erase_node(norm_node)
        else:
            node.replace_all_uses_with(executed)
        graph.graph.erase_node(node)
        folds.append(fold)
    graph.recompile()
    return folds


def _norm_behind(node: fx.Node, modules: dict[str, nn.Module], calls: list[int]) -> fx.Node | None:
    users = list(node.users)
    if len(users) != 1 or users[0].op != "call_module":
        return None
    norm = modules[str(users[0].target)]
    is_foldable = type(norm) is nn.BatchNorm2d and norm.running_var is not None and calls.count(id(norm)) == 1
    return users[0] if is_foldable else None
