"""Is a proposed network better than the one there is?"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.evaluator import predict
from evohbde.objectives import F1


class Gate:
    """Decides on validation samples; what it lets through becomes what the next proposal is compared with.

    Args:
        data: Validation samples.
        network: The network there is.
        spend: Called with the sample forwards of every look.
    """

    def __init__(self, data: TensorData, network: nn.Module, spend: Callable[[int], None]) -> None:
        self.data, self._spend = data, spend
        self._current = self._outputs(network)
        self.verdict = ""

    def passes(self, proposal: nn.Module, *, num_errors: float) -> bool:
        """Whether cross-entropy falls by more than `num_errors` standard errors, paired, and macro-F1 does not fall."""
        proposed = self._outputs(proposal)
        gain = self._loss(self._current) - self._loss(proposed)
        error = float(gain.std()) / len(gain) ** 0.5
        f1_gain = self._f1(proposed) - self._f1(self._current)
        change = -float(gain.mean())
        self.verdict = f"validation cross-entropy {change:+.4f} (standard error {error:.4f}), macro-F1 {f1_gain:+.4f}"
        is_better = -change > num_errors * error and f1_gain >= 0
        if is_better:
            self._current = proposed
        return is_better

    def _outputs(self, network: nn.Module) -> Tensor:
        self._spend(len(self.data))
        return predict(network, self.data)

    def _loss(self, outputs: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, self.data.y, reduction="none")

    def _f1(self, outputs: Tensor) -> float:
        return float(F1()(outputs[None], self.data.y)[0])
