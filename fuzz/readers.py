"""Which readers take files from outside, what does a sound file look like, and which errors may come of others?"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load, save
from torch import nn

from evohbde.comparison.records import RUNS, SETTINGS, read_runs, read_settings
from evohbde.compress.compact import CHECKSUM, HEADER, _checksum, load_compact, save_compact
from evohbde.history import History
from evohbde.journal import FILE, Answer, Journal
from evohbde.report.read import FRONT, HISTORY, RECORD, read_run
from evohbde.rundir import JOB, load_network, save_network
from evohbde.unfinished import read_job
from problems.cifar import load_image_archive
from problems.networks import load_safetensors
from tests.made_up_run import RECORD as MADE_UP
from tests.made_up_run import ROWS

FINGERPRINT = {"seed": 1}


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        sound: Files that it takes.
        read: Is given a folder and the content of a file, writes it there and reads it back.
        errors: What it may raise.
    """

    sound: Callable[[], tuple[bytes, ...]]
    read: Callable[[Path, bytes], object]
    errors: tuple[type[Exception], ...] = (ValueError,)

    def try_on(self, content: bytes) -> bool:
        """Whether the file was taken; errors that it may not raise go through."""
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self.read(Path(folder), content)
            except self.errors:
                return False
        return True


def network() -> nn.Sequential:
    """A small network of which some weights are zero and the others of few values."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Linear(24, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.copy_(model[0].weight.mul(10).round())
        model[2].weight.copy_(model[2].weight.mul(10).round())
    return model


@cache
def compact_files() -> tuple[bytes, ...]:
    """One of each coding."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        found = []
        for coding in ("values", "codebook", "huffman"):
            save_compact(network(), path, coding=coding)
            found.append(path.read_bytes())
    return tuple(found)


def with_description(content: bytes, text: str) -> bytes:
    """A compact file that says something else of itself, with a checksum that fits: damage that was meant."""
    tensors = load(content)
    try:
        checksum = _checksum(tensors, json.loads(text))
    except ValueError:
        checksum = ""
    return save(tensors, metadata={HEADER: text, CHECKSUM: checksum})


def description_of(content: bytes) -> str:
    """What a compact file says of itself."""
    length = int.from_bytes(content[:8], "little")
    return str(json.loads(content[8 : 8 + length])["__metadata__"][HEADER])


@cache
def network_file() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        save_network(network(), Path(folder) / "file")
        return ((Path(folder) / "file").read_bytes(),)


@cache
def image_archives() -> tuple[bytes, ...]:
    """Plain and packed, with a folder around the classes and without."""
    found = []
    for mode, around in (("w", ""), ("w", "images/"), ("w:xz", ""), ("w:gz", "")):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode=mode) as archive:
            for number, kind in enumerate(("PNG", "JPEG")):
                image = io.BytesIO()
                Image.new("RGB", (32, 32), (number, 2, 3)).save(image, kind)
                member = tarfile.TarInfo(f"{around}class{number}/0001.{kind.lower()}")
                member.size = image.tell()
                image.seek(0)
                archive.addfile(member, image)
        found.append(packed.getvalue())
    return tuple(found)


@cache
def run_files() -> dict[str, bytes]:
    """A whole run directory but for its network and figures."""
    history = History()
    history.rows.extend(ROWS)
    with tempfile.TemporaryDirectory() as folder:
        history.to_csv(Path(folder) / HISTORY)
        rows = (Path(folder) / HISTORY).read_bytes()
    front = b"origin,row,kept,test_accuracy\nphase 1,0,0.5,0.9\nmagnitude,,0.4,0.8\n"
    return {RECORD: MADE_UP.to_json().encode(), HISTORY: rows, FRONT: front}


def read_run_with(name: str) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> object:
        for other, sound in {**run_files(), name: content}.items():
            (folder / other).write_bytes(sound)
        return read_run(folder)

    return read


SETTINGS_FILE = json.dumps(
    {
        "format": 1, "reference": "module:task", "searchers": [{"name": "DE"}], "reductions": [None], "seeds": [0],
        "objective_sense": "min", "held_out": ["accuracy"],
    }
).encode()  # fmt: skip

RUNS_FILE = json.dumps(
    {
        "searcher": "DE", "reduction": None, "seed": 0, "error": None, "best": 0.5, "held_out": {"accuracy": 0.5},
        "trajectory": [{"num_evaluations": 1, "best": 0.5}],
    }
).encode() + b"\n"  # fmt: skip

JOB_FILE = json.dumps({"command": "tune", "request": {"reference": "module:task", "seed": 0}}).encode()


def read_one(name: str, function: Callable[[Path], object]) -> Callable[[Path, bytes], object]:
    def read(folder: Path, content: bytes) -> object:
        (folder / name).write_bytes(content)
        return function(folder)

    return read


@cache
def journal_file() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        ask_journal(Path(folder))
        return ((Path(folder) / FILE).read_bytes(),)


def ask_journal(folder: Path) -> list[Answer]:
    """Three questions to the journal in a folder; what is not there is answered anew."""
    journal = Journal(folder, FINGERPRINT)
    try:
        found = [
            journal.recorded(
                "scores",
                lambda i=i: [torch.tensor([float(i)])],
                lambda i=i: Answer({"scores": torch.full((3,), i)}, {}),
            )
            for i in range(3)
        ]
    finally:
        journal.close()
    for i, answer in enumerate(found):
        assert answer.tensors["scores"].tolist() == [i] * 3, "a journal gave an answer that nobody wrote"
    return found


READERS = {
    "compact": Reader(compact_files, read_one("file", lambda folder: load_compact(folder / "file", network()))),
    "network": Reader(network_file, read_one("file", lambda folder: load_network(network(), folder / "file"))),
    "weights": Reader(network_file, read_one("file", lambda folder: load_safetensors(network(), folder / "file"))),
    "images": Reader(image_archives, read_one("file", lambda folder: load_image_archive(folder / "file"))),
    "run": Reader(lambda: (run_files()[RECORD],), read_run_with(RECORD)),
    "history": Reader(lambda: (run_files()[HISTORY],), read_run_with(HISTORY)),
    "front": Reader(lambda: (run_files()[FRONT],), read_run_with(FRONT)),
    "comparison": Reader(lambda: (SETTINGS_FILE,), read_one(SETTINGS, read_settings)),
    "comparison-runs": Reader(lambda: (RUNS_FILE, 2 * RUNS_FILE), read_one(RUNS, read_runs)),
    "job": Reader(lambda: (JOB_FILE,), read_one(JOB, read_job)),
    "journal": Reader(journal_file, read_one(FILE, ask_journal)),
}
