"""What does `evohbde prune` take?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evohbde.commands.shell import (
    INTERRUPTED,
    Debug,
    Device,
    NumEvaluations,
    Overwrite,
    Ref,
    Seed,
    Settings,
    Switches,
    console,
    errors_in_words,
    silence_evotorch,
)


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
    messages = console(to_stderr=True)
    with errors_in_words(messages, debug=debug):
        silence_evotorch()
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
            objectives=tuple(objectives or PruneRequest.objectives),
        )
        result = run_prune(request, console(), messages)
    if result.stop_reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
