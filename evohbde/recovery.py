"""How does a pruned, quantized or codebook network recover without gradients?

By forward passes only, and such that zeros stay zero, integers stay integers and shared values stay shared: BatchNorm
statistics are taken anew, then the scales and shifts of its channels are searched. Each step is kept only if validation
samples confirm it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from evotorch.algorithms import PGPE
from torch import nn

from evohbde.compress.codebook import SharedValues
from evohbde.compress.quantization import scale_names
from evohbde.data import SuperBatches, TensorData, stratified_order
from evohbde.gate import Gate
from evohbde.layout import ParameterLayout
from evohbde.parts import bias_names, norm_names, prunable_names
from evohbde.problem import NetworkProblem
from evohbde.recalibrate import batch_norms, recalibrated
from evohbde.reductions import ChannelScaling, Identity, Reduction
from evohbde.run import run_until
from evohbde.sensitivity import probe_stdev

PARTS = ("statistics", "scales", "biases", "codebook")
DEFAULT_PARTS = PARTS[:3]

POPSIZE, BATCH_SIZE, LEARNING_RATE, DIVERGENCE = 10, 100, 0.25, 0.01
"""Of the search, as in the default fine-tuning preset for the front of large networks."""

STATISTICS_SAMPLES = 1_000
STATISTICS_SHARES = (1.0, 0.5, 0.2)
"""Shares of new statistics that are tried, until one is confirmed."""


@dataclass
class Repaired:
    """What `repair` returns.

    Attributes:
        network: The network, better on validation samples or as it was.
        kept: Steps that were confirmed.
        notes: What became of each step, one sentence each.
        num_evaluations: Candidate networks scored.
        num_samples: Sample forwards, those on validation samples included.
    """

    network: nn.Module
    kept: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_evaluations: int = 0
    num_samples: float = 0.0


def repair(
    network: nn.Module,
    train: TensorData,
    validation: TensorData,
    *,
    parts: tuple[str, ...] = DEFAULT_PARTS,
    num_samples: float = 50_000,
    seed: int = 0,
) -> Repaired:
    """Improve a smaller network by forward passes; weights stay as they are but for a factor per channel, zeros zero.

    Shrinking and repair are two things: compare a repaired network with the full one after the same repair.

    Args:
        network: The pruned, quantized or codebook network, or any other; copied.
        train: Samples to take statistics from and to search on.
        validation: Samples that confirm each step by cross-entropy (`evohbde.gate`).
        parts: Steps to try, in this order: `"statistics"` (BatchNorm re-estimation), `"scales"` (weights and biases of
            the normalisation layers, or where there are none a gain per output channel, of quantized weights merged
            into their scales), `"biases"` (all others), `"codebook"` (the different values of all weights, zero left
            out; where there are no normalisation layers, a codebook survives this one and not `"scales"`).
        num_samples: Sample forwards that the searches may spend together, at most half of it each.
        seed: Seed of everything random.

    Raises:
        ValueError: If a part is unknown or the budget is not positive.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"unknown `parts` {unknown}; known: {', '.join(PARTS)}")
    if num_samples <= 0:
        raise ValueError(f"`num_samples` must be positive, got {num_samples}")
    num_searches = sum(part != "statistics" for part in parts)
    work = _Work(network, train, validation, num_samples / max(2, num_searches), seed)
    for part in parts:
        getattr(work, part)()
    return work.found


class _Work:
    """One repair."""

    def __init__(self, network: nn.Module, train: TensorData, validation: TensorData, limit: float, seed: int) -> None:
        self.found = Repaired(deepcopy(network).eval())
        self.train, self.seed, self.limit = train, seed, limit
        self.generator = torch.Generator().manual_seed(seed)
        self.gate = Gate(validation, self.found.network, self._spend)

    def statistics(self) -> None:
        """Take the statistics of BatchNorm layers anew, fully or in part."""
        layers = batch_norms(self.found.network)
        if not layers:
            self.found.notes.append("statistics: the network has none")
            return
        x = self._some(STATISTICS_SAMPLES).x
        for share in STATISTICS_SHARES:
            self._spend(len(x))
            proposal = recalibrated(self.found.network, x, [share] * len(layers))
            if self._judge("statistics", f"{share:.0%} new", proposal):
                return

    def scales(self) -> None:
        """Search the normalisation layers, or where there are none a gain per output channel."""
        names = norm_names(self.found.network)
        if names:
            self._search("scales", names, lambda theta, layout: Identity(theta, mode="offset"))
        else:
            names = scale_names(self.found.network) or prunable_names(self.found.network)
            self._search("scales", names, lambda theta, layout: ChannelScaling(theta, layout.shapes))

    def biases(self) -> None:
        """Search the biases of all other layers."""
        norms = set(norm_names(self.found.network))
        names = [name for name in bias_names(self.found.network) if name not in norms]
        if not names:
            self.found.notes.append("biases: the network has none outside of its normalisation layers")
            return
        self._search("biases", names, lambda theta, layout: Identity(theta, mode="offset"))

    def codebook(self) -> None:
        """Search the different values of the weights."""
        names = prunable_names(self.found.network)
        self._search("codebook", names, lambda theta, layout: SharedValues(theta))

    def _search(
        self, part: str, names: list[str], reduce: Callable[[torch.Tensor, ParameterLayout], Reduction]
    ) -> None:
        """Follow the mean of a mirrored search distribution by cross-entropy, and ask the gate."""
        network = self.found.network
        layout = ParameterLayout(network, names)
        reduction = reduce(layout.flatten(network), layout)
        stdev = self._step(network, layout, reduction)
        problem = NetworkProblem(
            network,
            SuperBatches(self.train, BATCH_SIZE, seed=self.seed),
            "cross_entropy",
            layout=layout,
            reduction=reduction,
            seed=self.seed,
        )
        searcher = PGPE(
            problem,
            popsize=POPSIZE,
            center_init=problem.center,
            stdev_init=stdev,
            center_learning_rate=LEARNING_RATE * stdev,
            stdev_learning_rate=0.0,
            optimizer="adam",
            ranking_method="centered",
        )
        run_until(searcher, num_samples=self.limit)
        self._spend(problem.num_samples_seen, problem.num_evaluations)
        self._judge(part, f"{reduction.dim:,} values", problem.make_network(searcher.status["center"]))

    def _step(self, network: nn.Module, layout: ParameterLayout, reduction: Reduction) -> float:
        directions = torch.randn(4, reduction.dim, generator=self.generator).to(reduction.center)
        stdev, evaluations, samples = probe_stdev(
            network, self._some(BATCH_SIZE), layout, reduction, divergence=DIVERGENCE, directions=directions
        )
        self._spend(samples, evaluations)
        return stdev

    def _judge(self, part: str, what: str, proposal: nn.Module) -> bool:
        is_better = self.gate.passes(proposal, num_errors=1)
        self.found.notes.append(f"{part}, {what}: {'kept' if is_better else 'dropped'}, {self.gate.verdict}")
        if is_better:
            self.found.network = proposal
            self.found.kept.append(part)
        return is_better

    def _some(self, size: int) -> TensorData:
        index = stratified_order(self.train.y, self.generator)[:size]
        return self.train.subset(index.to(self.train.device))

    def _spend(self, num_samples: float, num_evaluations: int = 0) -> None:
        self.found.num_samples += num_samples
        self.found.num_evaluations += num_evaluations
