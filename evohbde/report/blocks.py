"""What is a page made of?"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        key: The number that it is sorted by; None: by its text.
        anchor: Section of the page that it leads to.
    """

    text: str
    key: float | None = None
    anchor: str | None = None


def number(value: float | None, form: str = ",.4f") -> Cell:
    """A number as a cell that sorts by its value; an empty one where there is none."""
    if value is None or not math.isfinite(value):
        return Cell("")
    return Cell(format(value, form), float(value))


@dataclass(frozen=True)
class Text:
    """One paragraph; `style` is `"lead"`, `"soft"`, `"warning"` or nothing."""

    text: str
    style: str = ""
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Items:
    """A list."""

    items: Sequence[str]
    style: str = ""
    kind: ClassVar[str] = "items"


@dataclass(frozen=True)
class Command:
    """A line for a shell."""

    line: str
    kind: ClassVar[str] = "command"


@dataclass(frozen=True)
class Table:
    """A table that its reader can sort.

    Attributes:
        caption: What it shows.
        headings: One per column.
        rows: Cells, one per heading.
        marked: Indices of the rows that matter most.
    """

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    marked: frozenset[int] = frozenset()
    kind: ClassVar[str] = "table"

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [any(row[column].key is not None for row in self.rows) for column in range(len(self.headings))]


@dataclass(frozen=True)
class Pairs:
    """Names with their values."""

    caption: str
    pairs: Mapping[str, str]
    kind: ClassVar[str] = "pairs"


@dataclass(frozen=True)
class Figure:
    """A PNG file with what it shows."""

    image: bytes
    caption: str
    kind: ClassVar[str] = "figure"

    @property
    def source(self) -> str:
        """The picture as a data URI."""
        return f"data:image/png;base64,{b64encode(self.image).decode('ascii')}"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own.

    Attributes:
        title: The heading.
        blocks: What it holds.
        anchor: Its name within the page; empty: none.
        is_folded: Whether it shows no more than its heading until it is opened.
    """

    title: str
    blocks: Sequence[Block]
    anchor: str = ""
    is_folded: bool = False
    kind: ClassVar[str] = "section"


Block = Text | Items | Command | Table | Pairs | Figure | Section
