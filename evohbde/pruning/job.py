"""What does a pruning preset get, and what does it give back?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from evotorch import SolutionBatch
from torch import Tensor

from evohbde.data import TensorData, stratified_order
from evohbde.history import History, Row
from evohbde.objectives import AnyObjective
from evohbde.problem import NetworkProblem
from evohbde.pruning.archive import Archive, Masking, Pruned
from evohbde.pruning.scoring import MaskScorer
from evohbde.reductions import Reduction
from evohbde.run import run_until
from evohbde.searchers.multi_objective import MultiObjectiveSearcher

FEWEST_SAMPLES = 100
"""No candidate is scored on fewer samples, unless there are fewer."""


@dataclass
class PruningJob:
    """One pruning job.

    Attributes:
        scorer: The network, which of its weights can be pruned, and the objectives.
        train: What may be searched on.
        num_evaluations: Limit of candidate networks scored; None: no limit.
        num_samples: Limit of sample forwards; None: no limit. One of both is set.
        seed: Seed of everything random.
        history: Where generations and costs are written.
        interrupted: Whether Ctrl-C ended a search.
    """

    scorer: MaskScorer
    train: TensorData
    num_evaluations: int | None
    num_samples: float | None
    seed: int
    history: History
    interrupted: bool = field(default=False, init=False)

    @property
    def theta0(self) -> Tensor:
        """The prunable weights, `(D,)`."""
        return self.scorer.theta0

    @property
    def groups(self) -> Tensor:
        """Tensor of each prunable weight, `(D,)`."""
        return self.scorer.layout.tensor_index.to(self.theta0.device)

    @property
    def evaluations_left(self) -> int | None:
        return None if self.num_evaluations is None else self.num_evaluations - self.history.num_evaluations

    @property
    def samples_left(self) -> float | None:
        return None if self.num_samples is None else self.num_samples - self.history.num_samples_seen

    def affordable(self, num_samples: int) -> int:
        """Candidates that what is left of the budget pays for, at so many samples each."""
        limits = [] if self.evaluations_left is None else [float(self.evaluations_left)]
        if self.samples_left is not None:
            limits.append(self.samples_left / num_samples)
        return max(0, int(min(limits)))

    def selection_size(self, wanted: int) -> int:
        """Samples per candidate: as wanted, as there are, and as leave twice as many candidates as samples."""
        wanted = min(wanted, len(self.train))
        if self.num_samples is None:
            return wanted
        spread = (self.num_samples / 2) ** 0.5
        if self.num_evaluations is not None:
            spread = self.num_samples / self.num_evaluations
        return min(wanted, max(FEWEST_SAMPLES, int(spread)))

    def selection(self, size: int, part: int = 0) -> TensorData:
        """Samples to search on, stratified; parts of other numbers are other samples as far as there are such."""
        order = stratified_order(self.train.y, torch.Generator().manual_seed(self.seed))
        index = (part * size + torch.arange(size)) % len(order)
        return self.train.subset(order[index].to(self.train.device))

    def archive(self, objectives: Sequence[AnyObjective] | None = None) -> Archive:
        """An empty archive for the job's objectives, or for others."""
        return Archive(self.scorer.objectives if objectives is None else objectives, self.scorer.num_classes)

    def problem(
        self, data: TensorData, reduction: Reduction, objectives: Sequence[AnyObjective] | None = None
    ) -> NetworkProblem:
        """The EvoTorch problem over a reduction of the prunable weights, with the job's objectives or others."""
        found = self.scorer.objectives if objectives is None else objectives
        return NetworkProblem(
            self.scorer.model, data, list(found), layout=self.scorer.layout, reduction=reduction, seed=self.seed
        )

    def score(self, stage: str, problem: NetworkProblem, z: Tensor, archive: Archive) -> Tensor:
        """Score candidates, `(n, d)`, outside of a search; they go into the archive. Losses, `(n, M)`, float64."""
        self.history.begin(stage)
        batch = SolutionBatch(problem, popsize=len(z), device=z.device, empty=True)
        batch.set_values(z)
        try:
            problem.evaluate(batch)
        finally:
            self.history.spend(problem.num_evaluations, problem.num_samples_seen)
        return archive.add(stage, problem.reduction, z, batch.evals.as_subclass(Tensor))  # type: ignore[arg-type]

    def search(
        self,
        stage: str,
        problem: NetworkProblem,
        searcher: MultiObjectiveSearcher,
        archive: Archive,
        *,
        num_evaluations: int | None = None,
    ) -> None:
        """Run a searcher within a limit and what is left of the budget; all that it scores goes into the archive.

        May be called again with the same searcher, which then goes on.
        """
        recording = _Recording(self, stage, problem, searcher, archive)
        limits = [limit for limit in (num_evaluations, self.evaluations_left) if limit is not None]
        if self.interrupted or min([*limits, self.affordable(len(problem.batches.data))]) < 1:
            return
        self.history.begin(stage)
        problem.after_eval_hook.append(recording.collect)
        try:
            reason = run_until(
                searcher,
                num_evaluations=min(limits, default=None),
                num_samples=self.samples_left,
                after_step=recording.write,
            )
        finally:
            problem.after_eval_hook.remove(recording.collect)
            self.history.spend(*recording.spent())
            if problem.strategy is not None:
                self.history.strategies[stage] = problem.strategy.name
        self.interrupted = self.interrupted or reason == "interrupted"


class _Recording:
    """Puts what is scored into the archive, and writes a row per generation."""

    def __init__(
        self,
        job: PruningJob,
        stage: str,
        problem: NetworkProblem,
        searcher: MultiObjectiveSearcher,
        archive: Archive,
    ) -> None:
        self.job, self.stage, self.problem, self.searcher, self.archive = job, stage, problem, searcher, archive
        self.before = problem.num_evaluations, problem.num_samples_seen

    def spent(self) -> tuple[int, float]:
        return self.problem.num_evaluations - self.before[0], self.problem.num_samples_seen - self.before[1]

    def collect(self, batch: SolutionBatch) -> None:
        reduction: Masking = self.problem.reduction  # type: ignore[assignment]
        self.archive.add(self.stage, reduction, batch.values.as_subclass(Tensor), batch.evals.as_subclass(Tensor))

    def write(self) -> None:
        history, problem = self.job.history, self.problem
        evaluations, samples = self.spent()
        first = self.searcher.population.evals.as_subclass(Tensor)[:, 0]
        history.add(
            Row(
                stage=self.stage,
                objective=problem.objective_names[0],
                generation=self.searcher.step_count,
                num_evaluations=history.num_evaluations + evaluations,
                num_samples_seen=history.num_samples_seen + samples,
                best=float(first.min() if problem.senses[0] == "min" else first.max()),
                mean=float(first.mean()),
                held_out=None,
                seconds=history.seconds,
                hypervolume=self.archive.hypervolume(),
                front_size=len(self.archive.points),
            )
        )


@dataclass
class Found:
    """What a pruning preset found.

    Attributes:
        points: The networks to be scored on validation samples.
        notes: What was decided on the way, one sentence each.
    """

    points: list[Pruned]
    notes: list[str] = field(default_factory=list)


class PruningPreset(Protocol):
    """A named way to prune: a dataclass of its switches with a method `run`."""

    @property
    def name(self) -> str: ...

    def run(self, job: PruningJob) -> Found: ...
