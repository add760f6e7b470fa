"""Does every example run as its first lines say, and reach what they claim?"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))

# A line that the example must print, and the least that the numbers in it must be; exact ones belong to one machine.
KEY_LINES = {
    "ask_tell": (r"int8 +held-out macro-F1 (0[.]6\d+)\nint8, searched +held-out macro-F1 ([\d.]+)", [0.63, 0.80]),
    "codebook_file": (r"\d+ searched +([\d.]+),\d+ bytes, held-out F1 ([\d.]+), equal outputs: True", [2, 0.92]),
    "black_box": (r"searched in integers +held-out macro-F1 of the integers ([\d.]+)", [0.80]),
    "compact_file": (r"huffman +3,(\d+) bytes, accuracy ([\d.]+), equal outputs: True", [0, 0.92]),
    "distill_student": (r"teacher by Adam held-out accuracy ([\d.]+)", [0.93]),
    "hbde_as_published": (r"macro-F1 searched [\d.]+ -> ([\d.]+), held out ([\d.]+)", [0.80, 0.72]),
    "lora_transformer": (
        r"adapters searched +held-out macro-F1 ([\d.]+)[^\n]+\n[^\n]+\nmerged +.*F1 ([\d.]+)",
        [0.74, 0.74],
    ),
    "own_metric": (r"searched for cost +held-out cost [\d.]+, macro-F1 ([\d.]+)", [0.75]),
    "prune_channels": (r"searched +held-out accuracy ([\d.]+), 1[0-5]\d,\d+ multiply-adds", [0.95]),
    "reduced_problem": (r"20 blocks, full CMA-ES +[\d.]+e-0([\d]+)", [4]),
    "repair_shifted_digits": (r"held-out macro-F1 [\d.]+ -> ([\d.]+), [\d,]+ sample forwards", [0.80]),
    "swap_the_searcher": (r"CMAES +2000 candidates, held-out F1 ([\d.]+)", [0.80]),
    "two_objectives": (r"on clean digits ([\d.]+), on shifted ones ([\d.]+)\s*\Z", [0.88, 0.72]),
}

NEEDS = {
    "ask_tell": ("onnx", "onnxruntime"),
    "lora_transformer": ("peft", "bitsandbytes"),
    "prune_channels": ("torch_pruning",),
}


def test_every_example_has_a_key_line():
    assert sorted(KEY_LINES) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_first_lines_state_the_claim_its_price_and_the_command(name):
    source = (ROOT / "examples" / f"{name}.py").read_text()
    assert len(source.splitlines()) < 60
    for heading in ("Claim: ", "Price: ", f"Run: python -m examples.{name}"):
        assert f"\n{heading}" in source.split('"""')[1]


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_runs_and_reaches_what_it_claims(name):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"examples.{name} needs {package}: pip install 'evohbde[all,lora]'")
    result = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"],
        cwd=ROOT,
        env={**os.environ, "EVOTORCH_VERBOSE_LEVEL": "0"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    pattern, least = KEY_LINES[name]
    found = re.search(pattern, result.stdout)
    assert found, result.stdout
    assert all(float(text) >= bound for text, bound in zip(found.groups(), least, strict=True)), found[0]
