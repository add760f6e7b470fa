"""How does a file get onto the disk whole, or not at all?"""

from __future__ import annotations

import os
from glob import escape
from pathlib import Path

PARTIAL = ".partial"


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file so that whoever looks, even after a crash or a power cut, finds the old one or the new one.

    The content goes to a file beside it first, which then takes its place. What a process that died has left of it is
    removed.
    """
    path = Path(path)
    for other in path.parent.glob(f".{escape(path.name)}.*{PARTIAL}"):
        if not _is_alive(other.name.removesuffix(PARTIAL).rpartition(".")[2]):
            other.unlink(missing_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def is_partial(path: Path) -> bool:
    """Whether this is what a write that did not come to its end has left."""
    return path.name.startswith(".") and path.name.endswith(PARTIAL)


def _is_alive(number: str) -> bool:
    if os.name == "nt" or not number.isdecimal():  # where asking would end the process
        return True
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def sync_file(path: str | Path) -> None:
    """Wait until a file that was written is on the disk."""
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def sync_folder(folder: str | Path) -> None:
    """Wait until names that were given or taken away in a folder are on the disk."""
    if os.name == "nt":  # where folders cannot be opened
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
