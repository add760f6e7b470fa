"""How is a trained network improved in one call?"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evohbde.checkpoint import checkpointing, describe_job, recorded_training
from evohbde.data import TensorData
from evohbde.gradient import pretrain
from evohbde.gradient import train as train_with_gradients
from evohbde.hbde_2024 import HBDE2024
from evohbde.history import History, Row
from evohbde.journal import seal
from evohbde.judge import Entry, judge, markdown_table
from evohbde.layout import ParameterLayout
from evohbde.outputs import check_outputs, score
from evohbde.preset_base import Assignment, Outcome, Preset
from evohbde.record import Origin, RunRecord, describe_environment
from evohbde.rundir import save_run
from evohbde.staged import Staged
from evohbde.threads import SMALL_NETWORK, threads_for

PRESETS: dict[str, Callable[[], Preset]] = {"default": Staged, "hbde-2024": HBDE2024}

VALIDATION_SHARE = 0.2
"""Part of the training samples that is set aside for decisions where no validation data are given."""

MONITORED_SAMPLES = 1_000


@dataclass
class FineTuneResult:
    """What `fine_tune` returns.

    Attributes:
        network: The improved network, in evaluation mode.
        original: The network it started from.
        entries: The final table, row by row, all on samples that no search and no decision saw.
        history: One row per generation.
        notes: Decisions on the way.
        preset: The preset with all its switches.
        seed: The seed.
        num_held_out: Samples that the table was taken on.
        outcome: What the preset gave back.
        stop_reason: `"budget"` or `"interrupted"`.
        arguments: What `fine_tune` was called with, but for network, data and preset.
    """

    network: nn.Module
    original: nn.Module
    entries: list[Entry]
    history: History
    notes: list[str]
    preset: Preset
    seed: int
    num_held_out: int
    outcome: Outcome
    stop_reason: str = "budget"
    arguments: dict[str, object] = field(default_factory=dict)

    @property
    def num_evaluations(self) -> int:
        return self.history.num_evaluations

    @property
    def num_samples_seen(self) -> float:
        return self.history.num_samples_seen

    def entry(self, name: str) -> Entry:
        """The row of the table called `name`."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(f"no row {name!r}; there are: {', '.join(entry.name for entry in self.entries)}")

    def table(self) -> str:
        """The final table as Markdown."""
        return markdown_table(self.entries)

    def record(self, origin: Origin | None = None) -> RunRecord:
        """What is known of this run, as text."""
        return RunRecord(
            preset=self.preset.name,
            switches=dict(vars(self.preset)),
            arguments=self.arguments,
            seed=self.seed,
            entries=self.entries,
            num_held_out=self.num_held_out,
            notes=self.notes,
            num_evaluations=self.num_evaluations,
            num_samples_seen=self.num_samples_seen,
            seconds=self.history.rows[-1].seconds if self.history.rows else 0.0,
            stop_reason=self.stop_reason,
            environment=describe_environment(next(self.network.parameters()).device),
            origin=origin,
            strategy=self.history.strategies,
        )

    def save(
        self,
        directory: str | Path,
        *,
        overwrite: bool = False,
        origin: Origin | None = None,
        keep_checkpoint: bool = False,
    ) -> Path:
        """Write the run directory, see `evohbde.rundir.save_run`; without figures where matplotlib is not installed."""
        return save_run(
            directory,
            self.record(origin),
            self.history,
            self.network,
            self._figures(),
            overwrite=overwrite,
            keep_checkpoint=keep_checkpoint,
        )

    def _figures(self) -> dict[str, bytes]:
        try:
            from evohbde.plots import draw_run
        except ImportError:
            return {}
        theta = ParameterLayout(self.original).flatten(self.original)
        return draw_run(theta, self.outcome.reduction, self.history.rows, self.entries)


def fine_tune(
    model: nn.Module,
    train: TensorData,
    *,
    validation: TensorData | None = None,
    test: TensorData | None = None,
    preset: str | Preset = "default",
    num_evaluations: int | None = None,
    num_samples: float | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    pretrain_epochs: int | None = None,
    compare_with_adam: bool = True,
    monitor: bool = True,
    checkpoint: str | Path | None = None,
    on_row: Callable[[Row], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> FineTuneResult:
    """Improve a trained classifier by forward passes only, and judge it on samples that the search never saw.

    Args:
        model: The trained network; it is copied, not changed.
        train: What may be searched on.
        validation: What decisions between stages are made on; None: a fifth of `train` is set aside where the preset
            needs it.
        test: What the report is scored on, and nothing else; None: half of `validation` is set aside for it (a fifth of
            `train`, where there is no `validation`).
        preset: `"default"` (ours), `"hbde-2024"` (the published method), or one of their classes with other switches,
            e.g. `HBDE2024(num_bins=100)`.
        num_evaluations: Candidate networks that may be scored.
        num_samples: Sample forwards that may be spent. Without any budget: 2,000 evaluations for a network of up to
            20,000 searched weights, 30,000 sample forwards for a larger one.
        seed: Seed of splits and search.
        device: Where to run; None: where the data are.
        pretrain_epochs: Train with Adam first, for so many epochs (its cost is not part of the budget); None: refuse a
            model that is no better than chance; 0: take any model.
        compare_with_adam: Whether the table has a row for Adam fine-tuning at the same number of sample forwards (left
            out after Ctrl-C).
        monitor: Whether held-out F1 is taken for the curve (at most 25 times, on at most 1,000 samples; nothing is
            decided by it, and it is not counted).
        checkpoint: A directory where scores are kept as they come in. The same call again continues from there, and
            gives what an uninterrupted one gives, bit for bit on a CPU; remove the directory when you have the result.
        on_row: Called once per generation with its `Row`.
        on_stage: Called with a few words whenever another kind of work begins.

    Returns:
        A `FineTuneResult`; Ctrl-C during the search returns what was found until then.

    Raises:
        ValueError: If data and model do not fit, the model is untrained, an argument is out of range, or `checkpoint`
            holds another run.
        OSError: If `checkpoint` cannot be written.
    """
    found = _resolve_preset(preset)
    for name, limit in (("num_evaluations", num_evaluations), ("num_samples", num_samples)):
        if limit is not None and limit <= 0:
            raise ValueError(f"`{name}` must be positive, got {limit}")
    device = train.device if device is None else torch.device(device)
    full_train, full_validation, test = _splits(train, validation, test, seed, device)
    original = deepcopy(model).to(device)
    for data in (full_train, test):
        check_outputs(original, data)
    if pretrain_epochs is None:
        _refuse_untrained(original, full_train)
    if num_evaluations is None and num_samples is None:
        num_evaluations, num_samples = default_budget(original)
    arguments: dict[str, object] = {
        "num_evaluations": num_evaluations,
        "num_samples": num_samples,
        "device": str(device),
        "pretrain_epochs": pretrain_epochs,
        "compare_with_adam": compare_with_adam,
        "monitor": monitor,
    }
    splits = full_train, full_validation, test
    fingerprint = {} if checkpoint is None else describe_job(found, arguments, seed, original, splits)
    with threads_for(original), checkpointing(checkpoint, fingerprint):
        return _improve(original, splits, found, arguments, seed, on_row, on_stage or _silence)


def _improve(
    original: nn.Module,
    splits: tuple[TensorData, TensorData | None, TensorData],
    preset: Preset,
    arguments: dict[str, Any],
    seed: int,
    on_row: Callable[[Row], None] | None,
    tell: Callable[[str], None],
) -> FineTuneResult:
    """Train if that was asked for, search, and judge: all that a checkpoint keeps."""
    train, validation, test = splits
    notes = _pretrain(original, train, arguments["pretrain_epochs"], seed, tell)
    original.eval()
    history = History(on_row, tell)
    monitored = test.subset(torch.arange(min(MONITORED_SAMPLES, len(test)), device=test.device))
    job = Assignment(
        model=deepcopy(original),
        train=train,
        validation=validation,
        num_evaluations=arguments["num_evaluations"],
        num_samples=arguments["num_samples"],
        seed=seed,
        history=history,
        monitor=_Monitor(monitored) if arguments["monitor"] else None,
    )
    outcome = preset.run(job)
    if job.interrupted:
        seal()
    networks = [("untouched", original, 0.0)]
    if outcome.round_trip is not None:
        networks.append(("blocked only", outcome.round_trip, 0.0))
    networks.append((preset.name, outcome.network, history.num_samples_seen))
    trainable = any(parameter.requires_grad for parameter in original.parameters())
    if arguments["compare_with_adam"] and trainable and not job.interrupted:
        tell("training with Adam at the same price, for comparison")
        adam = _train_copy(original, train, history.num_samples_seen, seed)
        networks.append(("Adam, same forwards", adam, history.num_samples_seen))
    tell("scoring on held-out samples")
    return FineTuneResult(
        network=outcome.network,
        original=original,
        entries=judge(networks, test),
        history=history,
        notes=notes + outcome.notes,
        preset=preset,
        seed=seed,
        num_held_out=len(test),
        outcome=outcome,
        stop_reason="interrupted" if job.interrupted else "budget",
        arguments=arguments,
    )


def default_budget(model: nn.Module) -> tuple[int | None, float | None]:
    """`num_evaluations` and `num_samples` of a job that was given neither."""
    return (2_000, None) if len(ParameterLayout(model)) <= SMALL_NETWORK else (None, 30_000)


def _silence(stage: str) -> None:
    pass


class _Monitor:
    def __init__(self, data: TensorData) -> None:
        self.data = data

    def __call__(self, network: nn.Module) -> float:
        return score(network, self.data, ["f1_macro"])["f1_macro"]


def _resolve_preset(preset: str | Preset) -> Preset:
    if not isinstance(preset, str):
        if not callable(getattr(preset, "run", None)):
            raise TypeError(f"expected `preset` to be a name or an object with a method `run`, got {preset!r}")
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown `preset` {preset!r}; known: {', '.join(PRESETS)}, or pass a preset object")
    return PRESETS[preset]()


def _splits(
    train: TensorData, validation: TensorData | None, test: TensorData | None, seed: int, device: torch.device
) -> tuple[TensorData, TensorData | None, TensorData]:
    if not isinstance(train, TensorData):
        raise TypeError(f"expected `train` to be a TensorData, got {type(train).__name__}: wrap it, TensorData(x, y)")
    if test is None:
        if validation is None:
            train, test = train.split(VALIDATION_SHARE, seed)
        else:
            validation, test = validation.split(0.5, seed)
    return train.to(device), None if validation is None else validation.to(device), test.to(device)


def _refuse_untrained(model: nn.Module, train: TensorData) -> None:
    with threads_for(model):
        accuracy = score(model, train, ["accuracy"])["accuracy"]
    chance = float(torch.bincount(train.y).max()) / len(train)
    if accuracy <= 1.2 * chance and chance < 0.8:
        raise ValueError(
            f"the model looks untrained: accuracy {accuracy:.3f} on the training data, guessing: {chance:.3f}; "
            "pass pretrain_epochs=10 to train it with Adam first, or pretrain_epochs=0 to go on anyway"
        )


def _pretrain(
    model: nn.Module, train: TensorData, epochs: int | None, seed: int, tell: Callable[[str], None]
) -> list[str]:
    if not epochs:
        return []
    tell(f"pre-training with Adam, {epochs} epochs")
    recorded_training("pre-training", model, lambda: pretrain(model, train, epochs=epochs, seed=seed))
    return [f"pre-trained with Adam for {epochs} epochs on {len(train):,} samples (not part of the budget)"]


def _train_copy(original: nn.Module, data: TensorData, num_samples: float, seed: int) -> nn.Module:
    copy = deepcopy(original)
    return recorded_training("Adam", copy, lambda: train_with_gradients(copy, data, num_samples=num_samples, seed=seed))
