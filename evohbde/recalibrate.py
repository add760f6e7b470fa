"""How do BatchNorm statistics follow shifted data, by forward passes alone?"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """BatchNorm layers that keep running statistics, in the order of definition."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def by_depth(profile: Sequence[float], count: int) -> list[float]:
    """Spread a profile over `count` layers in equal parts: `[0, .2, .5]` over 6 gives `[0, 0, .2, .2, .5, .5]`."""
    return [profile[min(i * len(profile) // count, len(profile) - 1)] for i in range(count)]


@torch.no_grad()
def recalibrated(model: nn.Module, x: Tensor, fractions: Sequence[float]) -> nn.Module:
    """Copy `model` with BatchNorm statistics moved towards those of `x`.

    One forward pass: each layer's statistics are mixed before the next layer is computed, so deeper layers see what
    the new network will show them.

    Args:
        model: The network; a network without running statistics comes back as a plain copy.
        x: Samples, `(n, ...)`, taken in one batch.
        fractions: Share of the new statistics per layer of `batch_norms(model)`, in [0, 1]; 0 keeps a layer as it is.
    """
    network = deepcopy(model).eval()
    layers = batch_norms(network)
    if len(fractions) != len(layers):
        raise ValueError(f"expected one fraction per BatchNorm layer, {len(layers)}, got {len(fractions)}")
    handles = [
        layer.register_forward_pre_hook(_Mixer(fraction)) for layer, fraction in zip(layers, fractions, strict=True)
    ]
    try:
        network(x)
    finally:
        for handle in handles:
            handle.remove()
    return network


class _Mixer:
    def __init__(self, fraction: float) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"`fractions` must lie in [0, 1], got {fraction}")
        self.fraction = fraction

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.fraction == 0:
            return
        x = inputs[0]
        others = [axis for axis in range(x.ndim) if axis != 1]
        layer.running_mean.lerp_(x.mean(others), self.fraction)  # type: ignore[operator]
        layer.running_var.lerp_(x.var(others), self.fraction)  # type: ignore[operator]
