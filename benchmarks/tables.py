"""How do measurements get into a file and into the documentation?"""

import csv
import os
import platform
import re
from pathlib import Path
from statistics import mean, stdev

import torch

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "benchmarks" / "published"
PAGE_NAMES = ("results", "studies", "speed", "compression", "checkpoint")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in PAGE_NAMES))


def machine() -> str:
    """One line about what the measurement ran on."""
    threads = torch.get_num_threads()
    return f"{os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}, {threads} thread(s)"


def spread(values: list[float], digits: int = 3) -> str:
    """Mean and sample standard deviation; one value alone has none."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def write_csv(name: str, rows: list[dict[str, object]]) -> None:
    """Write all single results to `docs/results/<name>.csv`."""
    path = ROOT / "docs" / "results" / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def publish(name: str, table: str, command: str) -> None:
    """Print a table, keep it in `benchmarks/published/<name>.md`, and put it into the documentation."""
    text = f"{table}\n\n`{command}` on {machine()}."
    print(f"\n{text}\n")
    PUBLISHED.mkdir(exist_ok=True)
    (PUBLISHED / f"{name}.md").write_text(text + "\n")
    fill_pages()


def fill_pages() -> None:
    """Put every published table between the markers `results:<name>` and `/results` of the documentation."""
    for page in PAGES:
        if not page.exists():
            continue
        text = page.read_text()
        for source in sorted(PUBLISHED.glob("*.md")):
            pattern = re.compile(rf"(<!-- results:{source.stem} -->\n).*?(<!-- /results -->)", re.DOTALL)
            table = source.read_text()
            text = pattern.sub(lambda found, table=table: f"{found[1]}\n{table}\n{found[2]}", text)
        page.write_text(text)
