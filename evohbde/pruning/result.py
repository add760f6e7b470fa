"""What does pruning give back, and what does it leave on disk?"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from evohbde.data import TensorData
from evohbde.history import History
from evohbde.judge import Entry, judge
from evohbde.pruning.archive import Pruned
from evohbde.pruning.baselines import GLOBAL, UNIFORM, global_magnitude_masks, uniform_magnitude_masks
from evohbde.pruning.front import UNPRUNED, Front
from evohbde.pruning.job import PruningPreset
from evohbde.record import Origin, RunRecord, describe_environment
from evohbde.rundir import save_run

FRONT, MASKS = "front.csv", "masks.safetensors"

WORK = "Weights of a trained network were set to zero, chosen by forward passes only."
WORK_FITTED = f"{WORK[:-1]}, and those that are left were fitted to the layers of the network as given."

MAX_LOSS = 0.01
"""Accuracy that the network which is saved may lose on the samples that decide, where nothing else is asked for."""


@dataclass(frozen=True)
class PruneResult(Front):
    """What `prune` returns: the front, re-scored on samples that the search never saw, and how it came about.

    Attributes:
        history: One row per generation, and the cost: of the search, and of scoring the front on validation samples.
        notes: Decisions on the way.
        preset: The preset with all its switches.
        seed: The seed.
        stop_reason: `"budget"` or `"interrupted"`.
        train: Samples that were searched on.
        validation: Samples that decide which networks are on the front.
        test: Samples that decide nothing; None where there are none.
        arguments: What `prune` was called with, but for network, data and preset.
    """

    history: History = field(default_factory=History)
    notes: list[str] = field(default_factory=list)
    preset: PruningPreset = None  # type: ignore[assignment]
    seed: int = 0
    stop_reason: str = "budget"
    train: TensorData = None  # type: ignore[assignment]
    validation: TensorData = None  # type: ignore[assignment]
    test: TensorData | None = None
    arguments: dict[str, object] = field(default_factory=dict)

    @property
    def num_evaluations(self) -> int:
        return self.history.num_evaluations

    @property
    def num_samples_seen(self) -> float:
        return self.history.num_samples_seen

    def choose(self) -> Pruned:
        """The lightest network that loses at most one point of accuracy, and where there is none, the most accurate."""
        try:
            return self.select(max_loss=MAX_LOSS)
        except ValueError:
            return self.select(density=1.0)

    def entries(self, point: Pruned, repaired: list[tuple[str, nn.Module, float]] | None = None) -> list[Entry]:
        """Judge a point beside the unpruned network and pruning by magnitude to the same share.

        Args:
            point: The point.
            repaired: Further networks for the table: name, network, sample forwards.

        Returns:
            Scores on test samples; on validation samples, which the point was chosen by, where there are no others.
        """
        theta0, groups = self.scorer.theta0, self.scorer.layout.tensor_index
        networks = [
            (UNPRUNED, self.scorer.model, 0.0),
            (self.preset.name, self.network(point), self.num_samples_seen),
        ]
        for name, make in ((GLOBAL, global_magnitude_masks), (UNIFORM, uniform_magnitude_masks)):
            networks.append((name, self.scorer.network(make(theta0, groups, [1 - point.kept])[0]), 0.0))
        return judge(networks + (repaired or []), self.test or self.validation)

    def record(self, point: Pruned, entries: list[Entry], origin: Origin | None = None) -> RunRecord:
        """What is known of this run, as text."""
        return RunRecord(
            preset=self.preset.name,
            switches=dict(vars(self.preset)),
            arguments=self.arguments,
            seed=self.seed,
            entries=entries,
            num_held_out=len(self.test or self.validation),
            notes=self.notes,
            num_evaluations=self.num_evaluations,
            num_samples_seen=self.num_samples_seen,
            seconds=self.history.rows[-1].seconds if self.history.rows else 0.0,
            stop_reason=self.stop_reason,
            environment=describe_environment(self.scorer.theta0.device),
            origin=origin,
            strategy=self.history.strategies,
            lead=_lead(point, entries),
            work=WORK if point.values is None else WORK_FITTED,
            samples=(
                "test samples that no search and no decision saw"
                if self.test is not None
                else "validation samples, which the search never saw, but by which the network was chosen: a little "
                "optimistic"
            ),
        )

    def save(
        self,
        directory: str | Path,
        point: Pruned | None = None,
        *,
        network: nn.Module | None = None,
        entries: list[Entry] | None = None,
        overwrite: bool = False,
        origin: Origin | None = None,
        keep_checkpoint: bool = False,
    ) -> Path:
        """Write the run directory of `evohbde.rundir.save_run`, with `front.csv` and the masks of the front beside.

        Figures are left out where matplotlib is not installed.

        Args:
            directory: Where to.
            point: The network to save; None: `choose()`.
            network: The network to save in its place, a repaired one say.
            entries: The final table; None: that of `entries(point)`.
            overwrite: Whether an earlier run is replaced.
            origin: Where the run came from.
            keep_checkpoint: Whether the unfinished run that is there can still be taken up.
        """
        point = point or self.choose()
        return save_run(
            directory,
            self.record(point, self.entries(point) if entries is None else entries, origin),
            self.history,
            network or self.network(point),
            self._figures(point),
            files={FRONT: self._csv(), MASKS: self._masks()},
            overwrite=overwrite,
            keep_checkpoint=keep_checkpoint,
        )

    def _csv(self) -> bytes:
        """One line per network: front, unpruned and baselines, with all scores; `row` is its row in the masks."""
        rows = []
        for number, point in enumerate([*self.points, self.unpruned, *self.baselines]):
            scores = {f"{split}_{name}": one for split, all_ in point.scores.items() for name, one in all_.items()}
            row = number if number < len(self) else ""
            rows.append({"origin": point.origin, "row": row, "kept": point.kept, **scores})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _masks(self) -> bytes:
        """Masks of the front as safetensors: `bits`, `(n, ceil(D / 8))`, with a line `name size` for each tensor."""
        layout = self.scorer.layout
        tensors = "\n".join(f"{name} {size}" for name, size in zip(layout.names, layout.sizes, strict=True))
        # One entry: several would be written in an order that changes from run to run.
        return save({"bits": torch.stack([point.bits for point in self.points])}, metadata={"tensors": tensors})

    def _figures(self, point: Pruned) -> dict[str, bytes]:
        try:
            from evohbde.plots import plot_hypervolume, to_png
        except ImportError:
            return {}
        figures = {"front.png": self.plot(chosen=point)}
        if self.history.rows:
            figures["hypervolume.png"] = plot_hypervolume(self.history.rows)
        return {name: to_png(figure) for name, figure in figures.items()}


def _lead(point: Pruned, entries: list[Entry]) -> str:
    before, after = entries[:2]
    change = after.accuracy_gain
    assert change is not None
    return (
        f"Of the prunable weights {point.kept:.1%} are kept. Accuracy went from {before.scores['accuracy']:.4f} to "
        f"{after.scores['accuracy']:.4f}, a change of {change.value:+.4f} (95 % interval {change.lower:+.4f} to "
        f"{change.upper:+.4f})."
    )
