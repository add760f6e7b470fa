"""Which parameters of a network are its normalisation layers, its biases, its head?

Each function lists names, in the order of `model.named_parameters()`, of parameters that are not frozen: what
`ParameterLayout(model, include=...)` and `layout.mask(...)` take.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norm_names(model: nn.Module) -> list[str]:
    """Name the weights and biases of all normalisation layers, as the classes of the modules tell.

    Source: Frankle, Schwab & Morcos (2021), arXiv 2003.00152, for training these alone.
    """
    return _names_of(model, (module for module in model.modules() if isinstance(module, NORM_LAYERS)))


def bias_names(model: nn.Module) -> list[str]:
    """Name all biases, those of normalisation layers included: vectors with "bias" in the last part of their name.

    Source: Ben Zaken, Goldberg & Ravfogel (2022), arXiv 2106.10199 (BitFit).
    """
    named = ((name, p) for name, p in model.named_parameters() if p.ndim == 1 and p.requires_grad)
    return [name for name, _ in named if "bias" in name.rpartition(".")[2]]


def head_names(model: nn.Module) -> list[str]:
    """Name the weights and biases of the last linear layer in the order of definition; nothing if there is none."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return _names_of(model, linear[-1:])


def _names_of(model: nn.Module, modules: Iterable[nn.Module]) -> list[str]:
    # By identity: a tied weight has one name, its first, which may be that of another module.
    held = {id(parameter) for module in modules for parameter in module.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in held and p.requires_grad]
