"""Does a run come out the same on a machine that stops it, starts it again and takes its memory away?

Each trial starts `evohbde tune`, `prune` or `compare` in processes of its own. Beside it a child takes and returns
memory, and all processes of the run are stopped and continued (SIGSTOP, SIGCONT) at random. What the run leaves is
compared with what an undisturbed run of the same seed left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kill import contents
from benchmarks.tables import markdown, publish, write_csv

TASK = "problems.digits:shifted_mlp"

COMMANDS = {
    "tune": ("tune", TASK, "--num-evaluations", "300", "--no-adam"),
    "prune": ("prune", TASK, "--num-evaluations", "150"),
    "compare": ("compare", TASK, "--searcher", "DE", "--searcher", "evotorch.algorithms:SNES:stdev_init=0.05",
                "--num-evaluations", "200", "--num-workers", "2"),
}  # fmt: skip

SEEDS = (0, 1)
"""Seeds that runs are repeated with; each needs one undisturbed run."""

RUNNING, STOPPED = (0.05, 1.5), (0.01, 0.6)
"""Shortest and longest time between two signals, in seconds."""

HOG = """
import random, sys, time
chance = random.Random(int(sys.argv[1]))
while True:
    block = bytearray(chance.randrange(50, 800) << 20)
    block[::4096] = b"x" * len(block[::4096])
    time.sleep(chance.random())
    del block
    time.sleep(chance.random() / 2)
"""


def measure(minutes: float, seed: int) -> None:
    """Disturb runs, one after the other, until the time is over, and publish what became of them."""
    deadline = time.monotonic() + 60 * minutes
    chance = random.Random(seed)
    known: dict[tuple[str, int], object] = {}
    rows: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        command, run_seed = list(COMMANDS)[len(rows) % len(COMMANDS)], chance.choice(SEEDS)
        if (command, run_seed) not in known:
            known[command, run_seed] = _run(command, run_seed, None)[0]
        found, num_stops = _run(command, run_seed, chance)
        other = _difference(found, known[command, run_seed])
        rows.append({"command": command, "seed": run_seed, "stops": num_stops, "equal": not other, "differs": other})
        print(rows[-1], flush=True)
    write_csv("soak", rows)
    table = [_summary(command, rows) for command in COMMANDS]
    header = ["command", "disturbed runs", "times stopped", "equal to the undisturbed run"]
    publish("soak", markdown(header, table), f"python -m benchmarks soak --minutes {minutes:g}")


def _summary(command: str, rows: Sequence[dict[str, Any]]) -> list[str]:
    mine = [row for row in rows if row["command"] == command]
    num_stops, num_equal = (sum(int(row[name]) for row in mine) for name in ("stops", "equal"))
    return [command, str(len(mine)), str(num_stops), str(num_equal)]


def _difference(found: object, expected: object, place: str = "") -> str:
    """Where two nested values differ first; empty where they are equal."""
    if isinstance(found, dict) and isinstance(expected, dict) and found.keys() == expected.keys():
        return next(filter(None, (_difference(found[name], expected[name], f"{place} {name}") for name in found)), "")
    return "" if found == expected else (place.strip() or "everything")


def _run(command: str, seed: int, chance: random.Random | None) -> tuple[object, int]:
    """What a run leaves, None where it failed, and how often it was stopped; no chance: it is left alone."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [*COMMANDS[command], "--seeds" if command == "compare" else "--seed", str(seed), "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "evohbde", *words],
                stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
            num_stops = 0 if chance is None else _disturb(process, chance)
            status = process.wait()
        if status:
            print((Path(folder) / "log").read_text()[-2_000:], flush=True)
            return None, num_stops
        return contents(out), num_stops


def _disturb(process: subprocess.Popen[bytes], chance: random.Random) -> int:
    """Stop and continue all processes of a session until it ends, beside a child that takes memory."""
    hog = subprocess.Popen([sys.executable, "-c", HOG, str(chance.randrange(1_000))])
    num_stops = 0
    try:
        while not _ends_within(process, chance.uniform(*RUNNING)):
            os.killpg(process.pid, signal.SIGSTOP)
            num_stops += 1
            time.sleep(chance.uniform(*STOPPED))
            os.killpg(process.pid, signal.SIGCONT)
    finally:
        hog.kill()
        hog.wait()
    return num_stops


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
