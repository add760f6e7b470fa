"""What do the predictions of many networks score?

Everything is read off confusion counts, `(N, C, C)` with true classes in rows, and stays on the device. A ratio with
denominator zero is 0 (scikit-learn's `zero_division=0`).
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW_CLASSES = 32

MANY_SAMPLES = 6_000
"""Of all networks together; for fewer, starting a kernel per class costs more than it saves."""


def predicted_classes(logits: Tensor) -> Tensor:
    """Class of the largest output, the first one of equal ones: `(..., B, C) -> (..., B)`, int64.

    On a CPU `argmax` over a short last dimension costs as much as a small network does; a running maximum over classes,
    each contiguous in memory, takes a third of it where samples are many.
    """
    is_many = logits.numel() >= MANY_SAMPLES * logits.shape[-1]
    if logits.device.type != "cpu" or not is_many or not 1 < logits.shape[-1] <= FEW_CLASSES:
        return logits.argmax(-1)
    first, *others = logits.detach().movedim(-1, 0).contiguous()
    highest, place = first.clone(), torch.zeros(first.shape, dtype=torch.uint8)
    for number, outputs in enumerate(others, 1):
        is_higher = (outputs > highest).view(torch.uint8)
        torch.maximum(highest, outputs, out=highest)
        torch.maximum(place, is_higher * number, out=place)
    return place.long()


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count (true, predicted) pairs of N networks by one `bincount`: `(N, B), (B,) -> (N, C, C)`, int64."""
    num_networks = predicted.shape[0]
    cell = labels * num_classes + predicted
    cell += torch.arange(num_networks, device=predicted.device)[:, None] * num_classes**2
    counts = torch.bincount(cell.reshape(-1), minlength=num_networks * num_classes**2)
    return counts.view(num_networks, num_classes, num_classes)


def accuracy(confusion: Tensor) -> Tensor:
    """Share of samples on the diagonal: `(N, C, C) -> (N,)`, float64."""
    return _ratio(confusion.diagonal(dim1=-2, dim2=-1).sum(-1), confusion.sum((-2, -1)))


def balanced_accuracy(confusion: Tensor) -> Tensor:
    """Mean recall over the classes that occur among the labels: `(N, C, C) -> (N,)`, float64."""
    support = confusion.sum(-1)
    recall = _ratio(confusion.diagonal(dim1=-2, dim2=-1), support)
    return _ratio(recall.sum(-1), (support > 0).sum(-1))


def f1(confusion: Tensor, average: str = "macro", classes: str = "present") -> Tensor:
    """F1 score, per class `2 TP / (2 TP + FP + FN)`: `(N, C, C) -> (N,)`, float64.

    Args:
        confusion: Counts, true classes in rows.
        average: `"macro"` (plain mean over classes), `"weighted"` (by true samples) or `"micro"` (all counts pooled).
        classes: What macro averages over: `"present"`, the classes among labels or predictions (scikit-learn's and the
            published definition), or `"all"` C of them, absent ones counting 0.
    """
    if average == "micro":
        return accuracy(confusion)
    if average not in ("macro", "weighted"):
        raise ValueError(f"`average` must be 'macro', 'weighted' or 'micro', got {average!r}")
    hits = confusion.diagonal(dim1=-2, dim2=-1)
    support = confusion.sum(-1)
    seen = support + confusion.sum(-2)
    per_class = _ratio(2 * hits, seen)
    if average == "weighted":
        return _ratio((per_class * support).sum(-1), support.sum(-1))
    if classes == "all":
        return per_class.mean(-1)
    return _ratio(per_class.sum(-1), (seen > 0).sum(-1))


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return numerator.double() / denominator.clamp(min=1).double()
