"""Is a run that was killed, wherever it was, the same in the end as one that never was?

Each trial starts `evohbde tune`, `prune` or `compare` in a process of its own and ends it by SIGKILL, as `kill -9`
does: at a random moment, within a write to the checkpoint, or before a random operation on files. What is left is
resumed, which may be killed again, and the final directory is compared with that of an undisturbed run. A comparison
that has workers is killed with them, or without, so that what goes on meets those that are left. Figures are left out,
which would take most of the time.
"""

import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from benchmarks.tables import markdown, publish, write_csv
from evohbde.cli import app
from evohbde.comparison.records import RUNS, SETTINGS
from evohbde.journal import Journal
from evohbde.rundir import CHECKPOINT, JOB, RECORD

COMPARE = (
    "compare", "problems.digits:shifted_mlp", "--searcher", "DE", "--searcher", "evotorch.algorithms:SNES",
    "--seeds", "0-1", "--num-evaluations", "300",
)  # fmt: skip
COMMANDS = {
    "tune": ("tune", "problems.digits:shifted_mlp", "--num-evaluations", "600", "--no-adam"),
    "prune": ("prune", "problems.digits:shifted_mlp", "--num-evaluations", "300"),
    "compare": (*COMPARE, "--num-workers", "1"),
    "compare, 2 workers": (*COMPARE, "--num-workers", "2"),
}
WAYS = ("at a random moment", "within a write", "before a file operation")
ORPHANED = "at a random moment, but not its workers"
DIFFERENT = ("seconds", "environment")
"""Keys of records that tell when and how long; the column `seconds` of the history does too."""

AGAIN = 0.4
"""How often what is resumed is killed too."""


@dataclass
class Undisturbed:
    """The run that others are compared with.

    Attributes:
        contents: What its files say.
        seconds: What it took.
        num_writes, num_operations: Writes to the checkpoint, and operations on files.
    """

    contents: dict[str, object]
    seconds: float
    num_writes: int
    num_operations: int


def measure(times: int, seed: int = 0) -> None:
    """Kill each command so many times, those with workers a fifth of that, and publish what became of it."""
    rows = [row for command in COMMANDS for row in trials(command, times // _share(command), seed)]
    write_csv("kill", rows)
    cells = [_summary(command, way, rows) for command in COMMANDS for way in ways_of(command)]
    header = ["command", "killed", "kills", "torn ends", "runs", "equal to the undisturbed run"]
    publish("kill", markdown(header, cells), f"python -m benchmarks kill --times {times}")


def _summary(command: str, way: str, rows: list[dict[str, object]]) -> list[str]:
    mine = [row for row in rows if row["command"] == command and row["way"] == way]
    kills, torn = (sum(int(str(row[name])) for row in mine) for name in ("kills", "torn"))
    return [command, way, str(kills), str(torn), str(len(mine)), str(sum(bool(row["equal"]) for row in mine))]


def _share(command: str) -> int:
    return 5 if "workers" in command else 1  # workers import torch each time, which is most of their run


def ways_of(command: str) -> tuple[str, ...]:
    """How it is killed: what workers of its own do is out of this process's reach."""
    return (WAYS[0], ORPHANED) if "workers" in command else WAYS


def trials(command: str, times: int, seed: int) -> list[dict[str, object]]:
    """Run a command until it was killed so many times, in all three ways by turns; one row per run."""
    generator = random.Random(seed)
    rows: list[dict[str, object]] = []
    sys.modules["evohbde.plots"] = None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = _undisturbed(command, Path(folder) / "run")
        while (kills := sum(int(str(row["kills"])) for row in rows)) < times:
            way = ways_of(command)[len(rows) % len(ways_of(command))]
            counts = _trial(command, way, Path(folder), undisturbed, generator)
            rows.append({"command": command, "way": way, **counts})
            print(f"{command}: {kills + counts['kills']} of {times} kills, {way}, {counts}", flush=True)
    return rows


def _trial(
    command: str, way: str, folder: Path, undisturbed: Undisturbed, generator: random.Random
) -> dict[str, object]:
    directory = folder / "run"
    shutil.rmtree(directory, ignore_errors=True)
    kills = torn = 0
    is_disturbed = True
    while True:
        resumes = (directory / JOB).exists()
        words = ("resume", str(directory), "--trust") if resumes else (*COMMANDS[command], "--out", str(directory))
        if not resumes and (directory / RECORD).exists():
            break
        prepare, seconds = _sentence(way, undisturbed, generator) if is_disturbed else (_live, None)
        is_killed, printed = _run(words, prepare, seconds, with_workers=way != ORPHANED)
        kills += is_killed
        torn += "is cut short or damaged" in printed
        if not is_killed:
            break
        is_disturbed = generator.random() < AGAIN
    is_clean = not [path for path in directory.iterdir() if path.name.startswith(".")]
    return {"kills": kills, "torn": torn, "equal": is_clean and contents(directory) == undisturbed.contents}


def _sentence(
    way: str, undisturbed: Undisturbed, generator: random.Random
) -> tuple[Callable[[], object], float | None]:
    """What a process does before it runs so that it dies, or the seconds after which it is killed."""
    if way in (WAYS[0], ORPHANED):
        return _live, generator.uniform(0, undisturbed.seconds)
    if way == WAYS[1]:
        number, share = generator.randrange(undisturbed.num_writes), generator.random()
        return lambda: _die_within_write(number, share), None
    number = generator.randrange(undisturbed.num_operations)
    return lambda: _die_before_operation(number), None


def _live() -> None:
    pass


def _die_within_write(number: int, share: float) -> None:
    append, count = Journal._append, 0

    def dying(self: Journal, record: bytes) -> None:
        nonlocal count
        count += 1
        if count > number:
            os.write(self._file.fileno(), record[: int(share * len(record))])
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, record)

    Journal._append = dying  # type: ignore[method-assign]


OPERATIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")


def _on_operations(react: Callable[[int], None]) -> None:
    """Call with the number of each operation that changes files, before it happens."""
    count = -1

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in OPERATIONS or writes:
            count += 1
            react(count)

    sys.addaudithook(hook)


def _die_before_operation(number: int) -> None:
    def react(count: int) -> None:
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    _on_operations(react)


def _run(
    words: tuple[str, ...], prepare: Callable[[], object], seconds: float | None, *, with_workers: bool = True
) -> tuple[bool, str]:
    """Run a command in a process of its own, and kill it after so many seconds; whether it died, and what it said."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            prepare()
            result = CliRunner().invoke(app, list(words))
            os.write(1, result.output.encode())
            os._exit(result.exit_code)
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
            if with_workers:
                with suppress(ProcessLookupError):
                    os.killpg(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        printed = output.read().decode(errors="replace")
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{' '.join(words)} failed:\n{printed}")
    return status != 0, printed


def _undisturbed(command: str, directory: Path) -> Undisturbed:
    """Run to the end in this process, so that its children find its measurements of strategies, and then as a child."""
    words = (*COMMANDS[command], "--out", str(directory))
    result = CliRunner().invoke(app, list(words))
    if result.exit_code:
        raise RuntimeError(result.output)
    found = contents(directory)
    counted = directory.parent / "counted"

    def count() -> None:
        append = Journal._append

        def counting(self: Journal, record: bytes) -> None:
            (counted / "writes").open("a").write("1")
            append(self, record)

        Journal._append = counting  # type: ignore[method-assign]
        _on_operations(lambda number: os.write(handle, b"1"))

    counted.mkdir(exist_ok=True)
    handle = os.open(counted / "operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    (counted / "writes").write_text("")
    start = time.perf_counter()
    _run((*words, "--overwrite"), count, None)
    seconds = time.perf_counter() - start
    os.close(handle)
    num_writes = (counted / "writes").stat().st_size
    num_operations = (counted / "operations").stat().st_size - num_writes
    if contents(directory) != found:
        raise RuntimeError(f"two undisturbed runs of {command} differ: nothing can be compared")
    return Undisturbed(found, seconds, num_writes, num_operations)


def contents(directory: Path) -> dict[str, object]:
    """What the files of a run directory say, but for times; figures and the report are drawn from these.

    Workers finish in any order, so runs of a comparison are sorted.

    A checkpoint that a finished run still has, because it was killed while it removed it, is in nobody's way.
    """
    found: dict[str, object] = {"names": sorted({path.name for path in directory.iterdir()} - {CHECKPOINT})}
    for path in directory.iterdir():
        if path.name in (RECORD, SETTINGS):
            found[path.name] = _timeless(json.loads(path.read_text()))
        elif path.name == "history.csv":
            rows = list(csv.DictReader(path.open(newline="")))
            found[path.name] = [{name: row[name] for name in row if name != "seconds"} for row in rows]
        elif path.name == RUNS:
            found[path.name] = sorted(json.dumps(_timeless(json.loads(line))) for line in path.open())
        elif path.suffix in (".safetensors", ".csv"):
            found[path.name] = path.read_bytes()
    return found


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {name: _timeless(one) for name, one in value.items() if name not in DIFFERENT}
    return [_timeless(one) for one in value] if isinstance(value, list) else value
