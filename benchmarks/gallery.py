"""Which examples are there, what does each show, and at what price?"""

import re
from pathlib import Path
from textwrap import fill

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "gallery.md"
INTRODUCTION = """# Examples

Each file in `examples/` asks one question and answers it in under 60 lines, in less than a minute on one CPU core. What
it claims is what it prints on one machine with one seed; the tests run every one and check the claim. All run from a
clone. Tables over several seeds are in the [results](results.md). `python -m benchmarks pages` puts this page together.
"""


def write_gallery() -> None:
    """Write the page anew."""
    PAGE.write_text(gallery())


def gallery() -> str:
    """The page as Markdown, from the first lines of each example."""
    entries = [entry(path.stem, path.read_text()) for path in sorted((ROOT / "examples").glob("*.py"))]
    return "\n".join([INTRODUCTION, *entries])


def entry(name: str, source: str) -> str:
    """What the page says of one example."""
    question, _, rest = source.split('"""')[1].partition("\n\n")
    found = re.fullmatch(r"Claim: (.*) Price: (.*) Run: (.*)", " ".join(rest.split()))
    if found is None:
        raise ValueError(f"{name}: the docstring must be a question, then `Claim:`, `Price:` and `Run:`")
    claim, price, run = found.groups()
    paragraphs = [f"**{question}** {claim[0].upper()}{claim[1:]}", f"Price: {price}", f"`{run}`"]
    return "\n\n".join([f"## {name}", *(fill(text, 120, break_on_hyphens=False) for text in paragraphs)]) + "\n"
