"""How much would a network miss each of its weights?"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.outputs import check_outputs
from evohbde.reductions.base import check_weights

GRADIENT_BYTES = 1 << 28
"""Gradients of single samples that are held at once take no more than this."""


def magnitude(theta0: Tensor, groups: Tensor) -> Tensor:
    """Size of each weight in units of its tensor's root mean square: `(D,)`.

    Args:
        theta0: Trained weights, `(D,)`, finite.
        groups: Tensor of each weight, `(D,)`, integers from 0: `layout.tensor_index`.
    """
    theta0 = check_weights(theta0)
    index = groups.to(theta0.device).long()
    squares = torch.zeros(int(index.max()) + 1, dtype=torch.float64, device=theta0.device)
    squares.index_add_(0, index, theta0.double().square())
    size = (squares / index.bincount().clamp(min=1)).sqrt()
    return (theta0.abs() / torch.where(size > 0, size, 1.0)[index]).to(theta0.dtype)


def taylor(model: nn.Module, layout: ParameterLayout, data: TensorData, *, batch_size: int = 256) -> Tensor:
    """Change of the loss to first order once a weight is zero, `|w dL/dw|`: `(D,)`.

    L is the mean cross-entropy of the samples; dropout is off, BatchNorm keeps its statistics. One backward pass.

    Args:
        model: The network; not changed.
        layout: Which of its weights are asked about, D of them.
        data: Samples.
        batch_size: Samples per backward pass.

    Source: Molchanov et al. (2017), arXiv 1611.06440, with single weights in place of feature maps.
    """
    theta0, loss = _loss_of(model, layout, data)
    total = torch.zeros_like(theta0, dtype=torch.float64)
    for rows in torch.arange(len(data), device=data.device).split(batch_size):
        total += grad(loss)(theta0, data.x[rows], data.y[rows])
    return (theta0.double() * total / len(data)).abs().to(theta0.dtype)


def fisher(model: nn.Module, layout: ParameterLayout, data: TensorData) -> Tensor:
    """Rise of the loss to second order once a weight is zero, `w^2 mean((dL/dw)^2) / 2`, L of single samples: `(D,)`.

    The mean of squares is the diagonal of the empirical Fisher information, taken for that of the Hessian. One backward
    pass per sample.

    Args:
        model: The network; not changed.
        layout: Which of its weights are asked about, D of them.
        data: Samples with their true labels.

    Source: LeCun, Denker & Solla (1990), NeurIPS 2; Fisher for Hessian: Theis et al. (2018), arXiv 1801.05787.
    """
    theta0, loss = _loss_of(model, layout, data)
    of_samples = vmap(grad(loss), in_dims=(None, 0, 0))
    total = torch.zeros_like(theta0, dtype=torch.float64)
    size = max(1, GRADIENT_BYTES // (layout.size * theta0.element_size()))
    for rows in torch.arange(len(data), device=data.device).split(size):
        total += of_samples(theta0, data.x[rows, None], data.y[rows, None]).square().sum(0)
    return (theta0.double().square() * total / (2 * len(data))).to(theta0.dtype)


def ranks(scores: Tensor) -> Tensor:
    """Rank of each score, the lowest 0 and the highest 1, equal ones sharing the mean of theirs: `(d,)` to `(d,)`."""
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"expected `scores` of shape (d,) with d >= 1, got {tuple(scores.shape)}")
    if bool(scores.isnan().any()):
        raise ValueError(f"`scores` has {int(scores.isnan().sum())} NaN: no order is defined among them")
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    middle = counts.cumsum(0) - (counts + 1) / 2
    kind = torch.promote_types(scores.dtype, torch.float32)
    if len(scores) == 1:
        return torch.full_like(scores, 0.5, dtype=kind)
    return (middle.double() / (len(scores) - 1)).to(kind)[place]


def _loss_of(
    model: nn.Module, layout: ParameterLayout, data: TensorData
) -> tuple[Tensor, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """The weights, and cross-entropy summed over samples as a function of them, of samples and of labels."""
    check_outputs(model, data)
    network = deepcopy(model).eval()

    def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        logits = functional_call(network, layout.views(theta), (x,))
        return functional.cross_entropy(logits, y, reduction="sum")

    return layout.flatten(model), loss
