"""Which of all networks scored so far does no other one dominate?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from evohbde.objectives import AnyObjective
from evohbde.pruning.bits import pack
from evohbde.pruning.scoring import as_loss, reference_loss
from evohbde.searchers.duplicates import is_repeated, row_keys
from evohbde.searchers.pareto import is_nondominated


@dataclass(frozen=True, eq=False)
class Pruned:
    """One network with some of its weights at zero.

    Attributes:
        origin: Where it came from: a phase of the search, `"unpruned"`, or the name of a baseline.
        bits: Which of the D prunable weights are not zero, eight to a byte (`evohbde.pruning.bits`).
        kept: Share of the prunable weights that are not zero.
        scores: By samples (`"selection"`, `"validation"`, `"test"`), then by objective.
        values: What the kept weights are, in their order, where they were fitted anew; None: as given.
    """

    origin: str
    bits: Tensor
    kept: float
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    values: Tensor | None = None


class Masking(Protocol):
    """A reduction whose candidates are masks."""

    theta0: Tensor

    def mask(self, z: Tensor) -> Tensor: ...


def as_pruned(origin: str, mask: Tensor, theta0: Tensor) -> Pruned:
    """Pack one mask, `(D,)`; weights that were zero before count as pruned."""
    mask = mask & (theta0 != 0)
    return Pruned(origin, pack(mask.cpu()), int(mask.sum()) / mask.numel())


class Archive:
    """Keeps the candidates that no other one dominates, of equal ones the first; masks are packed.

    Args:
        objectives: In the order of scores; the first judges outputs.
        num_classes: C, which decides up to which loss hypervolumes are counted (`reference_loss`).

    Attributes:
        points: The non-dominated candidates, scored on `"selection"`.
        losses: Their objectives, all minimised, `(n, M)`, float64.
        num_seen: Candidates offered so far.
        range: Lowest and highest first loss of all candidates offered so far.
    """

    def __init__(self, objectives: Sequence[AnyObjective], num_classes: int) -> None:
        self.names = [objective.name for objective in objectives]
        self.senses = [objective.sense for objective in objectives]
        self.reference = reference_loss(objectives[0], num_classes)
        self.points: list[Pruned] = []
        self.losses = torch.zeros(0, len(self.senses), dtype=torch.float64)
        self.num_seen = 0
        self.range = (float("inf"), float("-inf"))

    def add(self, origin: str, reduction: Masking, z: Tensor, scores: Tensor) -> Tensor:
        """Take scored candidates, `(n, d)` and `(n, M)`, and return their losses; those that failed are left out."""
        scores = scores[:, : len(self.senses)]
        worked = (scores.abs() < torch.finfo(scores.dtype).max).all(1).cpu()
        columns = scores.double().cpu().unbind(1)
        losses = torch.stack([as_loss(column, sense) for column, sense in zip(columns, self.senses, strict=True)], 1)
        self.num_seen += len(z)
        if bool(worked.any()):
            first = losses[worked, 0]
            self.range = (min(self.range[0], float(first.min())), max(self.range[1], float(first.max())))
        rows = worked.nonzero()[:, 0]
        enters = self._merge(losses[rows])
        for row in rows[enters].tolist():
            found = as_pruned(origin, reduction.mask(z[row]), reduction.theta0)
            values = dict(zip(self.names, scores[row].tolist(), strict=True))
            self.points.append(Pruned(found.origin, found.bits, found.kept, {"selection": values}))
        return losses

    def _merge(self, losses: Tensor) -> Tensor:
        """Drop points that are dominated now, and tell which of the new ones enter, `(n,)`, bool."""
        pool = torch.cat([self.losses, losses])
        stays = is_nondominated(pool) & ~is_repeated(row_keys(pool))
        num_old = len(self.points)
        self.points = [point for point, kept in zip(self.points, stays.tolist(), strict=False) if kept]
        self.losses = pool[stays]
        return stays[num_old:]

    def hypervolume(self) -> float:
        """Area that the points dominate in the plane of first loss and kept share."""
        return hypervolume(self.losses[:, 0], torch.tensor([point.kept for point in self.points]), self.reference)

    def summary(self, stage: str) -> str:
        """What a stage of the search brought, in a sentence."""
        counts = f"{self.num_seen:,} networks, {len(self.points)} on its front"
        text = f"{stage}: {counts}, hypervolume {self.hypervolume():.4f}"
        if self.num_seen > 1 and self.range[0] == self.range[1]:
            text += f"; all of them had the same {self.names[0]}, {self.range[0]:g}, so that only their size decided"
        return text


def union(archives: Iterable[Archive]) -> list[Pruned]:
    """Points that are not dominated by any point of any archive; all were scored on the same samples."""
    archives = list(archives)
    losses = torch.cat([archive.losses for archive in archives])
    stays = is_nondominated(losses) & ~is_repeated(row_keys(losses))
    points = [point for archive in archives for point in archive.points]
    return [point for point, is_kept in zip(points, stays.tolist(), strict=True) if is_kept]


def hypervolume(losses: Tensor, kept: Tensor, reference: float) -> float:
    """Area dominated in the plane of loss and kept share, up to `reference` and 1: `(n,)`, `(n,)`."""
    losses, kept = losses.double().cpu(), kept.double().cpu()
    inside = (losses < reference) & (kept < 1)
    losses, kept = losses[inside], kept[inside]
    if not len(kept):
        return 0.0
    order = kept.argsort()
    best = losses[order].cummin(0).values
    width = torch.cat([kept[order], kept.new_ones(1)]).diff()
    return float(((reference - best) * width).sum())
