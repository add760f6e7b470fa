"""The published pruning, arXiv 2604.01076: thresholds first, then masks between two of the networks that they gave.

Only the abstract was at hand. What it leaves open (thresholds by quantile, the anchors, the importance, the operators)
is our reading, each as a switch; `docs/pruning.md` says which is which.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evohbde.pruning.archive import union
from evohbde.pruning.importance import fisher, magnitude, ranks, taylor
from evohbde.pruning.job import Found, PruningJob
from evohbde.pruning.operators import VotingVariation
from evohbde.pruning.phases import (
    PHASE_1,
    PHASE_2,
    Corridor,
    find_corridor,
    first_masks,
    threshold_searcher,
)
from evohbde.reductions.corridor import CorridorMask
from evohbde.reductions.thresholds import ThresholdPruning
from evohbde.searchers import MOEAD, NSGA2
from evohbde.searchers.multi_objective import MultiObjectiveSearcher

GRADIENT_COST = 3
"""Sample forwards that a forward and a backward pass count as."""

CHOICES = {
    "algorithm": ("NSGA2", "MOEAD"),
    "reading": ("R1", "R2"),
    "importance": ("magnitude", "taylor", "fisher"),
    "heavy": ("best", "lightest"),
}


@dataclass(frozen=True)
class HierarchicalPruning2026:
    """The published hierarchical, importance-guided pruning.

    Attributes:
        popsize: Candidates per generation of both phases; fewer where the budget allows fewer generations than that.
        generations: At most so many per phase.
        num_samples: Samples that score every candidate; fewer where the budget counts sample forwards.
        first_share: Part of the evaluations that phase 1 gets.
        rule, most: Meaning and limit of thresholds, see `ThresholdPruning`.
        algorithm: Searcher of phase 2, `"NSGA2"` or `"MOEAD"`.
        corridor: Whether phase 2 moves between two anchors; otherwise over all prunable weights.
        reading: `"R1"`: what both anchors keep stays; `"R2"`: all that either keeps may go, but the kept share stays
            between those of the anchors, by constraint domination.
        heavy, heavy_loss, light_loss: Which networks are the anchors, see `find_corridor`.
        guided: Whether importance guides the first masks and their variation; otherwise all weights are alike.
        importance: `"magnitude"`, `"taylor"` or `"fisher"`; the latter two take one pass of gradients.
        temperature: How far chance overrules importance in the first masks.

    Source: arXiv 2604.01076.
    """

    popsize: int = 100
    generations: int = 100
    num_samples: int = 5_000
    first_share: float = 0.5
    rule: str = "quantile"
    most: float = 0.95
    algorithm: str = "NSGA2"
    corridor: bool = True
    reading: str = "R1"
    heavy: str = "best"
    heavy_loss: float = 0.005
    light_loss: float = 0.05
    guided: bool = True
    importance: str = "magnitude"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 < self.first_share <= 1:
            raise ValueError(f"`first_share` must lie in (0, 1], got {self.first_share}")
        if not 0 < self.most < 1:
            raise ValueError(f"`most` must lie in (0, 1), the largest share that a tensor may lose, got {self.most}")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be above 0, got {self.temperature}")
        for name, least in (("popsize", 4), ("generations", 1), ("num_samples", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}")

    @property
    def name(self) -> str:
        return "hierarchical-2026"

    def run(self, job: PruningJob) -> Found:
        run = TwoPhases(self, job)
        try:
            run.first_phase()
            if not job.interrupted and self.first_share < 1:
                run.second_phase()
        except KeyboardInterrupt:
            job.interrupted = True
        return Found(union(run.archives), run.notes)


class TwoPhases:
    """One job under one set of switches, phase by phase.

    Attributes:
        archives: What phase 1 and phase 2 have scored.
        shares: Evaluations of phase 1 and of phase 2.
        searcher: That of phase 1, once it has begun.
        corridor: What phase 2 moves between; None before, and where there is none.
    """

    def __init__(self, switches: HierarchicalPruning2026, job: PruningJob) -> None:
        self.switches, self.job = switches, job
        self.data = job.selection(job.selection_size(switches.num_samples))
        self.thresholds = ThresholdPruning(job.theta0, job.groups, rule=switches.rule, most=switches.most)
        total = min(job.affordable(len(self.data)), 2 * switches.popsize * switches.generations)
        self.shares = round(total * switches.first_share), total - round(total * switches.first_share)
        # As many generations as candidates in each, as published, where there is less to spend.
        self.popsize = min(switches.popsize, max(8, round((total / 2) ** 0.5)))
        self.archives = job.archive(), job.archive()
        self.searcher: MultiObjectiveSearcher | None = None
        self.corridor: Corridor | None = None
        self.notes = [f"selection: {len(self.data):,} training samples; {self.popsize} candidates per generation"]

    def first_phase(self, num_evaluations: int | None = None) -> None:
        """Search thresholds, or go on with it for so many evaluations."""
        job, archive = self.job, self.archives[0]
        if self.searcher is None:
            self.searcher = threshold_searcher(job, self.data, self.thresholds, self.popsize)
        limit = self.shares[0] if num_evaluations is None else num_evaluations
        job.search(PHASE_1, self.searcher.problem, self.searcher, archive, num_evaluations=limit)
        self.notes.append(archive.summary(PHASE_1))

    def second_phase(self) -> None:
        """Search masks; where phase 1 left nothing to search between, it goes on instead."""
        job, switches = self.job, self.switches
        self.corridor = corridor = find_corridor(
            self.archives[0],
            heavy=switches.heavy,
            heavy_loss=switches.heavy_loss,
            light_loss=switches.light_loss,
            size=len(job.theta0),
        )
        if corridor is None:
            self.notes.append(f"{PHASE_1} left no corridor, both anchors are the same network: it went on instead")
            self.first_phase(self.shares[1])
            return
        reduction = self._masks(corridor)
        self.notes.append(
            f"anchors keep {corridor.heavy.kept:.1%} and {corridor.light.kept:.1%}; {reduction.dim:,} weights are free"
        )
        searcher = self._mask_searcher(corridor, reduction)
        job.search(PHASE_2, searcher.problem, searcher, self.archives[1], num_evaluations=self.shares[1])
        self.notes.append(self.archives[1].summary(PHASE_2))

    def _masks(self, corridor: Corridor) -> CorridorMask:
        nothing, everything = (torch.full_like(corridor.core, value) for value in (False, True))
        core = corridor.core if self.switches.corridor and self.switches.reading == "R1" else nothing
        return CorridorMask(self.job.theta0, core, corridor.upper if self.switches.corridor else everything)

    def _mask_searcher(self, corridor: Corridor, reduction: CorridorMask) -> MultiObjectiveSearcher:
        switches, problem = self.switches, self.job.problem(self.data, reduction)
        alike = torch.full_like(reduction.center, 0.5)
        importance = ranks(self._importance()[reduction.free]) if switches.guided else alike
        start = first_masks(
            corridor, reduction, importance, self.archives[0].points, self.popsize, switches.temperature,
            problem.generator,
        )  # fmt: skip
        options = {
            "popsize": self.popsize,
            "initial_population": start,
            "variation": VotingVariation(
                importance,
                num_generations=max(1, self.shares[1] // self.popsize),
                sense=self.job.scorer.objectives[0].sense,
            ),
            "violation": _Between(corridor, reduction) if switches.reading == "R2" and switches.corridor else None,
        }
        if switches.algorithm == "NSGA2":
            return NSGA2(problem, **options)
        return MOEAD(problem, normalize=True, num_neighbours=20, max_replacements=2, **options)

    def _importance(self) -> Tensor:
        job, scorer = self.job, self.job.scorer
        if self.switches.importance == "magnitude":
            return magnitude(job.theta0, job.groups)
        job.history.spend(0, GRADIENT_COST * len(self.data))
        return {"taylor": taylor, "fisher": fisher}[self.switches.importance](scorer.model, scorer.layout, self.data)


class _Between:
    """How far the kept share of bits lies outside of that of both anchors: `(n, d) -> (n,)`."""

    def __init__(self, corridor: Corridor, reduction: CorridorMask) -> None:
        self.reduction = reduction
        self.low, self.high = corridor.light.kept, corridor.heavy.kept

    def __call__(self, z: Tensor) -> Tensor:
        kept = torch.stack([self.reduction.mask(one).double().mean() for one in z])
        return (self.low - kept).clamp(min=0) + (kept - self.high).clamp(min=0)
