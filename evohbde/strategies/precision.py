"""In which arithmetic are outputs computed?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch

PRECISIONS = ("float32", "tf32", "float16")


def check_precision(precision: str, device: torch.device) -> None:
    """Name a precision that does not exist, does not help, or that this device lacks."""
    if precision in ("bfloat16", "bf16"):
        raise ValueError(
            "`precision` 'bfloat16' is refused: at 10,000 bins its 8 bits round 83 % of the free block values of two "
            "candidates together, and their ranking becomes chance; use 'float16'"
        )
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f"`precision` 'tf32' needs a CUDA device, the data are on {device.type!r}: use 'float32'")


def computing(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Compute in this precision whatever is set outside, and put that back.

    `"float32"` means what it says: on CUDA torch's own default is TF32 for convolutions.
    """
    if precision == "float32" and device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return nullcontext()  # entered for every candidate, of which some take microseconds
    return _computing(precision, device)


@contextmanager
def _computing(precision: str, device: torch.device) -> Iterator[None]:
    with ExitStack() as stack:
        # Kept casts of weights would outlive the candidate that they were made from.
        stack.enter_context(
            torch.autocast(device.type, dtype=torch.float16, enabled=precision == "float16", cache_enabled=False)
        )
        if device.type == "cuda":
            stack.enter_context(_cuda_products("tf32" if precision == "tf32" else "ieee"))
        yield


@contextmanager
def _cuda_products(precision: str) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if not hasattr(matmul, "fp32_precision"):  # torch before 2.9
        with _attributes(precision == "tf32", (matmul, "allow_tf32"), (cudnn, "allow_tf32")):
            yield
        return
    convolutions = cudnn.conv  # type: ignore[attr-defined]
    with _attributes(precision, (matmul, "fp32_precision"), (convolutions, "fp32_precision")):
        yield


@contextmanager
def _attributes(value: object, *places: tuple[object, str]) -> Iterator[None]:
    kept = [getattr(owner, name) for owner, name in places]
    for owner, name in places:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name), before in zip(places, kept, strict=True):
            setattr(owner, name, before)
