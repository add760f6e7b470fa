"""What happens between `evohbde tune` and a saved run?"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text
from torch import nn

from evohbde.data import Task, TensorData
from evohbde.finetune import PRESETS, FineTuneResult, default_budget, fine_tune
from evohbde.judge import COLUMNS, Entry
from evohbde.preset_base import Preset
from evohbde.progress import SearchProgress
from evohbde.record import Origin, RunRecord
from evohbde.references import call_factory, describe, parse_settings, resolve, suggest
from evohbde.report import NO_FIGURES, verdict
from evohbde.rundir import REPORT, check_target
from evohbde.unfinished import Job, has_job, unfinished

WIDE = 115
"""Columns that the final table needs in one line per network."""

EXPECTED = "expected an evohbde.Task, or a tuple (model, train[, validation[, test]])"


@dataclass(frozen=True)
class TuneRequest:
    """What was asked for on the command line; see `evohbde tune --help`."""

    reference: str
    out: Path | None = None
    overwrite: bool = False
    preset: str = "default"
    num_evaluations: int | None = None
    num_samples: float | None = None
    seed: int = 0
    device: str | None = None
    pretrain_epochs: int | None = None
    settings: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    adam: bool = True
    quiet: bool = False
    resumes: bool = False

    @property
    def name(self) -> str:
        """What the factory is called."""
        return self.reference.rpartition(":")[2]

    @property
    def directory(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs") / f"{self.name}-{self.preset}-{self.seed}"

    def command(self) -> str:
        """The line for a shell that does the same again, in a directory of its choice."""
        options: list[tuple[str, object]] = [
            ("--preset", self.preset),
            ("--num-evaluations", self.num_evaluations),
            ("--num-samples", self.num_samples),
            ("--seed", self.seed),
            ("--device", self.device),
            ("--pretrain-epochs", self.pretrain_epochs),
            *(("--set", text) for text in self.settings),
            *(("--preset-set", text) for text in self.switches),
        ]
        words = ["evohbde", "tune", self.reference]
        words += [str(word) for option in options if option[1] is not None for word in option]
        return shlex.join(words if self.adam else [*words, "--no-adam"])


def tune(request: TuneRequest, out: Console, messages: Console) -> FineTuneResult:
    """Load, search, judge, save and show; everything that can be checked before the search is.

    Args:
        request: What to do.
        out: Where the final table goes.
        messages: Where progress and remarks go.

    Raises:
        ValueError, TypeError, OSError, ImportError: With a message for the person at the keyboard.
    """
    settings = parse_settings(request.settings)
    preset = make_preset(request.preset, parse_settings(request.switches))
    check_device(request.device)
    if not request.resumes:
        check_target(request.directory, overwrite=request.overwrite)
    with messages.status(f"loading {escape(request.reference)}"):
        task = load_task(request.reference, settings)
    num_evaluations, num_samples = request.num_evaluations, request.num_samples
    if num_evaluations is None and num_samples is None:
        num_evaluations, num_samples = default_budget(task.model)
    progress = SearchProgress(messages, num_evaluations, num_samples, quiet=request.quiet)
    with resumable("tune", request, messages) as checkpoint:
        with progress:
            result = fine_tune(
                task.model,
                task.train,
                validation=task.validation,
                test=task.test,
                preset=preset,
                num_evaluations=num_evaluations,
                num_samples=num_samples,
                seed=request.seed,
                device=request.device,
                pretrain_epochs=request.pretrain_epochs,
                compare_with_adam=request.adam,
                checkpoint=checkpoint,
                on_row=progress.on_row,
                on_stage=progress.on_stage,
            )
        result.save(
            request.directory,
            overwrite=True,
            origin=Origin(task.name or request.name, request.reference, settings, request.command()),
            keep_checkpoint=result.stop_reason == "interrupted",
        )
    show(result, request, out, messages)
    return result


class Request(Protocol):
    """What was asked for on the command line, by a command that can be taken up again."""

    @property
    def overwrite(self) -> bool: ...

    @property
    def resumes(self) -> bool: ...

    @property
    def directory(self) -> Path: ...


@contextmanager
def resumable(command: str, request: Request, messages: Console) -> Iterator[Path]:
    """Give the folder for the checkpoint of a run, and say what is left where the run does not come to its end."""
    words = {name: value for name, value in vars(request).items() if name not in ("out", "overwrite", "resumes")}
    directory, job = request.directory, Job(command, words)
    try:
        with unfinished(directory, job, overwrite=request.overwrite, resumes=request.resumes) as checkpoint:
            yield checkpoint
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"Interrupted. {way_on(directory)}" if has_job(directory) else "") from error
    except Exception:
        if has_job(directory):
            messages.print(way_on(directory), markup=False, highlight=False, soft_wrap=True)
        raise


def way_on(directory: Path) -> str:
    """What to tell whoever finds an unfinished run."""
    command = shlex.join(["evohbde", "resume", str(directory), "--trust"])
    return f"What was computed until then is kept, to go on from there: {command}"


def make_preset(name: str, switches: dict[str, object]) -> Preset:
    """Build a preset by its name, with some of its switches set."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}{suggest(name, PRESETS)}")
    return cast(Preset, call_factory(PRESETS[name], switches, name=f"the preset {name!r}"))


def check_device(name: str | None) -> None:
    """Try the device, since torch would complain only after everything is loaded."""
    if name is None:
        return
    try:
        torch.empty(1, device=name).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"cannot use the device {name!r} (cpu, cuda, cuda:1 and mps are usual): {reason}") from error


def load_task(reference: str, settings: dict[str, object]) -> Task:
    """Call the factory that a reference names, and check what comes back."""
    found = resolve(reference)
    if isinstance(found, nn.Module):
        raise TypeError(f"{reference} is a network: expected a function that returns it with its data")
    if not isinstance(found, Task):
        found = call_factory(found, settings, name=reference)
    elif settings:
        raise ValueError(f"{reference} is a finished Task and takes no settings")
    if isinstance(found, tuple) and 2 <= len(found) <= 4:
        found = Task(*found)
    if not isinstance(found, Task):
        raise TypeError(f"{reference} returned {describe(found)}: {EXPECTED}")
    _check_task(found, reference)
    return found


def _check_task(task: Task, reference: str) -> None:
    if not isinstance(task.model, nn.Module):
        raise TypeError(f"{reference} gave {describe(task.model)} as its model: expected a torch.nn.Module")
    for part in ("train", "validation", "test"):
        data = getattr(task, part)
        if not isinstance(data, TensorData) and (part == "train" or data is not None):
            raise TypeError(
                f"{reference} gave {describe(data)} as its {part} data: expected a TensorData, made by "
                "TensorData(x, y) or TensorData.from_dataset(data_set)"
            )


def show(result: FineTuneResult, request: TuneRequest, out: Console, messages: Console) -> None:
    """Print the final table, what it means and where the files are."""
    out.print(score_table(result.entries, result.preset.name, out.width))
    if request.quiet:
        return
    print_remarks(result.notes, result.record(), result.stop_reason, request.directory, messages)


def print_remarks(
    notes: Sequence[str], record: RunRecord, stop_reason: str, directory: Path, messages: Console
) -> None:
    """Print what happened, what came out in words, and where the files are."""
    remarks = [*notes, verdict(record)]
    if stop_reason == "interrupted":
        remarks.insert(0, "Interrupted: this is what was found until then.")
        remarks.append(way_on(directory))
    if not any(directory.glob("*.png")):
        remarks.append(NO_FIGURES)
    remarks.append(f"Saved to {directory}; open {directory / REPORT}")
    for remark in remarks:
        messages.print(remark, markup=False, highlight=False, soft_wrap=True)


def score_table(entries: Sequence[Entry], result_name: str, width: int) -> Table:
    """Lay the entries out for a screen of so many columns; on a narrow one intervals go below their values."""
    is_narrow = width < WIDE

    def fit(text: str) -> str:
        return text.replace(" [", "\n[").replace("cross-", "cross-\n").replace("sample ", "sample\n")

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, heading in enumerate(COLUMNS):
        table.add_column(
            fit(heading) if is_narrow else heading, no_wrap=number > 0, justify="right" if number > 2 else "left"
        )
    for entry in entries:
        name, *numbers = entry.cells()
        style = "bold" if entry.name == result_name else ""
        table.add_row(Text(name), *(Text(fit(cell) if is_narrow else cell) for cell in numbers), style=style)
    return table
