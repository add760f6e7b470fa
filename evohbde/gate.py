"""Is a proposed network better than the one there is?"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.outputs import predict


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
        """Whether cross-entropy falls by more than `num_errors` standard errors, paired over samples.

        Accuracy must not fall by more than one standard error either: a few lucky losses are no better network.
        """
        proposed = self._outputs(proposal)
        gain = self._loss(self._current) - self._loss(proposed)
        more_right = self._right(proposed) - self._right(self._current)
        self.verdict = f"validation cross-entropy {_shown(-gain)}, accuracy {_shown(more_right)}"
        is_better = float(gain.mean()) > num_errors * _error(gain) and float(more_right.mean()) >= -_error(more_right)
        if is_better:
            self._current = proposed
        return is_better

    def _outputs(self, network: nn.Module) -> Tensor:
        self._spend(len(self.data))
        return predict(network, self.data)

    def _loss(self, outputs: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, self.data.y, reduction="none")

    def _right(self, outputs: Tensor) -> Tensor:
        return (outputs.argmax(-1) == self.data.y).double()


def _error(values: Tensor) -> float:
    return float(values.std()) / len(values) ** 0.5


def _shown(values: Tensor) -> str:
    return f"{float(values.mean()):+.4f} (standard error {_error(values):.4f})"
