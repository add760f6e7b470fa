"""How is a run taken up again from its directory?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from rich.console import Console

from evohbde.compare_command import CompareRequest, run_compare
from evohbde.prune_command import PruneRequest, run_prune
from evohbde.rundir import JOB
from evohbde.tune import TuneRequest, tune
from evohbde.unfinished import Job, read_job

COMMANDS: dict[str, tuple[type, Callable[..., Any]]] = {
    "tune": (TuneRequest, tune),
    "prune": (PruneRequest, run_prune),
    "compare": (CompareRequest, run_compare),
}


def resume(directory: Path, out: Console, messages: Console, *, is_trusted: bool) -> bool:
    """Go on with an unfinished run: the command that it was started by runs again, and scores that are there are used.

    Args:
        directory: The run directory.
        out: Where tables go.
        messages: Where progress and remarks go.
        is_trusted: Whether the code that the directory names may be run.

    Returns:
        Whether the run has come to its end.

    Raises:
        ValueError: If the code is not trusted, or the directory does not say what to do.
        OSError: If there is no unfinished run.
    """
    job = read_job(directory)
    if job.command not in COMMANDS:
        raise ValueError(f"{directory / JOB} names an unknown command {job.command!r}; known: {', '.join(COMMANDS)}")
    kind, run = COMMANDS[job.command]
    request = _as_request(kind, job, directory)
    if not is_trusted:
        raise ValueError(
            f"{directory} names {request.reference}, and to resume means to run that code: if you trust it, add --trust"
        )
    result = run(request, out, messages)
    return result is not None and getattr(result, "stop_reason", None) != "interrupted"


def _as_request(kind: type, job: Job, directory: Path) -> Any:
    """Build the request again, from nothing but the plain values that it consists of."""
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    decided = {"out": directory, "overwrite": False, "resumes": True}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in job.request.items()}
    free = known - set(decided)
    wrong = [name for name, value in values.items() if name not in free or not _fits(value, hints[name])]
    if wrong or "reference" not in values:
        raise ValueError(f"{directory / JOB} is damaged, or of another version: {', '.join(wrong) or 'no reference'}")
    return kind(**values, **{name: value for name, value in decided.items() if name in known})


def _fits(value: object, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(isinstance(one, get_args(hint)[0]) for one in value)
    if hint is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
