"""What do all commands share: options, where they print, and how errors are told?"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

FAILED, INTERRUPTED = 2, 130
WIDTH = 120
"""Columns of the output where there is no terminal."""

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


def console(*, to_stderr: bool = False) -> Console:
    """Where to print: the terminal as wide as it is, a file at a fixed width."""
    found = Console(stderr=to_stderr)
    return found if found.is_terminal else Console(stderr=to_stderr, width=WIDTH)


@contextmanager
def errors_in_words(messages: Console, *, debug: bool) -> Iterator[None]:
    """Turn errors that a person can mend, and Ctrl-C, into one sentence and an exit status."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message="the checkpoint in ")
            warnings.showwarning = lambda message, *_, **__: messages.print(
                f"Warning: {message}", markup=False, highlight=False, soft_wrap=True
            )
            yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        if debug:
            raise
        sentence = " ".join(_in_options(str(error)).split()) or type(error).__name__
        messages.print(Text(f"Error: {sentence}", style="red"), soft_wrap=True)
        raise typer.Exit(FAILED) from error
    except KeyboardInterrupt as error:
        messages.print(str(error) or "Interrupted before there was a result; nothing was saved.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from error


def _in_options(message: str) -> str:
    """Name arguments of `fine_tune` and `prune` as the options that they are here."""
    message = message.replace("(overwrite=True)", "(--overwrite)")
    message = re.sub(r"choose another directory$", "choose another directory with --out", message)
    message = re.sub(r"\bpretrain_epochs=(\d+)", r"--pretrain-epochs \1", message)
    options = "num_evaluations|num_samples|max_loss|density"
    return re.sub(f"`({options})`", lambda found: "--" + found[1].replace("_", "-"), message)


def silence_evotorch() -> None:
    """Keep EvoTorch's own log and known warnings off the screen; to be called before it is imported."""
    os.environ.setdefault("EVOTORCH_VERBOSE_LEVEL", "0")  # read when it is imported, also by its actors
    logging.getLogger("evotorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message="To copy construct from a tensor", module="evotorch")
