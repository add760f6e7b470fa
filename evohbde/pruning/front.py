"""Which pruned networks are the best of their size, and which one is taken?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.pruning.archive import Pruned, as_pruned, hypervolume
from evohbde.pruning.bits import unpack
from evohbde.pruning.scoring import MaskScorer, reference_loss
from evohbde.searchers.duplicates import is_repeated, row_keys
from evohbde.searchers.pareto import is_nondominated

if TYPE_CHECKING:
    from evohbde.plots import Figure

F = TypeVar("F", bound="Front")

UNPRUNED = "unpruned"
COLUMNS = ("network", "kept", "accuracy", "change", "macro-F1", "cross-entropy")
"""Headings of what `Front.cells` gives, all on the samples that decide."""


@dataclass(frozen=True)
class Front:
    """Pruned networks of which none is better than another in all objectives.

    Args:
        scorer: The network as given, which of its weights can be pruned, and the objectives.
        points: The networks, from the heaviest to the lightest.
        baselines: Networks to compare with, pruned by magnitude; by these nothing is decided.
        unpruned: The network as given.
        split: By which scores it is decided: `"validation"` once `rescore` was called, before that `"selection"`.
        num_dropped: Points that fell behind when they were scored on other samples.
    """

    scorer: MaskScorer
    points: tuple[Pruned, ...]
    unpruned: Pruned
    baselines: tuple[Pruned, ...] = ()
    split: str = "selection"
    num_dropped: int = 0

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a front needs at least one network: every candidate failed, or none was scored")
        ordered = sorted(self.points, key=lambda point: point.kept, reverse=True)
        object.__setattr__(self, "points", tuple(ordered))

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Pruned]:
        return iter(self.points)

    def rescore(self: F, data: TensorData, split: str = "validation") -> F:
        """Score all networks on other samples, by which it is decided from now on.

        Points that fall behind there are dropped, and of points that are equal in all objectives all but one.

        Args:
            data: Samples that the search has not seen.
            split: What they are called.
        """
        scored = replace(self.with_scores(data, split), split=split)
        losses = scored.losses()
        stays = is_nondominated(losses) & ~is_repeated(row_keys(losses))
        points = [point for point, is_kept in zip(scored.points, stays.tolist(), strict=True) if is_kept]
        return replace(scored, points=tuple(points), num_dropped=self.num_dropped + len(self) - len(points))

    def with_scores(self: F, data: TensorData, split: str) -> F:
        """Score all networks on other samples, and decide nothing by them."""
        points, baselines = ([self._scored(one, data, split) for one in some] for some in (self.points, self.baselines))
        unpruned = self._scored(self.unpruned, data, split)
        return replace(self, points=tuple(points), baselines=tuple(baselines), unpruned=unpruned)

    def _scored(self, point: Pruned, data: TensorData, split: str) -> Pruned:
        found = self.scorer.score(self.mask(point), data, point.values)
        return replace(point, scores={**point.scores, split: found})

    def losses(self, split: str | None = None) -> Tensor:
        """The objectives of all points, all to be minimised: `(n, M)`, float64."""
        rows = [self.scorer.losses(self._scores(point, split)) for point in self.points]
        return torch.tensor(rows, dtype=torch.float64)

    def _scores(self, point: Pruned, split: str | None = None) -> dict[str, float]:
        split = split or self.split
        if split not in point.scores:
            known = ", ".join(point.scores)
            raise ValueError(f"no scores on {split!r} samples, only on {known}: call rescore(data) first")
        return dict(point.scores[split])

    def hypervolume(self, split: str | None = None, *, reference: float | None = None) -> float:
        """Area that the front dominates in the plane of its first objective's loss and the kept share.

        Args:
            split: On which samples; None: those that decide.
            reference: Loss up to which it is counted; None: 1 for error and other shares, log C for cross-entropy. The
                kept share is counted up to 1.
        """
        if reference is None:
            reference = reference_loss(self.scorer.objectives[0], self.scorer.num_classes)
        return hypervolume(self.losses(split)[:, 0], torch.tensor([point.kept for point in self.points]), reference)

    def select(
        self,
        *,
        max_loss: float | None = None,
        density: float | None = None,
        knee: bool = False,
        measure: str = "accuracy",
    ) -> Pruned:
        """Choose one point, in exactly one way.

        Args:
            max_loss: The lightest network that loses at most so much of `measure`, 0.005 for half a point of accuracy.
            density: The best network, by `measure`, that keeps at most this share of the prunable weights.
            knee: The network farthest from the straight line between both ends of the front, first loss and kept share
                both scaled to the front's range; of a front of one or two, the heaviest.
            measure: A score that is higher for better networks, `"accuracy"` or `"f1_macro"` say.

        Raises:
            ValueError: If not exactly one way is asked for, or no network on the front qualifies.

        Source: Das (1999), Structural Optimization 18:107, for the knee.
        """
        if (max_loss is not None) + (density is not None) + knee != 1:
            raise ValueError("choose by exactly one of `max_loss`, `density` and `knee`")
        if max_loss is not None:
            return self._lightest_within(max_loss, measure)
        if density is not None:
            return self._best_below(density, measure)
        return self.points[int(_distance_from_chord(self.losses()[:, 0], self._kept()).argmax())]

    def _lightest_within(self, max_loss: float, measure: str) -> Pruned:
        floor = self._measured(self.unpruned, measure) - max_loss
        # Differences of shares are off by rounding.
        fitting = [point for point in self.points if self._measured(point, measure) >= floor - 1e-9]
        if not fitting:
            best = max(self._measured(point, measure) for point in self.points)
            raise ValueError(
                f"no network on the front loses at most {max_loss:g} of {measure}: the best has {best:.4f}, the "
                f"unpruned {floor + max_loss:.4f}; allow a larger `max_loss`"
            )
        return fitting[-1]

    def _best_below(self, density: float, measure: str) -> Pruned:
        fitting = [point for point in self.points if point.kept <= density]
        if not fitting:
            raise ValueError(
                f"no network on the front keeps at most {density:g} of the weights: the lightest keeps "
                f"{self.points[-1].kept:.4f}; allow a larger `density`, or search longer"
            )
        return max(fitting, key=lambda point: self._measured(point, measure))

    def _measured(self, point: Pruned, measure: str) -> float:
        scores = self._scores(point)
        if measure not in scores:
            raise ValueError(f"no score {measure!r}; there are: {', '.join(scores)}")
        return scores[measure]

    def _kept(self) -> Tensor:
        return torch.tensor([point.kept for point in self.points], dtype=torch.float64)

    def mask(self, point: Pruned) -> Tensor:
        """Which prunable weights a point keeps: `(D,)`, bool."""
        return unpack(point.bits, len(self.scorer.theta0)).to(self.scorer.theta0.device)

    def network(self, point: Pruned) -> nn.Module:
        """A new network with the zeros of this point, in evaluation mode."""
        return self.scorer.network(self.mask(point), point.values)

    def cells(self, point: Pruned) -> tuple[str, ...]:
        """What a table says of a point, one text per heading in `COLUMNS`."""
        scores, before = self._scores(point), self._scores(self.unpruned)
        change = scores["accuracy"] - before["accuracy"]
        return (
            point.origin,
            f"{100 * point.kept:.1f} %",
            f"{scores['accuracy']:.4f}",
            "" if point.origin == UNPRUNED else f"{change:+.4f}",
            f"{scores['f1_macro']:.4f}",
            f"{scores['cross_entropy']:.4f}",
        )

    def table(self, num_rows: int | None = None) -> str:
        """The unpruned network and the front as a Markdown table; at most `num_rows` points, evenly over the front."""
        rows = [COLUMNS, ("---",) * len(COLUMNS), self.cells(self.unpruned)]
        rows += [self.cells(point) for point in thinned(self.points, num_rows or len(self))]
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)

    def plot(self, path: str | Path | None = None, *, chosen: Pruned | None = None) -> Figure:
        """Draw the front with the baselines beside it; with a `path`, write it there as PNG. Needs matplotlib.

        Args:
            path: Where to.
            chosen: A point to mark.
        """
        from evohbde.plots import plot_front, to_png

        first = self.scorer.objectives[0].name
        series = {"this front": [(point.kept, self._scores(point)[first]) for point in self.points]}
        for baseline in self.baselines:
            series.setdefault(baseline.origin, []).append((baseline.kept, self._scores(baseline)[first]))
        mark = None if chosen is None else (chosen.kept, self._scores(chosen)[first])
        figure = plot_front(series, f"{first.replace('_', '-')}, {self.split} samples",
                            unpruned=self._scores(self.unpruned)[first], chosen=mark)  # fmt: skip
        if path is not None:
            Path(path).write_bytes(to_png(figure))
        return figure


def thinned(points: Sequence[Pruned], limit: int) -> list[Pruned]:
    """At most `limit` points, evenly over the kept share, both ends among them."""
    if len(points) <= limit:
        return list(points)
    ordered = sorted(points, key=lambda point: point.kept, reverse=True)
    kept = torch.tensor([point.kept for point in ordered])
    wanted = torch.linspace(float(kept[0]), float(kept[-1]), limit)
    nearest = (kept[None] - wanted[:, None]).abs().argmin(1)
    return [ordered[index] for index in nearest.unique().tolist()]


def unpruned_point(scorer: MaskScorer) -> Pruned:
    """The network as given."""
    return as_pruned(UNPRUNED, torch.ones_like(scorer.theta0, dtype=torch.bool), scorer.theta0)


def _distance_from_chord(losses: Tensor, kept: Tensor) -> Tensor:
    """Distance below the line between the first and the last point, in units of the front's range: `(n,)`."""
    loss, share = _scaled(losses), _scaled(kept)
    along = torch.stack([loss[-1] - loss[0], share[-1] - share[0]])
    from_first = torch.stack([loss - loss[0], share - share[0]], dim=1)
    return (along[1] * from_first[:, 0] - along[0] * from_first[:, 1]) / along.norm().clamp(min=1e-12)


def _scaled(values: Tensor) -> Tensor:
    width = values.amax() - values.amin()
    return (values - values.amin()) / width if float(width) > 0 else torch.zeros_like(values)
