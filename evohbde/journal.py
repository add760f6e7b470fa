"""What did an earlier, interrupted run of this program compute already?

A journal is one file to which every costly answer is appended: scores of candidates, outputs of a network, trained
weights. A program that gives the same questions again, in the same order, gets the answers that are there, and computes
from the first missing one on. Each record has a checksum that covers all records before it. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from evohbde.durable import write_whole

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MAGIC = b"evohbde journal 1\n"
FILE = "journal"
LENGTH_BYTES, DIGEST_BYTES = 8, 32

HEADER = {"fingerprint": dict, "versions": dict}
RECORD = {"kind": str, "asked": str, "seconds": float, "facts": dict}
"""What the facts of a record are."""

SECONDS_BETWEEN_SYNCS = 1.0
"""What a power cut may lose; a killed process loses nothing that was written."""


class CheckpointWarning(UserWarning):
    """A checkpoint is used only in part, or where it may not fit."""


class Answer(NamedTuple):
    """What one question brought.

    Attributes:
        tensors: By name.
        facts: Whatever JSON can say, by name.
        is_recalled: Whether it comes from a journal.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any] = {}
    is_recalled: bool = False


_active: ContextVar[Journal | None] = ContextVar("evohbde_journal", default=None)


def current() -> Journal | None:
    """The journal of the block that this runs in."""
    return _active.get()


@contextmanager
def activated(journal: Journal | None) -> Iterator[None]:
    """Let `recorded` write to this journal inside the block; None: to none."""
    token = _active.set(journal)
    try:
        yield
    finally:
        _active.reset(token)


def seal() -> None:
    """Write nothing more to the current journal: what follows an interruption is no part of the run."""
    journal = current()
    if journal is not None:
        journal.seal()


def recorded(kind: str, question: Callable[[], Iterable[object]], compute: Callable[[], Answer]) -> Answer:
    """The answer that the current journal has, else what `compute` finds, which is then written down.

    Without a journal this is `compute()`. What is asked while `compute` runs is a part of its answer, and not recorded.

    Args:
        kind: What is asked.
        question: Gives all that the answer depends on, tensors and other things; hashed, not kept.
        compute: Finds the answer.

    Raises:
        ValueError: If the journal has the answer to another question at this place: the run does not repeat.
        OSError: If the answer cannot be written.
    """
    journal = current()
    return compute() if journal is None else journal.recorded(kind, question, compute)


def digest(*parts: object) -> str:
    """Hash of tensors, texts, numbers and None, in their order."""
    state = blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, Tensor):
            plain = part.detach().as_subclass(Tensor).cpu().contiguous()
            state.update(f"{plain.dtype} {tuple(plain.shape)} ".encode())
            if plain.numel():
                state.update(plain.reshape(-1).view(torch.uint8).numpy().data)
        else:
            state.update(f"{part!r} ".encode())
    return state.hexdigest()


class Journal:
    """The file, read from its start and then written at its end.

    Args:
        folder: Where the file is or will be; made with its parents.
        fingerprint: What decides the run's results, by name, as JSON can say it.
        versions: What may decide last bits, by name.
        every_seconds: How often the file is forced onto the disk.

    Attributes:
        num_recalled, num_added: Answers taken from the file, and written to it.

    Raises:
        ValueError: If the file is that of a run with another fingerprint, or no journal.
        OSError: If it cannot be written, or another process uses it.
    """

    def __init__(
        self,
        folder: str | Path,
        fingerprint: Mapping[str, object],
        versions: Mapping[str, object] | None = None,
        *,
        every_seconds: float = SECONDS_BETWEEN_SYNCS,
    ) -> None:
        if not every_seconds >= 0:
            raise ValueError(f"`every_seconds` must be at least 0, got {every_seconds}")
        self.folder, self.path = Path(folder), Path(folder) / FILE
        self.every_seconds = every_seconds
        self.num_recalled = self.num_added = 0
        self._is_recalling, self._is_sealed = True, False
        self._opened = self._synced = time.monotonic()
        self._saved = 0.0
        self._chain = blake2b(MAGIC, digest_size=DIGEST_BYTES).digest()
        header = {"fingerprint": dict(fingerprint), "versions": dict(versions or {})}
        self._create(header)
        self._file = self.path.open("r+b", buffering=0)
        try:
            self._lock()
            self._check_header(json.loads(json.dumps(header)))
            self._first = self._file.tell()
        except BaseException:
            self._file.close()
            raise

    @property
    def is_recalling(self) -> bool:
        """Whether no answer was missing so far."""
        return self._is_recalling

    @property
    def seconds_saved(self) -> float:
        """How much sooner than in the run the last answer from the file came: to be added to this process's time."""
        return self._saved

    def recorded(self, kind: str, question: Callable[[], Iterable[object]], compute: Callable[[], Answer]) -> Answer:
        """See the function `recorded`."""
        if self._is_sealed:
            return compute()
        asked = digest(kind, *question())
        if self._is_recalling:
            found = self._next(kind, asked)
            if found is not None:
                return found
        with activated(None):
            answer = compute()
        seconds = time.monotonic() - self._opened + self._saved
        facts = {"kind": kind, "asked": asked, "seconds": seconds, "facts": answer.facts}
        self._append(_pack(answer.tensors, facts, self._chain))
        self.num_added += 1
        return answer

    def seal(self) -> None:
        """Leave the file as it is from now on."""
        self._is_sealed = True

    def close(self) -> None:
        """Force everything onto the disk and let go of the file; one without any answer is removed."""
        if self._file.closed:
            return
        is_empty = os.fstat(self._file.fileno()).st_size == self._first
        if not is_empty:
            os.fsync(self._file.fileno())
        self._file.close()
        if is_empty:
            self.path.unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _create(self, header: Mapping[str, object]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self.path.exists():
                write_whole(self.path, MAGIC + _pack({}, {"kind": "header", **header}, self._chain))
            elif not os.access(self.path, os.W_OK):
                raise PermissionError(f"{self.path} is not writable")
        except OSError as error:
            reason = error.strerror or error
            sentence = f"cannot write a checkpoint to {self.folder}: {reason}; choose another directory"
            raise type(error)(sentence) from None

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process writes to the checkpoint in {self.folder}: wait for it, or choose another directory"
            ) from None

    def _check_header(self, expected: dict[str, dict[str, object]]) -> None:
        if self._read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{self.path} is not a checkpoint of this version: choose another directory")
        found = self._read_record(HEADER)
        if found is None:
            raise ValueError(
                f"the beginning of {self.path} is damaged, and with it the knowledge of what it belongs to: remove "
                "the directory to start anew"
            )
        header = found.facts
        if differences := _differences(header["fingerprint"], expected["fingerprint"]):
            raise ValueError(
                f"the checkpoint in {self.folder} is that of another run: {'; '.join(differences)}. Give the same "
                "arguments, data and network to continue it, or another directory"
            )
        if differences := _differences(header["versions"], expected["versions"]):
            warnings.warn(
                f"the checkpoint in {self.folder} was written elsewhere: {'; '.join(differences)}. What it has is "
                "used, but the rest may differ in the last bits",
                CheckpointWarning,
                stacklevel=5,
            )

    def _next(self, kind: str, asked: str) -> Answer | None:
        """The next answer in the file; None where there is no more."""
        start = self._file.tell()
        record = self._read_record(RECORD)
        if record is None:
            self._begin_writing(start)
            return None
        if (record.facts["kind"], record.facts["asked"]) != (kind, asked):
            raise ValueError(
                f"the run does not repeat what the checkpoint in {self.folder} holds: answer {self.num_recalled + 1} "
                f"is to {record.facts['kind']!r} and another question than this {kind!r}. Something that decides the "
                "run has changed: a seed, versions or code, the number of threads, or random numbers that no seed "
                "governs. Remove the directory to start anew"
            )
        self.num_recalled += 1
        self._saved = record.facts["seconds"] - (time.monotonic() - self._opened)
        return Answer(record.tensors, record.facts["facts"], is_recalled=True)

    def _begin_writing(self, start: int) -> None:
        """Go on behind the last intact record."""
        self._is_recalling = False
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(start)
        if size > start:
            warnings.warn(
                f"the checkpoint in {self.folder} is cut short or damaged behind {self.num_recalled} intact answers: "
                f"those are used, the last {size - start:,} bytes are computed again",
                CheckpointWarning,
                stacklevel=5,
            )

    def _append(self, record: bytes) -> None:
        start = self._file.tell()
        try:
            self._file.truncate(start)
            self._write(record)
            if time.monotonic() - self._synced >= self.every_seconds:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            self._file.seek(start)
            with suppress(OSError):
                self._file.truncate(start)
            raise OSError(
                f"cannot write to the checkpoint in {self.folder}: {error.strerror}. What is there is intact: mend "
                "that, and start the same run again to continue"
            ) from error
        self._chain = record[LENGTH_BYTES : LENGTH_BYTES + DIGEST_BYTES]

    def _write(self, content: bytes) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[self._file.write(rest) :]

    def _read(self, count: int) -> bytes:
        parts, left = [], count
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _read_record(self, keys: Mapping[str, type]) -> Answer | None:
        """The next record; None at the end of the file, and where it is not what was written."""
        head = self._read(LENGTH_BYTES + DIGEST_BYTES)
        if len(head) < LENGTH_BYTES + DIGEST_BYTES:
            return None
        length = int.from_bytes(head[:LENGTH_BYTES], "little")
        if length > os.fstat(self._file.fileno()).st_size - self._file.tell():
            return None
        body = self._read(length)
        if _checksum(self._chain, body) != head[LENGTH_BYTES:]:
            return None
        self._chain = head[LENGTH_BYTES:]
        try:
            return _unpack(body, keys)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.path} holds a record that evohbde does not write: {error}") from error


def _pack(tensors: Mapping[str, Tensor], facts: Mapping[str, object], chain: bytes) -> bytes:
    """One record: length, checksum, and a body that is a safetensors file with the facts among its metadata."""
    plain = {name: tensor.detach().as_subclass(Tensor).cpu().contiguous() for name, tensor in tensors.items()}
    body = save(plain, metadata={"facts": json.dumps(facts)})
    return len(body).to_bytes(LENGTH_BYTES, "little") + _checksum(chain, body) + body


def _checksum(chain: bytes, body: bytes) -> bytes:
    return blake2b(chain + len(body).to_bytes(LENGTH_BYTES, "little") + body, digest_size=DIGEST_BYTES).digest()


def _unpack(body: bytes, keys: Mapping[str, type]) -> Answer:
    """The body of a record, whose facts have these keys with values of these types."""
    tensors = load(body)
    length = int.from_bytes(body[:LENGTH_BYTES], "little")
    facts = json.loads(json.loads(body[LENGTH_BYTES : LENGTH_BYTES + length])["__metadata__"]["facts"])
    for name, kind in keys.items():
        if not isinstance(facts[name], kind):
            raise TypeError(f"expected `{name}` to be of type {kind.__name__}")
    return Answer(tensors, facts)


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    names = [*before, *(name for name in now if name not in before)]
    return [
        f"`{name}` was {before.get(name)!r} and is {now.get(name)!r}"
        for name in names
        if before.get(name) != now.get(name)
    ]
