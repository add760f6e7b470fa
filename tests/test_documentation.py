"""Does the Python code in the documentation run?"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def code_of(page: str) -> str:
    """Join the Python blocks of a page, at their lines; each goes on where the one before it ended."""
    text = (ROOT / page).read_text()
    lines = [""] * text.count("\n")
    for found in BLOCK.finditer(text):
        start = text[: found.start(1)].count("\n")
        block = found[1].splitlines()
        lines[start : start + len(block)] = block
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in PAGES if code_of(page).strip()])
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    script = f"import torch\ntorch.set_num_threads(1)\nexec(compile({code_of(page)!r}, {page!r}, 'exec'))"
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "EVOTORCH_VERBOSE_LEVEL": "0", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr


LINK = re.compile(r"\[[^\]]*\]\(([^)#:]+?)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page):
    missing = [link for link in LINK.findall((ROOT / page).read_text()) if not ((ROOT / page).parent / link).exists()]
    assert not missing
