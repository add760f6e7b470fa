"""Where does each searched weight of a model lie in its flat vector?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn


def _as_patterns(patterns: str | Iterable[str], argument: str) -> tuple[str, ...]:
    found = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    if not all(isinstance(pattern, str) for pattern in found):
        raise TypeError(f"expected `{argument}` to be a name pattern or a list of them, got {patterns!r}")
    return found


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class ParameterLayout:
    """Order the searched parameters of a model in one flat vector of `D` weights.

    Parameters follow the order of `model.named_parameters()`. A tied weight is counted once, under its first name.
    Buffers (BatchNorm statistics) are never searched. A parameter with `requires_grad=False` counts as frozen by its
    owner and is left out unless `include_frozen=True`; integer and complex parameters are always left out.

    Args:
        model: The network; only names, shapes and types are read, no reference is kept.
        include: Shell-style patterns (`"layer3.*"`, `"*.bias"`) of the parameter names to search.
        exclude: Patterns of names to leave out; they win over `include`.
        include_frozen: Whether parameters with `requires_grad=False` are searched too.

    Raises:
        ValueError: If nothing is left to search, a pattern matches nothing, or the searched types or devices differ.
    """

    def __init__(
        self,
        model: nn.Module,
        include: str | Iterable[str] = "*",
        exclude: str | Iterable[str] = (),
        *,
        include_frozen: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected `model` to be a torch.nn.Module, got {type(model).__name__}")
        include, exclude = _as_patterns(include, "include"), _as_patterns(exclude, "exclude")
        parameters = dict(model.named_parameters())
        _check_patterns(include, parameters, "include")
        _check_patterns(exclude, parameters, "exclude")

        chosen: dict[str, nn.Parameter] = {}
        num_frozen = 0
        for name, parameter in parameters.items():
            if not _matches(name, include) or _matches(name, exclude) or not parameter.is_floating_point():
                continue
            if not parameter.requires_grad and not include_frozen:
                num_frozen += 1
                continue
            if parameter.numel() > 0:
                chosen[name] = parameter
        if not chosen:
            raise ValueError(_nothing_to_search(len(parameters), num_frozen))
        dtypes = {parameter.dtype for parameter in chosen.values()}
        if len(dtypes) > 1:
            found = ", ".join(sorted(map(str, dtypes)))
            raise ValueError(
                f"the searched parameters have several types ({found}): convert the model, e.g. model.float()"
            )
        devices = {parameter.device for parameter in chosen.values()}
        if len(devices) > 1:
            found = ", ".join(sorted(map(str, devices)))
            raise ValueError(
                f"the searched parameters lie on several devices ({found}): move the model to one, e.g. model.cpu()"
            )

        self.names: tuple[str, ...] = tuple(chosen)
        self.shapes: tuple[torch.Size, ...] = tuple(parameter.shape for parameter in chosen.values())
        self.dtype: torch.dtype = dtypes.pop()
        self.sizes: tuple[int, ...] = tuple(shape.numel() for shape in self.shapes)
        self.offsets: tuple[int, ...] = tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))
        self.size: int = sum(self.sizes)
        """`D`, the number of searched weights."""

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"ParameterLayout({self.size:,} weights in {len(self.names)} tensors)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParameterLayout) and (self.names, self.shapes) == (other.names, other.shapes)

    def __hash__(self) -> int:
        return hash((self.names, self.shapes))

    @property
    def tensor_index(self) -> Tensor:
        """Number of the tensor in which each weight lies: `(D,)`, int32, ready to be a reduction's `groups`."""
        return torch.repeat_interleave(torch.arange(len(self.sizes), dtype=torch.int32), torch.tensor(self.sizes))

    def mask(self, include: str | Iterable[str] = "*", exclude: str | Iterable[str] = ()) -> Tensor:
        """Tell which weights lie in the parameters that the patterns choose: `(D,)`, bool."""
        include, exclude = _as_patterns(include, "include"), _as_patterns(exclude, "exclude")
        _check_patterns(include, self.names, "include")
        _check_patterns(exclude, self.names, "exclude")
        chosen = [_matches(name, include) and not _matches(name, exclude) for name in self.names]
        return torch.repeat_interleave(torch.tensor(chosen), torch.tensor(self.sizes))

    def flatten(self, model: nn.Module) -> Tensor:
        """Copy the searched weights of `model` into a new flat vector: `(D,)`, detached."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self._parameters(model)])

    def views(self, theta: Tensor) -> dict[str, Tensor]:
        """Name the pieces of `theta` without copying: `(..., D)` to one `(..., *shape)` per parameter."""
        self._check_length(theta)
        lead = theta.shape[:-1]
        return {
            name: theta[..., offset : offset + size].view((*lead, *shape))
            for name, offset, size, shape in zip(self.names, self.offsets, self.sizes, self.shapes, strict=True)
        }

    @torch.no_grad()
    def load_(self, model: nn.Module, theta: Tensor) -> nn.Module:
        """Write the flat vector `theta`, `(D,)`, into `model` in place and return the model."""
        if theta.ndim != 1:
            raise ValueError(f"expected one flat vector `theta` of shape ({self.size},), got {tuple(theta.shape)}")
        for parameter, view in zip(self._parameters(model), self.views(theta).values(), strict=True):
            parameter.copy_(view)
        return model

    def bind_(self, model: nn.Module) -> Tensor:
        """Move the searched weights of `model` into one flat buffer `(D,)`, of which the parameters become views.

        From then on, writing the buffer *is* writing the network: nothing is copied. `model.to(...)`, `model.half()`
        and `load_state_dict(assign=True)` undo the binding (`is_bound` tells).
        """
        buffer = self.flatten(model)
        for parameter, view in zip(self._parameters(model), self.views(buffer).values(), strict=True):
            parameter.data = view
        return buffer

    def is_bound(self, model: nn.Module, buffer: Tensor) -> bool:
        """Tell whether the parameters of `model` still are the views of `buffer` that `bind_` made."""
        start, width = buffer.data_ptr(), buffer.element_size()
        return all(
            parameter.data_ptr() == start + width * offset
            for parameter, offset in zip(self._parameters(model), self.offsets, strict=True)
        )

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        parameters = dict(model.named_parameters())
        found = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in parameters or parameters[name].shape != shape:
                got = tuple(parameters[name].shape) if name in parameters else "no such parameter"
                raise ValueError(
                    f"the model does not fit this layout: expected {name!r} of shape {tuple(shape)}, got {got}"
                )
            found.append(parameters[name])
        return found

    def _check_length(self, theta: Tensor) -> None:
        if theta.ndim == 0 or theta.shape[-1] != self.size:
            raise ValueError(
                f"expected `theta` of shape (..., {self.size}), one column per weight, got {tuple(theta.shape)}"
            )


def _check_patterns(patterns: Sequence[str], names: Iterable[str], argument: str) -> None:
    names = list(names)
    for pattern in patterns:
        if names and not any(fnmatchcase(name, pattern) for name in names):
            some = ", ".join(names[:4])
            raise ValueError(f"`{argument}` pattern {pattern!r} matches no parameter; names look like: {some} ...")


def _nothing_to_search(num_parameters: int, num_frozen: int) -> str:
    if num_frozen:
        return (
            f"all {num_frozen} matching parameters are frozen (requires_grad=False): "
            "unfreeze some with requires_grad_(True), or pass include_frozen=True"
        )
    if num_parameters == 0:
        return "the model has no parameters to search"
    return "no parameter is left to search: widen `include` or shorten `exclude`"
