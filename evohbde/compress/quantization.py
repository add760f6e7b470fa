"""How does a network hold its weights as small integers, and what of it is still a number to search?"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from evohbde.data import TensorData
from evohbde.gradient import train
from evohbde.parts import prunable_names


class Kind(NamedTuple):
    """What is rounded: weights to so many bits, and perhaps the inputs of their layers to 8."""

    bits: int
    rounds_inputs: bool = False


KINDS = {"int8": Kind(8), "int8-dynamic": Kind(8, rounds_inputs=True), "int4": Kind(4)}


class Dequantized(nn.Module):
    """Integers times a scale per group: what a quantized weight is computed from (`torch.nn.utils.parametrize`).

    Args:
        codes: Integers of `kind.bits` bits, int8, of the shape of the weight.
        scale: One number per group, `(rows, groups per row)`; a row is what one index of the first dimension has.
        kind: What is rounded.
    """

    def __init__(self, codes: Tensor, scale: Tensor, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self._start: tuple[Tensor, Tensor] | None = (codes, scale)
        if kind.rounds_inputs:  # part of the state, since networks of equal weights answer differently
            self.register_buffer("input_bits", torch.tensor(8, dtype=torch.uint8))

    def forward(self, codes: Tensor, scale: Tensor) -> Tensor:
        rows = codes.to(scale.dtype).reshape(*scale.shape, -1) * scale[..., None]
        return rows.reshape(codes.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        if self._start is None:
            raise RuntimeError("a quantized weight cannot be assigned to: change the network, then quantize it anew")
        start, self._start = self._start, None
        return start


def quantize(
    model: nn.Module, kind: str = "int8", *, group_size: int | None = None, include: str | Iterable[str] = "*"
) -> nn.Module:
    """Copy a network with the weights of its convolutions and linear layers rounded to integers times scales.

    Scales, biases, norms and all else stay floating point: these are the parameters that `ParameterLayout(network)`
    finds, so that `fine_tune`, `repair` and every searcher move them and never an integer. Layers compute with
    the products in floating point: outputs are those of the file, times are not those of integer kernels. Needs
    torchao; such a network, and its file, do not. It cannot be pickled, so actors cannot have it.

    Args:
        model: The trained network; copied.
        kind: `"int8"` or `"int4"`: weights only, symmetric around zero. `"int8-dynamic"`: also the inputs of each
            layer, as they come: of a linear layer each row, of a convolution each sample, by its largest number.
        group_size: Consecutive weights of a row that share a scale; None: the whole row. Rows that it does not divide
            are one group.
        include: Names or patterns of the weights that are rounded.

    Raises:
        ImportError: If the extra `quantization` is not installed.
        ValueError: If there is no such kind, no such weight, or the network is quantized already.

    Source: Jacob et al. (2018), arXiv 1712.05877, section 2.1, with zero points at zero; torchao's scales.
    """
    found = _resolve(kind, group_size)
    network = deepcopy(model).eval()
    weights = dict(network.named_parameters())
    for name in _chosen(network, include):
        attach(network, name, *_integers(weights[name].detach(), found.bits, group_size), found)
    return network


def attach(network: nn.Module, name: str, codes: Tensor, scale: Tensor, kind: Kind) -> None:
    """Put integers and scales in the place of one weight of `network`, under all its names."""
    parameter = dict(network.named_parameters())[name]
    is_frozen = not parameter.requires_grad
    parameter.requires_grad_(False)  # integers have no gradient
    first: Any = None
    for module, attribute in _holders(network, parameter):
        parametrize.register_parametrization(module, attribute, Dequantized(codes, scale, kind))
        held: Any = module.parametrizations[attribute]  # type: ignore[index]
        first = first or held
        held.original0, held.original1 = first.original0, first.original1
        if kind.rounds_inputs:
            module.register_forward_pre_hook(_round_inputs)
    first.original1.requires_grad_(not is_frozen)


class Integers(NamedTuple):
    """A quantized weight: its integers, its scales, and what else is rounded."""

    codes: Tensor
    scale: Tensor
    kind: Kind


def quantized_weights(network: nn.Module) -> dict[str, Integers]:
    """The quantized weights of a network, by the names that they had; none of another network."""
    found: dict[str, Integers] = {}
    for path, module in network.named_modules():
        held: Any = getattr(module, "parametrizations", {})
        for attribute, parts in held.items():
            if isinstance(parts[0], Dequantized):
                name = f"{path}.{attribute}" if path else attribute
                found[name] = Integers(parts.original0, parts.original1, parts[0].kind)
    return found


def scale_names(network: nn.Module) -> list[str]:
    """Name the scales of quantized weights, in the order of `network.named_parameters()`; of other networks nothing."""
    held = {id(found.scale) for found in quantized_weights(network).values()}
    return [name for name, p in network.named_parameters() if id(p) in held and p.requires_grad]


def train_quantized(
    model: nn.Module,
    data: TensorData,
    kind: str = "int8",
    *,
    num_samples: float,
    group_size: int | None = None,
    lr: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Quantization-aware training, the baseline that has gradients: train with rounded weights, then `quantize`.

    Args:
        model: The trained network; copied.
        data: Samples to train on.
        kind: `"int8"` or `"int4"`.
        num_samples: Sample forwards that may be spent; a sample of a gradient step counts 3.
        group_size: As in `quantize`.
        lr: Learning rate of Adam.
        seed: Seed of the order of samples.

    Source: Jacob et al. (2018), arXiv 1712.05877, section 3; gradients pass the rounding unchanged.
    """
    found = _resolve(kind, group_size)
    if found.rounds_inputs:
        raise ValueError(f"`kind` {kind!r} cannot be trained here, only weights are rounded in training: use 'int8'")
    network = deepcopy(model)
    weights = dict(network.named_parameters())
    held = [pair for name in _chosen(network, "*") for pair in _holders(network, weights[name])]
    for module, attribute in held:
        rounded = _Rounded(getattr(module, attribute), found.bits, group_size)
        parametrize.register_parametrization(module, attribute, rounded)
    train(network, data, num_samples=num_samples, lr=lr, seed=seed)
    for module, attribute in held:
        parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    return quantize(network, kind, group_size=group_size)


class _Rounded(nn.Module):
    """A weight as it will be once it is quantized, with the gradient of the weight itself."""

    def __init__(self, weight: Tensor, bits: int, group_size: int | None) -> None:
        super().__init__()
        from torchao.quantization import qat

        size = _group_size(weight, group_size)
        dtype = getattr(torch, f"int{bits}")
        self.quantizer = qat.IntxFakeQuantizer(qat.IntxFakeQuantizeConfig(dtype, group_size=size, is_symmetric=True))

    def forward(self, weight: Tensor) -> Tensor:
        return self.quantizer(weight.reshape(len(weight), -1)).reshape(weight.shape)


def _integers(weight: Tensor, bits: int, group_size: int | None) -> tuple[Tensor, Tensor]:
    """Round a weight: int8 of its shape, and scales `(rows, groups)`."""
    primitives = _torchao()
    rows = weight.reshape(len(weight), -1)
    block = (1, _group_size(weight, group_size))
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    scale, zero_point = primitives.choose_qparams_affine(
        rows, primitives.MappingType.SYMMETRIC, block, torch.int8, low, high, scale_dtype=weight.dtype
    )
    codes = primitives.quantize_affine(rows, block, scale, zero_point, torch.int8, low, high)
    return codes.reshape(weight.shape), scale.reshape(len(weight), -1)


def _group_size(weight: Tensor, wanted: int | None) -> int:
    row = weight[0].numel()
    return wanted if wanted is not None and row % wanted == 0 else row


def _round_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Round the inputs of a layer to 8 bits, by the scale that fits them."""
    x = inputs[0]
    axes = (-1,) if isinstance(layer, nn.Linear) else tuple(range(1, x.ndim))
    scale = (x.abs().amax(axes, keepdim=True) / 127.5).clamp(min=torch.finfo(x.dtype).eps)
    return ((x / scale).round().clamp(-128, 127) * scale, *inputs[1:])


def _resolve(kind: str, group_size: int | None) -> Kind:
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    if group_size is not None and group_size < 1:
        raise ValueError(f"`group_size` must be at least 1, or None for whole rows, got {group_size}")
    _torchao()
    return KINDS[kind]


def _chosen(network: nn.Module, include: str | Iterable[str]) -> list[str]:
    if quantized_weights(network):
        raise ValueError("the network is quantized already: quantize the one it was made from")
    patterns = [include] if isinstance(include, str) else list(include)
    # What is frozen is rounded too: rounding is no training.
    unfrozen = deepcopy(network).requires_grad_(True)
    names = prunable_names(unfrozen)
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(f"`include` {include!r} names no weight to quantize; there are: {', '.join(names[:5])} ...")
    return chosen


def _holders(network: nn.Module, parameter: nn.Parameter) -> list[tuple[nn.Module, str]]:
    return [(m, name) for m in network.modules() for name, own in m._parameters.items() if own is parameter]


def _torchao() -> Any:
    try:
        from torchao.quantization import quant_primitives
    except ImportError as error:
        raise ImportError("quantization needs torchao: pip install 'evohbde[quantization]'") from error
    return quant_primitives
