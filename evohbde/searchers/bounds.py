"""How does a candidate that left the bounds come back?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from evotorch import Problem
from torch import Tensor

REPAIRS = ("none", "clip", "reflect", "resample")


def reflect(values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Fold values back at the bounds, as often as needed: like a ball between two walls.

    Where both bounds are the same, or a value is not finite, the lower bound is left.
    """
    width = (upper - lower).clamp(min=torch.finfo(values.dtype).tiny)
    phase = ((values - lower) / width).remainder(2.0)
    folded = lower + torch.where(phase > 1, 2 - phase, phase) * width
    folded = torch.where(phase.isfinite(), folded, lower)
    inside = (values >= lower) & (values <= upper)
    return torch.where(inside, values, torch.minimum(torch.maximum(folded, lower), upper))


class Bounds:
    """Repair of candidates at a problem's strict bounds, or at its initial ones where it has no strict ones.

    Args:
        problem: Any numeric EvoTorch problem.
        kind: `"none"`, `"clip"`, `"reflect"` or `"resample"`; None is the default at strict bounds, if there are any.
        default: The repair at strict bounds where none is named.
        kinds: The repairs that may be named; one that is unknown here clips.

    Raises:
        ValueError: If the kind is unknown, or there is nothing to repair at.
    """

    def __init__(
        self, problem: Problem, kind: str | None = None, *, default: str = "reflect", kinds: Sequence[str] = REPAIRS
    ) -> None:
        lower, upper = problem.lower_bounds, problem.upper_bounds
        if kind is None:
            kind = "none" if lower is None else default
        if kind not in kinds:
            raise ValueError(f"`bounds` must be one of {', '.join(kinds)}, got {kind!r}")
        self.kind = kind
        self.lower: Tensor | None = None
        self.upper: Tensor | None = None
        if kind == "none":
            return
        if lower is None:
            lower, upper = problem.initial_lower_bounds, problem.initial_upper_bounds
        if lower is None:
            raise ValueError(f"bounds={kind!r} needs a problem with `bounds` or `initial_bounds`; use bounds='none'")
        self.lower, self.upper = lower.as_subclass(Tensor), upper.as_subclass(Tensor)

    def repair(self, values: Tensor, rand: Callable[..., Tensor]) -> Tensor:
        """Bring `(..., d)` values inside; `rand` gives uniform numbers, needed by `"resample"` only."""
        lower, upper = self.lower, self.upper
        if lower is None or upper is None:
            return values
        if self.kind == "reflect":
            return reflect(values, lower, upper)
        if self.kind != "resample":
            return torch.minimum(torch.maximum(values, lower), upper)
        outside = (values < lower) | (values > upper)
        fresh = lower + (upper - lower) * rand(*values.shape)
        return torch.where(outside, torch.minimum(fresh, upper).to(values.dtype), values)
