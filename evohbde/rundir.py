"""What does a run leave on disk, and how is it read back?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from evohbde.durable import sync_file, sync_folder
from evohbde.history import History
from evohbde.record import RunRecord
from evohbde.report import run_page

RECORD, HISTORY, NETWORK, REPORT = "run.json", "history.csv", "network.safetensors", "report.html"

JOB, CHECKPOINT = "job.json", "checkpoint"
"""What an unfinished run has, see `evohbde.unfinished`."""


def save_run(
    directory: str | Path,
    record: RunRecord,
    history: History,
    network: nn.Module,
    figures: Mapping[str, bytes],
    *,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
    keep_checkpoint: bool = False,
) -> Path:
    """Write a run directory, all of it or nothing, and return its path.

    It holds `run.json`, `history.csv`, `network.safetensors`, `report.html`, the figures and further files. Nothing is
    pickled.

    Args:
        directory: Where; made with its parents.
        record: What is known of the run.
        history: Its generations.
        network: The improved network.
        figures: PNG files by name; the report shows them.
        files: Further files by name.
        overwrite: Whether an earlier run directory is replaced.
        keep_checkpoint: Whether the unfinished run that is there can still be taken up.

    Raises:
        OSError: If `directory` cannot be written, see `check_target`.
    """
    with new_directory(directory, overwrite=overwrite) as folder:
        (folder / RECORD).write_text(record.to_json(), encoding="utf-8")
        history.to_csv(folder / HISTORY)
        save_network(network, folder / NETWORK)
        (folder / REPORT).write_text(run_page(record, figures), encoding="utf-8")
        for name, content in {**figures, **(files or {})}.items():
            (folder / name).write_bytes(content)
    if not keep_checkpoint:
        # In this order: a checkpoint without a job is of no use to anyone, and in nobody's way.
        (Path(directory) / JOB).unlink(missing_ok=True)
        shutil.rmtree(Path(directory) / CHECKPOINT, ignore_errors=True)
    return Path(directory)


def check_target(directory: str | Path, *, overwrite: bool = False) -> None:
    """Say now what would keep `new_directory` from writing to `directory` later.

    Raises:
        FileExistsError: If there is a run directory already and `overwrite` is False, or something else is there.
        PermissionError: If it cannot be made.
    """
    target = Path(directory).absolute()
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{directory} is a file: choose another directory")
    if target.is_dir() and any(target.iterdir()):
        is_unfinished = (target / JOB).is_file()
        if not is_unfinished and not (target / RECORD).is_file():
            raise FileExistsError(
                f"{directory} is not empty and no run directory (it has no {RECORD}): choose another directory"
            )
        if not overwrite and is_unfinished:
            raise FileExistsError(
                f"{directory} holds an unfinished run: continue it (evohbde resume {directory}), replace it "
                "(overwrite=True), or choose another directory"
            )
        if not overwrite:
            raise FileExistsError(
                f"{directory} holds a run already: replace it (overwrite=True), or choose another directory"
            )
    above = next(parent for parent in target.parents if parent.exists())
    if not above.is_dir():
        raise FileExistsError(f"{directory} cannot be made because {above} is a file: choose another directory")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{directory} cannot be made because {above} is not writable: choose another directory")


@contextmanager
def new_directory(directory: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a directory to fill that becomes `directory` when the block ends without an error, and else is removed.

    What belongs to an unfinished run stays.
    """
    check_target(directory, overwrite=overwrite)
    target = Path(directory).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside a new directory, which can then be renamed at once; inside an old one, which is cleaned in the end.
    above = target if target.is_dir() and any(target.iterdir()) else target.parent
    partial = above / f".{target.name}.{os.getpid()}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that died and had the same number
    partial.mkdir()
    try:
        yield partial
        for path in partial.rglob("*"):
            (sync_folder if path.is_dir() else sync_file)(path)
        sync_folder(partial)
        _put_in_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put_in_place(partial: Path, target: Path) -> None:
    """Rename a directory, or move its files into one that is there.

    Then the record leaves first and comes last: a directory with a record is complete whenever the process dies.
    """
    if not target.exists():
        partial.rename(target)
        return sync_folder(target.parent)
    (target / RECORD).unlink(missing_ok=True)
    for old in target.iterdir():
        if old.name in (JOB, CHECKPOINT, partial.name):
            continue
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink()
    for new in sorted(partial.iterdir(), key=lambda path: path.name == RECORD):
        new.replace(target / new.name)
    sync_folder(target)


def save_network(network: nn.Module, path: str | Path) -> None:
    """Write the tensors of the state dict as safetensors; one that several names share is written once.

    The other names are in the file's metadata, each with the name that it stands for, as safetensors itself does it.
    """
    kept, aliases = unshared_state(network)
    # Not save_file: its files are readable by their owner only, whatever the umask says.
    Path(path).write_bytes(save(kept, metadata=aliases))


def unshared_state(network: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Copy the tensors of the state dict, each once, and tell for their other names which one they stand for."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first_names: dict[tuple[object, ...], str] = {}
    for name, value in _tensors(network).items():
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if value.numel() and place in first_names:
            aliases[name] = first_names[place]
        else:
            first_names[place] = name
            kept[name] = value.detach().cpu().contiguous().clone()
    return kept, aliases


def load_network(model: nn.Module, directory: str | Path) -> nn.Module:
    """Read the weights of a run directory into `model`, in place; returns it in evaluation mode.

    Args:
        model: A network of the same architecture, as its factory builds it.
        directory: The run directory, or the safetensors file itself.

    Raises:
        FileNotFoundError: If there are no weights.
        ValueError: If the file is damaged, or the weights are those of another architecture.
    """
    path = Path(directory)
    path = path / NETWORK if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: expected a run directory with {NETWORK}")
    try:
        state = _read_state(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    return load_state(model, state, path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Put the tensors that `path` held into `model`, in place; returns it in evaluation mode.

    Raises:
        ValueError: If they are those of another architecture.
    """
    faults = _misfits(_tensors(model), state)
    if faults:
        raise ValueError(f"the weights in {path} are not those of this {type(model).__name__}: {'; '.join(faults)}")
    model.load_state_dict(state, strict=False)
    return model.eval()


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    # What a module returns from get_extra_state may be anything; there is no way to write it without pickle.
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def _read_state(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        aliases = file.metadata() or {}
    return state | {name: state[first] for name, first in aliases.items() if first in state}


def _misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    shapes = [
        f"{name} is {tuple(state[name].shape)} in the file and {tuple(value.shape)} in the network"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    missing = [f"{name} is missing in the file" for name in expected if name not in state]
    unknown = [f"{name} is missing in the network" for name in state if name not in expected]
    faults = shapes + missing + unknown
    return faults if len(faults) <= 3 else [*faults[:3], f"and {len(faults) - 3} more"]
