"""Does the harness for atheris say what it needs?"""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from fuzz.__main__ import main
from fuzz.readers import READERS


@pytest.fixture
def pretended(monkeypatch):
    """An atheris that tries three inputs."""
    started = []

    def setup(arguments: list[str], try_one) -> None:
        started.append(arguments)
        for data in (b"", b"\x00", b"\x01\x05\x00\xff"):
            try_one(data)

    atheris = SimpleNamespace(
        instrument_imports=lambda include: nullcontext(), Setup=setup, Fuzz=lambda: started.append("Fuzz")
    )
    monkeypatch.setitem(sys.modules, "atheris", atheris)
    return started


@pytest.mark.parametrize("arguments", [["fuzz"], ["fuzz", "nothing"]])
def test_an_unknown_reader_is_answered_by_the_known_ones(pretended, arguments):
    with pytest.raises(SystemExit, match=f"readers: {', '.join(READERS)}"):
        main(arguments)
    assert not pretended


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_handed_over_with_the_options_of_libfuzzer(pretended, name):
    main(["fuzz", name, "-runs=3"])
    assert pretended == [["fuzz", "-runs=3"], "Fuzz"]


def test_without_atheris_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "atheris", None)
    with pytest.raises(SystemExit, match="pip install atheris"):
        main(["fuzz", "compact"])
