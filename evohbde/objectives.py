"""By which quantities is a network judged?

An objective has a `name`, a `sense` (`"max"` or `"min"`) and is called on the outputs of N networks at once. Add one
by subclassing `Objective` (or `WeightObjective` for what depends on the weights alone) and pass an instance wherever a
name is taken. There is nothing to register.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

import evohbde.metrics as metrics
from evohbde.data import TensorData


class Objective:
    """One judged quantity of a network's outputs.

    `__call__` maps logits `(N, B, C)` of N networks on B samples and labels `(B,)` to scores `(N,)`. One that also has
    a `bound` lets searchers stop scoring a candidate that has already lost (`evohbde.racing`). One that knows something
    of each sample beside its label overrides `for_data` and `for_rows`, and is not raced.
    """

    name: str
    sense: str
    has_bound = False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def for_data(self, data: TensorData) -> Objective:
        """This objective for the samples of a data set: called once by whatever judges networks on them."""
        return self

    def for_rows(self, rows: slice | Tensor) -> Objective:
        """This objective for some of its samples, by their places in the data set: called before each call."""
        return self

    def total_loss(self, logits: Tensor, labels: Tensor) -> float:
        """What samples, `(b, C)` and `(b,)`, add to the sum whose mean over all enters the score; never negative."""
        return 0.0

    def bound(self, confusion: Tensor, mean_loss: float) -> float:
        """Score of one network with these counts, `(1, C, C)`, if the samples not yet seen cost nothing."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, sense={self.sense!r})"


class WeightObjective:
    """One judged quantity of a network's searched weights: `(D,) -> ()`."""

    name: str
    sense: str

    def __call__(self, theta: Tensor) -> Tensor:
        raise NotImplementedError

    def for_data(self, data: TensorData) -> WeightObjective:
        """This objective, which knows no samples."""
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, sense={self.sense!r})"


def _confusion(logits: Tensor, labels: Tensor) -> Tensor:
    return metrics.confusion_matrix(metrics.predicted_classes(logits), labels, logits.shape[-1])


class CountObjective(Objective):
    """A quantity that is read off confusion counts, and never gets worse when a wrong sample becomes a right one."""

    has_bound = True

    def of_counts(self, confusion: Tensor) -> Tensor:
        """Counts with true classes in rows, `(N, C, C)`, to scores, `(N,)`."""
        raise NotImplementedError

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.of_counts(_confusion(logits, labels))

    def bound(self, confusion: Tensor, mean_loss: float) -> float:
        return float(self.of_counts(confusion)[0])


def has_finite_outputs(logits: Tensor) -> Tensor:
    """Which networks gave finite outputs only: `(N, B, C) -> (N,)`, bool."""
    flat = logits.flatten(1)  # NaN passes through both, and no mask is as large as this
    return torch.isfinite(flat.amax(1)) & torch.isfinite(flat.amin(1))


class F1(CountObjective):
    """F1 score; `average` is `"macro"`, `"weighted"` or `"micro"`, `classes` as in `evohbde.metrics.f1`."""

    sense = "max"

    def __init__(self, average: str = "macro", classes: str = "present") -> None:
        if average not in ("macro", "weighted", "micro"):
            raise ValueError(f"`average` must be 'macro', 'weighted' or 'micro', got {average!r}")
        if classes not in ("present", "all"):
            raise ValueError(f"`classes` must be 'present' or 'all', got {classes!r}")
        self.average, self.classes, self.name = average, classes, f"f1_{average}"

    def of_counts(self, confusion: Tensor) -> Tensor:
        return metrics.f1(confusion, self.average, self.classes)


class Accuracy(CountObjective):
    """Share of samples classified right."""

    name, sense = "accuracy", "max"

    def of_counts(self, confusion: Tensor) -> Tensor:
        return metrics.accuracy(confusion)


class Error(CountObjective):
    """Share of samples classified wrong."""

    name, sense = "error", "min"

    def of_counts(self, confusion: Tensor) -> Tensor:
        return 1 - metrics.accuracy(confusion)


class BalancedAccuracy(CountObjective):
    """Mean recall over the classes that occur."""

    name, sense = "balanced_accuracy", "max"

    def of_counts(self, confusion: Tensor) -> Tensor:
        return metrics.balanced_accuracy(confusion)


class CrossEntropy(Objective):
    """Mean cross-entropy in nats; `label_smoothing` as in `torch.nn.CrossEntropyLoss`."""

    name, sense = "cross_entropy", "min"
    has_bound = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must lie in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_probability = functional.log_softmax(logits.float(), dim=-1)
        index = labels.expand(logits.shape[0], -1)[..., None]
        loss = -log_probability.gather(-1, index)[..., 0].mean(1)
        if self.label_smoothing:
            loss = (1 - self.label_smoothing) * loss - self.label_smoothing * log_probability.mean((1, 2))
        return loss

    def total_loss(self, logits: Tensor, labels: Tensor) -> float:
        # The same float32 numbers as above, sample by sample; only their sum is more exact.
        log_probability = functional.log_softmax(logits.float(), dim=-1).double()
        loss = -log_probability.gather(-1, labels[:, None]).sum()
        if self.label_smoothing:
            loss = (1 - self.label_smoothing) * loss - self.label_smoothing * log_probability.mean(-1).sum()
        return float(loss)

    def bound(self, confusion: Tensor, mean_loss: float) -> float:
        return mean_loss


class SmoothF1(Objective):
    """Macro-F1 less a little cross-entropy, so that networks with equal predictions still differ.

    `weight` is the price of one nat in F1, at least 0; 0.01 only breaks ties.
    """

    name, sense = "smooth_f1", "max"
    has_bound = True

    def __init__(self, weight: float = 0.01) -> None:
        if not 0 <= weight < float("inf"):
            raise ValueError(f"`weight` must be a finite number >= 0, got {weight}: a higher loss never scores higher")
        self.weight = weight
        self._f1, self._cross_entropy = F1(), CrossEntropy()

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._f1(logits, labels) - self.weight * self._cross_entropy(logits, labels)

    def total_loss(self, logits: Tensor, labels: Tensor) -> float:
        return self._cross_entropy.total_loss(logits, labels)

    def bound(self, confusion: Tensor, mean_loss: float) -> float:
        return self._f1.bound(confusion, 0.0) - self.weight * mean_loss


class Divergence(Objective):
    """Mean Kullback-Leibler divergence KL(reference || network) in nats, from given outputs on the same samples.

    Args:
        reference: Logits of the reference network on the samples that will be asked, `(B, C)`.
    """

    name, sense = "divergence", "min"

    def __init__(self, reference: Tensor) -> None:
        self.log_reference = functional.log_softmax(reference.float(), dim=-1)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_probability = functional.log_softmax(logits.float(), dim=-1)
        return (self.log_reference.exp() * (self.log_reference - log_probability)).sum(-1).mean(1)


class Function(Objective):
    """Your own metric: `function(logits (B, C), labels (B,)) -> number`, called once per network."""

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor | float], sense: str, name: str | None = None
    ) -> None:
        if sense not in ("max", "min"):
            raise ValueError(f"`sense` must be 'max' or 'min', got {sense!r}")
        self.function, self.sense = function, sense
        self.name = name or str(getattr(function, "__name__", "function"))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        values = [torch.as_tensor(self.function(one, labels), dtype=torch.float64) for one in logits]
        if values and values[0].numel() != 1:
            raise ValueError(
                f"the function of objective {self.name!r} must return one number, got shape {tuple(values[0].shape)}: "
                "reduce it, e.g. by .mean()"
            )
        return torch.stack([value.reshape(()).to(logits.device) for value in values])


class Density(WeightObjective):
    """Share of searched weights that are not zero."""

    name, sense = "density", "min"

    def __call__(self, theta: Tensor) -> Tensor:
        return torch.count_nonzero(theta).double() / theta.numel()


BY_NAME: dict[str, Callable[[], Objective | WeightObjective]] = {
    "f1_macro": F1,
    "f1_weighted": lambda: F1("weighted"),
    "f1_micro": lambda: F1("micro"),
    "accuracy": Accuracy,
    "error": Error,
    "balanced_accuracy": BalancedAccuracy,
    "cross_entropy": CrossEntropy,
    "smooth_f1": SmoothF1,
    "density": Density,
}

AnyObjective = Objective | WeightObjective
ObjectiveLike = str | AnyObjective


def resolve(objectives: ObjectiveLike | Sequence[ObjectiveLike]) -> list[AnyObjective]:
    """Turn names and instances into a list of objectives."""
    several = list(objectives) if isinstance(objectives, Sequence) and not isinstance(objectives, str) else [objectives]
    if not several:
        raise ValueError("`objectives` is empty: name at least one, e.g. 'f1_macro'")
    return [_resolve_one(objective) for objective in several]


def _resolve_one(objective: ObjectiveLike) -> AnyObjective:
    if isinstance(objective, (Objective, WeightObjective)):
        return objective
    if not isinstance(objective, str):
        raise TypeError(
            f"expected an objective's name or instance, got {objective!r}; wrap a function: Function(f, sense='max')"
        )
    if objective not in BY_NAME:
        raise ValueError(f"unknown objective {objective!r}; known: {', '.join(BY_NAME)}, or pass your own Objective")
    return BY_NAME[objective]()
