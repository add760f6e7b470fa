"""Is every line of docs/determinism.md backed by tests that exist?"""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "determinism.md"

NAMED = re.compile(r"`([\w/]+\.py): (test_\w+)`")


def lines_of(page: str) -> list[tuple[str, str]]:
    """The two cells of each line of each table, without the headings."""
    rows = [line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return [(what.strip(), test.strip()) for what, test in rows if what.strip() != "What is changed"]


LINES = lines_of(PAGE.read_text())


@pytest.mark.parametrize(("what", "backing"), LINES)
def test_each_promise_names_a_test_that_exists(what, backing):
    if backing == "none":
        assert LINES.index((what, backing)) >= len(LINES) - 7, "only what is not promised may lack a test"
        return
    named = NAMED.findall(backing)
    assert named, "expected `file.py: test_name`"
    for file, test in named:
        assert f"def {test}(" in (TESTS / file).read_text(), f"{file} has no {test}"


def test_a_test_that_does_not_exist_is_found():
    assert NAMED.findall("`test_run.py: test_that_is_not_there`") == [("test_run.py", "test_that_is_not_there")]
    assert lines_of("| What is changed | Test |\n|---|---|\n| a | none |") == [("a", "none")]
