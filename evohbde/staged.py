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
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from torch import nn

from evohbde.data import SuperBatches, TensorData, stratified_order
from evohbde.gate import Gate
from evohbde.layout import ParameterLayout
from evohbde.outputs import check_outputs
from evohbde.parts import head_names, norm_names
from evohbde.preset_base import Assignment, Outcome
from evohbde.problem import NetworkProblem
from evohbde.recalibrate import batch_norms, by_depth, recalibrated
from evohbde.reductions import HistogramBlocking, Identity, Reduction
from evohbde.sensitivity import probe_stdev

PARTS = ("statistics", "front norms", "head")

COUNTS = {
    "num_bins": 1,
    "popsize": 2,
    "batch_size": 1,
    "small_batch_size": 1,
    "recalibration_samples": 1,
    "head_popsize": 2,
}
"""Switches that count something, with the least that they can be."""


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

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in COUNTS and (isinstance(value, bool) or not isinstance(value, int) or value < COUNTS[name]):
                raise ValueError(f"`{name}` must be an integer of at least {COUNTS[name]}, got {value!r}")
            if name in ("divergence", "learning_rate", "validation_share") and not 0 < value < float("inf"):
                raise ValueError(f"`{name}` must be a finite number above 0, got {value!r}")
        if not 0 <= self.head_pull < float("inf"):
            raise ValueError(f"`head_pull` must be a finite number >= 0, got {self.head_pull!r}")
        if len(self.recalibration) != 3 or not all(0 <= share <= 1 for share in self.recalibration):
            raise ValueError(f"`recalibration` must be three shares from 0 to 1, got {self.recalibration!r}")
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise ValueError(f"unknown `parts` {unknown}; known: {', '.join(PARTS)}")

    @property
    def name(self) -> str:
        return "default"

    def run(self, job: Assignment) -> Outcome:
        run = _Run(self, job)
        try:
            run.blocks() if run.is_small() else run.stages()
        except KeyboardInterrupt:
            job.interrupted = True
        if job.interrupted:
            run.notes.append("interrupted: the network as far as it got")
        return Outcome(network=run.network.eval(), notes=run.notes, reduction=run.reduction)


class _Run:
    """One job under one set of switches."""

    def __init__(self, switches: Staged, job: Assignment) -> None:
        self.switches, self.job = switches, job
        self.network = job.model
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

    def blocks(self) -> None:
        """Search all weights: a pilot, and if validation samples confirm it, the rest of the budget without a gate.

        Validation samples that were set aside here then join the search; samples that the caller gave do not.
        """
        job, original = self.job, self.network
        gate = self._gate(self.validation)
        stdev = self._probe(original, self._blocking(original), ParameterLayout(original))
        self.network = self._climb("pilot", original, self.train, stdev, share=self._pilot_share())
        if job.interrupted:
            return
        is_confirmed = gate.passes(self.network, num_errors=1)
        self.notes.append(f"pilot: {'confirmed' if is_confirmed else 'not confirmed'}, {gate.verdict}")
        self.network = self._climb("blocks", self.network, job.train if is_confirmed else self.train, stdev)
        if not is_confirmed and not job.interrupted and not gate.passes(self.network, num_errors=2):
            self.notes.append(f"blocks: dropped, {gate.verdict}")
            self.network = original

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
        return self._found(stage, problem, searcher) or network

    def _batch_size(self, stage: str) -> int:
        """As many samples per candidate as leave 300 generations, where the budget counts sample forwards."""
        switches, left = self.switches, self.job.samples_left
        if left is None:
            return switches.batch_size
        if stage != "blocks":
            return switches.small_batch_size * (2 if stage == "pilot" else 1)
        return min(switches.batch_size, max(2 * switches.small_batch_size, int(left / (300 * switches.popsize))))

    # A chain of small subspaces

    def stages(self) -> None:
        """Statistics, front normalisation layers, head: each kept only if validation samples confirm it."""
        gate = self._gate(self._some(self.validation, self._validation_size()))
        steps = {"statistics": self._recalibrate, "front norms": self._search_front, "head": self._search_head}
        for part in self.switches.parts:
            proposal = None if self.job.interrupted else steps[part](len(gate.data))
            if proposal is None or self.job.interrupted:
                continue
            is_better = gate.passes(proposal, num_errors=1)
            self.notes.append(f"{part}: {'kept' if is_better else 'dropped'}, {gate.verdict}")
            if is_better:
                self.network = proposal

    def _recalibrate(self, gate_size: int) -> nn.Module | None:
        count, wanted = len(batch_norms(self.network)), self.switches.recalibration_samples
        if count == 0 or not self._affords(10 * wanted):
            return None
        self.job.history.begin("BatchNorm statistics")
        x = self._some(self.train, wanted).x
        self.job.history.spend(0, len(x))
        return recalibrated(self.network, x, by_depth(self.switches.recalibration, count))

    def _search_front(self, gate_size: int) -> nn.Module | None:
        job, switches, names = self.job, self.switches, _front_names(self.network)
        reserve = 1.1 * (self._head_size() + 2 * gate_size)
        if not names or not self._affords(25 * switches.popsize * switches.small_batch_size + reserve):
            return None
        stdev = self._probe(self.network, None, ParameterLayout(self.network, names))
        return self._climb(
            "front norms",
            self.network,
            self.train,
            stdev,
            include=names,
            share=0.3 if job.num_samples is None else None,
            rate=0.5,
            num_samples=None if job.samples_left is None else job.samples_left - reserve,
        )

    def _validation_size(self) -> int:
        limit = self.job.num_samples
        return len(self.validation) if limit is None else int(min(1_000, max(0.015 * limit, min(200, 0.04 * limit))))

    def _head_size(self) -> int:
        limit = self.job.num_samples
        wanted = float("inf") if limit is None else min(20_000, max(4_500, 0.15 * limit))
        return int(min(len(self.train), wanted))

    def _search_head(self, gate_size: int) -> nn.Module | None:
        job, switches, network = self.job, self.switches, self.network
        names = head_names(network)
        if not names or self._is_spent(gate_size):
            return None
        layout = ParameterLayout(network, names)
        theta = layout.flatten(network)
        spare = None if job.samples_left is None else job.samples_left - gate_size
        size = self._head_size() if spare is None else min(self._head_size(), int(0.93 * spare))
        problem = NetworkProblem(
            network,
            SuperBatches(self._some(self.train, size), 512, seed=job.seed),
            switches.objective,
            layout=layout,
            reduction=Identity(theta, mode="offset"),
            seed=job.seed,
            pull=switches.head_pull,
        )
        job.history.begin("head features")
        problem.precompute()
        stdev = 0.04 * float(theta.square().mean().sqrt())
        searcher = SNES(problem, popsize=switches.head_popsize, center_init=problem.center, stdev_init=stdev)
        evaluations = 600 * switches.head_popsize if job.num_evaluations is None else None
        job.search("head", problem, searcher, num_evaluations=evaluations, num_samples=spare)
        self.reduction = self.reduction or problem.reduction
        return self._found("head", problem, searcher)

    # What both share

    def _found(self, stage: str, problem: NetworkProblem, searcher: SearchAlgorithm) -> nn.Module | None:
        """The network at the centre of the search; None if it gives no finite outputs."""
        network = problem.make_network(searcher.status["center"])
        try:
            check_outputs(network, problem.batches.data)
        except ValueError:
            self.notes.append(f"{stage}: dropped, the search has diverged to a network of NaN or infinite outputs")
            return None
        return network

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


def _front_names(model: nn.Module) -> list[str]:
    """Searchable weights and biases of the first third of the normalisation layers."""
    names = norm_names(model)
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    first = set(layers[: ceil(len(layers) / 3)])
    return [name for name in names if name.rpartition(".")[0] in first]
