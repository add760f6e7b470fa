"""What does `evohbde compare` take?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evohbde.commands.shell import (
    INTERRUPTED,
    Debug,
    Device,
    Overwrite,
    Ref,
    Settings,
    console,
    errors_in_words,
    silence_evotorch,
)


def compare(
    ref: Ref,
    searchers: Annotated[
        list[str] | None,
        typer.Option("--searcher", metavar="[LABEL=]REF[:KEY=VALUE,...]", help="A searcher; repeatable."),
    ] = None,
    reductions: Annotated[
        list[str] | None,
        typer.Option(
            "--reduction",
            metavar="[LABEL=]REF[:KEY=VALUE,...]",
            help="What of a network is searched (`full`: every weight); repeatable, all combinations run.",
            show_default="HistogramBlocking:mode=offset",
        ),
    ] = None,
    objective: Annotated[str, typer.Option(help="What is searched, if REF gives a task.")] = "cross_entropy",
    num_evaluations: Annotated[
        int | None, typer.Option(help="Candidates that each run may score.", show_default=False)
    ] = None,
    num_samples: Annotated[
        float | None,
        typer.Option(help="Sample forwards that each run may spend; a gradient step counts 3.", show_default=False),
    ] = None,
    seeds: Annotated[str, typer.Option(help="0-10, or 1,4,7: a run of each searcher for each.")] = "0-10",
    out: Annotated[
        Path | None, typer.Option(help="Directory of the records.", show_default="runs/NAME-compared")
    ] = None,
    overwrite: Overwrite = False,
    num_workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time.", show_default="one per core")] = None,
    num_threads: Annotated[int, typer.Option(min=1, help="Threads of each run.")] = 1,
    device: Device = None,
    settings: Settings = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only the table.")] = False,
    debug: Debug = False,
) -> None:
    """Run several searchers from the same start on the same data and budget, over many seeds, and test who is ahead.

    REF names a function that returns an evohbde.Task, (model, train[, validation[, test]]) or an EvoTorch Problem. It
    is imported and called: a reference runs code, so give only those that you trust.

    Every finished run is kept. After an interruption the same command goes on where it stopped.

    Example: evohbde compare problems.digits:shifted_mlp --searcher DE --searcher evotorch.algorithms:SNES
    --num-evaluations 500
    """
    messages = console(to_stderr=True)
    with errors_in_words(messages, debug=debug):
        silence_evotorch()
        with messages.status("loading torch and EvoTorch"):
            from evohbde.compare_command import CompareRequest, run_compare

        request = CompareRequest(
            reference=ref,
            searchers=tuple(searchers or ()),
            reductions=tuple(reductions or ()),
            objective=objective,
            num_evaluations=num_evaluations,
            num_samples=num_samples,
            seeds=seeds,
            out=out,
            overwrite=overwrite,
            num_workers=num_workers,
            num_threads=num_threads,
            device=device,
            settings=tuple(settings or ()),
            quiet=quiet,
        )
        found = run_compare(request, console(), messages)
    if found is None:
        raise typer.Exit(INTERRUPTED)
