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
from evohbde.history import History
from evohbde.outputs import score
from evohbde.pruning.allocated import FIT_SAMPLES, MAGNITUDE_LEVELS, AllocatedPruning
from evohbde.pruning.archive import Archive, Pruned, as_pruned, union
from evohbde.pruning.baselines import GLOBAL, UNIFORM, global_magnitude_masks, random_masks, uniform_magnitude_masks
from evohbde.pruning.front import Front, thinned, unpruned_point
from evohbde.pruning.hierarchical import HierarchicalPruning2026, TwoPhases
from evohbde.pruning.job import PruningJob
from evohbde.pruning.phases import Corridor
from evohbde.pruning.pipeline import prunable_layout
from evohbde.pruning.refit import RECONSTRUCTED, reconstruct
from evohbde.pruning.scoring import MaskScorer
from evohbde.recovery import repair
from problems.cifar import resnet20_jpeg, shifted_resnet20, shifted_resnet56

NETWORKS: dict[str, Callable[..., Task]] = {
    "resnet20": resnet20_jpeg,
    "shifted-resnet20": shifted_resnet20,
    "shifted-resnet56": shifted_resnet56,
}

REDUCTIONS = (0.3, 0.4, 0.5, 0.6, 0.7)
OURS, RANDOM, REPAIRED, UNPRUNED_REPAIRED = "ours", "random in the corridor", "ours, repaired", "unpruned, repaired"
SEARCHED, GIVEN = "ours, searched networks only, weights as given", "ours, weights as given"
GLOBAL_FITTED, UNIFORM_FITTED = f"{GLOBAL}, {RECONSTRUCTED}", f"{UNIFORM}, {RECONSTRUCTED}"
PHASE_1, CONTINUED, FULL, ALIKE = "phase 1", "phase 1, twice as long", "both phases", "both phases, no importance"
NUM_RESCORED = 25
LIGHTEST, HEAVIEST = 0.25, 0.95
"""Kept shares of networks that are re-scored: those that can stand for a reduction, or lose little."""

MAX_LOSS = 0.005
LITTLE_LOST = f"lightest within {100 * MAX_LOSS:g} points"
"""In place of a reduction: the lightest network that loses at most so much on the re-scoring images."""

ORDER = (
    *(GLOBAL, UNIFORM, RANDOM, PHASE_1, CONTINUED, FULL, ALIKE, SEARCHED, GIVEN),
    *(GLOBAL_FITTED, UNIFORM_FITTED, OURS, REPAIRED),
)


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
        _Seed(network, seed, sizes, rows).measure()
    options = f"--network {network} --seeds {seeds[0]}-{seeds[-1]} --num-evaluations {sizes.num_evaluations}"
    options += f" --images {sizes.images} --fresh {sizes.fresh} --test {sizes.test} --repair {sizes.repair}"
    publish(f"pruning-{network}", _table(rows), f"python -m benchmarks pruning {options}")


class _Seed:
    """All methods with one seed: its images and its searches; what is found is kept at once."""

    def __init__(self, network: str, seed: int, sizes: Sizes, found: list[dict[str, object]]) -> None:
        self.network, self.seed, self.sizes = network, seed, sizes
        per_class = {"train_per_class": -(-3 * sizes.images // 10), "validation_per_class": sizes.fresh // 10}
        task = NETWORKS[network](seed=seed, test_per_class=sizes.test // 10, **per_class)
        assert task.validation is not None and task.test is not None
        self.train, self.fresh, self.test = task.train, task.validation, task.test
        self.scorer = MaskScorer(task.model, prunable_layout(task.model), task.train.num_classes)
        self.found = found

    def measure(self) -> None:
        """Run everything; the published method shares its phase 1."""
        self._add("unpruned", 0.0, self.scorer.model)
        self._magnitudes()
        published = HierarchicalPruning2026(num_samples=self.sizes.images)
        job = self._job()
        full = TwoPhases(published, job)
        full.first_phase()
        first = full.archives[0]
        self._front(PHASE_1, first.points, job.history.num_samples_seen)
        for name, switches in ((FULL, published), (ALIKE, replace(published, guided=False))):
            phases = self._second(switches, first)
            self._front(name, union(phases.archives), phases.job.history.num_samples_seen)
            if name == FULL:
                self._random(phases.corridor)
        full.first_phase(full.shares[1])
        self._front(CONTINUED, first.points, job.history.num_samples_seen)
        job = self._job()
        points = AllocatedPruning(num_samples=self.sizes.images).run(job).points
        as_given, searched = [point for point in points if point.values is None], job.history.rows[-1].num_samples_seen
        self._front(SEARCHED, [point for point in as_given if point.origin not in (GLOBAL, UNIFORM)], searched)
        self._front(GIVEN, as_given, searched)
        self._repaired(self._front(OURS, points, job.history.num_samples_seen))

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
            levels = [as_pruned(name, mask, scorer.theta0) for mask in make(scorer.theta0, groups, MAGNITUDE_LEVELS)]
            front, spent = self._rescored(levels), len(self.fresh) * (1 + len(levels))
            self._add(name, LITTLE_LOST, front.network(front.select(max_loss=MAX_LOSS)), spent)
            points = [as_pruned(name, mask, scorer.theta0) for mask in make(scorer.theta0, groups, REDUCTIONS)]
            fitted, spent = reconstruct(scorer, points, self._job().selection(FIT_SAMPLES), self.seed)
            self._networks(fitted[0].origin, fitted, spent)

    def _front(self, name: str, points: list[Pruned], spent: float) -> dict[float | str, nn.Module]:
        """Add what stands for a searched front: of its fitted networks all, of the others evenly over the sizes."""
        inside = [point for point in points if LIGHTEST <= point.kept <= HEAVIEST]
        fitted = [point for point in inside if point.values is not None]
        others = thinned([point for point in inside if point.values is None], NUM_RESCORED)
        return self._networks(name, fitted + others, spent)

    def _networks(self, name: str, candidates: list[Pruned], spent: float) -> dict[float | str, nn.Module]:
        """Re-score on fresh images; add a network for every reduction reached, and the one that loses little."""
        front = self._rescored(candidates)
        spent += len(self.fresh) * (1 + len(candidates))
        networks: dict[float | str, nn.Module] = {}
        for reduction in REDUCTIONS:
            if front.points[-1].kept <= 1 - reduction:
                networks[reduction] = front.network(front.select(density=1 - reduction))
        networks[LITTLE_LOST] = front.network(front.select(max_loss=MAX_LOSS))
        for wanted, network in networks.items():
            self._add(name, wanted, network, spent)
        return networks

    def _rescored(self, candidates: list[Pruned]) -> Front:
        """What is left of candidates and the network as given on fresh images."""
        unpruned = unpruned_point(self.scorer)
        return Front(self.scorer, (unpruned, *candidates), unpruned).rescore(self.fresh)

    def _random(self, corridor: Corridor | None) -> None:
        if corridor is None:
            return
        core, upper = corridor.core, corridor.upper
        inside = [r for r in REDUCTIONS if core.double().mean() <= 1 - r <= upper.double().mean()]
        generator = torch.Generator().manual_seed(self.seed)
        for reduction, mask in zip(inside, random_masks(core, upper, [1 - r for r in inside], generator), strict=True):
            self._add(RANDOM, reduction, self.scorer.network(mask))

    def _repaired(self, networks: dict[float | str, nn.Module]) -> None:
        for wanted, network in {0.0: self.scorer.model, **networks}.items():
            found = repair(network, self.train, self.fresh, num_samples=self.sizes.repair, seed=self.seed)
            self._add(REPAIRED if wanted else UNPRUNED_REPAIRED, wanted, found.network, found.num_samples)

    def _add(self, method: str, reduction: float | str, network: nn.Module, num_samples: float = 0.0) -> None:
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
        write_csv(f"pruning-{self.network}", self.found)
        wanted = reduction if isinstance(reduction, str) else f"{reduction:.0%}"
        print(f"seed {self.seed}, {method}, {wanted}: kept {kept:.3f}, accuracy {accuracy:.4f}", flush=True)


def _table(rows: list[dict[str, object]]) -> str:
    """Accuracy lost to the unpruned network in points, mean and deviation over seeds."""
    before, repaired = (
        {row["seed"]: row for row in rows if row["method"] == name} for name in ("unpruned", UNPRUNED_REPAIRED)
    )
    empty = [""] * (len(REDUCTIONS) + 2)
    body = [
        [name, f"{spread([100 * _number(row) for row in found.values()], 2)} %", *empty]
        for name, found in (("unpruned", before), (UNPRUNED_REPAIRED, repaired))
    ]
    for method in ORDER:
        reference = repaired if method == REPAIRED else before
        forwards = [_number(row, "num_samples") for row in rows if row["method"] == method]
        cells = ["", f"{sum(forwards) / max(1, len(forwards)):,.0f}"]
        for reduction in (*REDUCTIONS, LITTLE_LOST):
            here = [row for row in rows if (row["method"], row["reduction"]) == (method, reduction)]
            lost = [100 * (_number(row) - _number(reference[row["seed"]])) for row in here]
            removed = [100 - 100 * _number(row, "kept") for row in here] if reduction == LITTLE_LOST else []
            text = spread(lost, 2) if lost else "-"
            cells.append(f"{spread(removed, 1)} % removed: {text}" if removed else text)
        body.append([method, *cells])
    columns = [*(f"{reduction:.0%} removed" for reduction in REDUCTIONS), LITTLE_LOST]
    return markdown(["method", "test accuracy", "sample forwards", *columns], body)


def _number(row: dict[str, object], column: str = "accuracy") -> float:
    return float(str(row[column]))
