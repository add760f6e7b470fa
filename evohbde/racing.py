"""Can this candidate still win? Exact early rejection from the samples seen so far.

After some samples, the best that any completion can reach is what comes out if every remaining sample is classified
right (for losses: costs nothing). A candidate whose bound is below the score that it must reach is lost, whatever the
remaining samples are, so leaving them out changes no decision. `docs/racing.md` has the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from evohbde.metrics import confusion_matrix, predicted_classes
from evohbde.objectives import Objective
from evohbde.stages import pieces

SLACK = 1e-12
"""Scores are taken in float64 from counts, and their rounding stays far below this."""

LOSS_SLACK = 1e-4
"""A mean loss is summed in float32 in the end, which may lose this share of it at most."""


class Contest(NamedTuple):
    """What each candidate of a batch has to reach.

    Attributes:
        threshold: `(N,)`, the score that a candidate must reach (equal counts as reached); NaN: none, the candidate is
            scored in full. Its type is that of the final scores.
        rival: `(N,)`, int64: the row of the same batch whose score is the threshold instead; -1: none. Rivals are
            scored in full.
        group: `(N,)`, int64: candidates of which only the best counts, the first of equal ones, have one number; -1:
            alone. One that cannot reach the best of those before it is given up; the first has nothing to reach but
            its own threshold. None: all are alone.
    """

    threshold: Tensor
    rival: Tensor
    group: Tensor | None = None

    @property
    def has_threshold(self) -> Tensor:
        """Which candidates may be given up: `(N,)`, bool."""
        has_own = ~self.threshold.isnan() | (self.rival >= 0)
        if self.group is None:
            return has_own
        order = self.group.argsort(stable=True)
        follows = torch.zeros_like(has_own)
        follows[order[1:]] = self.group[order[1:]] == self.group[order[:-1]]
        return has_own | (follows & (self.group >= 0))

    def check(self, num: int) -> None:
        """Say what does not fit a batch of `num` candidates."""
        for name, values in zip(self._fields, self, strict=True):
            if values is not None and values.shape != (num,):
                raise ValueError(f"expected `{name}` of shape ({num},), one per candidate, got {tuple(values.shape)}")
        if num and int(self.rival.max()) >= num:
            raise ValueError(f"`rival` names row {int(self.rival.max())} of a batch of {num}: -1 means none")

    def resolve(self, scores: Tensor) -> Tensor:
        """Thresholds of all candidates, `(N,)`, from the full scores of the rivals; NaN where there is none."""
        of_rival = scores.to(self.threshold)[self.rival.clamp(min=0)]
        return torch.where(self.rival >= 0, of_rival, self.threshold)


class Standings:
    """The best full score of each group so far.

    Args:
        contest: Whose groups.
        scores: `(N,)`, final scores of those that have been scored in full; NaN for the others.
        sense: `"max"` or `"min"`.
    """

    def __init__(self, contest: Contest, scores: Tensor, sense: str) -> None:
        self._groups = None if contest.group is None else contest.group.tolist()
        self._dtype, self._better = contest.threshold.dtype, max if sense == "max" else min
        self._best: dict[int, float] = {}
        if self._groups is not None:
            for row, score in enumerate(scores.tolist()):
                self.enter(row, score)

    def reach(self, row: int, threshold: float) -> float:
        """What a candidate has to reach: its own threshold and the best of its group; NaN: nothing."""
        best = None if self._groups is None else self._best.get(self._groups[row])
        if best is None:
            return threshold
        return best if math.isnan(threshold) else self._better(best, threshold)

    def enter(self, row: int, score: float) -> None:
        """Take in a final score, rounded as it will be."""
        if self._groups is None or self._groups[row] < 0 or math.isnan(score):
            return
        rounded = float(torch.tensor(score, dtype=torch.float64).to(self._dtype))
        group = self._groups[row]
        self._best[group] = self._better(self._best.get(group, rounded), rounded)


class SampleOrder:
    """Which samples did the last fully scored candidates get wrong? Those come first, so that losers lose early.

    Errors are averaged over candidates, ties are ordered by the mean margin between the right class and the best wrong
    one. Samples that nobody was scored on keep their place behind the known errors.

    Args:
        num_samples: Size of the data set.
        device: Where the labels are.
    """

    def __init__(self, num_samples: int, device: torch.device) -> None:
        self.errors = torch.zeros(num_samples, dtype=torch.float64, device=device)
        self.margins = torch.zeros(num_samples, dtype=torch.float64, device=device)
        self.num_learned = 0

    def recall(self, span: slice, errors: Tensor, margins: Tensor) -> None:
        """Take over what another process had learned of the samples in `span`."""
        self.errors[span], self.margins[span] = errors, margins

    def learn(self, logits: Tensor, labels: Tensor, span: slice, share: float) -> None:
        """Take in fully scored candidates, `(k, B, C)`, which make up this share of the population."""
        index = labels.expand(len(logits), -1)[..., None]
        margin = logits.gather(-1, index)[..., 0] - logits.scatter(-1, index, -torch.inf).amax(-1)
        margin = margin.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)  # broken candidates tell nothing
        self.errors[span] += share * ((margin <= 0).double().mean(0) - self.errors[span])
        self.margins[span] += share * (margin.mean(0) - self.margins[span])
        self.num_learned += len(logits)

    def hardest_first(self, span: slice) -> Tensor:
        """Places of the samples in `span`, hardest first: `(B,)`, int64."""
        order = self.margins[span].argsort(stable=True)
        return order[self.errors[span][order].argsort(descending=True, stable=True)]


class Racer:
    """Bounds of one objective on one set of samples, taken piece by piece.

    Args:
        objective: Has a `bound`, see `evohbde.objectives`.
        labels: `(B,)`, in the order in which samples will come.
        num_classes: C.
        dtype: Of the final scores: the bound is rounded as they are before it is compared.
    """

    def __init__(self, objective: Objective, labels: Tensor, num_classes: int, dtype: torch.dtype) -> None:
        self.objective, self.labels, self.dtype = objective, labels, dtype
        self.num_classes = num_classes
        self.support = torch.bincount(labels, minlength=num_classes)

    def run(
        self,
        forward: Callable[[Tensor, Tensor], None],
        features: Tensor,
        batch_size: int,
        out: Tensor,
        threshold: float,
        extra: float = 0.0,
    ) -> float | None:
        """Score one candidate until it is lost.

        Args:
            forward: Writes the outputs of one piece of samples, `(b, ...)`, into `(1, b, C)`.
            features: All samples, in order.
            batch_size: Samples per piece.
            out: Room for all outputs, `(1, B, C)`.
            threshold: What must be reached.
            extra: Added to the score before it is compared.

        Returns:
            The bound at which the candidate was lost; None if it was not, and `out` is full.
        """
        counts = torch.zeros(self.num_classes, self.num_classes, dtype=torch.int64, device=self.labels.device)
        left = self.support.clone()
        loss, start = 0.0, 0
        for part in pieces(features, batch_size):
            stop = start + len(part)
            logits, labels = out[:, start:stop], self.labels[start:stop]
            forward(part, logits)
            start = stop
            if stop == len(features) or not bool(torch.isfinite(logits).all()):
                continue  # a piece that is left out of the counts only makes the bound less tight
            counts += confusion_matrix(predicted_classes(logits), labels, self.num_classes)[0]
            left -= torch.bincount(labels, minlength=self.num_classes)
            loss += self.objective.total_loss(logits[0], labels)
            bound = self.bound(counts, left, loss)
            if self.is_lost(bound + extra, threshold):
                return bound
        return None

    def bound(self, counts: Tensor, left: Tensor, loss: float) -> float:
        """The best score that is still possible, with room for rounding."""
        completed = counts + torch.diag(left)
        best = self.objective.bound(completed[None], (1 - LOSS_SLACK) * loss / len(self.labels))
        return best + SLACK if self.objective.sense == "max" else best - SLACK

    def is_lost(self, bound: float, threshold: float) -> bool:
        rounded = float(torch.tensor(bound, dtype=torch.float64).to(self.dtype))
        return rounded < threshold if self.objective.sense == "max" else rounded > threshold
