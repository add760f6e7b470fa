"""What do N candidate networks score on these samples?"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.objectives import AnyObjective, Objective, ObjectiveLike, WeightObjective, has_finite_outputs, resolve
from evohbde.reductions import Reduction
from evohbde.stages import CACHE_BYTES, PROBE_SAMPLES, PrefixCache, Stages, find_stages, pieces

LOGIT_BYTES = 64 << 20
"""Outputs of so many candidates are judged together as fit into this size."""

REPORTED = ("f1_macro", "accuracy", "balanced_accuracy", "cross_entropy")


class NetworkEvaluator:
    """Score reduced vectors as networks: `(N, d) -> (N, M)`.

    One candidate at a time is written into the flat buffer of which the working network's parameters are views, so
    memory is that of one network whatever N is. Where every searched weight lies behind some point of the network, the
    activations in front of it are computed once (`PrefixCache`).

    Args:
        model: The network; copied, the copy stays in evaluation mode with its BatchNorm statistics as they are.
        layout: Which weights are searched.
        reduction: How they are expanded.
        objectives: What is judged, M of them.
        data: The samples that `__call__` refers to by slices.
        batch_size: Samples per forward pass; None: 100 for images on a CPU, else up to 4,096.
        stages: Names of the modules that form the network, in order; None finds them.
        cache_bytes: Limit of the kept activations.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        reduction: Reduction,
        objectives: Sequence[AnyObjective],
        data: TensorData,
        *,
        batch_size: int | None = None,
        stages: Sequence[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1 sample, got {batch_size}")
        self.model, self.layout, self.reduction = model, layout, reduction
        self.objectives, self.data = list(objectives), data
        self.batch_size = batch_size or default_batch_size(data.x)
        self.stage_names, self.cache_bytes = stages, cache_bytes
        self._output_objectives = [o for o in self.objectives if isinstance(o, Objective)]
        self._working: _Working | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The working network is views of one buffer, which no copy or pickle would keep.
        return {**self.__dict__, "_working": None}

    @property
    def working(self) -> _Working:
        if self._working is None:
            self._working = _Working(self)
        return self._working

    @property
    def num_samples_seen(self) -> float:
        """Sample forwards so far in units of one pass through the whole network, by multiply-adds."""
        return 0.0 if self._working is None else self._working.num_samples_seen

    @torch.inference_mode()
    def precompute(self) -> None:
        """Compute the activations in front of the first searched weight for all samples now (counted, as ever)."""
        self.working.cache.activations(slice(0, len(self.data)))

    @torch.inference_mode()
    def __call__(self, z: Tensor, span: slice) -> Tensor:
        """Score candidates on the samples in `span`: `(N, d) -> (N, M)`, float64; NaN where outputs are not finite."""
        working = self.working
        if not self.layout.is_bound(working.network, working.theta):
            self._working = working = _Working(self)
        labels = self.data.y[span]
        features = working.cache.activations(span)
        scores = torch.empty(len(z), len(self.objectives), dtype=torch.float64, device=z.device)
        for rows in _row_chunks(len(z), len(labels) * working.num_outputs * 4):
            scores[rows] = self._score(working, z[rows], features, labels)
        return scores

    def _score(self, working: _Working, z: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        scores = torch.empty(len(z), len(self.objectives), dtype=torch.float64, device=z.device)
        logits = None
        for i, one in enumerate(z):
            theta = working.load(one)
            for j, objective in enumerate(self.objectives):
                if isinstance(objective, WeightObjective):
                    scores[i, j] = objective(theta)
            if self._output_objectives:
                output = working.forward(features)
                logits = output.new_empty(len(z), *output.shape) if logits is None else logits
                logits[i] = output
        if logits is not None:
            finite = has_finite_outputs(logits)
            for j, objective in enumerate(self.objectives):
                if isinstance(objective, Objective):
                    scores[:, j] = torch.where(finite, objective(logits, labels).double(), torch.nan)
        return scores


class _Working:
    """The network that candidates are written into, with what is known about it."""

    def __init__(self, evaluator: NetworkEvaluator) -> None:
        network = deepcopy(evaluator.model).eval()
        self.reduction, self.batch_size = evaluator.reduction, evaluator.batch_size
        self.theta = evaluator.layout.bind_(network)
        self.network = network
        probe = evaluator.data.x[:PROBE_SAMPLES]
        with torch.inference_mode():
            self.num_outputs = network(probe)[0].numel()
            self.stages: Stages = find_stages(network, probe, evaluator.stage_names)
        searched = dict(network.named_parameters())
        depth = self.stages.first_searched(searched[name] for name in evaluator.layout.names)
        shares = self.stages.cost_shares(probe) if depth else [1.0]
        self.prefix_share = sum(shares[:depth])
        self.tail_share = 1.0 - self.prefix_share
        self.cache = PrefixCache(evaluator.data, self.stages, depth, self.batch_size, evaluator.cache_bytes)
        self._tail_samples = 0

    @property
    def num_samples_seen(self) -> float:
        return self.cache.num_computed * self.prefix_share + self._tail_samples * self.tail_share

    def load(self, z: Tensor) -> Tensor:
        return self.reduction.expand_into(z, self.theta)

    def forward(self, features: Tensor) -> Tensor:
        self._tail_samples += len(features)
        depth = self.cache.depth
        outputs = [self.stages.run(piece, depth) for piece in pieces(features, self.batch_size)]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def default_batch_size(x: Tensor) -> int:
    """Samples per forward pass that keep a CPU's activations in cache (images), or a GPU busy."""
    return 100 if x.ndim >= 4 and x.device.type == "cpu" else 4_096


def _row_chunks(num_rows: int, bytes_per_row: int) -> list[slice]:
    step = max(1, LOGIT_BYTES // max(1, bytes_per_row))
    return [slice(start, start + step) for start in range(0, num_rows, step)]


@torch.inference_mode()
def predict(network: nn.Module, data: TensorData, *, batch_size: int | None = None) -> Tensor:
    """Outputs of one network in evaluation mode: `(n, C)`; the mode of each module is put back afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        outputs = [network(x) for x in pieces(data.x, batch_size or default_batch_size(data.x))]
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
    found = resolve(objectives)
    logits = predict(network, data)[None]
    scores = {}
    for objective in found:
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
        outputs = predict(model, TensorData(probe, data.y[:2]))
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"the model fails on inputs of shape {tuple(probe.shape)} and type {probe.dtype}: {error}; "
            "give `x` the shape and type that its first layer takes"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(probe):
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(f"expected the model to return class scores of shape ({len(probe)}, C), got {got}")
    if outputs.shape[1] < data.num_classes:
        raise ValueError(
            f"the labels reach {data.num_classes - 1} but the model has only {outputs.shape[1]} outputs: "
            f"give it at least {data.num_classes}, or renumber the labels from 0"
        )
