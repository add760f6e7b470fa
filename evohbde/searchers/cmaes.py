"""CMA-ES (Hansen, 2016), as in EvoTorch, with two things mended."""

from __future__ import annotations

import torch
from evotorch import Problem, Solution
from evotorch.algorithms import CMAES as EvoTorchCMAES
from torch import Tensor

from evohbde.searchers.base import resolve_center, resolve_stdev


class CMAES(EvoTorchCMAES):
    """EvoTorch's CMA-ES with a standard deviation per variable, and a covariance update of one matrix product.

    EvoTorch forms `(popsize, d, d)` temporaries in its rank-mu update; at `d = 3,430` that is 3 GB and 10 s a step.

    Args:
        problem: An unbounded numeric EvoTorch problem.
        stdev_init: First standard deviation, one number, one per variable, `(d,)`, or `"auto"`: the problem's own.
        popsize: Candidates per generation; None: `4 + floor(3 log d)`.
        center_init: First mean; None: `problem.center`, where the problem has one.
        separable: Adapt variances only; needed beyond a few thousand variables.
        obj_index: The objective to follow on multi-objective problems.

    Raises:
        ValueError: If a standard deviation is not positive and finite or its square not a number, the centre is not
            finite, `popsize` is below 2, or the lengths differ.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        stdev_init: float | Tensor | str,
        popsize: int | None = None,
        center_init: Tensor | Solution | None = None,
        separable: bool = False,
        obj_index: int | None = None,
    ) -> None:
        stdev = torch.as_tensor(resolve_stdev(problem, stdev_init), dtype=problem.dtype, device=problem.device)
        if not bool(torch.isfinite(stdev).all()) or bool((stdev <= 0).any()):
            raise ValueError("`stdev_init` must be positive and finite in every variable")
        if stdev.ndim > 0 and stdev.shape != (problem.solution_length,):
            raise ValueError(
                f"expected `stdev_init`: a number, or shape ({problem.solution_length},), got {tuple(stdev.shape)}"
            )
        if popsize is not None and (not isinstance(popsize, int) or popsize < 2):
            raise ValueError(f"`popsize` must be an integer of at least 2, got {popsize!r}")
        size = stdev.square().mean().sqrt()
        if not bool(torch.isfinite(size)):
            size = stdev.max() * (stdev / stdev.max()).square().mean().sqrt()
        limits = torch.finfo(problem.dtype)
        if float((stdev / size).min() ** 2) <= limits.tiny / limits.eps:
            raise ValueError(
                f"`stdev_init` must be of similar sizes, from {float(stdev.min()):g} to {float(stdev.max()):g} their "
                f"squares leave the range of {problem.dtype}: scale the variables"
            )
        super().__init__(
            problem,
            stdev_init=float(size),
            popsize=popsize,
            center_init=resolve_center(problem, center_init),
            separable=separable,
            obj_index=obj_index,
        )
        if stdev.ndim > 0:
            shape = stdev / size
            self.C = shape.square() if separable else torch.diag(shape.square())
            self.A = shape.clone() if separable else torch.diag(shape)

    def update_C(  # noqa: N802 - the name of the method that it replaces
        self, zs: Tensor, ys: Tensor, assigned_weights: Tensor, h_sig: Tensor
    ) -> None:
        """Rank-one and rank-mu update, Hansen (2016) eq. 47; `sum_i w_i y_i y_i^T` as one matrix product."""
        if self.separable:
            super().update_C(zs, ys, assigned_weights, h_sig)
            return
        weights = assigned_weights
        if self.active:
            # eq. 46: a negative weight is scaled so that C stays positive definite
            weights = torch.where(weights > 0, weights, zs.shape[1] * weights / zs.square().sum(-1))
        # eq. 47: (1 - h_sig) term adjusts for the variance lost where p_c stalls
        rate = self.c_1 * (1 - (1 - h_sig**2) * self.c_c * (2 - self.c_c))
        path = (self.c_1 / (rate + 1e-23)) ** 0.5 * self.p_c
        kept = 1 - rate - self.c_mu * torch.sum(self.weights)
        self.C = kept * self.C + rate * torch.outer(path, path) + self.c_mu * ((ys.T * weights) @ ys)
