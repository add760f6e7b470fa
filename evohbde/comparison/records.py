"""How is a comparison kept in a directory, so that it can go on after an interruption?

`compare.json` is the plan and what it ran on, written before the first run. `runs.jsonl` gets one line per finished
run, appended in one piece; of several lines for one run the last counts. A last line without its end was cut off by a
kill: that run is done again. `in-flight` holds what the runs that have not ended have scored so far.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evohbde.comparison.plan import FORMAT, Job
from evohbde.durable import is_partial, write_whole
from evohbde.record import as_plain

SETTINGS, RUNS, IN_FLIGHT = "compare.json", "runs.jsonl", "in-flight"

UNCHECKED = ("environment", "command")
"""What may differ where a comparison goes on."""

_NEEDED = {"format", "reference", "searchers", "reductions", "objective_sense", "held_out", "seeds"}
_KEY_OF_RUN = {"searcher": str, "reduction": str | None, "seed": int}
_NEEDED_OF_RUN = {"searcher", "reduction", "seed", "error", "best", "held_out", "trajectory"}


def start(directory: Path, settings: Mapping[str, Any], *, overwrite: bool) -> dict[Job, dict[str, Any]]:
    """Prepare the directory, or find what an earlier start of the same comparison has finished.

    Args:
        directory: Where to; made if missing.
        settings: What `compare.json` is to say.
        overwrite: Forget what is there.

    Returns:
        The finished runs without an error; those with one are tried again.

    Raises:
        ValueError: If another comparison lies there, or a file is damaged.
    """
    plain = as_plain(dict(settings))
    assert isinstance(plain, dict)
    if overwrite:
        for name in (SETTINGS, RUNS):
            (directory / name).unlink(missing_ok=True)
        shutil.rmtree(directory / IN_FLIGHT, ignore_errors=True)
    if not (directory / SETTINGS).exists():
        if directory.is_dir() and not all(is_partial(path) for path in directory.iterdir()):
            raise ValueError(f"{directory} holds something that is no comparison: choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(directory / SETTINGS, text.encode())
        return {}
    _check_same(directory, read_settings(directory), plain)
    _cut_torn_line(directory / RUNS)
    return {key: run for key, run in read_runs(directory).items() if run["error"] is None}


def append(directory: Path, run: Mapping[str, Any], journal: Path | None = None) -> None:
    """Add a finished run, numbers that are not finite as null, and remove what it would have gone on from."""
    line = json.dumps(as_plain(dict(run)), ensure_ascii=False, allow_nan=False) + "\n"
    file = os.open(directory / RUNS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())
        os.fsync(file)
    finally:
        os.close(file)
    if journal is not None:
        shutil.rmtree(journal, ignore_errors=True)


def read_settings(directory: Path) -> dict[str, Any]:
    """Read `compare.json`.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another format.
    """
    path = directory / SETTINGS
    if not path.is_file():
        raise FileNotFoundError(f"{directory} holds no comparison: there is no {SETTINGS} in it")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path} is no comparison of format {FORMAT}")
    missing = _NEEDED - set(found)
    if missing:
        raise ValueError(f"{path} is damaged: it lacks {', '.join(sorted(missing))}")
    return found


def read_runs(directory: Path) -> dict[Job, dict[str, Any]]:
    """Read all whole lines of `runs.jsonl`, the last one of every run.

    Raises:
        ValueError: If a line is damaged; a last one that was cut off is left out.
    """
    path = directory / RUNS
    found: dict[Job, dict[str, Any]] = {}
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            run = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is damaged: {error}") from error
        missing = _NEEDED_OF_RUN - set(run) if isinstance(run, dict) else _NEEDED_OF_RUN
        if missing:
            raise ValueError(f"{path}, line {number}, is damaged: it lacks {', '.join(sorted(missing))}")
        wrong = [name for name, kind in _KEY_OF_RUN.items() if not isinstance(run[name], kind)]
        if wrong:
            raise ValueError(f"{path}, line {number}, is damaged: its {wrong[0]} is {run[wrong[0]]!r:.60}")
        rows = run["trajectory"]
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "best" in row for row in rows):
            raise ValueError(f"{path}, line {number}, is damaged: its trajectory is {rows!r:.60}")
        for row in (run, *rows):
            row["best"] = math.nan if row["best"] is None else row["best"]
        found[run["searcher"], run["reduction"], run["seed"]] = run
    return found


def _whole_lines(path: Path) -> Iterator[str]:
    if path.is_file():
        *lines, _ = path.read_bytes().split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def _cut_torn_line(path: Path) -> None:
    """Drop what a kill left of a last line, so that the next one begins on its own."""
    if path.is_file():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(path, len(whole))


def _check_same(directory: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for key, value in now.items():
        if key not in UNCHECKED and there.get(key) != value:
            raise ValueError(
                f"{directory} holds another comparison: its {key} is {_short(there.get(key))}, now it is "
                f"{_short(value)}; choose another directory, repeat what is there, or replace it (overwrite=True)"
            )
    before, after = there.get("environment") or {}, now.get("environment") or {}
    changed = [key for key in ("python", "packages", "device", "commit") if before.get(key) != after.get(key)]
    if changed:
        warnings.warn(
            f"{directory} was begun with another {' and '.join(changed)}: its runs may not be comparable", stacklevel=4
        )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 90 else text[:87] + "..."
