"""One candidate at a time, BatchNorm folded into the convolution before it, in channels-last memory.

In evaluation mode BatchNorm is one multiplication and one addition per channel, which the convolution can do in its
own weights and bias (Jacob et al. 2018, section 3.2). Folding costs one pass over the weights per candidate and saves
two over the activations per layer. Outputs differ in the last bits of float32; a probe batch proves that it is no more.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from evohbde.reductions import Reduction
from evohbde.strategies.tracing import Calls, put_in_place, trace
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
        graph = trace(working)
        if graph is None:
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
    calls = Calls(graph)
    folds: list[_Fold] = []
    for node, conv in calls.modules.items():
        if not calls.is_plain(node, nn.Conv2d) or not calls.is_only_call(node) or conv.padding_mode != "zeros":
            continue
        norm = _norm_behind(node, calls)
        fold = _Fold(conv, None if norm is None else calls.modules[norm], memory_format)
        put_in_place(graph, [node] if norm is None else [node, norm], f"folded_{len(folds)}", fold.executed)
        folds.append(fold)
    graph.recompile()
    return folds


def _norm_behind(node: fx.Node, calls: Calls) -> fx.Node | None:
    norm = calls.behind(node, nn.BatchNorm2d)
    has_statistics = norm is not None and calls.modules[norm].running_var is not None
    return norm if norm is not None and has_statistics and calls.is_only_call(norm) else None
