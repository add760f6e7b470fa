"""What becomes of a journal that is cut short, damaged, in the wrong place or on a full disk?"""

import errno
import json
import os
import subprocess
import warnings
from hashlib import blake2b
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from evohbde import journal
from evohbde.durable import is_partial, write_whole
from evohbde.journal import Answer, CheckpointWarning, Journal, activated, digest, recorded, seal

NUM_ANSWERS = 6


def ask(folder: Path, count: int = NUM_ANSWERS, fingerprint: dict | None = None, **options) -> tuple[list, int]:
    """A program: each answer depends on the one before, so that a wrong one shows in all that follow."""
    with_journal = Journal(folder, fingerprint or {"seed": 1}, {"torch": "2"}, **options)
    value, answers, num_computed = torch.tensor([1.0, torch.nan, -0.0], dtype=torch.float64), [], 0
    try:
        with activated(with_journal):
            for number in range(count):

                def compute(value=value, number=number) -> Answer:
                    nonlocal num_computed
                    num_computed += 1
                    found = value * 3 + number
                    return Answer({"value": found, "is_bound": found > 5, "none": found[:0]}, {"number": number / 3})

                answer = recorded("step", lambda value=value: [value, None, 1.5, slice(0, 2)], compute)
                value = answer.tensors["value"]
                facts = [answer.facts["number"], answer.tensors["is_bound"].tolist(), answer.tensors["none"].shape]
                answers.append([digest(value), *facts])
    finally:
        with_journal.close()
    return answers, num_computed


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[bytes, list]:
    folder = tmp_path_factory.mktemp("whole")
    answers, num_computed = ask(folder)
    assert num_computed == NUM_ANSWERS
    return (folder / journal.FILE).read_bytes(), answers


def ends(content: bytes) -> list[int]:
    """Where records end, the header first."""
    places, place = [], len(journal.MAGIC)
    while place < len(content):
        place += int.from_bytes(content[place : place + 8], "little") + 8 + 32
        places.append(place)
    return places


def test_what_was_answered_is_not_computed_again(whole, tmp_path):
    content, answers = whole
    (tmp_path / journal.FILE).write_bytes(content)
    assert ask(tmp_path) == (answers, 0)
    assert (tmp_path / journal.FILE).read_bytes() == content


def test_a_file_cut_anywhere_gives_the_same_answers_and_loses_one_at_most(whole, tmp_path):
    content, answers = whole
    places = ends(content)
    for cut in [*places[:-2], *range(places[-2], len(content), 2)]:
        (tmp_path / journal.FILE).write_bytes(content[:cut])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found, num_computed = ask(tmp_path)
        intact = sum(place <= cut for place in places) - 1
        assert found == answers
        assert num_computed == NUM_ANSWERS - intact
        assert bool(caught) == (cut not in places), cut
        assert all(issubclass(one.category, CheckpointWarning) and "is cut short" in str(one.message) for one in caught)
        if cut % 50 == 0:
            assert ask(tmp_path) == (answers, 0), "the file was not mended"


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bits_never_give_a_wrong_answer(whole, tmp_path, data):
    content, answers = whole
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / journal.FILE).write_bytes(damaged)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found, num_computed = ask(tmp_path)
        except ValueError as error:
            assert "damaged" in str(error) or "not a checkpoint of this version" in str(error)
            assert (tmp_path / journal.FILE).read_bytes() == damaged, "an unreadable file was touched"
            return
    assert found == answers
    assert (num_computed > 0 and caught) or damaged == content


@given(st.binary(max_size=300))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_behind_the_last_record_are_cut_off(whole, tmp_path, rest):
    content, answers = whole
    (tmp_path / journal.FILE).write_bytes(content + rest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, num_computed = ask(tmp_path, NUM_ANSWERS + 1)
    assert found[:-1] == answers
    assert num_computed == 1
    assert (tmp_path / journal.FILE).read_bytes().startswith(content)


FACTS = st.recursive(st.none() | st.integers() | st.text(), lambda some: st.dictionaries(st.text(), some)).map(
    json.dumps
)


@given(st.binary(max_size=60) | FACTS.map(lambda facts: save({}, metadata={"facts": facts})), st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_record_that_was_made_up_is_a_value_error(whole, tmp_path, body, is_first):
    """Checksums are no secret; what is read behind them is JSON and safetensors, whatever somebody puts there."""
    content = journal.MAGIC if is_first else whole[0][: ends(whole[0])[0]]
    chain = blake2b(journal.MAGIC, digest_size=32).digest() if is_first else content[len(journal.MAGIC) + 8 :][:32]
    record = len(body).to_bytes(8, "little") + journal._checksum(chain, body) + body
    (tmp_path / journal.FILE).write_bytes(content + record)
    with pytest.raises(ValueError, match="holds a record that evohbde does not write"):
        ask(tmp_path)


def test_records_of_another_run_or_in_another_order_are_not_taken(whole, tmp_path):
    content, answers = whole
    a, b, c = ends(content)[1:4]
    (tmp_path / journal.FILE).write_bytes(content[:a] + content[b:c] + content[a:b] + content[c:])
    with pytest.warns(CheckpointWarning, match="damaged behind 1 intact answers"):
        assert ask(tmp_path) == (answers, NUM_ANSWERS - 1)


def test_what_differs_is_named(whole, tmp_path):
    (tmp_path / journal.FILE).write_bytes(whole[0])
    with pytest.raises(ValueError, match=r"another run: `seed` was 1 and is 2; `size` was None and is 3\. Give"):
        ask(tmp_path, fingerprint={"seed": 2, "size": 3})
    with pytest.warns(CheckpointWarning, match=r"was written elsewhere: `torch` was '2' and is '3'"):
        Journal(tmp_path, {"seed": 1}, {"torch": "3"}).close()
    assert (tmp_path / journal.FILE).read_bytes() == whole[0]


def test_another_question_is_refused(tmp_path):
    def one(kind, question):
        kept = Journal(tmp_path, {})
        try:
            return kept.recorded(kind, lambda: [question], lambda: Answer({"x": torch.ones(1)}))
        finally:
            kept.close()

    assert not one("a", torch.zeros(2)).is_recalled
    assert one("a", torch.zeros(2)).is_recalled
    for kind, question in (("b", torch.zeros(2)), ("a", -torch.zeros(2)), ("a", torch.zeros(2).double()), ("a", "")):
        with pytest.raises(ValueError, match="the run does not repeat what the checkpoint"):
            one(kind, question)


def test_a_foreign_file_is_left_alone(tmp_path):
    (tmp_path / journal.FILE).write_text("my diary, of many pages")
    with pytest.raises(ValueError, match="is not a checkpoint of this version: choose another directory"):
        ask(tmp_path)
    assert (tmp_path / journal.FILE).read_text() == "my diary, of many pages"


def test_nothing_is_left_where_nothing_was_computed(tmp_path):
    ask(tmp_path / "deep" / "down", 0)
    assert not (tmp_path / "deep" / "down").exists()
    ask(tmp_path / "kept", 1)
    ask(tmp_path / "kept", 0)
    assert (tmp_path / "kept" / journal.FILE).exists()


def test_only_one_process_writes(tmp_path):
    first = Journal(tmp_path, {})
    with pytest.raises(BlockingIOError, match="another process writes to the checkpoint"):
        Journal(tmp_path, {})
    first.close()
    Journal(tmp_path, {}).close()


def test_what_is_asked_within_an_answer_is_a_part_of_it(tmp_path):
    def inner() -> Answer:
        return recorded("inner", list, lambda: Answer({"x": torch.zeros(1)}))

    kept = Journal(tmp_path, {})
    with activated(kept):
        recorded("outer", list, inner)
    assert kept.num_added == 1
    kept.close()


def test_after_an_interruption_nothing_is_written(tmp_path):
    kept = Journal(tmp_path, {})
    with activated(kept):
        recorded("a", list, lambda: Answer({"x": torch.zeros(1)}))
        seal()
        assert not recorded("b", list, lambda: Answer({"x": torch.zeros(1)})).is_recalled
    kept.close()
    assert kept.num_added == 1
    seal()  # without a journal: nothing to do


def test_a_full_disk_stops_the_run_and_loses_nothing(whole, tmp_path, monkeypatch):
    written, write = 0, journal.Journal._write

    def full(self, part):
        nonlocal written
        written += 1
        if written > 4:
            write(self, part[: len(part) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "_write", full)
        with pytest.raises(OSError, match=r"cannot write to the checkpoint in .*: No space left on device\. What is"):
            ask(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ask(tmp_path) == (whole[1], NUM_ANSWERS - 4)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB, where this process may make one."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_disk_that_is_really_full(small_disk):
    def fill(size):
        kept = Journal(small_disk / "run", {})
        try:
            with activated(kept):
                return [
                    recorded("a", lambda n=n: [n], lambda n=n: Answer({"x": torch.full((size,), float(n))})).tensors[
                        "x"
                    ]
                    for n in range(20)
                ], kept.num_recalled
        finally:
            kept.close()

    with pytest.raises(OSError, match="No space left on device"):
        fill(1_000)
    subprocess.run(["mount", "-o", "remount,size=1m", small_disk], check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers, num_recalled = fill(1_000)
    assert [float(one[0]) for one in answers] == list(range(20))
    assert 5 < num_recalled < 20


def test_a_directory_that_cannot_be_written_is_named_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write a checkpoint to .*run: .*; choose another directory"):
        ask(tmp_path / "file" / "run")

    def refuse(*arguments):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(journal, "write_whole", refuse)
    with pytest.raises(OSError, match=r"cannot write a checkpoint to .*: Read-only file system; choose another"):
        ask(tmp_path)


@pytest.mark.parametrize(("every_seconds", "num_syncs"), [(0, NUM_ANSWERS), (1e9, 0)])
def test_how_often_the_disk_is_waited_for_can_be_chosen(every_seconds, num_syncs, tmp_path, monkeypatch):
    ask(tmp_path, 1)
    syncs, sync = [], os.fsync
    monkeypatch.setattr(journal.os, "fsync", lambda handle: syncs.append(sync(handle)))
    ask(tmp_path / "new", every_seconds=every_seconds)
    assert len(syncs) - 3 == num_syncs  # the header and its folder, and once at the end
    with pytest.raises(ValueError, match="`every_seconds` must be at least 0, got -1"):
        Journal(tmp_path, {}, every_seconds=-1)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"old")

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="full"):
            write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    write_whole(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"new")]


@pytest.mark.skipif(os.name == "nt", reason="asks whether a process lives")
def test_what_a_dead_process_has_left_half_written_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    left, alive = (tmp_path / f".file.{number}.partial" for number in (dead, os.getppid()))
    other = tmp_path / f".file-of-another-name.{dead}.partial"
    for path in (left, alive, other):
        path.write_bytes(b"ha")
        assert is_partial(path)
    write_whole(tmp_path / "file", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"file", alive.name, other.name}
    assert not is_partial(tmp_path / "file")
