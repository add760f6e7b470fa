"""What happens between `evohbde report` and a written page?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from evohbde.comparison import Comparison
from evohbde.comparison.records import SETTINGS
from evohbde.durable import write_whole
from evohbde.report.blocks import Block, Section, Text
from evohbde.report.overview import front_tables, overview_blocks
from evohbde.report.page import render
from evohbde.report.read import SavedRun, read_run
from evohbde.report.run import run_blocks, subtitle
from evohbde.report_comparison import comparison_blocks, comparison_subtitle
from evohbde.rundir import JOB, RECORD


@dataclass(frozen=True)
class ReportRequest:
    """What was asked for on the command line; see `evohbde report --help`."""

    directories: tuple[Path, ...]
    out: Path = Path("report.html")
    overwrite: bool = False


def write_report(request: ReportRequest, out: Console, messages: Console) -> Path:
    """Read all directories, write the page, and say where it is.

    Args:
        request: What to do.
        out: Where the path of the page goes.
        messages: Where progress goes.

    Raises:
        ValueError, OSError: With a message for the person at the keyboard.
    """
    check_page(request.out, overwrite=request.overwrite)
    runs: list[SavedRun] = []
    comparisons: list[tuple[str, Comparison]] = []
    for directory, name in zip(request.directories, names_of(request.directories), strict=True):
        with messages.status(f"reading {escape(str(directory))}"):
            if (directory / SETTINGS).is_file():
                comparisons.append((name, Comparison.load(directory)))
            elif (directory / RECORD).is_file():
                runs.append(read_run(directory, name))
            else:
                raise FileNotFoundError(_nothing_in(directory))
    with messages.status("drawing figures"):
        page = report_page(runs, comparisons)
    request.out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_whole(request.out, page.encode())
    out.print(f"{escape(str(request.out))}: {_counted(len(runs), 'run')}, {_counted(len(comparisons), 'comparison')}")
    return request.out


def check_page(path: Path, *, overwrite: bool) -> None:
    """Say now what would keep the page from being written later.

    Raises:
        FileExistsError: If there is a file already and `overwrite` is False, or a directory.
    """
    if path.is_dir():
        raise FileExistsError(f"{path} is a directory: choose a file with --out")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already: replace it (--overwrite), or choose another file with --out")


def names_of(directories: Sequence[Path]) -> list[str]:
    """What the page calls each directory: its last part, or all that was given where that is not enough."""
    short = [directory.resolve().name for directory in directories]
    counts = Counter(short)
    return [name if counts[name] == 1 else str(directory) for name, directory in zip(short, directories, strict=True)]


def report_page(runs: Sequence[SavedRun], comparisons: Sequence[tuple[str, Comparison]]) -> str:
    """Write the page about some runs and comparisons, each of them in a section.

    Args:
        runs: Saved runs.
        comparisons: Each with what the page calls it.
    """
    blocks: list[Block] = []
    for number, (name, comparison) in enumerate(comparisons, start=1):
        title = f"Comparison {name}" if len(comparisons) + len(runs) > 1 else "What the runs show"
        blocks.append(Section(title, comparison_blocks(comparison), f"comparison-{number}"))
    anchors = [f"run-{number}" for number in range(1, len(runs) + 1)]
    if len(runs) > 1:
        blocks.append(Section("Runs side by side", overview_blocks(runs, anchors), "overview"))
    for run, anchor in zip(runs, anchors, strict=True):
        blocks.append(_run_section(run, anchor))
    return render(*_heading(runs, comparisons), blocks)


def _run_section(run: SavedRun, anchor: str) -> Section:
    record = run.record
    blocks = run_blocks(record, run.figures, front_tables(run))
    return Section(f"{run.name}: {record.title}, {record.preset}", [Text(subtitle(record), "soft"), *blocks], anchor)


def _heading(runs: Sequence[SavedRun], comparisons: Sequence[tuple[str, Comparison]]) -> tuple[str, str]:
    """Title and the line below."""
    if len(comparisons) == 1 and not runs:
        name, comparison = comparisons[0]
        return f"Comparison {name}: {comparison.settings['reference']}", comparison_subtitle(comparison)
    kinds = [_counted(len(found), word) for found, word in ((comparisons, "comparison"), (runs, "run")) if found]
    titles = dict.fromkeys(
        [run.record.title for run in runs] + [str(one.settings["reference"]) for _, one in comparisons]
    )
    return "Report", f"{' and '.join(kinds)} of {', '.join(titles)}."


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _nothing_in(directory: Path) -> str:
    if not directory.is_dir():
        return f"{directory} is no directory: give directories that evohbde tune, prune or compare has written"
    if (directory / JOB).is_file():
        return f"{directory} holds a run that is not finished: continue it first (evohbde resume {directory})"
    below = sorted(path.parent for name in (RECORD, SETTINGS) for path in directory.glob(f"*/{name}"))
    found = f"; there are some in it: {directory}/*" if below else ""
    return f"{directory} holds no run and no comparison (neither {RECORD} nor {SETTINGS}){found}"
