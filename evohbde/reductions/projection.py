"""How does a random subspace, or one reduction behind another, reach the full weights?"""

from __future__ import annotations

from numbers import Integral

import torch
from torch import Tensor

from evohbde.reductions.base import Reduction, check_generator, check_weights, start_width

DENSE_BYTES = 2 << 30
"""A dense projection beyond this size is refused: the sparse one does the same work."""


class RandomProjection(Reduction):
    """Search a random linear subspace through the given network: `theta = theta0 + P z`.

    The columns of `P` have length 1 and are orthogonal in expectation, so a step of `z` is a step of `theta` of about
    the same length. `reduce` is the exact least-squares solution. Memory: `D x d` numbers (dense), or `2 k D` (sparse).

    Args:
        theta0: Trained weights, `(D,)`, finite.
        dim: Dimension `d` of the subspace, 1 to `D`.
        num_nonzeros: Entries of each row of `P` that are not zero; None for a dense Gaussian `P`. A sparse one has
            random signs at `num_nonzeros` random places per weight and costs `O(k D)` instead of `O(d D)`.
        generator: Source of randomness; None draws from a new generator with seed 0.

    Raises:
        ValueError: If `dim` or `num_nonzeros` is out of range, or a dense `P` would exceed 2 GiB.

    Source: Johnson & Lindenstrauss (1984); Achlioptas (2003), J. Comput. Syst. Sci. 66:671, for the sparse one.
    """

    _tensors = ("theta0", "center", "lower", "upper", "entries", "columns", "inverse_gram")
    _options = ("dim", "full_dim", "num_nonzeros")

    theta0: Tensor
    entries: Tensor
    columns: Tensor | None
    inverse_gram: Tensor
    num_nonzeros: int | None

    def __init__(
        self,
        theta0: Tensor,
        dim: int = 100,
        num_nonzeros: int | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        theta0 = check_weights(theta0).clone()
        size = theta0.numel()
        for name, value in (("dim", dim), ("num_nonzeros", num_nonzeros)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
                raise TypeError(f"expected `{name}` to be an integer, got {value!r}")
        if not 1 <= dim <= size:
            raise ValueError(f"`dim` must be between 1 and {size}, the number of weights, got {dim}")
        if num_nonzeros is not None and not 1 <= num_nonzeros <= dim:
            raise ValueError(f"`num_nonzeros` must be between 1 and `dim` = {dim}, got {num_nonzeros}")
        if num_nonzeros is None and size * dim * theta0.element_size() > DENSE_BYTES:
            raise ValueError(
                f"a dense projection of {size:,} weights to {dim:,} values needs more than 2 GiB: pass num_nonzeros=3"
            )
        generator = check_generator(generator)
        self.theta0, self.dim, self.full_dim, self.num_nonzeros = theta0, dim, size, num_nonzeros
        self.center = theta0.new_zeros(dim)
        width = start_width(theta0) * (size / dim) ** 0.5
        self.lower, self.upper = self.center - width, self.center + width
        self._draw(generator)

    def _draw(self, generator: torch.Generator) -> None:
        size, dim, like = self.full_dim, self.dim, self.theta0
        if self.num_nonzeros is None:
            drawn = torch.randn(size, dim, generator=generator, device=generator.device)
            self.columns = None
            self.entries = (drawn / size**0.5).to(like)
            wide = self.entries.double()
            self.inverse_gram = torch.linalg.pinv(wide.T @ wide, hermitian=True)
            return
        k = self.num_nonzeros
        signs = torch.randint(0, 2, (size, k), generator=generator, device=generator.device) * 2 - 1
        columns = torch.randint(0, dim, (size, k), generator=generator, device=generator.device)
        columns[:dim, 0] = torch.randperm(dim, generator=generator, device=generator.device)  # no column stays empty
        self.columns = columns.to(like.device)
        self.entries = (signs * (dim / (size * k)) ** 0.5).to(like)
        gram = torch.zeros(dim * dim, dtype=torch.float64, device=like.device)
        wide = self.entries.double()
        for i in range(k):
            for j in range(k):
                gram.index_add_(0, self.columns[:, i] * dim + self.columns[:, j], wide[:, i] * wide[:, j])
        self.inverse_gram = torch.linalg.pinv(gram.view(dim, dim), hermitian=True)

    def expand(self, z: Tensor) -> Tensor:
        self.check_z(z)
        if self.columns is None:
            return self.theta0 + z @ self.entries.T
        theta = self.theta0
        for place in range(self.entries.shape[1]):
            theta = theta + z.index_select(-1, self.columns[:, place]) * self.entries[:, place]
        return theta

    def reduce(self, theta: Tensor) -> Tensor:
        self.check_theta(theta)
        moved = (theta - self.theta0).double()
        if self.columns is None:
            pulled = moved @ self.entries.double()
        else:
            pulled = moved.new_zeros(*moved.shape[:-1], self.dim)
            for place in range(self.entries.shape[1]):
                pulled.index_add_(-1, self.columns[:, place], moved * self.entries[:, place].double())
        return (pulled @ self.inverse_gram).to(theta.dtype)


class Chain(Reduction):
    """One reduction behind another: `theta = outer.expand(inner.expand(z))`.

    Args:
        outer: Makes the full weights from what `inner` makes; its own values must be recoverable.
        inner: The searched one; its `full_dim` is `outer.dim`. Build it from `outer.center`.

    Raises:
        ValueError: If the two do not fit, or `outer` is not unique or binary.
    """

    _options = ("dim", "full_dim", "outer_state", "inner_state")

    def __init__(self, outer: Reduction, inner: Reduction) -> None:
        for name, value in (("outer", outer), ("inner", inner)):
            if not isinstance(value, Reduction):
                raise TypeError(f"expected `{name}` to be a Reduction, got {type(value).__name__}")
        if inner.full_dim != outer.dim:
            raise ValueError(
                f"`inner` expands to {inner.full_dim} values but `outer` takes {outer.dim}: build it from outer.center"
            )
        if outer.is_binary or not outer.is_unique:
            raise ValueError(
                f"`outer` must give its values back, which {type(outer).__name__} does not: make it the inner one, or "
                "for LowRank pass freeze_a=True"
            )
        self.outer, self.inner = outer, inner.to(outer.device)
        self.dim, self.full_dim = inner.dim, outer.full_dim

    @property
    def center(self) -> Tensor:  # type: ignore[override]
        return self.inner.center

    @property
    def is_unique(self) -> bool:  # type: ignore[override]
        return self.inner.is_unique

    @property
    def is_binary(self) -> bool:  # type: ignore[override]
        return self.inner.is_binary

    @property
    def is_smooth(self) -> bool:  # type: ignore[override]
        return self.outer.is_smooth and self.inner.is_smooth

    @property
    def lower(self) -> Tensor:  # type: ignore[override]
        return self.inner.lower

    @property
    def upper(self) -> Tensor:  # type: ignore[override]
        return self.inner.upper

    def expand(self, z: Tensor) -> Tensor:
        return self.outer.expand(self.inner.expand(z))

    def expand_into(self, z: Tensor, out: Tensor) -> Tensor:
        return self.outer.expand_into(self.inner.expand(z), out)

    def reduce(self, theta: Tensor) -> Tensor:
        return self.inner.reduce(self.outer.reduce(theta))

    def to(self, device: torch.device | str) -> Chain:
        self.outer.to(device)
        self.inner.to(device)
        return self

    @property
    def outer_state(self) -> dict[str, object]:
        return self.outer.state_dict()

    @outer_state.setter
    def outer_state(self, state: dict[str, object]) -> None:
        self.outer = Reduction.from_state_dict(state)

    @property
    def inner_state(self) -> dict[str, object]:
        return self.inner.state_dict()

    @inner_state.setter
    def inner_state(self, state: dict[str, object]) -> None:
        self.inner = Reduction.from_state_dict(state)
