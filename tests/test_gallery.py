"""Does the page of examples say what the examples say?"""

import pytest

from benchmarks.gallery import PAGE, ROOT, entry, gallery


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == gallery(), "write it anew: python -m benchmarks pages"


def test_every_example_has_an_entry_with_its_command():
    names = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
    lines = PAGE.read_text().splitlines()
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == names
    assert [line for line in lines if line.startswith("`python")] == [f"`python -m examples.{name}`" for name in names]


def test_an_entry_holds_every_word_of_the_first_lines():
    source = '"""What is it?\n\nClaim: it is\nso.\nPrice: one second.\nRun: python -m examples.it\n"""\n'
    assert (
        entry("it", source) == "## it\n\n**What is it?** It is so.\n\nPrice: one second.\n\n`python -m examples.it`\n"
    )


@pytest.mark.parametrize("text", ["What?\n\nClaim: c\nRun: r\n", "What?\n\nPrice: p\nClaim: c\nRun: r\n", "What?\n"])
def test_first_lines_that_lack_something_are_named(text):
    with pytest.raises(ValueError, match="it: the docstring must be a question, then `Claim:`, `Price:` and `Run:`"):
        entry("it", f'"""{text}"""\n')
