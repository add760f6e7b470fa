"""How is a study run so that it can be interrupted, and how are all its seeds kept?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables import write_csv
from evohbde.comparison import Comparison, compare

KEPT = ("searcher", "reduction", "seed", "num_evaluations", "num_samples_seen", "seconds", "stop_reason", "best")


def resume(factory: Any, searchers: Mapping[str, Any] | Iterable[str], *, out: Path, **options: Any) -> Comparison:
    """Run what is missing of a comparison, with a line for every run that ends."""

    def show(run: Mapping[str, Any] | None, found: Comparison) -> None:
        if run is None:
            print(f"{out}: {found.num_missing} runs to go", flush=True)
            return
        value = run["error"] or f"{found.metric} {run['held_out'].get(found.metric, run['best']):.4f}"
        print(
            f"{found.num_missing} left: {run['searcher']}, {run['reduction']}, seed {run['seed']}: {value}", flush=True
        )

    return compare(factory, searchers, out=out, on_run=show, **options)


def keep(name: str, found: Comparison) -> None:
    """Write one line per run to `docs/results/<name>.csv`."""
    write_csv(name, rows(found))


def rows(found: Comparison) -> list[dict[str, object]]:
    """One line per run: budgets, what was searched, what is held out before and after."""
    lines = []
    for run in found.runs:
        line: dict[str, object] = {key: run[key] for key in KEPT}
        line["best"] = round(run["best"], 5)
        for key in found.settings["held_out"]:
            line[f"untouched_{key}"] = _rounded(run["untouched"].get(key))
            line[key] = _rounded(run["held_out"].get(key))
        lines.append({**line, "error": run["error"] or ""})
    return lines


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 5)
