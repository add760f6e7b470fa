"""Which parameters of a network are its normalisation layers, its biases, its head, or can be pruned?

Each function lists names, in the order of `model.named_parameters()`, of parameters that are not frozen: what
`ParameterLayout(model, include=...)` and `layout.mask(...)` take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

NORM_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def norm_names(model: nn.Module) -> list[str]:
    """Name the weights and biases of all normalisation layers, as the classes of the modules tell.

    Source: Frankle, Schwab & Morcos (2021), arXiv 2003.00152, for training these alone.
    """
    return _names_of(model, _parameters_of(module for module in model.modules() if isinstance(module, NORM_LAYERS)))


def bias_names(model: nn.Module) -> list[str]:
    """Name all biases, those of normalisation layers included: vectors with "bias" in the last part of their name.

    Source: Ben Zaken, Goldberg & Ravfogel (2022), arXiv 2106.10199 (BitFit).
    """
    named = ((name, p) for name, p in model.named_parameters() if p.ndim == 1 and p.requires_grad)
    return [name for name, _ in named if "bias" in name.rpartition(".")[2]]


def head_names(model: nn.Module) -> list[str]:
    """Name the weights and biases of the last linear layer in the order of definition; nothing if there is none."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return _names_of(model, _parameters_of(linear[-1:]))


def prunable_names(model: nn.Module) -> list[str]:
    """Name the weights of convolutions, transposed ones too, of linear layers and of attention's projections.

    Biases, normalisation layers and embeddings are left out, also where a linear layer shares an embedding's weight.

    Raises:
        ValueError: If there are none.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, EMBEDDINGS)}
    weights = (weight for module in model.modules() for weight in _matrices_of(module))
    names = _names_of(model, (weight for weight in weights if id(weight) not in embedded))
    if not names:
        raise ValueError(
            f"nothing in this {type(model).__name__} can be pruned: no convolution or linear layer has a weight of its "
            "own that is not frozen; unfreeze some with requires_grad_(True), and take weight norm and the like off"
        )
    return names


def _matrices_of(module: nn.Module) -> list[nn.Parameter]:
    """Weights proper of one layer; a parametrised layer computes its weight and has none."""
    held: tuple[str, ...] = ()
    if isinstance(module, (_ConvNd, nn.Linear)):
        held = ("weight",)
    elif isinstance(module, nn.MultiheadAttention):
        held = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return [weight for name in held if (weight := module._parameters.get(name)) is not None]


def _parameters_of(modules: Iterable[nn.Module]) -> Iterator[nn.Parameter]:
    return (parameter for module in modules for parameter in module.parameters())


def _names_of(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[str]:
    # By identity: a tied weight has one name, its first, which may be that of another module.
    held = {id(parameter) for parameter in parameters}
    return [name for name, p in model.named_parameters() if id(p) in held and p.requires_grad]
