"""What does a run leave that did not come to its end, and how is it taken up again?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evohbde.durable import write_whole
from evohbde.journal import FILE
from evohbde.record import as_plain, package_versions
from evohbde.rundir import CHECKPOINT, JOB, RECORD, check_target, new_directory

FINISHED = (RECORD, "compare.json")
"""What tells a finished run, or comparison, from a directory of something else, where there is no job left."""


@dataclass(frozen=True)
class Job:
    """What a command was asked to do.

    Attributes:
        command: Its name, `"tune"` say.
        request: Its arguments, as JSON can say them.
    """

    command: str
    request: Mapping[str, object]

    def to_json(self) -> bytes:
        facts = {"command": self.command, "request": self.request, "versions": package_versions()}
        return (json.dumps(as_plain(facts), indent=2, ensure_ascii=False) + "\n").encode()


def read_job(directory: str | Path) -> Job:
    """Read what an unfinished run was asked to do; nothing of it is run.

    Raises:
        FileNotFoundError: If there is no unfinished run.
        ValueError: If the file is damaged.
    """
    path = Path(directory) / JOB
    if not has_job(directory):
        is_finished = any((Path(directory) / name).is_file() for name in FINISHED)
        reason = "the run there is finished" if is_finished else f"it has no {JOB}"
        raise FileNotFoundError(f"{directory} holds no unfinished run: {reason}")
    try:
        found = json.loads(path.read_bytes())
        job = Job(found["command"], found["request"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(job.command, str) or not isinstance(job.request, dict):
        raise ValueError(f"{path} is damaged: expected the name of a command and its arguments")
    return job


def has_job(directory: str | Path) -> bool:
    """Whether there is an unfinished run."""
    return (Path(directory) / JOB).is_file()


@contextmanager
def unfinished(directory: str | Path, job: Job, *, overwrite: bool = False, resumes: bool = False) -> Iterator[Path]:
    """Let a run directory say from the start how it is taken up again; an error before anything is kept removes it.

    `save_run` makes it a finished one.

    Args:
        directory: The run directory.
        job: What is run.
        overwrite: Whether what is there is replaced: an unfinished run now, a finished one once this one is saved.
        resumes: Whether this goes on with the unfinished run that is there.

    Yields:
        The folder for the checkpoint.

    Raises:
        OSError: If `directory` cannot be written, see `check_target`.
    """
    target = Path(directory).absolute()
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    if not resumes:
        check_target(directory, overwrite=overwrite)
        _begin(target, job)
    try:
        yield target / CHECKPOINT
    except BaseException:
        if not resumes and not any(target.glob(f"{CHECKPOINT}/**/{FILE}")):
            _withdraw(target, made)
        raise


def _begin(target: Path, job: Job) -> None:
    if not target.is_dir() or not any(target.iterdir()):
        with new_directory(target) as folder:
            (folder / JOB).write_bytes(job.to_json())
        return
    old = target / f".{CHECKPOINT}.old"
    shutil.rmtree(old, ignore_errors=True)
    if (target / CHECKPOINT).exists():
        (target / CHECKPOINT).rename(old)
    write_whole(target / JOB, job.to_json())
    shutil.rmtree(old, ignore_errors=True)


def _withdraw(target: Path, made: list[Path]) -> None:
    """Remove what was put there, and folders that were made for it."""
    (target / JOB).unlink(missing_ok=True)
    shutil.rmtree(target / CHECKPOINT, ignore_errors=True)
    for folder in made:
        if any(folder.iterdir()):
            break
        folder.rmdir()
