"""How is a network adapted by thin matrices beside its frozen layers, and how do these become plain weights again?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that get adapters. Subclasses may compute something else, and are left alone."""

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def add_lora(
    model: nn.Module,
    rank: int = 4,
    targets: str | Iterable[str] = "*",
    *,
    scale: float = 1.0,
    four_bit: bool = False,
    seed: int = 0,
) -> nn.Module:
    """A copy of a network with low-rank adapters: `W x + scale * B A x`, where only `A` and `B` are trainable.

    All other parameters are frozen, so that `ParameterLayout(network)` holds the adapters alone, under names such as
    `"head.lora_A.default.weight"`; any reduction and any searcher works on them. `B` starts at zero: the outputs are
    those of the network as given. The layers are peft's, and its functions work on the result.

    The reduction `LowRank` searches the same updates of a network in floating point, without another package. Adapters
    are for a base that is not, for files of adapters, and for several adapters beside one base.

    Args:
        model: The network; not changed.
        rank: Rows of each `A` and columns of each `B`, at least 1.
        targets: Shell-style patterns of the names of the layers to adapt (`"*.query"`): linear ones, convolutions and
            embeddings. Not those inside PyTorch's own attention and transformer modules, which read weights past them.
        scale: Factor of all updates, `alpha / r` in the paper.
        four_bit: Store the weights beside adapters in 4 bits (NF4, the scales of its blocks in 8 bits); linear layers
            only. They are dequantized for each pass, so this saves memory and no time. Outputs change by the rounding.
        seed: Seed of the first `A`; the global generator is put back.

    Raises:
        ValueError: If no layer matches, `rank` or `scale` is out of range, or the network has adapters already.
        ImportError: If peft, or for `four_bit` bitsandbytes, is not installed.

    Source: Hu et al. (2021), arXiv 2106.09685, section 4.1; Dettmers et al. (2023), arXiv 2305.14314, section 3.
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"`rank` must be an integer of at least 1, got {rank!r}")
    if not 0 < scale < float("inf"):
        raise ValueError(f"`scale` must be a finite number above 0, got {scale}")
    peft = _import_peft()
    if _adapted(model):
        raise ValueError("the network has adapters already: make plain weights of them first, merge_lora(network)")
    network = deepcopy(model)
    names = _matching(network, targets, (nn.Linear,) if four_bit else KINDS)
    if four_bit:
        for name in names:
            _replace(network, name, _in_four_bits(network.get_submodule(name)))
    config = peft.LoraConfig(r=rank, lora_alpha=scale * rank, target_modules="|".join(map(re.escape, names)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.inject_adapter_in_model(config, network)


def merge_lora(model: nn.Module) -> nn.Module:
    """A copy of a network with its adapters added into the weights: the classes and names that it had before them.

    Outputs stay the same but for rounding. A base in 4 bits becomes floating point, with its rounding kept. All
    parameters are trainable.

    Args:
        model: What `add_lora` returned, or a network of a problem made for it; not changed.

    Raises:
        ValueError: If the network has no adapters.
        ImportError: If peft is not installed.
    """
    _import_peft()
    network = deepcopy(model)
    adapted = _adapted(network)
    if not adapted:
        raise ValueError("the network has no adapters to merge: make some by add_lora(network)")
    for name, layer in adapted.items():
        _replace(network, name, _merged(layer))
    if hasattr(network, "peft_config"):
        del network.peft_config
    return network.requires_grad_(True)


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError("LoRA needs peft: pip install 'evohbde[lora]'") from error
    return peft


def _adapted(network: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def _matching(network: nn.Module, targets: str | Iterable[str], kinds: tuple[type[nn.Module], ...]) -> list[str]:
    """Names of the layers to adapt."""
    patterns = (targets,) if isinstance(targets, str) else tuple(targets)
    possible = [name for name, module in network.named_modules() if type(module) in kinds and _is_called(network, name)]
    found = [name for name in possible if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not found:
        some = ", ".join(possible[:4]) or "none"
        raise ValueError(f"`targets` {targets!r} match no layer that takes adapters; layers that do: {some} ...")
    return found


def _is_called(network: nn.Module, name: str) -> bool:
    """Whether the module around a layer calls it; PyTorch's attention takes the weights out of its layers instead."""
    parent = network.get_submodule(name.rpartition(".")[0])
    return bool(name) and (isinstance(parent, CONTAINERS) or not type(parent).__module__.startswith("torch.nn."))


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def _in_four_bits(layer: nn.Module) -> nn.Module:
    try:
        import bitsandbytes
    except ImportError as error:
        raise ImportError("`four_bit` needs bitsandbytes: pip install 'evohbde[lora]'") from error
    assert isinstance(layer, nn.Linear)
    small = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
    )
    small.load_state_dict(layer.state_dict())
    # Its own kernel for CPUs multiplies in 16 bits, so that outputs would depend on the machine.
    small.support_avx512bf16_for_cpu = False
    return small.to(layer.weight.device).train(layer.training)


def _merged(layer: Any) -> nn.Module:
    """The layer below an adapter, with the update in its weights."""
    from peft.utils.integrations import dequantize_module_weight

    base = layer.get_base_layer()
    weight: Tensor = dequantize_module_weight(base)
    if weight is not base.weight:  # it was stored in fewer bits
        plain = nn.Linear(base.in_features, base.out_features, base.bias is not None, device=weight.device)
        plain.bias, base = base.bias, plain.train(base.training)
    with torch.no_grad():
        for name in layer.active_adapters:
            weight = weight + layer.get_delta_weight(name)
    base.weight = nn.Parameter(weight)
    return base
