"""How sure is a score, or the difference of two?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap
from torch import Tensor


class Interval(NamedTuple):
    """A value with the two ends of its confidence interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.lower:.4f}, {self.upper:.4f}]"


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Macro-F1 over the classes among labels or predictions: `(n,), (n,) -> number`."""
    num_classes = int(max(predicted.max(), labels.max())) + 1
    hits = np.bincount(labels[predicted == labels], minlength=num_classes)
    seen = np.bincount(labels, minlength=num_classes) + np.bincount(predicted, minlength=num_classes)
    return float((2 * hits / np.maximum(seen, 1)).sum() / (seen > 0).sum())


def share_right(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy: `(n,), (n,) -> number`."""
    return float((predicted == labels).mean())


MEASURES = {"f1_macro": macro_f1, "accuracy": share_right}


def bootstrap_score(
    predicted: Tensor, labels: Tensor, measure: str = "f1_macro", *, num_resamples: int = 999, seed: int = 0
) -> Interval:
    """Score of some predictions with its 95 % percentile bootstrap interval over samples: `(n,), (n,)`."""
    return _bootstrap([predicted, labels], MEASURES[measure], num_resamples, seed)


def bootstrap_difference(
    predicted: Tensor,
    baseline: Tensor,
    labels: Tensor,
    measure: str = "f1_macro",
    *,
    num_resamples: int = 999,
    seed: int = 0,
) -> Interval:
    """Score of `predicted` less that of `baseline`, paired over the same samples, with its 95 % bootstrap interval."""
    score = MEASURES[measure]

    def difference(ours: np.ndarray, theirs: np.ndarray, truth: np.ndarray) -> float:
        return score(ours, truth) - score(theirs, truth)

    return _bootstrap([predicted, baseline, labels], difference, num_resamples, seed)


def _bootstrap(samples: list[Tensor], statistic: object, num_resamples: int, seed: int) -> Interval:
    data = [sample.cpu().numpy() for sample in samples]
    value = float(statistic(*data))  # type: ignore[operator]
    if len(data[0]) < 2:
        return Interval(value, value, value)
    found = bootstrap(
        data,
        statistic,
        n_resamples=num_resamples,
        paired=True,
        vectorized=False,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = found.confidence_interval
    return Interval(value, float(interval.low), float(interval.high))
