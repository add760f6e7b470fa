"""What does `evohbde resume` take?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evohbde.commands.shell import INTERRUPTED, Debug, console, errors_in_words, silence_evotorch


def resume(
    directory: Annotated[Path, typer.Argument(help="A run directory that an interrupted command left.")],
    trust: Annotated[bool, typer.Option("--trust", help="Run the code that the directory names.")] = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was interrupted, killed or stopped by an error; the result is that of an undisturbed run.

    The directory names the factory of network and data, and to go on means to call it: a reference runs code, and a
    directory may come from anywhere, so that nothing is run without `--trust`. Start it where the run was started.

    Example: evohbde resume runs/shifted_mlp-default-0 --trust
    """
    messages = console(to_stderr=True)
    with errors_in_words(messages, debug=debug):
        silence_evotorch()
        with messages.status("loading torch and EvoTorch"):
            from evohbde.resume import resume as run

        is_finished = run(directory, console(), messages, is_trusted=trust)
    if not is_finished:
        raise typer.Exit(INTERRUPTED)
