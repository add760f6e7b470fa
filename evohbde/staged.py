"""The default preset: what gives the best held-out score per sample forward.

Small networks (against the budget): all weights in histogram blocks, each shifted by an offset. Large ones: first the
BatchNorm statistics, then the normalisation layers of the first third, then the head on cached features. A searched
value is a shift of what was trained, the objective is cross-entropy, steps are as large as the network's own answers
allow, the mean of the search distribution is the result, and a stage that validation samples do not confirm is dropped.
`docs/results.md` has the measurements behind each choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from evotorch.algorithms import PGPE, SNES
from torch import nn

from evohbde.data import SuperBatches, TensorData, stratified_order
from evohbde.gate import Gate
from evohbde.layout import ParameterLayout
from evohbde.preset_base import Assignment, Outcome
from evohbde.problem import NetworkProblem
from evohbde.recalibrate import batch_norms, by_depth, norm_parameter_names, recalibrated
from evohbde.reductions import HistogramBlocking, Identity, Reduction
from evohbde.sensitivity import probe_stdev

PARTS = ("statistics", "front norms", "head")


@dataclass(frozen=True)
class Staged:
    """Our default.

    Attributes:
        objective: What is searched; F1 is reported whatever it is.
        parts: Which of the stages of a large network are tried.
        num_bins: Histogram edges of the offset blocks.
        popsize: Candidates per generation of the block and front searches, mirrored in pairs.
        divergence: Size of a first step: the mean KL divergence, in nats, by which a candidate's predictions differ.
        learning_rate: Step of the mean (Adam) in units of the standard deviation.
        batch_size: Samples per candidate where the budget counts candidates.
        small_batch_size: Samples per candidate where the budget counts sample forwards.
        recalibration: Share of new BatchNorm statistics in the first, middle and last third of the layers.
        recalibration_samples: Samples that the new statistics are taken from.
        head_popsize, head_pull: Candidates per generation of the head search, and the price of its distance.
        validation_share: Part of the training samples that is set aside for decisions if none are given.
    """

    objective: str = "cross_entropy"
    parts: tuple[str, ...] = PARTS
    num_bins: int = 10_000
    popsize: int = 10
    divergence: float = 0.01
    learning_rate: float = 0.5
    batch_size: int = 1_000
    small_batch_size: int = 50
    recalibration: tuple[float, ...] = (0.0, 0.2, 0.5)
    recalibration_samples: int = 1_000
    head_popsize: int = 50
    head_pull: float = 1e-3
    validation_share: float = 0.2

    @property
    def name(self) -> str:
        return "default"

    def run(self, job: Assignment) -> Outcome:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise ValueError(f"unknown `parts` {unknown}; known: {', '.join(PARTS)}")
        run = _Run(self, job)
        return run.blocks() if run.is_small() else run.stages()


class _Run:
    """One job under one set of switches."""

    def __init__(self, switches: Staged, job: Assignment) -> None:
        self.switches, self.job = switches, job
        self.notes: list[str] = []
        self.reduction: Reduction | None = None
        self.generator = torch.Generator().manual_seed(job.seed)
        if job.validation is None:
            self.train, self.validation = job.train.split(switches.validation_share, job.seed)
        else:
            self.train, self.validation = job.train, job.validation

    def is_small(self) -> bool:
        """Whether the budget allows at least one candidate per ten weights."""
        job, size = self.job, len(ParameterLayout(self.job.model))
        limits = [job.num_evaluations or float("inf")]
        if job.num_samples is not None:
            limits.append(job.num_samples / min(len(self.train), 2 * self.switches.small_batch_size))
        return min(limits) >= size / 10

    # All weights in blocks

    def blocks(self) -> Outcome:
        """Search all weights: a pilot on a part of the samples, and if validation confirms it, the rest on all."""
        job = self.job
        network, gate = job.model, self._gate(self.validation)
        stdev = self._probe(network, self._blocking(network), ParameterLayout(network))
        found = self._climb("pilot", network, self.train, stdev, share=self._pilot_share())
        if job.interrupted:
            self.notes.append("interrupted in the pilot, nothing was decided: the network as far as it got")
            return self._outcome(found)
        if gate.passes(found, num_errors=1):
            self.notes.append("pilot: confirmed on validation samples, which then joined the search")
            everything = job.train
            return self._outcome(self._climb("blocks", found, everything, stdev))
        self.notes.append("pilot: not confirmed on validation samples, which stayed apart")
        found = self._climb("blocks", found, self.train, stdev)
        if gate.passes(found, num_errors=2):
            return self._outcome(found)
        self.notes.append("blocks: validation samples do not confirm a gain, the network is returned as it was")
        return self._outcome(network)

    def _pilot_share(self) -> float:
        limits = []
        if self.job.num_evaluations is not None:
            limits.append(min(500.0, self.job.num_evaluations / 2) / self.job.num_evaluations)
        if self.job.num_samples is not None:
            limits.append(min(50_000.0, self.job.num_samples / 2) / self.job.num_samples)
        return min(limits)

    def _blocking(self, network: nn.Module) -> Reduction:
        theta = ParameterLayout(network).flatten(network)
        self.reduction = HistogramBlocking(theta, self.switches.num_bins, mode="offset")
        return self.reduction

    def _climb(
        self,
        stage: str,
        network: nn.Module,
        data: TensorData,
        stdev: float,
        *,
        include: str | Sequence[str] = "*",
        share: float | None = None,
        rate: float = 1.0,
        num_samples: float | None = None,
    ) -> nn.Module:
        """Follow the mean of a mirrored search distribution with Adam (PGPE), within a share of the budget."""
        job, switches = self.job, self.switches
        if self._is_spent():
            return network
        layout = ParameterLayout(network, include)
        theta = layout.flatten(network)
        reduction = self._blocking(network) if include == "*" else Identity(theta, mode="offset")
        size = self._batch_size(stage)
        problem = NetworkProblem(
            network,
            SuperBatches(data, size, seed=job.seed),
            switches.objective,
            layout=layout,
            reduction=reduction,
            seed=job.seed,
        )
        searcher = PGPE(
            problem,
            popsize=switches.popsize,
            center_init=problem.center,
            stdev_init=stdev,
            center_learning_rate=switches.learning_rate * rate * stdev,
            stdev_learning_rate=0.0,
            optimizer="adam",
            ranking_method="centered",
        )
        evaluations = None if share is None or job.num_evaluations is None else round(share * job.num_evaluations)
        samples = share * job.num_samples if share is not None and job.num_samples is not None else num_samples
        job.search(stage, problem, searcher, num_evaluations=evaluations, num_samples=samples)
        return problem.make_network(searcher.status["center"])

    def _batch_size(self, stage: str) -> int:
        """As many samples per candidate as leave 300 generations, where the budget counts sample forwards."""
        switches, left = self.switches, self.job.samples_left
        if left is None:
            return switches.batch_size
        if stage != "blocks":
            return switches.small_batch_size * (2 if stage == "pilot" else 1)
        return min(switches.batch_size, max(2 * switches.small_batch_size, int(left / (300 * switches.popsize))))

    # A chain of small subspaces

    def stages(self) -> Outcome:
        """Statistics, front normalisation layers, head: each kept only if validation samples confirm it."""
        job = self.job
        gate = self._gate(self._some(self.validation, self._validation_size()))
        network = job.model
        parts, head = self.switches.parts, _head_names(network)
        front = _front_names(network)
        if "statistics" in parts and batch_norms(network) and self._affords(10 * self.switches.recalibration_samples):
            network = self._keep("statistics", network, self._recalibrate(network), gate)
        if (
            "front norms" in parts
            and front
            and self._affords(25 * self.switches.popsize * self.switches.small_batch_size + self._head_size())
        ):
            stdev = self._probe(network, None, ParameterLayout(network, front))
            reserve = 1.1 * (self._head_size() + 2 * len(gate.data))
            spare = None if job.samples_left is None else job.samples_left - reserve
            proposal = self._climb(
                "front norms",
                network,
                self.train,
                stdev,
                include=front,
                share=self._front_share(),
                rate=0.5,
                num_samples=spare,
            )
            network = self._keep("front norms", network, proposal, gate)
        if "head" in parts and head and not self._is_spent(len(gate.data)):
            network = self._keep("head", network, self._search_head(network, head, len(gate.data)), gate)
        return self._outcome(network)

    def _front_share(self) -> float | None:
        return 0.3 if self.job.num_samples is None else None

    def _validation_size(self) -> int:
        limit = self.job.num_samples
        return len(self.validation) if limit is None else int(min(1_000, max(0.015 * limit, min(200, 0.04 * limit))))

    def _head_size(self) -> int:
        limit = self.job.num_samples
        wanted = float("inf") if limit is None else min(20_000, max(4_500, 0.15 * limit))
        return int(min(len(self.train), wanted))

    def _recalibrate(self, network: nn.Module) -> nn.Module:
        self.job.history.begin("BatchNorm statistics")
        x = self._some(self.train, self.switches.recalibration_samples).x
        self.job.history.spend(0, len(x))
        return recalibrated(network, x, by_depth(self.switches.recalibration, len(batch_norms(network))))

    def _search_head(self, network: nn.Module, names: Sequence[str], reserve: int) -> nn.Module:
        job, switches = self.job, self.switches
        layout = ParameterLayout(network, names)
        spare = None if job.samples_left is None else job.samples_left - reserve
        size = self._head_size() if spare is None else min(self._head_size(), int(0.93 * spare))
        data = self._some(self.train, size)
        reduction = Identity(layout.flatten(network), mode="offset")
        stdev = 0.04 * float(layout.flatten(network).square().mean().sqrt())
        problem = NetworkProblem(
            network,
            SuperBatches(data, 512, seed=job.seed),
            switches.objective,
            layout=layout,
            reduction=reduction,
            seed=job.seed,
            pull=switches.head_pull,
        )
        job.history.begin("head features")
        problem.precompute()
        searcher = SNES(problem, popsize=switches.head_popsize, center_init=problem.center, stdev_init=stdev)
        evaluations = 600 * switches.head_popsize if job.num_evaluations is None else None
        job.search("head", problem, searcher, num_evaluations=evaluations, num_samples=spare)
        self.reduction = self.reduction or reduction
        return problem.make_network(searcher.status["center"])

    # What both share

    def _probe(self, network: nn.Module, reduction: Reduction | None, layout: ParameterLayout) -> float:
        job = self.job
        job.history.begin("step size")
        reduction = reduction or Identity(layout.flatten(network), mode="offset")
        data = self._some(self.train, 300 if job.num_samples is None else self.switches.small_batch_size // 2)
        directions = torch.randn(4, reduction.dim, generator=self.generator).to(reduction.center)
        stdev, evaluations, samples = probe_stdev(
            network, data, layout, reduction, divergence=self.switches.divergence, directions=directions
        )
        job.history.spend(evaluations, samples)
        self.notes.append(f"step size {stdev:.4f}: moves predictions by {self.switches.divergence} nats")
        return stdev

    def _gate(self, data: TensorData) -> Gate:
        return Gate(data, self.job.model, lambda num_samples: self.job.history.spend(0, num_samples))

    def _keep(self, stage: str, network: nn.Module, proposal: nn.Module, gate: Gate) -> nn.Module:
        if proposal is network:
            return network
        if gate.passes(proposal, num_errors=1):
            self.notes.append(f"{stage}: kept, {gate.verdict}")
            return proposal
        self.notes.append(f"{stage}: dropped, {gate.verdict}")
        return network

    def _some(self, data: TensorData, size: int) -> TensorData:
        if size >= len(data):
            return data
        return data.subset(stratified_order(data.y, self.generator)[:size].to(data.device))

    def _affords(self, num_samples: float) -> bool:
        return self.job.samples_left is None or self.job.samples_left >= num_samples

    def _is_spent(self, reserve: int = 0) -> bool:
        job = self.job
        few = job.evaluations_left is not None and job.evaluations_left < self.switches.popsize
        return job.interrupted or few or (job.samples_left is not None and job.samples_left <= reserve + 100)

    def _outcome(self, network: nn.Module) -> Outcome:
        return Outcome(network=network.eval(), notes=self.notes, reduction=self.reduction)


def _head_names(model: nn.Module) -> list[str]:
    """Searchable parameters of the last linear layer."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return []
    prefix = f"{linear[-1]}." if linear[-1] else ""
    return [name for name, p in model.named_parameters() if name.rpartition(".")[0] + "." == prefix and p.requires_grad]


def _front_names(model: nn.Module) -> list[str]:
    """Searchable weights and biases of the first third of the normalisation layers."""
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = [name for name in norm_parameter_names(model) if name in trainable]
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    first = set(layers[: ceil(len(layers) / 3)])
    return [name for name in names if name.rpartition(".")[0] in first]
