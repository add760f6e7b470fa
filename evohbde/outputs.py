"""What does one network answer, and what does it score?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.journal import Answer, recorded
from evohbde.layout import ParameterLayout
from evohbde.objectives import AnyObjective, ObjectiveLike, WeightObjective, resolve
from evohbde.stages import PROBE_SAMPLES, pieces, samples_at_once, widest_output
from evohbde.strategies import computing

REPORTED = ("f1_macro", "accuracy", "balanced_accuracy", "cross_entropy")


@torch.inference_mode()
def default_batch_size(network: nn.Module, x: Tensor) -> int:
    """Samples per forward pass of a network in evaluation mode, found by the sizes of its outputs on a few of them."""
    return samples_at_once(widest_output(network, x[:PROBE_SAMPLES]), x.device)


@torch.inference_mode()
def predict(network: nn.Module, data: TensorData, *, batch_size: int | None = None) -> Tensor:
    """Outputs of one network in evaluation mode: `(n, C)`; the mode of each module is put back afterwards."""

    def compute() -> Answer:
        return Answer({"outputs": _outputs(network, data, batch_size)})

    return recorded("outputs", lambda: _asked(network, data), compute).tensors["outputs"].to(data.device)


def _asked(network: nn.Module, data: TensorData) -> list[object]:
    """What the outputs of a network depend on: its numbers, and which samples they are, told by their labels."""
    state = [value for value in network.state_dict().values() if isinstance(value, Tensor)]
    return [*state, tuple(data.x.shape), data.y]


def _outputs(network: nn.Module, data: TensorData, batch_size: int | None) -> Tensor:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with computing("float32", data.device):
            outputs = [network(x) for x in pieces(data.x, batch_size or default_batch_size(network, data.x))]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    finally:
        for module, training in modes:
            module.training = training


def score(
    network: nn.Module,
    data: TensorData,
    objectives: Sequence[ObjectiveLike] = REPORTED,
    *,
    layout: ParameterLayout | None = None,
) -> dict[str, float]:
    """Score one network in evaluation mode, in full precision: one number per objective name.

    `layout` names the weights that objectives of weights judge; None: all that are not frozen.
    """
    found = [objective.for_data(data) for objective in resolve(objectives)]

    def compute() -> Answer:
        return Answer({}, _scores(network, data, found, layout))

    names = [objective.name for objective in found]
    return dict(recorded("score", lambda: [*_asked(network, data), *names], compute).facts)


def _scores(
    network: nn.Module, data: TensorData, objectives: Sequence[AnyObjective], layout: ParameterLayout | None
) -> dict[str, float]:
    logits = predict(network, data)[None]
    scores = {}
    for objective in objectives:
        if isinstance(objective, WeightObjective):
            scores[objective.name] = float(objective((layout or ParameterLayout(network)).flatten(network)))
        else:
            scores[objective.name] = float(objective(logits, data.y)[0])
    return scores


def check_outputs(model: nn.Module, data: TensorData) -> None:
    """Run some samples through `model` and say in one sentence what does not fit.

    Raises:
        ValueError: If the model fails on the inputs, returns anything but `(B, C)`, or has too few classes.
    """
    probe = data.x[:2]
    try:
        outputs = _outputs(model, TensorData(probe, data.y[:2]), None)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the model fails on inputs of shape {tuple(probe.shape)} and type {probe.dtype}: {error}; "
            "give `x` the shape and type that its first layer takes"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(probe):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"expected the model to return class scores of shape ({len(probe)}, C), got {got}")
    if not bool(outputs.isfinite().all()):
        raise ValueError(
            "the model gives NaN or infinite outputs as it is, so that nothing could be compared with it: mend its "
            "weights, or scale `x` as in its training"
        )
    if outputs.shape[1] < data.num_classes:
        raise ValueError(
            f"the labels reach {data.num_classes - 1} but the model has only {outputs.shape[1]} outputs: "
            f"give it at least {data.num_classes}, or renumber the labels from 0"
        )
