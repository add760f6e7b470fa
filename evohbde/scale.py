"""How large is a small step of each reduced value, judged by the weights that it moves?"""

from __future__ import annotations

import torch
from torch import Tensor

from evohbde.reductions import Reduction

FRACTION = 0.1
"""A first step of the weights, in units of their own size."""

SMALLEST = 1e-3
"""Size that the weights of a tensor are taken to have at least: one of zeros would never be searched."""

NUM_PROBES = 16


def weight_stdev(theta0: Tensor, tensor_index: Tensor) -> Tensor:
    """Step of each weight: `FRACTION` of the root mean square of the tensor in which it lies.

    Args:
        theta0: Trained weights, `(D,)`.
        tensor_index: Number of the tensor of each weight, `(D,)`, integers: `layout.tensor_index`.
    """
    index = tensor_index.to(theta0.device).long()
    squares = torch.zeros(int(index.max()) + 1, dtype=torch.float64, device=theta0.device)
    squares.index_add_(0, index, theta0.double().square())
    size = (squares / index.bincount().clamp(min=1)).sqrt().clamp(min=SMALLEST)
    return (FRACTION * size)[index].to(theta0.dtype)


def reduced_stdev(reduction: Reduction, stdev: Tensor) -> Tensor:
    """Turn steps of the weights into steps of the reduced values: `(D,) -> (d,)`.

    Where a weight is moved by one value only (blocks, channels, weights themselves), a step of the value is as long as
    those of its weights together, `|stdev of its weights| / |change of the weights by a unit step|`. Where several
    values move a weight (projections, low rank), each gets its share of that weight's variance. Either way steps of all
    values together move the weights by `|stdev|` in the root mean square.

    With `A` the Jacobian of `expand` at the centre, the square of step `j` is `sum_i A_ij^2 W_i / sum_i A_ij^2`, where
    `W_i = stdev_i^2 / sum_k A_ik^2`. Both sums are diagonals of `A^T diag(.) A` and found by products with random
    signs: exact where columns do not overlap, else to about a tenth. Cost: a few `expand`s.

    Args:
        reduction: Any reduction with a derivative.
        stdev: Step of each weight, `(D,)`.

    Raises:
        ValueError: If the reduction has no derivative, or a value moves no weight at the centre.

    Source: Bekas, Kokiopoulou & Saad (2007), Applied Numerical Mathematics 57:1214, for the diagonals.
    """
    if reduction.is_binary:
        raise ValueError(f"the values of a {type(reduction).__name__} are decisions and have no step size: search bits")
    if not reduction.is_smooth:
        raise ValueError(f"a {type(reduction).__name__} has no derivative: give `stdev_init` as a number")
    signs, jacobian = _signs(reduction), _Jacobian(reduction)
    squares, others = (jacobian.push(sign).square() for sign in signs[:2])
    if torch.allclose(squares, others, rtol=1e-3):
        signs = signs[:1]  # no weight is moved by two values, so that one probe is exact
    else:
        squares = sum((jacobian.push(sign).square() for sign in signs), torch.zeros_like(stdev)) / len(signs)
    share = torch.where(squares > 0, stdev.square() / squares, 0.0)
    energy, variance = (jacobian.diagonal(signs, weights) for weights in (torch.ones_like(share), share))
    is_still = ~((energy > 0) & (variance > 0))
    if bool(is_still.any()):
        raise ValueError(
            f"{int(is_still.sum())} of {reduction.dim} values of {type(reduction).__name__} move no weight at the "
            "network as given and have no step size of their own: give `stdev_init` as a number, or LowRank "
            "freeze_a=True"
        )
    return (variance / energy).sqrt()


def _signs(reduction: Reduction) -> Tensor:
    """Draw 1 and -1, the same at every call: `(NUM_PROBES, d)`."""
    generator = torch.Generator().manual_seed(0)
    return (2.0 * torch.randint(0, 2, (NUM_PROBES, reduction.dim), generator=generator) - 1).to(reduction.center)


class _Jacobian:
    """Products with the derivative `A` of `expand` at the centre, without forming its `(D, d)` numbers."""

    def __init__(self, reduction: Reduction) -> None:
        with torch.enable_grad():
            self.z = reduction.center.clone().requires_grad_()
            self.theta = reduction.expand(self.z)
            self.dual = torch.zeros_like(self.theta, requires_grad=True)
            (self.pulled,) = torch.autograd.grad(self.theta, self.z, self.dual, create_graph=True)

    def push(self, direction: Tensor) -> Tensor:
        """Change of the weights along a direction of the values: `A direction`, `(d,) -> (D,)`."""
        # A^T dual is linear in `dual`, so that its own derivative pushes forward: no forward-mode rules are needed.
        return torch.autograd.grad(self.pulled, self.dual, direction, retain_graph=True)[0]

    def pull(self, weights: Tensor) -> Tensor:
        """`A^T weights`, `(D,) -> (d,)`."""
        return torch.autograd.grad(self.theta, self.z, weights, retain_graph=True)[0]

    def diagonal(self, signs: Tensor, weights: Tensor) -> Tensor:
        """Diagonal of `A^T diag(weights) A`: `(k, d)` and `(D,)` to `(d,)`."""
        return torch.stack([sign * self.pull(weights * self.push(sign)) for sign in signs]).mean(0)
