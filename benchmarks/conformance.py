"""Do our searchers reach what other codes of the same algorithm reach on standard functions?"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.functions import CLASSIC, Search, Task, run, shifted
from benchmarks.ours import NORMAL_JADE, OURS, SHADE_WITHOUT
from benchmarks.peers import PEERS, installed
from benchmarks.tables import markdown, publish, write_csv

DIM = 30
LEVEL = 0.05
ONE_BY_ONE = ("mealpy JADE", "mealpy SHADE", "mealpy L-SHADE")
"""Peers that score one candidate at a time, which takes half of all the time: not on the shifted copies."""

PAIRS = (
    ("DE/rand/1/bin", "scipy DE/rand/1/bin"),
    ("DE/rand/1/bin", "pymoo DE/rand/1/bin"),
    ("DE/rand/1/bin, resampled at the bounds", "scipy DE/rand/1/bin"),
    ("DE/rand/1/bin, no bounds", "evosax DE/rand/1/bin"),
    ("JADE", "mealpy JADE"),
    ("JADE", "EvoX JaDE"),
    ("JADE, no archive", "EvoX JaDE"),
    ("SHADE", "EvoX SHADE"),
    ("SHADE", "mealpy SHADE"),
    ("L-SHADE, popsize 100 to 4", "mealpy L-SHADE"),
    ("L-SHADE, popsize 18 D to 4", "mealpy L-SHADE"),
    ("CMA-ES", "pycma CMA-ES"),
)
LONG = ("SHADE", "L-SHADE, popsize 18 D to 4")
NORMAL, NO_ARCHIVE = "JADE, no archive, F from a normal distribution", "SHADE, no archive"
CAUSES = (
    ("JADE, no archive", "EvoX JaDE"),
    ("JADE, no archive", NORMAL),
    (NORMAL, "EvoX JaDE"),
    ("SHADE", "mealpy SHADE"),
    ("SHADE", NO_ARCHIVE),
    (NO_ARCHIVE, "mealpy SHADE"),
)

Rows = list[dict[str, object]]


def measure(seeds: list[int]) -> None:
    """All searchers and peers with 1,000 evaluations per dimension, popsize 100."""
    searches = OURS | installed(list(PEERS))
    rows = _run_all(searches, seeds, 1_000 * DIM, is_shifted=False)
    rest = {name: search for name, search in searches.items() if name not in ONE_BY_ONE}
    rows += _run_all(rest, seeds, 1_000 * DIM, is_shifted=True)
    write_csv("conformance", rows)
    command = f"python -m benchmarks conformance{_options(seeds)}"
    for copy in ("classic", "shifted"):
        publish(f"conformance-{copy}", f"{_medians(rows, copy)}\n\n{_versions()}", command)
    publish("conformance-pairs", _verdicts(rows, PAIRS), command)


def measure_long(seeds: list[int]) -> None:
    """SHADE and L-SHADE on the shifted copies with the 10,000 evaluations per dimension that L-SHADE is made for."""
    searches = {name: OURS[name] for name in LONG}
    rows = _run_all(searches, seeds, 10_000 * DIM, is_shifted=True)
    write_csv("conformance-long", rows)
    tables = f"{_medians(rows, 'shifted')}\n\n{_verdicts(rows, [(LONG[1], LONG[0])])}"
    publish("conformance-long", tables, f"python -m benchmarks conformance --long{_options(seeds)}")


def measure_cause(seeds: list[int]) -> None:
    """Why others' codes of JADE and SHADE are ahead on smooth functions: where they leave the papers."""
    searches = {**OURS, NORMAL: NORMAL_JADE, NO_ARCHIVE: SHADE_WITHOUT, **installed(list(PEERS))}
    labels = dict.fromkeys(label for pair in CAUSES for label in pair if label in searches)
    rows = _run_all({label: searches[label] for label in labels}, seeds, 1_000 * DIM, is_shifted=False)
    write_csv("conformance-cause", rows)
    command = f"python -m benchmarks conformance --cause --seeds {seeds[0]}-{seeds[-1]}"
    publish("conformance-cause", f"{_medians(rows, 'classic')}\n\n{_verdicts(rows, CAUSES)}", command)


def verdict(ours: Iterable[float], theirs: Iterable[float]) -> str:
    """Compare two samples of scores, lower is better, by the two-sided rank-sum test."""
    ours, theirs = np.array([*ours]), np.array([*theirs])
    found = mannwhitneyu(ours, theirs, alternative="two-sided")
    if not found.pvalue < LEVEL:
        return "no difference"
    return "ahead" if found.statistic < len(ours) * len(theirs) / 2 else "behind"


def _options(seeds: list[int]) -> str:
    return "" if seeds == list(range(11)) else f" --seeds {seeds[0]}-{seeds[-1]}"


def _versions() -> str:
    packages = sorted({package for package, _ in PEERS.values()} & {PEERS[name][0] for name in installed(list(PEERS))})
    return "Peers: " + ", ".join(f"{package} {version(package)}" for package in packages) + "."


def _run_all(searches: dict[str, Search], seeds: list[int], budget: int, *, is_shifted: bool) -> Rows:
    rows: Rows = []
    for name, (classic, box) in CLASSIC.items():
        function = shifted(classic, box, DIM) if is_shifted else classic
        copy = "shifted" if is_shifted else "classic"
        for label, search in searches.items():
            best = [run(search, Task(function, box, DIM, budget), seed).best for seed in seeds]
            found = zip(seeds, best, strict=True)
            rows += [{"copy": copy, "function": name, "search": label, "seed": s, "best": b} for s, b in found]
            print(f"{copy} {name}, {label}: median {np.median(best):.3g}", flush=True)
    return rows


def _best(rows: Rows, copy: str, function: str, label: str) -> list[float]:
    return [r["best"] for r in rows if (r["copy"], r["function"], r["search"]) == (copy, function, label)]


def _medians(rows: Rows, copy: str) -> str:
    labels = dict.fromkeys(row["search"] for row in rows if row["copy"] == copy)
    cells = [[label, *(_quartiles(_best(rows, copy, name, label)) for name in CLASSIC)] for label in labels]
    return markdown([f"{copy}: median [quartiles]", *CLASSIC], cells)


def _quartiles(best: list[float]) -> str:
    low, middle, high = np.quantile(best, (0.25, 0.5, 0.75))
    return f"{middle:.2g} [{low:.2g}, {high:.2g}]"


def _verdicts(rows: Rows, pairs: Iterable[tuple[str, str]]) -> str:
    """Per pair and copy, how the first compares with the second on each function."""
    cells = []
    for pair in pairs:
        for copy in ("classic", "shifted"):
            samples = [[_best(rows, copy, name, label) for label in pair] for name in CLASSIC]
            if all(all(sample) for sample in samples):
                cells.append([f"{pair[0]} vs {pair[1]}, {copy}", *(verdict(*sample) for sample in samples)])
    return markdown(["", *CLASSIC], cells)
