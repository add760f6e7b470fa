"""How far is a network from what a teacher says of the same samples?"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.objectives import CrossEntropy, Objective
from evohbde.outputs import predict
from evohbde.stages import pieces, samples_at_once

Teacher = nn.Module | Callable[[Tensor], Tensor]


class Distillation(Objective):
    """Mean loss of a student that follows a teacher's softened outputs, and the labels a little.

    `alpha * T^2 * KL(teacher / T || student / T) + (1 - alpha) * cross-entropy`, in nats, with `T` the temperature and
    a softmax of what is divided by it. The factor `T^2` keeps both terms of equal weight in the gradient whatever `T`
    is. The published loss has a cross-entropy in place of the divergence: a difference that no student moves.

    As an objective of problems and as the `loss` of a `GradientSearcher`, the teacher is run once on all samples of
    each data set, in evaluation mode; these passes are not counted in `num_samples_seen`.

    Args:
        teacher: A network, or a function, from inputs `(B, ...)` to class scores `(B, C)`. Not changed.
        temperature: Above 0; higher ones show more of how the teacher ranks the wrong classes.
        alpha: Share of the teacher, from 0 (labels only) to 1 (labels are not looked at).

    Raises:
        TypeError: If `teacher` cannot be called.
        ValueError: If `temperature` or `alpha` is out of range, or the teacher's outputs do not fit.

    Source: Hinton, Vinyals & Dean (2015), arXiv 1503.02531, section 2.
    """

    name, sense = "distillation", "min"

    def __init__(self, teacher: Teacher, temperature: float = 4.0, alpha: float = 0.9) -> None:
        if not callable(teacher):
            raise TypeError(f"expected `teacher` to be a network or a function, got {type(teacher).__name__}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be a finite number above 0, got {temperature}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"`alpha` must lie in [0, 1], got {alpha}")
        self.teacher, self.temperature, self.alpha = teacher, float(temperature), float(alpha)
        self._cross_entropy = CrossEntropy()
        self._targets: Tensor | None = None
        self._answers: WeakKeyDictionary[TensorData, Tensor] = WeakKeyDictionary()

    def for_data(self, data: TensorData) -> Distillation:
        if data not in self._answers:
            outputs = _outputs(self.teacher, data)
            self._answers[data] = functional.log_softmax(outputs.float() / self.temperature, dim=-1)
        return self._with(self._answers[data])

    def for_rows(self, rows: slice | Tensor) -> Distillation:
        return self._with(self._known_targets()[rows])

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        targets = self._known_targets()
        if logits.shape[1:] != targets.shape:
            raise ValueError(
                f"the teacher has class scores of shape {tuple(targets.shape)} for these samples, the network "
                f"{tuple(logits.shape[1:])}: both need the same samples and the same classes"
            )
        log_probability = functional.log_softmax(logits.float() / self.temperature, dim=-1)
        divergence = (targets.exp() * (targets - log_probability)).sum(-1).mean(1)
        loss = self.alpha * self.temperature**2 * divergence
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * self._cross_entropy(logits, labels)
        return loss

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_answers"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _answers=WeakKeyDictionary())

    def _with(self, targets: Tensor) -> Distillation:
        found = copy(self)
        found._targets = targets
        return found

    def _known_targets(self) -> Tensor:
        if self._targets is None:
            raise ValueError("the teacher has not seen these samples: call `for_data(data)` and use what it returns")
        return self._targets


def _outputs(teacher: Teacher, data: TensorData) -> Tensor:
    """Class scores of the teacher on all samples: `(n, C)`."""
    if isinstance(teacher, nn.Module):
        outputs = predict(deepcopy(teacher).to(data.device), data)
    else:
        with torch.no_grad():
            at_once = samples_at_once(data.x[0].numel(), data.device)
            outputs = torch.cat([torch.as_tensor(teacher(x)) for x in pieces(data.x, at_once)])
    if outputs.ndim != 2 or len(outputs) != len(data):
        raise ValueError(
            f"expected the teacher to return class scores of shape ({len(data)}, C), got {tuple(outputs.shape)}"
        )
    if not bool(torch.isfinite(outputs).all()):
        raise ValueError("the teacher's class scores hold NaN or infinite values: no student can follow them")
    return outputs.to(data.device)
