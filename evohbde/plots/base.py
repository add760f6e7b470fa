"""What do all figures share: colours, axes, and how they become files?

The import that says what to install where matplotlib is missing; `evohbde.plots` comes through here first.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("evohbde.plots needs matplotlib: pip install 'evohbde[plots]'") from error

# Okabe and Ito's colours, which people with any colour vision tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#555555"
SKY, AMBER = "#56B4E9", "#E69F00"
DOTS_PER_INCH = 150


def to_png(figure: Figure) -> bytes:
    """Render a figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()


def tidy(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Leave away what carries no number."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#dddddd", lw=0.6)
    axes.set_axisbelow(True)


def mark_stages(searched: Axes, held_out: Axes, starts: Sequence[tuple[str, float]]) -> None:
    """Part the stages by dotted lines, and name each above its beginning."""
    for number, (stage, start) in enumerate(starts):
        if number > 0:
            for axes in (searched, held_out):
                axes.axvline(start, color=GREY, lw=0.8, ls=":")
        searched.annotate(stage, (start, 1.0), (2, 3), xycoords=searched.get_xaxis_transform(),
                          textcoords="offset points", color=GREY)  # fmt: skip
