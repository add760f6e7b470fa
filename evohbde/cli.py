"""What can be done from a shell?

What a command needs is imported when it runs, so that `evohbde --help` answers at once.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from typing import Annotated

import typer

from evohbde import __version__
from evohbde.commands.compare import compare
from evohbde.commands.prune import prune
from evohbde.commands.report import report
from evohbde.commands.resume import resume
from evohbde.commands.tune import tune

app = typer.Typer(
    name="evohbde",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


for command in (tune, prune, resume, compare, report):
    app.command()(command)
