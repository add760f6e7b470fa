"""What does a network score once some of its weights are zero?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TypeVar

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.objectives import (
    AnyObjective,
    CountObjective,
    Divergence,
    Objective,
    ObjectiveLike,
    WeightObjective,
    resolve,
)
from evohbde.outputs import REPORTED, score

DEFAULT_OBJECTIVES = ("error", "density")

Number = TypeVar("Number", float, Tensor)


def check_objectives(objectives: ObjectiveLike | Sequence[ObjectiveLike]) -> list[AnyObjective]:
    """Return instances: first what is to be kept, then at least one objective of the weights, which is to fall.

    Raises:
        ValueError: If the first does not judge outputs or has a teacher, or none judges weights.
    """
    found = resolve(objectives)
    if not isinstance(found[0], Objective):
        raise ValueError(
            f"the first of `objectives` must judge a network's outputs, got {found[0].name!r}: put 'error' or "
            "'cross_entropy' first"
        )
    if type(found[0]).for_data is not Objective.for_data:
        raise ValueError(
            f"the first of `objectives`, {found[0].name!r}, has no worst value that all samples share, which fronts "
            "are measured from: put 'error' or 'cross_entropy' first; the default preset follows the network as given "
            "anyway"
        )
    if not any(isinstance(objective, WeightObjective) for objective in found):
        names = ", ".join(objective.name for objective in found)
        raise ValueError(f"nothing in `objectives` ({names}) asks for fewer weights: add 'density'")
    return found


def as_loss(value: Number, sense: str) -> Number:
    """Turn a score, or a tensor of them, into something to be minimised; scores between 0 and 1 stay there."""
    return value if sense == "min" else 1 - value


def reference_loss(objective: AnyObjective, num_classes: int) -> float:
    """Loss from which hypervolumes are counted: 1 for shares, else that of a network whose outputs are all zero."""
    if isinstance(objective, CountObjective) or not isinstance(objective, Objective):
        return 1.0
    # A divergence is from outputs on its own samples, as many as there are of them.
    size = len(objective.log_reference) if isinstance(objective, Divergence) else num_classes
    labels = torch.arange(size) % num_classes
    device = objective.log_reference.device if isinstance(objective, Divergence) else labels.device
    silent = objective(torch.zeros(1, size, num_classes, device=device), labels.to(device))
    return as_loss(float(silent[0]), objective.sense)


class MaskScorer:
    """Scores masks of one network, and makes the networks that belong to them.

    Args:
        model: The trained network; copied.
        layout: Which weights can be pruned, D of them.
        num_classes: C, of the data.
        objectives: As in `check_objectives`.

    Attributes:
        theta0: The prunable weights as given, `(D,)`.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        num_classes: int,
        objectives: ObjectiveLike | Sequence[ObjectiveLike] = DEFAULT_OBJECTIVES,
    ) -> None:
        self.layout, self.num_classes, self.objectives = layout, num_classes, check_objectives(objectives)
        self.model = deepcopy(model).eval()
        self.theta0 = layout.flatten(model)
        self._working = deepcopy(self.model)

    def network(self, mask: Tensor, values: Tensor | None = None) -> nn.Module:
        """A new network with zeros where `mask`, `(D,)`, is False; in evaluation mode.

        Args:
            mask: Which weights are kept.
            values: What they are, in their order; None: as given.
        """
        return self._load(deepcopy(self.model), mask, values)

    def score(self, mask: Tensor, data: TensorData, values: Tensor | None = None) -> dict[str, float]:
        """Score one mask, `(D,)`, with its weights as in `network`: what tables report, and the objectives, by name."""
        names = [objective.name for objective in self.objectives]
        wanted = [*self.objectives, *(name for name in REPORTED if name not in names)]
        return score(self._load(self._working, mask, values), data, wanted, layout=self.layout)

    def losses(self, scores: Mapping[str, float]) -> list[float]:
        """The objectives of one network, all to be minimised."""
        return [as_loss(scores[objective.name], objective.sense) for objective in self.objectives]

    def _load(self, network: nn.Module, mask: Tensor, values: Tensor | None) -> nn.Module:
        if mask.shape != self.theta0.shape:
            raise ValueError(
                f"expected `mask` of shape {tuple(self.theta0.shape)}, one entry per prunable weight, "
                f"got {tuple(mask.shape)}"
            )
        mask = mask.to(self.theta0.device)
        theta = torch.where(mask, self.theta0, 0.0)
        if values is not None:
            theta[mask] = values.to(theta)
        return self.layout.load_(network, theta)
