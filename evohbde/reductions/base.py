"""What is a reduction?"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite, prod
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R", bound="Reduction")

State = dict[str, Any]


def check_weights(theta0: Tensor, argument: str = "theta0") -> Tensor:
    """Return `theta0` as a detached flat tensor, or say what is wrong with it."""
    return check_range(theta0, argument)[0]


def check_range(theta0: Tensor, argument: str = "theta0") -> tuple[Tensor, tuple[float, float]]:
    """`check_weights`, and the smallest and the largest weight, which it looks at anyway."""
    if not isinstance(theta0, Tensor):
        raise TypeError(f"expected `{argument}` to be a torch.Tensor of shape (D,), got {type(theta0).__name__}")
    if theta0.ndim != 1 or theta0.numel() == 0:
        raise ValueError(f"expected `{argument}` of shape (D,) with D >= 1, got {tuple(theta0.shape)}")
    if not theta0.is_floating_point():
        raise TypeError(f"expected `{argument}` to hold floating-point weights, got {theta0.dtype}")
    theta0 = theta0.detach()
    low, high = torch.stack(torch.aminmax(theta0)).tolist()
    if not (isfinite(low) and isfinite(high)):  # NaN passes through; no mask of size D
        bad = int((~torch.isfinite(theta0)).sum())
        raise ValueError(
            f"`{argument}` has {bad} NaN or infinite weights: repair or retrain the network before reducing it"
        )
    return theta0, (low, high)


Shapes = tuple[tuple[int, ...], ...]


def check_shapes(shapes: Iterable[Iterable[int]], size: int) -> Shapes:
    """Return the shapes of the tensors in a flat vector of `size` weights as plain numbers, if they fill it."""
    found = tuple(tuple(int(length) for length in shape) for shape in shapes)
    held = sum(prod(shape) for shape in found)
    if held != size:
        raise ValueError(f"`shapes` hold {held:,} weights, `theta0` has {size:,}: pass layout.shapes of its own layout")
    return found


def start_width(weights: Tensor) -> float:
    """Half the width of a first range around these weights: a tenth of their root mean square."""
    return 0.1 * float(weights.square().mean().sqrt().clamp(min=1e-3))


class Reduction:
    """A map between full weights `theta`, `(..., D)`, and reduced ones `z`, `(..., d)`.

    Law: `reduce(expand(z)) == z` up to rounding. Where several `z` give the same weights, a reduction says so by
    `is_unique = False`, and the law is `expand(reduce(expand(z))) == expand(z)`.

    A subclass sets the tensors named in `_tensors` and the plain values named in `_options` as attributes, and fills in
    `expand` and `reduce`; moving, saving and loading then work by themselves. `check_reduction` of `evohbde.testing`
    runs the contract.
    """

    _tensors: tuple[str, ...] = ()
    _options: tuple[str, ...] = ("dim", "full_dim")

    dim: int
    """`d`, the number of reduced values."""
    full_dim: int
    """`D`, the number of weights."""
    is_unique: bool = True
    """Whether each `theta` comes from one `z` only."""
    is_binary: bool = False
    """Whether `z` is a row of decisions, 0 or 1: the law then holds for these, and `expand` has no gradient."""
    is_smooth: bool = True
    """Whether `expand` has a derivative; not asked of a binary one."""
    is_gather: bool = False
    """Whether each weight comes from one value, without sums: `expand_into` then takes several candidates at once."""
    center: Tensor
    """Reduced values of the network as given: `reduce(theta0)`, `(d,)`."""
    lower: Tensor
    """Smallest sensible start per reduced value, `(d,)`: the edge of the published initial population."""
    upper: Tensor
    """Largest sensible start per reduced value, `(d,)`."""

    def expand(self, z: Tensor) -> Tensor:
        """Rebuild full weights from reduced values: `(..., d) -> (..., D)`. Differentiable."""
        raise NotImplementedError

    def reduce(self, theta: Tensor) -> Tensor:
        """Project full weights to the nearest reduced values: `(..., D) -> (..., d)`."""
        raise NotImplementedError

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        """Write the weights of one candidate into an existing buffer, `(d,) -> (D,)`; of several where `is_gather`."""
        return out.copy_(self.expand(z))

    def check_z(self, z: Tensor) -> None:
        if z.ndim == 0 or z.shape[-1] != self.dim:
            raise ValueError(f"expected `z` of shape (..., {self.dim}), one per reduced value, got {tuple(z.shape)}")

    def check_theta(self, theta: Tensor) -> None:
        if theta.ndim == 0 or theta.shape[-1] != self.full_dim:
            raise ValueError(
                f"expected `theta` of shape (..., {self.full_dim}), one column per weight, got {tuple(theta.shape)}"
            )

    @property
    def device(self) -> torch.device:
        return self.center.device

    def to(self: R, device: torch.device | str) -> R:
        """Move all tensors to `device` in place and return the reduction."""
        for name in self._tensors:
            tensor = getattr(self, name)
            if tensor is not None:
                setattr(self, name, tensor.to(device))
        return self

    def state_dict(self) -> State:
        """Everything needed to rebuild the reduction: tensors under `_tensors`, plain values, and the class name."""
        state: State = {"class": type(self).__name__}
        for name in (*self._options, *self._tensors):
            state[name] = getattr(self, name)
        return state

    @staticmethod
    def from_state_dict(state: State) -> Reduction:
        """Rebuild a reduction from `state_dict()`; only loaded classes are found, nothing is imported."""
        kinds = {kind.__name__: kind for kind in _subclasses(Reduction)}
        name = state.get("class")
        if name not in kinds:
            raise ValueError(
                f"unknown reduction {name!r}; known: {', '.join(sorted(kinds))} (import your own one's module first)"
            )
        kind = kinds[name]
        missing = [key for key in (*kind._options, *kind._tensors) if key not in state]
        if missing:
            raise ValueError(f"the state of {name} lacks {', '.join(missing)}")
        reduction = kind.__new__(kind)
        for key in (*kind._options, *kind._tensors):
            setattr(reduction, key, state[key])
        return reduction

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.full_dim:,} weights -> {self.dim:,} values)"


def _subclasses(kind: type[Reduction]) -> list[type[Reduction]]:
    found = []
    for child in kind.__subclasses__():
        found += [child, *_subclasses(child)]
    return found


class Identity(Reduction):
    """Search every weight itself: `theta = z`, or `theta = theta0 + z` in mode `"offset"`.

    Turns "no reduction" into one more reduction, so that full-space searches run on the same problems. The initial
    range is a tenth of the root mean square of the weights to either side.
    """

    _tensors = ("theta0", "center", "lower", "upper")
    _options = ("dim", "full_dim", "mode")

    def __init__(self, theta0: Tensor, mode: str = "replace") -> None:
        theta0 = check_weights(theta0).clone()
        check_mode(mode)
        self.mode = mode
        self.dim = self.full_dim = theta0.numel()
        self.theta0 = theta0
        self.center = theta0.clone() if mode == "replace" else torch.zeros_like(theta0)
        width = start_width(theta0)
        self.lower, self.upper = self.center - width, self.center + width

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        return self.theta0 + z if self.mode == "offset" else z

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        return theta - self.theta0 if self.mode == "offset" else theta

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        self.check_z(z)
        return torch.add(self.theta0, z, out=out) if self.mode == "offset" else out.copy_(z)


def check_mode(mode: str) -> None:
    if mode not in ("replace", "offset"):
        raise ValueError(
            f"`mode` must be 'replace' (theta = z[block]) or 'offset' (theta = theta0 + z[block]), got {mode!r}"
        )


def check_generator(generator: torch.Generator | None) -> torch.Generator:
    """The given one; None becomes a new one with seed 0."""
    if generator is None:
        return torch.Generator().manual_seed(0)
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"expected `generator` to be a torch.Generator or None, got {type(generator).__name__}")
    return generator
