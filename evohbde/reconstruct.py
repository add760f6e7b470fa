"""How do the weights that are left make up for those that are gone, by forward passes alone?"""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_SIZE = 50

MAX_STEPS, TOLERANCE = 200, 1e-6
"""Of the solution of a layer: steps at most, and residual in units of the right side."""

Layer = nn.Linear | nn.Conv2d


class Reconstructor:
    """Fits what is left of pruned networks to the layers of the network they came from.

    From the first layer to the last, the weights that are not zero become those of a least-squares fit: what the layer
    puts out for what it is now given comes as near as it can to what the unpruned layer puts out for what that is
    given. Zeros stay zero. In closed form, without gradients or labels. Two-dimensional convolutions without groups and
    linear layers are fitted, if they have zeros and samples pass them once; all else stays as it is.

    Args:
        reference: The unpruned network; copied, and run once on `x` when the first network is fitted.
        x: Samples to fit on, `(n, ...)`.
        ridge: Pull towards the weights as they are, in units of the mean square of an input.
        max_rows: Positions of a layer's output, drawn at random from all samples, that each fit takes. Memory: so many
            float32 per output channel of the network.
        seed: Seed of the draw.

    Attributes:
        num_samples: Sample forwards so far: `n`, and for each network `n` per fitted layer, though these end there.

    Raises:
        ValueError: If `ridge` or `max_rows` is not positive.

    Source: layer-wise reconstruction, Frantar & Alistarh (2022), arXiv 2208.11580, section 3, there for all weights
    that are left at once; the inputs are those of the pruned network, as in He, Zhang & Sun (2017), arXiv 1707.06168,
    section 3.2.
    """

    def __init__(
        self, reference: nn.Module, x: Tensor, *, ridge: float = 0.01, max_rows: int = 20_000, seed: int = 0
    ) -> None:
        for name, value in (("ridge", ridge), ("max_rows", max_rows)):
            if not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}")
        self.x, self.ridge, self.max_rows, self.seed = x, ridge, max_rows, seed
        self.num_samples = len(x)
        self._reference: nn.Module | None = deepcopy(reference).eval()
        self._names = {name for name, _ in _layers(reference)}
        self._num_batches = -(-len(x) // BATCH_SIZE)
        self._rows: dict[str, list[Tensor]] = {}
        self._wanted: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> nn.Module:
        """Copy a pruned network and fit the copy; in evaluation mode.

        Raises:
            ValueError: If a layer with zeros is not one of the unpruned network.
        """
        if self._reference is not None:
            self._record(self._reference)
            self._reference = None
        found = deepcopy(network).eval()
        for name, layer in _layers(found):
            if not bool((layer.weight == 0).any()) or not bool(layer.weight.any()):
                continue
            if name not in self._names:
                raise ValueError(
                    f"the unpruned network has no layer {name!r} of this kind: give the network before it was pruned"
                )
            if len(self._wanted.get(name, ())) != self._num_batches:
                continue  # what is passed several times or never, as by attention's fused kernels, has no one input
            gram, cross = self._moments(found, name, layer)
            _fit(layer, gram, cross, self.ridge)
            self.num_samples += len(self.x)
        return found

    def _record(self, reference: nn.Module) -> None:
        """Keep what each layer puts out at positions drawn at random."""
        generator = torch.Generator().manual_seed(self.seed)

        def keep(name: str, layer: Layer, output: Tensor) -> None:
            wanted = _outputs(layer, output)
            share = max(1, round(self.max_rows * len(output) / len(self.x)))
            rows = torch.randperm(len(wanted), generator=generator)[:share].to(wanted.device)
            self._rows.setdefault(name, []).append(rows)
            self._wanted.setdefault(name, []).append(wanted[rows])

        for name, layer in _layers(reference):
            layer.register_forward_hook(lambda layer, _, output, name=name: keep(name, layer, output))
        for batch in self.x.split(BATCH_SIZE):
            reference(batch)

    def _moments(self, network: nn.Module, name: str, layer: Layer) -> tuple[Tensor, Tensor]:
        """Second moments of what a layer is given, and of that with what it should put out: `(K, K)`, `(K, C)`."""
        size = layer.weight[0].numel()
        gram = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
        cross = torch.zeros(size, len(layer.weight), dtype=torch.float64, device=layer.weight.device)
        pieces = zip(self._rows[name], self._wanted[name], strict=True)

        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows, wanted = next(pieces)
            given = _inputs(layer, inputs[0])[rows]
            gram.add_(given.mT @ given)
            cross.add_(given.mT @ wanted)
            raise _Reached

        handle = layer.register_forward_pre_hook(add)
        try:
            for batch in self.x.split(BATCH_SIZE):
                with suppress(_Reached):
                    network(batch)
        finally:
            handle.remove()
        return gram, cross


class _Reached(Exception):  # noqa: N818, nothing is wrong
    """What lies behind this layer need not be computed."""


def _layers(network: nn.Module) -> list[tuple[str, Layer]]:
    return [(name, module) for name, module in network.named_modules() if _can_be_fitted(module)]


def _can_be_fitted(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        is_plain = module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return is_plain and "weight" in module._parameters
    return isinstance(module, nn.Linear) and "weight" in module._parameters


def _inputs(layer: Layer, given: Tensor) -> Tensor:
    """What each position of the output is computed from: `(positions, K)`."""
    if isinstance(layer, nn.Linear):
        return given.flatten(0, -2)
    assert not isinstance(layer.padding, str)
    patches = functional.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.mT.flatten(0, 1)


def _outputs(layer: Layer, output: Tensor) -> Tensor:
    """What a layer puts out less its bias: `(positions, C)`."""
    rows = output.flatten(0, -2) if isinstance(layer, nn.Linear) else output.flatten(2).mT.flatten(0, 1)
    return rows if layer.bias is None else rows - layer.bias


def _fit(layer: Layer, gram: Tensor, cross: Tensor, ridge: float) -> None:
    """Solve for what is left of the weights."""
    weight = layer.weight.flatten(1).mT.double()
    # An input that is always zero leaves its weights as they are.
    pull = ridge * gram.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
    gram = gram + pull * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    fitted = conjugate_gradients(gram, cross + pull * weight, weight, weight != 0)
    layer.weight.copy_(fitted.mT.reshape(layer.weight.shape))


def conjugate_gradients(gram: Tensor, right: Tensor, start: Tensor, free: Tensor) -> Tensor:
    """Solve one system per column in its free rows, `gram[free, free] @ w[free] = right[free]`, the others zero.

    Step by step for all columns together, so that a step is one product of matrices: a factorisation for every column,
    since each has other free rows, would cost as many times more as there are columns.

    Args:
        gram: `(K, K)`, symmetric and positive definite.
        right, start: `(K, C)`.
        free: `(K, C)`, bool.

    Source: Hestenes & Stiefel (1952), with the diagonal as preconditioner.
    """
    scale = gram.diagonal()[:, None]
    found = start * free
    residual = (right - gram @ found) * free
    limit = TOLERANCE * (right * free).norm(dim=0).clamp(min=torch.finfo(right.dtype).tiny)
    direction = residual / scale
    energy = (residual * direction).sum(0)
    for _ in range(MAX_STEPS):
        if bool((residual.norm(dim=0) <= limit).all()):
            break
        moved = (gram @ direction) * free
        curvature = (direction * moved).sum(0)
        step = torch.where(curvature > 0, energy / curvature, 0.0)
        found += step * direction
        residual -= step * moved
        scaled = residual / scale
        before, energy = energy, (residual * scaled).sum(0)
        direction = scaled + torch.where(before > 0, energy / before, 0.0) * direction
    return found
