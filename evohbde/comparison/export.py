"""How do other tools get the runs of a comparison?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

Run = Mapping[str, Any]


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One line per run: what was held out and what was untouched as columns of their own, without the trajectory."""
    lines = []
    for run in runs:
        line = {key: value for key, value in run.items() if not isinstance(value, (dict, list))}
        for part in ("untouched", "held_out"):
            line |= {f"{part}_{key}": value for key, value in run.get(part, {}).items()}
        lines.append(line)
    return pd.DataFrame(lines)


def to_parquet(runs: Sequence[Run], path: Path) -> None:
    """Write one line per row of every trajectory."""
    if find_spec("pyarrow") is None:
        raise ImportError("to_parquet needs pyarrow: pip install 'evohbde[comparisons]'")
    lines = []
    for run in runs:
        key = {name: run[name] for name in ("searcher", "reduction", "seed")}
        for row in run["trajectory"]:
            held_out = {f"held_out_{name}": value for name, value in (row["held_out"] or {}).items()}
            lines.append({**key, **{name: value for name, value in row.items() if name != "held_out"}, **held_out})
    pd.DataFrame(lines).to_parquet(path, index=False)


def to_ioh(runs: Mapping[str, Sequence[Run]], settings: Mapping[str, Any], directory: Path) -> None:
    """Write IOHprofiler's format: per method a folder with one JSON file and one table of improvements per dimension.

    Failed runs are left out. The function is number 1, instances are seeds; a run's last line is its last evaluation.
    iohinspector 0.0.8 reads up to 65,535 variables.

    Source: de Nobel et al., IOHexperimenter, 2024, and the files that the package `ioh` writes.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ValueError(f"{directory} is not empty: choose another directory")
    for method, found in runs.items():
        finished = [run for run in found if run["error"] is None and math.isfinite(run["best"])]
        if finished:
            _write_method(method, finished, settings, directory / _plain(method))


def _write_method(method: str, runs: Sequence[Run], settings: Mapping[str, Any], folder: Path) -> None:
    name = _plain(str(settings["reference"]).rpartition(":")[2])
    data = folder / f"data_f1_{name}"
    data.mkdir(parents=True)
    scenarios = []
    for length in sorted({int(run["solution_length"]) for run in runs}):
        chosen = [run for run in runs if run["solution_length"] == length]
        table = data / f"IOHprofiler_f1_DIM{length}.dat"
        table.write_text("".join(_table(run) for run in chosen))
        path = table.relative_to(folder).as_posix()
        scenarios.append({"dimension": length, "path": path, "runs": [_summary(run) for run in chosen]})
    about = {
        "version": version("evohbde"),
        "suite": "evohbde",
        "function_id": 1,
        "function_name": name,
        "maximization": settings["objective_sense"] == "max",
        "algorithm": {"name": method, "info": json.dumps(settings["searchers"].get(method, {}))},
        "attributes": ["evaluations", "raw_y"],
        "scenarios": scenarios,
    }
    (folder / f"IOHprofiler_f1_{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def _table(run: Run) -> str:
    """Improvements by evaluations; readers know a run by its evaluation 1, the first candidate of all."""
    first = run["trajectory"][0]["best"] if run.get("first") is None else run["first"]
    lines = ["evaluations raw_y", f"1 {first:.10f}"]
    rows = [row for row in run["trajectory"] if row["num_evaluations"] > 1 and math.isfinite(row["best"])]
    lines += [f"{row['num_evaluations']} {row['best']:.10f}" for row in rows]
    return "\n".join(lines) + "\n"


def _summary(run: Run) -> dict[str, Any]:
    last = next(row for row in run["trajectory"] if row["best"] == run["best"])
    best = {"evals": last["num_evaluations"], "y": run["best"], "x": []}
    return {"instance": run["seed"], "evals": run["num_evaluations"], "best": best}


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("_")
