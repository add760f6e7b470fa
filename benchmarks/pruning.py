"""How much can be pruned from ResNet-20 and ResNet-56, and what does the search add to magnitudes?

Searched on training images, re-scored on other training images, reported on test images. At each reduction a searched
front stands for its network that removes at least as much and was best on the re-scoring images; pruning by magnitude
removes exactly as much.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde.data import Task
from evohbde.evaluator import score
from evohbde.history import History
from evohbde.pruning.allocated import AllocatedPruning
from evohbde.pruning.archive import Archive, Pruned, union
from evohbde.pruning.baselines import GLOBAL, UNIFORM, global_magnitude_masks, random_masks, uniform_magnitude_masks
from evohbde.pruning.front import Front, thinned, unpruned_point
from evohbde.pruning.hierarchical import HierarchicalPruning2026, TwoPhases
from evohbde.pruning.job import PruningJob
from evohbde.pruning.phases import Corridor
from evohbde.pruning.pipeline import prunable_layout
from evohbde.pruning.repair import repair
from evohbde.pruning.scoring import MaskScorer
from problems.cifar import resnet20_jpeg, shifted_resnet20, shifted_resnet56

NETWORKS: dict[str, Callable[..., Task]] = {
    "resnet20": resnet20_jpeg,
    "shifted-resnet20": shifted_resnet20,
    "shifted-resnet56": shifted_resnet56,
}

REDUCTIONS = (0.3, 0.4, 0.5, 0.6)
OURS, RANDOM, REPAIRED, UNPRUNED_REPAIRED = "ours", "random in the corridor", "ours, repaired", "unpruned, repaired"
PHASE_1, CONTINUED, FULL, ALIKE = "phase 1", "phase 1, twice as long", "both phases", "both phases, no importance"
NUM_RESCORED = 25
LIGHTEST, HEAVIEST = 0.35, 0.71
"""Kept shares of networks that are re-scored: those that can stand for a reduction."""

ORDER = (GLOBAL, UNIFORM, RANDOM, PHASE_1, CONTINUED, FULL, ALIKE, OURS, REPAIRED)


@dataclass(frozen=True)
class Sizes:
    """How much is spent.

    Attributes:
        num_evaluations: Candidates of the whole framework, and of ours; phase 1 alone gets half of them.
        images: Training images that score a candidate.
        fresh: Other training images that fronts are re-scored on.
        test: Test images.
        repair: Sample forwards of each repair.
    """

    num_evaluations: int
    images: int
    fresh: int
    test: int
    repair: int


def measure(network: str, seeds: list[int], sizes: Sizes) -> None:
    """All methods at all reductions, seed by seed; one table and one CSV per network."""
    rows: list[dict[str, object]] = []
    for seed in seeds:
        rows += _Seed(network, seed, sizes).rows()
    write_csv(f"pruning-{network}", rows)
    options = f"--network {network} --seeds {seeds[0]}-{seeds[-1]} --num-evaluations {sizes.num_evaluations}"
    publish(f"pruning-{network}", _table(rows), f"python -m benchmarks pruning {options} --images {sizes.images}")


class _Seed:
    """All methods with one seed: its images and its searches."""

    def __init__(self, network: str, seed: int, sizes: Sizes) -> None:
        self.network, self.seed, self.sizes = network, seed, sizes
        per_class = {"train_per_class": -(-3 * sizes.images // 10), "validation_per_class": sizes.fresh // 10}
        task = NETWORKS[network](seed=seed, test_per_class=sizes.test // 10, **per_class)
        assert task.validation is not None and task.test is not None
        self.train, self.fresh, self.test = task.train, task.validation, task.test
        self.scorer = MaskScorer(task.model, prunable_layout(task.model), task.train.num_classes)
        self.found: list[dict[str, object]] = []

    def rows(self) -> list[dict[str, object]]:
        """Run everything; the published method shares its phase 1."""
        self._add("unpruned", 0.0, self.scorer.model)
        self._magnitudes()
        published = HierarchicalPruning2026(num_samples=self.sizes.images)
        job = self._job()
        full = TwoPhases(published, job)
        full.first_phase()
        first = full.archives[0]
        self._front(PHASE_1, first.points, job)
        for name, switches in ((FULL, published), (ALIKE, replace(published, guided=False))):
            phases = self._second(switches, first)
            self._front(name, union(phases.archives), phases.job)
            if name == FULL:
                self._random(phases.corridor)
        full.first_phase(full.shares[1])
        self._front(CONTINUED, first.points, job)
        job = self._job()
        ours = self._front(OURS, AllocatedPruning(num_samples=self.sizes.images).run(job).points, job)
        self._repaired(ours)
        return self.found

    def _job(self) -> PruningJob:
        return PruningJob(self.scorer, self.train, self.sizes.num_evaluations, None, self.seed, History())

    def _second(self, switches: HierarchicalPruning2026, first: Archive) -> TwoPhases:
        """Phase 2 behind a phase 1 that has been run, as if it had been run here."""
        job = self._job()
        phases = TwoPhases(switches, job)
        job.history.spend(first.num_seen, first.num_seen * self.sizes.images)
        phases.archives = deepcopy(first), phases.archives[1]
        phases.second_phase()
        return phases

    def _magnitudes(self) -> None:
        scorer, groups = self.scorer, self.scorer.layout.tensor_index
        for name, make in ((GLOBAL, global_magnitude_masks), (UNIFORM, uniform_magnitude_masks)):
            for reduction, mask in zip(REDUCTIONS, make(scorer.theta0, groups, REDUCTIONS), strict=True):
                self._add(name, reduction, scorer.network(mask))

    def _front(self, name: str, points: list[Pruned], job: PruningJob) -> dict[float, nn.Module]:
        """Re-score a front on fresh images and add its network for every reduction that it reaches."""
        candidates = thinned([point for point in points if LIGHTEST <= point.kept <= HEAVIEST], NUM_RESCORED)
        front = Front(self.scorer, (unpruned_point(self.scorer), *candidates), unpruned_point(self.scorer))
        front = front.rescore(self.fresh)
        spent = job.history.num_samples_seen + len(self.fresh) * (1 + len(candidates))
        networks = {}
        for reduction in REDUCTIONS:
            if front.points[-1].kept <= 1 - reduction:
                network = networks[reduction] = front.network(front.select(density=1 - reduction))
                self._add(name, reduction, network, spent)
        return networks

    def _random(self, corridor: Corridor | None) -> None:
        if corridor is None:
            return
        core, upper = corridor.core, corridor.upper
        inside = [r for r in REDUCTIONS if core.double().mean() <= 1 - r <= upper.double().mean()]
        generator = torch.Generator().manual_seed(self.seed)
        for reduction, mask in zip(inside, random_masks(core, upper, [1 - r for r in inside], generator), strict=True):
            self._add(RANDOM, reduction, self.scorer.network(mask))

    def _repaired(self, networks: dict[float, nn.Module]) -> None:
        for reduction, network in {0.0: self.scorer.model, **networks}.items():
            found = repair(network, self.train, self.fresh, num_samples=self.sizes.repair, seed=self.seed)
            name = REPAIRED if reduction else UNPRUNED_REPAIRED
            self._add(name, reduction, found.network, found.num_samples)

    def _add(self, method: str, reduction: float, network: nn.Module, num_samples: float = 0.0) -> None:
        """Score a network on the test images."""
        theta = self.scorer.layout.flatten(network)
        kept = int(torch.count_nonzero(theta)) / len(theta)
        accuracy = score(network, self.test, ["accuracy"])["accuracy"]
        self.found.append(
            {
                "network": self.network,
                "seed": self.seed,
                "method": method,
                "reduction": reduction,
                "kept": round(kept, 5),
                "accuracy": round(accuracy, 5),
                "num_samples": round(num_samples),
            }
        )
        print(f"seed {self.seed}, {method}, {reduction:.0%}: kept {kept:.3f}, accuracy {accuracy:.4f}", flush=True)


def _table(rows: list[dict[str, object]]) -> str:
    """Accuracy lost to the unpruned network in points, mean and deviation over seeds."""
    before = {row["seed"]: row for row in rows if row["method"] == "unpruned"}
    repaired = {row["seed"]: row for row in rows if row["method"] == UNPRUNED_REPAIRED}
    body = [["unpruned", spread([100 * _number(row) for row in before.values()], 2), *[""] * len(REDUCTIONS)]]
    body.append(
        [UNPRUNED_REPAIRED, spread([100 * _number(row) for row in repaired.values()], 2), *[""] * len(REDUCTIONS)]
    )
    for method in ORDER:
        reference = repaired if method == REPAIRED else before
        cells = []
        for reduction in REDUCTIONS:
            here = [row for row in rows if (row["method"], row["reduction"]) == (method, reduction)]
            lost = [100 * (_number(row) - _number(reference[row["seed"]])) for row in here]
            cells.append(spread(lost, 2) if lost else "-")
        body.append([method, "", *cells])
    return markdown(["method", "test accuracy, %", *(f"{reduction:.0%} removed" for reduction in REDUCTIONS)], body)


def _number(row: dict[str, object]) -> float:
    return float(str(row["accuracy"]))
