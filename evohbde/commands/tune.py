"""What does `evohbde tune` take?"""

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
    messages = console(to_stderr=True)
    with errors_in_words(messages, debug=debug):
        silence_evotorch()
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
        result = run(request, console(), messages)
    if result.stop_reason == "interrupted":
        raise typer.Exit(INTERRUPTED)
