"""How does a pruned network leave for plain PyTorch, or for ONNX?"""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from evohbde.layout import ParameterLayout


def zeroed(model: nn.Module, layout: ParameterLayout, mask: Tensor) -> nn.Module:
    """Copy `model` with zeros where the mask says so; its `state_dict()` loads wherever that of `model` does.

    Args:
        model: The network.
        layout: The weights that the mask is about.
        mask: Which of them are kept, `(D,)`, bool.
    """
    _check_mask(layout, mask)
    theta = layout.flatten(model)
    return layout.load_(deepcopy(model), torch.where(mask.to(theta.device), theta, 0.0))


def with_masks(model: nn.Module, layout: ParameterLayout, mask: Tensor) -> nn.Module:
    """Copy `model` with the mask registered the way of `torch.nn.utils.prune`, for training on with zeros that stay.

    Each masked parameter `weight` becomes `weight_orig` and a buffer `weight_mask`; `prune.remove(module, "weight")`
    makes the zeros final. Tensors that are kept whole are left as they are. To load such a `state_dict()` in plain
    PyTorch, first call `prune.identity(module, "weight")` for the same tensors.

    Args:
        model: The network, without masks so far.
        layout: The weights that the mask is about.
        mask: Which of them are kept, `(D,)`, bool.
    """
    _check_mask(layout, mask)
    network = deepcopy(model)
    masks = {name: piece for name, piece in layout.views(mask).items() if not bool(piece.all())}
    for name, parameter in list(network.named_parameters()):
        if name in masks:
            for module, attribute in _holders(network, parameter):
                prune.custom_from_mask(module, attribute, masks[name].to(parameter))
    return network


def save_onnx(network: nn.Module, x: Tensor, path: str | Path, *, tolerance: float = 1e-4) -> float:
    """Write a network as ONNX with any batch size, run the file, and return the largest difference of outputs.

    Zeros are written as zeros, so that only a network with fewer channels makes a smaller file. The input is called
    `x`, the output `logits`.

    Args:
        network: The network; exported in evaluation mode.
        x: Samples to trace it with and to check the file on, `(n, ...)`, n >= 2.
        path: The file; replaced if there is one, and only after the check.
        tolerance: Largest difference allowed between ONNX Runtime and PyTorch, as a share of the largest output.

    Raises:
        ImportError: If the extra `onnx` is not installed.
        ValueError: If there are fewer than two samples, or the file's outputs differ.
    """
    if len(x) < 2:
        raise ValueError(f"expected at least 2 samples in `x`, as the batch size is to stay free, got {len(x)}")
    runtime = _onnxruntime()
    network, x = deepcopy(network).cpu().eval(), x.detach().cpu()
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        _export(network, x, partial)
        session = runtime.InferenceSession(partial.read_bytes(), providers=["CPUExecutionProvider"])
        with torch.inference_mode():
            expected = network(x)
        # A smaller batch than the traced one as well: the batch size really is free.
        found = [torch.from_numpy(session.run(None, {"x": some.numpy()})[0]) for some in (x, x[:1])]
        difference = max(float((found[0] - expected).abs().max()), float((found[1] - expected[:1]).abs().max()))
        if not difference <= tolerance * float(expected.abs().max()):
            raise ValueError(
                f"outputs of the ONNX file differ from the network's by {difference:.2g}, more than `tolerance` = "
                f"{tolerance:g} of the largest output: nothing was written"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return difference


def _export(network: nn.Module, x: Tensor, path: Path) -> None:
    torch.onnx.export(
        network,
        (x,),
        path,
        input_names=["x"],
        output_names=["logits"],
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("n")},),
        external_data=False,
        verbose=False,
    )


def _onnxruntime() -> ModuleType:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401, torch.onnx.export needs it
    except ImportError as error:
        raise ImportError("save_onnx needs onnx, onnxscript and onnxruntime: pip install 'evohbde[onnx]'") from error
    return onnxruntime


def _holders(network: nn.Module, parameter: nn.Parameter) -> list[tuple[nn.Module, str]]:
    """Each module that has this parameter, under the name that it has there; several if the weight is tied."""
    return [
        (module, name)
        for module in network.modules()
        for name, own in module.named_parameters(recurse=False)
        if own is parameter
    ]


def _check_mask(layout: ParameterLayout, mask: Tensor) -> None:
    if mask.dtype != torch.bool or mask.shape != (layout.size,):
        raise ValueError(
            f"expected `mask` of shape ({layout.size},), bool, True for kept weights, "
            f"got {mask.dtype} {tuple(mask.shape)}"
        )
