"""What does `evohbde report` take?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evohbde.commands.shell import Debug, console, errors_in_words, silence_evotorch


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR", help="Directories of runs and comparisons.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that is there.")] = False,
    debug: Debug = False,
) -> None:
    """Tell runs and comparisons on one page: a single HTML file that needs nothing else, not even a network.

    DIR is what evohbde tune, prune or compare has written. Runs that differ in their seed alone are shown together;
    a comparison that has not come to its end is shown as far as it is.

    Example: evohbde report runs/* --out report.html
    """
    messages = console(to_stderr=True)
    with errors_in_words(messages, debug=debug):
        silence_evotorch()
        with messages.status("loading torch and EvoTorch"):
            from evohbde.report_command import ReportRequest, write_report

        write_report(ReportRequest(tuple(directories), out, overwrite), console(), messages)
