"""What is known of a finished run, as text that it can be run again from?"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from evohbde.judge import Entry

Plain = None | bool | int | float | str | list["Plain"] | dict[str, "Plain"]
"""What JSON can say."""

PACKAGES = ("evohbde", "torch", "evotorch", "numpy")


@dataclass(frozen=True)
class Origin:
    """Where a run came from.

    Attributes:
        name: What it is called.
        reference: The factory of network and data, `module:attr` or `path/file.py:attr`.
        settings: What the factory was given.
        command: The line for a shell that starts the run again.
    """

    name: str
    reference: str
    settings: Mapping[str, object]
    command: str


@dataclass(frozen=True)
class Environment:
    """What a run ran on.

    Attributes:
        python, system: Version and platform.
        packages: Version of each package that decides numbers.
        num_cpus: Cores of the machine.
        device: `"cpu"`, or the name of the accelerator.
        commit: The git commit of the working directory, with `"-dirty"` if files were changed; None outside of git.
        finished: When, ISO 8601, UTC.
    """

    python: str
    system: str
    packages: dict[str, str]
    num_cpus: int
    device: str
    commit: str | None
    finished: str


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes:
        preset, switches: Name of the method, and its settings.
        arguments: What `fine_tune` was called with, but for network, data and preset.
        seed: Seed of splits and search.
        entries: The final table.
        num_held_out: Samples that the table was taken on.
        notes: Decisions on the way.
        num_evaluations, num_samples_seen, seconds: What the search cost.
        stop_reason: `"budget"` or `"interrupted"`.
        environment: What it ran on.
        origin: Where it came from; None for a network and data that were passed in by a program.
        lead: What the run showed, in a sentence or two; None: whether macro-F1 on held-out samples changed.
        work: What was done to the network; None: it was improved.
        samples: What the table was taken on.
        strategy: How candidates were run in each stage (`evohbde.strategies`); another one may differ in last bits.
    """

    preset: str
    switches: Mapping[str, object]
    arguments: Mapping[str, object]
    seed: int
    entries: list[Entry]
    num_held_out: int
    notes: list[str]
    num_evaluations: int
    num_samples_seen: float
    seconds: float
    stop_reason: str
    environment: Environment
    origin: Origin | None = None
    lead: str | None = None
    work: str | None = None
    samples: str = "held-out samples that no search and no decision saw"
    strategy: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What the run is called."""
        return self.origin.name if self.origin is not None else "A network"

    @property
    def result(self) -> Entry:
        """The row of the table for what the search found."""
        return next((entry for entry in self.entries if entry.name == self.preset), self.entries[0])

    def to_json(self) -> str:
        """Write everything as JSON; numbers that are not finite become null."""
        return json.dumps(as_plain(self), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_plain(value: object) -> Plain:
    """Turn dataclasses, named tuples, mappings and sequences into what JSON can say; the rest into their `str`."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: as_plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): as_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_plain(one) for one in value]
    return str(value)


def describe_environment(device: torch.device) -> Environment:
    """Say what this process runs on."""
    return Environment(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        packages=package_versions(),
        num_cpus=os.cpu_count() or 1,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        commit=git_commit(Path.cwd()),
        finished=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def git_commit(directory: Path) -> str | None:
    """Name the checked-out commit, with `-dirty` behind it where tracked files differ; None outside of git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def package_versions() -> dict[str, str]:
    """Version of each package that decides numbers."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
