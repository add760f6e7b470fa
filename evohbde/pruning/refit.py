"""How are the weights that a mask keeps fitted anew?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from evohbde.data import TensorData
from evohbde.journal import Answer, recorded
from evohbde.pruning.archive import Pruned
from evohbde.pruning.bits import unpack
from evohbde.pruning.scoring import MaskScorer
from evohbde.reconstruct import Reconstructor

RECONSTRUCTED = "reconstructed"


def reconstruct(
    scorer: MaskScorer, points: Sequence[Pruned], data: TensorData, seed: int = 0
) -> tuple[list[Pruned], int]:
    """Fit what each mask keeps to the layers of the network as given (`evohbde.reconstruct`).

    Args:
        scorer: The network as given.
        points: The masks.
        data: Samples to fit on; their labels are not used.
        seed: Seed of the positions that are fitted.

    Returns:
        One network per mask, its origin with `", reconstructed"` behind it; and what it cost in sample forwards.
    """
    fit = Reconstructor(scorer.model, data.x, seed=seed)
    found, num_samples = [], fit.num_samples
    for point in points:
        answer = recorded("fit", partial(list, (point.bits, seed)), partial(_fit, fit, scorer, point))
        found.append(
            replace(point, origin=f"{point.origin}, {RECONSTRUCTED}", values=answer.tensors["values"], scores={})
        )
        num_samples += answer.facts["num_samples"]
    return found, num_samples


def _fit(fit: Reconstructor, scorer: MaskScorer, point: Pruned) -> Answer:
    mask = unpack(point.bits, len(scorer.theta0)).to(scorer.theta0.device)
    before = fit.num_samples
    theta = scorer.layout.flatten(fit(scorer.network(mask, point.values)))
    return Answer({"values": theta[mask].cpu()}, {"num_samples": fit.num_samples - before})
