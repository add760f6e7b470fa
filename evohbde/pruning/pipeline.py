"""How does a trained network become a front of pruned ones in one call?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evohbde.checkpoint import checkpointing, describe_job
from evohbde.data import TensorData
from evohbde.history import History, Row
from evohbde.journal import seal
from evohbde.layout import ParameterLayout
from evohbde.objectives import ObjectiveLike
from evohbde.outputs import check_outputs
from evohbde.parts import prunable_names
from evohbde.pruning.allocated import AllocatedPruning
from evohbde.pruning.archive import Pruned, as_pruned
from evohbde.pruning.baselines import GLOBAL, UNIFORM, global_magnitude_masks, uniform_magnitude_masks
from evohbde.pruning.front import thinned, unpruned_point
from evohbde.pruning.hierarchical import HierarchicalPruning2026
from evohbde.pruning.job import PruningJob, PruningPreset
from evohbde.pruning.result import PruneResult
from evohbde.pruning.scoring import DEFAULT_OBJECTIVES, MaskScorer
from evohbde.rundir import check_target
from evohbde.threads import SMALL_NETWORK, threads_for

PRESETS: dict[str, Callable[[], PruningPreset]] = {
    "default": AllocatedPruning,
    "hierarchical-2026": HierarchicalPruning2026,
}

VALIDATION_SHARE = 0.2
"""Part of the training samples that is set aside to re-score the front on, where no validation data are given."""

BASELINE_FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

NUM_RESCORED = 80
"""Networks of the front that are scored on validation samples at most, evenly over the kept share."""


def prune(
    model: nn.Module,
    train: TensorData,
    *,
    validation: TensorData | None = None,
    test: TensorData | None = None,
    preset: str | PruningPreset = "default",
    objectives: ObjectiveLike | Sequence[ObjectiveLike] = DEFAULT_OBJECTIVES,
    num_evaluations: int | None = None,
    num_samples: float | None = None,
    include: str | Sequence[str] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    checkpoint: str | Path | None = None,
    on_row: Callable[[Row], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> PruneResult:
    """Search which weights of a trained classifier can go, by forward passes only, and give the best of every size.

    Args:
        model: The trained network; it is copied, not changed.
        train: What may be searched on.
        validation: What the front is scored on at the end, and chosen from; None: a fifth of `train` is set aside.
        test: What the front is reported on and nothing decided; None: only `validation` is reported.
        preset: `"default"` (ours), `"hierarchical-2026"` (the published method), or one of their classes with other
            switches, e.g. `HierarchicalPruning2026(algorithm="MOEAD")`.
        objectives: First what is to be kept (`"error"`, `"cross_entropy"`, `"f1_macro"`), then what is to fall
            (`"density"`, or any `WeightObjective`); names or instances.
        num_evaluations: Candidate networks that may be scored by the search.
        num_samples: Sample forwards that the search may spend. Without any budget: 2,000 evaluations for a network of
            up to 20,000 prunable weights, 200,000 sample forwards for a larger one.
        include: Names, or patterns of names, of the tensors that may be pruned; None: all weights of convolutions and
            linear layers.
        seed: Seed of splits and search.
        device: Where to run; None: where the data are.
        out: A run directory to write, as by `PruneResult.save`.
        overwrite: Whether an earlier run there is replaced.
        checkpoint: A directory where scores are kept as they come in, see `fine_tune`.
        on_row: Called once per generation with its `Row`, which has the hypervolume of the front so far.
        on_stage: Called with a few words whenever another kind of work begins.

    Returns:
        A `PruneResult`, which is a `Front`; Ctrl-C during the search returns what was found until then.

    Raises:
        ValueError: If data and model do not fit, nothing can be pruned, or an argument is out of range.
    """
    found = _resolve_preset(preset)
    for name, limit in (("num_evaluations", num_evaluations), ("num_samples", num_samples)):
        if limit is not None and limit <= 0:
            raise ValueError(f"`{name}` must be positive, got {limit}")
    if not isinstance(train, TensorData):
        raise TypeError(f"expected `train` to be a TensorData, got {type(train).__name__}: wrap it, TensorData(x, y)")
    if out is not None:
        check_target(out, overwrite=overwrite)
    device = train.device if device is None else torch.device(device)
    if validation is None:
        train, validation = train.split(VALIDATION_SHARE, seed)
    train, validation = train.to(device), validation.to(device)
    original = deepcopy(model).to(device).eval()
    for data in (train, validation, *([] if test is None else [test.to(device)])):
        check_outputs(original, data)
    scorer = MaskScorer(original, prunable_layout(original, include), train.num_classes, objectives)
    if num_evaluations is None and num_samples is None:
        num_evaluations, num_samples = default_budget(len(scorer.theta0))
    arguments: dict[str, object] = {
        "objectives": [objective.name for objective in scorer.objectives],
        "num_evaluations": num_evaluations,
        "num_samples": num_samples,
        "include": include,
        "device": str(device),
    }
    decided = {**arguments, "objectives": [{"name": one.name, **vars(one)} for one in scorer.objectives]}
    splits = train, validation, None if test is None else test.to(device)
    fingerprint = {} if checkpoint is None else describe_job(found, decided, seed, original, splits)
    with threads_for(original), checkpointing(checkpoint, fingerprint):
        result = _search(scorer, splits, found, arguments, seed, History(on_row, on_stage))
    if out is not None:
        result.save(out, overwrite=overwrite)
    return result


def _search(
    scorer: MaskScorer,
    splits: tuple[TensorData, TensorData, TensorData | None],
    preset: PruningPreset,
    arguments: dict[str, Any],
    seed: int,
    history: History,
) -> PruneResult:
    """Search and re-score: all that a checkpoint keeps."""
    train, validation, test = splits
    job = PruningJob(scorer, train, arguments["num_evaluations"], arguments["num_samples"], seed, history)
    outcome = preset.run(job)
    if job.interrupted:
        seal()
    points = _candidates(scorer, outcome.points)
    history.begin("scoring on validation samples")
    result = PruneResult(
        scorer,
        tuple(points),
        unpruned_point(scorer),
        _baselines(scorer),
        history=history,
        notes=outcome.notes,
        preset=preset,
        seed=seed,
        stop_reason="interrupted" if job.interrupted else "budget",
        train=train,
        validation=validation,
        test=test,
        arguments=arguments,
    ).rescore(validation)
    history.spend(0, (len(points) + 1) * len(validation))
    if result.test is not None:
        history.begin("scoring on test samples")
        result = result.with_scores(result.test, "test")
    result.notes.append(_rescored(result, len(points)))
    return result


def default_budget(num_prunable: int) -> tuple[int | None, float | None]:
    """`num_evaluations` and `num_samples` of a job that was given neither."""
    return (2_000, None) if num_prunable <= SMALL_NETWORK else (None, 200_000)


def prunable_layout(model: nn.Module, include: str | Sequence[str] | None = None) -> ParameterLayout:
    """The weights that can be pruned, all of them or those that patterns name.

    Raises:
        ValueError: If there are none.
    """
    names = prunable_names(model)
    patterns = ["*"] if include is None else [include] if isinstance(include, str) else list(include)
    chosen = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(f"`include` {include!r} names no prunable tensor; there are: {', '.join(names[:5])} ...")
    return ParameterLayout(model, chosen)


def _resolve_preset(preset: str | PruningPreset) -> PruningPreset:
    if not isinstance(preset, str):
        if not callable(getattr(preset, "run", None)):
            raise TypeError(f"expected `preset` to be a name or an object with a method `run`, got {preset!r}")
        return preset
    if preset not in PRESETS:
        raise ValueError(f"unknown `preset` {preset!r}; known: {', '.join(PRESETS)}, or pass a preset object")
    return PRESETS[preset]()


def _candidates(scorer: MaskScorer, points: list[Pruned]) -> list[Pruned]:
    """What is scored on validation samples: the network as given, and as much of the front as that may cost."""
    unpruned = unpruned_point(scorer)
    fitted = [point for point in points if point.values is not None]
    as_given = [point for point in points if point.values is None and point.kept < unpruned.kept]
    return [unpruned, *thinned(as_given, NUM_RESCORED), *fitted]


def _baselines(scorer: MaskScorer) -> tuple[Pruned, ...]:
    theta0, groups = scorer.theta0, scorer.layout.tensor_index
    masks = {GLOBAL: global_magnitude_masks, UNIFORM: uniform_magnitude_masks}
    return tuple(
        as_pruned(name, mask, theta0)
        for name, make in masks.items()
        for mask in make(theta0, groups, BASELINE_FRACTIONS)
    )


def _rescored(result: PruneResult, num_candidates: int) -> str:
    return (
        f"{num_candidates} networks were scored on {len(result.validation):,} validation samples that the search had "
        f"not seen: {result.num_dropped} fell behind and were dropped, {len(result)} are on the front"
    )
