"""What happens between `evohbde prune` and a saved front?"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import nn

from evohbde.checkpoint import checkpointing, describe_network
from evohbde.judge import Entry
from evohbde.progress import SearchProgress
from evohbde.pruning.archive import Pruned
from evohbde.pruning.front import COLUMNS, UNPRUNED, thinned
from evohbde.pruning.job import PruningPreset
from evohbde.pruning.pipeline import PRESETS, default_budget, prunable_layout, prune
from evohbde.pruning.result import PruneResult
from evohbde.pruning.scoring import DEFAULT_OBJECTIVES
from evohbde.record import Origin
from evohbde.recovery import repair
from evohbde.references import call_factory, parse_settings, suggest
from evohbde.rundir import check_target
from evohbde.tune import check_device, load_task, print_remarks, resumable, score_table

SHOWN = 12
"""Networks of the front that are printed; `front.csv` has all."""


@dataclass(frozen=True)
class PruneRequest:
    """What was asked for on the command line; see `evohbde prune --help`."""

    reference: str
    out: Path | None = None
    overwrite: bool = False
    preset: str = "default"
    objectives: tuple[str, ...] = DEFAULT_OBJECTIVES
    num_evaluations: int | None = None
    num_samples: float | None = None
    max_loss: float | None = None
    density: float | None = None
    knee: bool = False
    repair: bool = False
    seed: int = 0
    device: str | None = None
    settings: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    quiet: bool = False
    resumes: bool = False

    @property
    def name(self) -> str:
        """What the factory is called."""
        return self.reference.rpartition(":")[2]

    @property
    def directory(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / f"{self.name}-pruned-{self.preset}-{self.seed}"

    def command(self) -> str:
        """The line for a shell that does the same again, in a directory of its choice."""
        options: list[tuple[str, object]] = [
            ("--preset", self.preset),
            *(("--objective", name) for name in self.objectives if self.objectives != DEFAULT_OBJECTIVES),
            ("--num-evaluations", self.num_evaluations),
            ("--num-samples", self.num_samples),
            ("--max-loss", self.max_loss),
            ("--density", self.density),
            ("--seed", self.seed),
            ("--device", self.device),
            *(("--set", text) for text in self.settings),
            *(("--preset-set", text) for text in self.switches),
        ]
        words = ["evohbde", "prune", self.reference]
        words += [str(word) for option in options if option[1] is not None for word in option]
        words += [flag for flag, is_set in (("--knee", self.knee), ("--repair", self.repair)) if is_set]
        return shlex.join(words)


def run_prune(request: PruneRequest, out: Console, messages: Console) -> PruneResult:
    """Load, search, re-score, choose, save and show; everything that can be checked before the search is.

    Args:
        request: What to do.
        out: Where the front and the final table go.
        messages: Where progress and remarks go.

    Raises:
        ValueError, TypeError, OSError, ImportError: With a message for the person at the keyboard.
    """
    settings = parse_settings(request.settings)
    preset = make_preset(request.preset, parse_settings(request.switches))
    _check_choice(request)
    check_device(request.device)
    if not request.resumes:
        check_target(request.directory, overwrite=request.overwrite)
    with messages.status(f"loading {escape(request.reference)}"):
        task = load_task(request.reference, settings)
    num_evaluations, num_samples = request.num_evaluations, request.num_samples
    if num_evaluations is None and num_samples is None:
        num_evaluations, num_samples = default_budget(len(prunable_layout(task.model)))
    progress = SearchProgress(messages, num_evaluations, num_samples, quiet=request.quiet)
    with resumable("prune", request, messages) as checkpoint:
        with progress:
            result = prune(
                task.model,
                task.train,
                validation=task.validation,
                test=task.test,
                preset=preset,
                objectives=request.objectives,
                num_evaluations=num_evaluations,
                num_samples=num_samples,
                seed=request.seed,
                device=request.device,
                checkpoint=checkpoint,
                on_row=progress.on_row,
                on_stage=progress.on_stage,
            )
            point = choose(result, request)
            is_done = result.stop_reason == "budget"
            repaired = _repaired(result, point, progress, checkpoint) if request.repair and is_done else []
        entries = result.entries(point, repaired)
        result.save(
            request.directory,
            point,
            network=repaired[0][1] if repaired else None,
            entries=entries,
            overwrite=True,
            origin=Origin(task.name or request.name, request.reference, settings, request.command()),
            keep_checkpoint=result.stop_reason == "interrupted",
        )
    show(result, point, entries, request, out, messages)
    return result


def make_preset(name: str, switches: dict[str, object]) -> PruningPreset:
    """Build a pruning preset by its name, with some of its switches set."""
    if name not in PRESETS:
        raise ValueError(f"there is no pruning preset {name!r}{suggest(name, PRESETS)}")
    return cast(PruningPreset, call_factory(PRESETS[name], switches, name=f"the preset {name!r}"))


def choose(result: PruneResult, request: PruneRequest) -> Pruned:
    """The network that was asked for; where none qualifies, the run is not lost: what `choose` takes, and a remark."""
    if request.max_loss is None and request.density is None and not request.knee:
        return result.choose()
    try:
        return result.select(max_loss=request.max_loss, density=request.density, knee=request.knee)
    except ValueError as error:
        result.notes.append(f"{error}; the network with the best accuracy is saved instead")
        return result.select(density=1.0)


def _check_choice(request: PruneRequest) -> None:
    if (request.max_loss is not None) + (request.density is not None) + request.knee > 1:
        raise ValueError("choose by one of --max-loss, --density and --knee only")
    if request.max_loss is not None and request.max_loss < 0:
        raise ValueError(f"`max_loss` must be at least 0, 0.005 for half a point of accuracy, got {request.max_loss}")
    if request.density is not None and not 0 < request.density <= 1:
        raise ValueError(f"`density` must lie in (0, 1], the largest share that is kept, got {request.density}")


def _repaired(
    result: PruneResult, point: Pruned, progress: SearchProgress, checkpoint: Path
) -> list[tuple[str, nn.Module, float]]:
    """The chosen network and the unpruned one, repaired in the same way; with the sample forwards of all it took."""
    found = []
    chosen = (result.preset.name, result.network(point), result.num_samples_seen)
    for name, network, num_samples in (chosen, (UNPRUNED, result.scorer.model, 0.0)):
        progress.on_stage(f"repairing the {name} network")
        with checkpointing(checkpoint / f"repair-{name}", {"network": describe_network(network), "seed": result.seed}):
            one = repair(network, result.train, result.validation, seed=result.seed)
        result.notes.extend(f"repair of {name}: {note}" for note in one.notes)
        found.append((f"{name}, repaired", one.network, num_samples + one.num_samples))
    return found


def show(
    result: PruneResult, point: Pruned, entries: list[Entry], request: PruneRequest, out: Console, messages: Console
) -> None:
    """Print the front, the final table, what it means and where the files are."""
    out.print(front_table(result, point))
    out.print()
    out.print(score_table(entries, result.preset.name, out.width))
    if request.quiet:
        return
    print_remarks(result.notes, result.record(point, entries), result.stop_reason, request.directory, messages)


def front_table(result: PruneResult, chosen: Pruned) -> Table:
    """Lay the front out, scored on validation samples, the chosen network in bold."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=f"Front on {result.split} samples")
    for number, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="right" if number else "left")
    shown = thinned(result.points, SHOWN)
    if chosen not in shown:
        shown = sorted([*shown, chosen], key=lambda point: point.kept, reverse=True)
    for point in (result.unpruned, *shown):
        table.add_row(*map(Text, result.cells(point)), style="bold" if point is chosen else "")
    return table
