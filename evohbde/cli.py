"""What can be done from a shell?

What a command needs is imported when it runs, so that `evohbde --help` answers at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from evohbde import __version__

FAILED, INTERRUPTED = 2, 130
WIDTH = 120
"""Columns of the output where there is no terminal."""

app = typer.Typer(
    name="evohbde",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)

# Options that several commands have.
Ref = Annotated[str, typer.Argument(help="The factory: module:name or path/file.py:name.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")]
NumEvaluations = Annotated[
    int | None, typer.Option(help="Candidate networks to score.", show_default="2000 for small networks")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of splits and search; the factory's own: --set seed=1.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps ...", show_default="where the data are")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An argument of the factory; repeatable.")
]
Switches = Annotated[
    list[str] | None, typer.Option("--preset-set", metavar="KEY=VALUE", help="A switch of the preset; repeatable.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")]


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        version()
        raise typer.Exit


@app.callback()
def main(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the versions and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Improve a trained PyTorch network without gradients, on top of EvoTorch."""


@app.command()
def version() -> None:
    """Show the versions of evohbde and of what it stands on."""
    others = ", ".join(f"{name} {version_of(name)}" for name in ("torch", "evotorch"))
    typer.echo(f"evohbde {__version__} (Python {sys.version.split()[0]}, {others})")


@app.command()
def tune(
    ref: Ref,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run.", show_default="runs/NAME-PRESET-SEED")
    ] = None,
    overwrite: Overwrite = False,
    preset: Annotated[str, typer.Option(help="default (ours) or hbde-2024 (as published).")] = "default",
    num_evaluations: NumEvaluations = None,
    num_samples: Annotated[
        float | None, typer.Option(help="Sample forwards to spend, 1e6 say.", show_default="30000 for large networks")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    pretrain_epochs: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Train with Adam first, for so many epochs; 0: take the network as it is.",
            show_default="refuse a network that is no better than chance",
        ),
    ] = None,
    settings: Settings = None,
    switches: Switches = None,
    no_adam: Annotated[bool, typer.Option("--no-adam", help="Skip the comparison with Adam.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the final table.")] = False,
    debug: Debug = False,
) -> None:
    """Improve a trained classifier by forward passes only, and judge it on samples that the search never saw.

    REF names a function that returns an evohbde.Task, or (model, train[, validation[, test]]). It is imported and
    called: a reference runs code, so give only those that you trust. The working directory is searched for modules.

    Ctrl-C ends the search, and what was found until then is judged and saved.

    Example: evohbde tune problems.digits:shifted_mlp --num-evaluations 500
    """
    messages = _console(to_stderr=True)
    with _errors_in_words(messages, debug=debug):
        _silence_evotorch()
        with messages.status("loading torch and EvoTorch"):
            from evohbde.tune import TuneRequest
            from evohbde.tune import tune as run

        request = TuneRequest(
            reference=ref,
            out=out,
            overwrite=overwrite,
            preset=preset,
            num_evaluations=num_evaluations,
            num_samples=num_samples,
            seed=seed,
            device=device,
            pretrain_epochs=pretrain_epochs,
            settings=tuple(settings or ()),
            switches=tuple(switches or ()),
            adam=not no_adam,
            quiet=quiet,
        )
        result = run(request, _console(), messages)
    if result.stop_reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def prune(
    ref: Ref,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run.", show_default="runs/NAME-pruned-PRESET-SEED")
    ] = None,
    overwrite: Overwrite = False,
    preset: Annotated[str, typer.Option(help="default (ours) or hierarchical-2026 (as published).")] = "default",
    objectives: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="NAME",
            help="First what is to be kept, then what is to fall; repeatable.",
            show_default="error, density",
        ),
    ] = None,
    num_evaluations: NumEvaluations = None,
    num_samples: Annotated[
        float | None, typer.Option(help="Sample forwards to spend, 1e6 say.", show_default="2e5 for large networks")
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(help="Save the lightest network that loses at most so much accuracy.", show_default="0.01"),
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="Save the best network that keeps at most this share.", show_default=False)
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Save the network at the knee of the front.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is saved, and for comparison the unpruned network.")
    ] = False,
    seed: Seed = 0,
    device: Device = None,
    settings: Settings = None,
    switches: Switches = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the tables.")] = False,
    debug: Debug = False,
) -> None:
    """Set weights of a trained classifier to zero, chosen by forward passes only: the best network of every size.

    REF names a function that returns an evohbde.Task, or (model, train[, validation[, test]]). It is imported and
    called: a reference runs code, so give only those that you trust. The working directory is searched for modules.

    Ctrl-C ends the search, and what was found until then is scored and saved.

    Example: evohbde prune problems.digits:cnn --num-evaluations 500
    """
    messages = _console(to_stderr=True)
    with _errors_in_words(messages, debug=debug):
        _silence_evotorch()
        with messages.status("loading torch and EvoTorch"):
            from evohbde.prune_command import PruneRequest, run_prune

        request = PruneRequest(
            reference=ref,
            out=out,
            overwrite=overwrite,
            preset=preset,
            num_evaluations=num_evaluations,
            num_samples=num_samples,
            max_loss=max_loss,
            density=density,
            knee=knee,
            repair=repair,
            seed=seed,
            device=device,
            settings=tuple(settings or ()),
            switches=tuple(switches or ()),
            quiet=quiet,
            **({"objectives": tuple(objectives)} if objectives else {}),
        )
        result = run_prune(request, _console(), messages)
    if result.stop_reason == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _console(*, to_stderr: bool = False) -> Console:
    console = Console(stderr=to_stderr)
    return console if console.is_terminal else Console(stderr=to_stderr, width=WIDTH)


@contextmanager
def _errors_in_words(messages: Console, *, debug: bool) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        sentence = " ".join(_in_options(str(error)).split()) or type(error).__name__
        messages.print(Text(f"Error: {sentence}", style="red"), soft_wrap=True)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        messages.print("Interrupted before there was a result; nothing was saved.")
        raise typer.Exit(INTERRUPTED) from error


def _in_options(message: str) -> str:
    """Name arguments of `fine_tune` and `prune` as the options that they are here."""
    message = message.replace("(overwrite=True)", "(--overwrite)")
    message = re.sub(r"choose another directory$", "choose another directory with --out", message)
    message = re.sub(r"\bpretrain_epochs=(\d+)", r"--pretrain-epochs \1", message)
    options = "num_evaluations|num_samples|max_loss|density"
    return re.sub(f"`({options})`", lambda found: "--" + found[1].replace("_", "-"), message)


def _silence_evotorch() -> None:
    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # read when it is imported, also by its actors
    logging.getLogger("evotorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="To copy construct from a tensor", module="evotorch")
