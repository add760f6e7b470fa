"""How are thresholds searched, then masks between two of the networks that they gave?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evohbde.data import TensorData
from evohbde.pruning.archive import Archive, Pruned
from evohbde.pruning.bits import unpack
from evohbde.pruning.initialise import importance_guided
from evohbde.pruning.job import PruningJob
from evohbde.reductions.corridor import CorridorMask
from evohbde.reductions.thresholds import ThresholdPruning
from evohbde.searchers import NSGA2
from evohbde.searchers.multi_objective import MultiObjectiveSearcher

PHASE_1, PHASE_2 = "phase 1", "phase 2"

START_LEVELS = 0.9
"""Largest share that a first network of evenly pruned tensors loses."""


def spread_start(reduction: ThresholdPruning, popsize: int, generator: torch.Generator | None) -> Tensor:
    """First thresholds: ten levels uniform, ten by global magnitude, the others a Latin hypercube.

    A population of fewer than 40 has fewer levels, so that they make up no more than half of it.

    Args:
        reduction: The thresholds.
        popsize: N.
        generator: Where the numbers come from.

    Returns:
        `(N, L)`; row 0 prunes nothing.
    """
    num_levels = min(10, max(2, popsize // 4))
    levels = [min(START_LEVELS * step / (num_levels - 1), reduction.most) for step in range(num_levels)]
    seeds = [reduction.uniform(level) for level in levels]
    seeds += [reduction.global_magnitude(level) for level in levels[1:]]
    seeds = seeds[:popsize]
    rest = popsize - len(seeds)
    ranks = torch.rand(rest, reduction.dim, generator=generator, device=reduction.device).argsort(0)
    jitter = torch.rand(rest, reduction.dim, generator=generator, device=reduction.device)
    return torch.cat([torch.stack(seeds).to(reduction.upper), reduction.upper * (ranks + jitter) / max(rest, 1)])


def threshold_searcher(
    job: PruningJob, data: TensorData, reduction: ThresholdPruning, popsize: int, start: Tensor | None = None
) -> MultiObjectiveSearcher:
    """NSGA-II over thresholds with the job's objectives: SBX .9 with eta 15, polynomial mutation 1/L with eta 20."""
    problem = job.problem(data, reduction)
    start = spread_start(reduction, popsize, problem.generator) if start is None else start
    bounds = (reduction.lower, reduction.upper)
    return NSGA2(problem, popsize=len(start), initial_population=start, bounds=bounds)


@dataclass(frozen=True)
class Corridor:
    """What phase 2 moves between.

    Attributes:
        heavy, light: The anchors.
        heavy_mask, light_mask: Their masks, `(D,)`, bool.
    """

    heavy: Pruned
    light: Pruned
    heavy_mask: Tensor
    light_mask: Tensor

    @property
    def core(self) -> Tensor:
        """Weights that both anchors keep."""
        return self.heavy_mask & self.light_mask

    @property
    def upper(self) -> Tensor:
        """Weights that either anchor keeps."""
        return self.heavy_mask | self.light_mask


def find_corridor(archive: Archive, *, heavy: str, heavy_loss: float, light_loss: float, size: int) -> Corridor | None:
    """Choose the anchors among the networks of phase 1; None where both keep the same weights.

    Args:
        archive: Non-dominated networks of phase 1.
        heavy: `"best"`: the lowest first loss, of equal ones the lightest; `"lightest"`: the lightest that loses at
            most `heavy_loss`.
        heavy_loss, light_loss: What the anchors may lose to the heaviest network of the archive, in units of the first
            objective.
        size: D.

    Source: arXiv 2604.01076 has the corridor and its two anchors; which networks they are is our reading.
    """
    losses = archive.losses[:, 0]
    kept = torch.tensor([point.kept for point in archive.points])
    before, best = losses[int(kept.argmax())], losses.min()
    allowed = {"best": best, "lightest": torch.maximum(before + heavy_loss, best)}[heavy]
    limits = allowed, torch.maximum(before + light_loss, best)
    top, bottom = (archive.points[int(torch.where(losses <= limit, kept, torch.inf).argmin())] for limit in limits)
    masks = unpack(top.bits, size), unpack(bottom.bits, size)
    return None if torch.equal(*masks) else Corridor(top, bottom, *masks)


def first_masks(
    corridor: Corridor, reduction: CorridorMask, ranks: Tensor, others: list[Pruned], popsize: int, temperature: float,
    generator: torch.Generator | None,
) -> Tensor:  # fmt: skip
    """First bits of phase 2: `(N, d)`, the light anchor first and the heavy one last.

    Args:
        corridor: The anchors.
        reduction: The free weights.
        ranks: Importance of the free weights, `(d,)`, in [0, 1].
        others: Networks of phase 1, of which up to a tenth of the population is cut to the corridor and joins it.
        popsize: N.
        temperature: How far chance may overrule importance.
        generator: Where the numbers come from.
    """
    free, size = reduction.free, reduction.full_dim
    bits = importance_guided(ranks, popsize, generator, temperature=temperature).to(reduction.center)
    if others:
        count = min(popsize // 10, len(others))
        chosen = torch.linspace(0, len(others) - 1, count).round().long().tolist()
        for place, index in zip(torch.linspace(1, popsize - 2, count).long().tolist(), chosen, strict=True):
            bits[place] = unpack(others[index].bits, size).to(free.device)[free].to(bits)
    bits[0] = corridor.light_mask.to(free.device)[free].to(bits)
    bits[-1] = corridor.heavy_mask.to(free.device)[free].to(bits)
    return bits
