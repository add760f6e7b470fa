"""What do run directories hold?"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from evohbde.history import Row
from evohbde.record import RunRecord
from evohbde.rundir import HISTORY, RECORD

FRONT = "front.csv"
FIGURES = ("scores.png", "front.png", "convergence.png", "hypervolume.png", "weights.png")
"""In the order in which a page shows them."""

SHOWN_SCORES = ("f1_macro", "accuracy", "cross_entropy")

PNG = b"\x89PNG\r\n\x1a\n"

T = TypeVar("T")


@dataclass(frozen=True)
class FrontLine:
    """One network of `front.csv`.

    Attributes:
        origin: How it was found.
        is_on_front: Whether it is on the front, rather than a network to compare with.
        kept: Share of the prunable weights that it keeps.
        scores: By split and metric, `"test_accuracy"` say; those that were taken.
    """

    origin: str
    is_on_front: bool
    kept: float
    scores: dict[str, float]


@dataclass(frozen=True)
class SavedRun:
    """A run directory.

    Attributes:
        name: What the page calls it.
        record: What is known of the run.
        rows: Its generations.
        figures: PNG files by name.
        front: The networks of `front.csv`; empty where nothing was pruned.
    """

    name: str
    record: RunRecord
    rows: list[Row]
    figures: dict[str, bytes]
    front: list[FrontLine]


def read_run(directory: str | Path, name: str | None = None) -> SavedRun:
    """Read a run directory, as `evohbde.rundir.save_run` writes it.

    Args:
        directory: Where it is.
        name: What the page calls it; None: as the directory.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If a file is not what it should be, with its name, the line and the fault.
    """
    folder = Path(directory)
    if not (folder / RECORD).is_file():
        raise FileNotFoundError(f"{directory} holds no run: it has no {RECORD}")
    return SavedRun(
        name=name or folder.resolve().name,
        record=_read_record(folder / RECORD),
        rows=_read_history(folder / HISTORY),
        figures={one: _read_png(folder / one) for one in FIGURES if (folder / one).is_file()},
        front=_read_front(folder / FRONT) if (folder / FRONT).is_file() else [],
    )


def from_plain(kind: type[T], value: object, where: str) -> T:
    """Turn what `evohbde.record.as_plain` wrote back into a value of its type; unknown keys are left out.

    Args:
        kind: A dataclass, a named tuple, or what their fields are typed as.
        value: What was read.
        where: Names the place in messages.

    Raises:
        ValueError: If a field is missing or of another type.
    """
    return cast(T, _convert(kind, value, where))


def _read_record(path: Path) -> RunRecord:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error.reason} at byte {error.start}") from error
    record = from_plain(RunRecord, content, str(path))
    _check_shown(record, path)
    return record


def _check_shown(record: RunRecord, path: Path) -> None:
    """Refuse what has the right types and still cannot be shown."""
    if not record.entries:
        raise ValueError(f"{path}: entries is empty, expected the networks of the final table")
    for number, entry in enumerate(record.entries):
        missing = [name for name in SHOWN_SCORES if name not in entry.scores]
        if missing:
            raise ValueError(f"{path}: entries[{number}]: scores lacks {', '.join(missing)}")
    try:
        datetime.fromisoformat(record.environment.finished)
    except ValueError as error:
        raise ValueError(f"{path}: environment: finished is no ISO 8601 time: {error}") from error


def _read_history(path: Path) -> list[Row]:
    return [_row(line, f"{path}, line {number}") for number, line in enumerate(_read_csv(path), start=2)]


def _read_front(path: Path) -> list[FrontLine]:
    found = []
    for number, line in enumerate(_read_csv(path), start=2):
        where = f"{path}, line {number}"
        missing = [name for name in ("origin", "row", "kept") if name not in line]
        if missing:
            raise ValueError(f"{where}: {', '.join(missing)} is missing")
        numbers = {name: text for name, text in line.items() if text and name not in ("origin", "row")}
        scores = {name: _number(float, text, f"{where}: {name}") for name, text in numbers.items()}
        if "kept" not in scores:
            raise ValueError(f"{where}: kept is empty")
        found.append(FrontLine(line["origin"], bool(line["row"]), scores.pop("kept"), scores))
    return found


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lines = list(reader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text: {error.reason} at byte {error.start}") from error
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise ValueError(f"{path}, line {number}: expected {len(reader.fieldnames or ())} columns")
    return lines


def _row(line: Mapping[str, str], where: str) -> Row:
    hints = get_type_hints(Row)
    missing = [name for name in hints if name not in line]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} is missing")
    return Row(**{name: _number(hint, line[name], f"{where}: {name}") for name, hint in hints.items()})


def _number(hint: Any, text: str, where: str) -> Any:
    """Read one field of a history: a text, a number, or nothing where that is allowed."""
    if not text and NoneType in get_args(hint):
        return None
    kind = next(one for one in (*get_args(hint), hint) if one is not NoneType)
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"{where} must be a number, got {text!r}") from error


def _read_png(path: Path) -> bytes:
    image = path.read_bytes()
    if not image.startswith(PNG):
        raise ValueError(f"{path} is no PNG file")
    return image


def _convert(kind: Any, value: Any, where: str) -> Any:
    arguments = get_args(kind)
    if isinstance(kind, UnionType):
        wanted = next(one for one in arguments if one is not NoneType)
        return None if value is None else _convert(wanted, value, where)
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _build(kind, value, where)
    origin = get_origin(kind) or kind
    if origin is list:
        items = _checked(list, value, where)
        return [_convert(arguments[0], one, f"{where}[{number}]") for number, one in enumerate(items)]
    if origin in (dict, Mapping):
        pairs = _checked(dict, value, where)
        return {key: _convert(arguments[1], one, f"{where}.{key}") for key, one in pairs.items()}
    if origin is float:  # numbers that are not finite were written as null
        return float("nan") if value is None else float(_checked((int, float), value, where))
    return _checked(origin, value, where)


def _build(kind: Any, value: Any, where: str) -> Any:
    content = _checked(dict, value, where)
    hints = get_type_hints(kind)
    optional = getattr(kind, "_field_defaults", None)
    if optional is None:
        optional = {
            one.name
            for one in dataclasses.fields(kind)
            if one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        }
    missing = [name for name in hints if name not in content and name not in optional]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} is missing")
    return kind(**{name: _convert(hints[name], content[name], f"{where}: {name}") for name in hints if name in content})


def _checked(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind in (int, (int, float))):
        expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{where} must be {expected}, got {value!r:.60}")
    return value
