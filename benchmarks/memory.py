"""How much memory does a large generation take, and does a long run take more and more?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.tables import ROOT, markdown, publish, write_csv
from evohbde import NetworkProblem, RandomBlocking, SuperBatches, TensorData
from evohbde.searchers import DE
from problems.networks import initialised, resnet18

MIB = 1 << 20

POPSIZE, DIM = 1_000, 1_000

GENERATIONS, SETTLED = 10_000, 500
"""Generations of the long run, and those after which its memory is taken as settled."""


def measure(repeats: int) -> None:
    """Run each in processes of its own."""
    rows = []
    for repeat in range(repeats):
        for call in (peak_call("views"), peak_call("auto"), "growth_of_a_run()"):
            found = in_a_process(call)
            rows += [{"repeat": repeat, "what": name, "MiB": round(value, 1)} for name, value in found.items()]
            print(rows[-1], flush=True)
    write_csv("memory", rows)
    names = list(dict.fromkeys(row["what"] for row in rows))
    table = [[str(name), ", ".join(str(row["MiB"]) for row in rows if row["what"] == name)] for name in names]
    option = "" if repeats == 3 else f" --repeats {repeats}"
    publish("memory", markdown(["what", "MiB, each run"], table), f"python -m benchmarks memory{option}")


def peak_call(strategy: str) -> str:
    return f"peak_of_a_generation({strategy!r})"


def in_a_process(call: str) -> dict[str, float]:
    """Call one of the functions below in a fresh process: MiB by name."""
    script = f"import json; from benchmarks.memory import *; print(json.dumps({call}))"
    command = [sys.executable, "-W", "ignore", "-c", script]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{call} failed: {result.stderr[-2_000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def peak_of_a_generation(strategy: str, popsize: int = POPSIZE, dim: int = DIM) -> dict[str, float]:
    """Score so many candidates of ResNet-18 on two small images; Linux only, where a process knows its own peak."""
    import torchvision.models  # noqa: F401, what it takes is not counted

    torch.set_num_threads(1)
    before = _memory("VmRSS")
    model = initialised(lambda: resnet18(10), 0)
    network = sum(p.numel() * p.element_size() for p in (*model.parameters(), *model.buffers())) / MIB
    data = TensorData(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1]))
    problem = NetworkProblem(
        model, data, "cross_entropy", reduction=lambda theta: RandomBlocking(theta, dim), seed=0, strategy=strategy
    )
    del model
    problem.evaluate(problem.generate_batch(popsize))
    peak = _memory("VmHWM")
    name = f"peak of {popsize:,} candidates of it beside the libraries, strategy {strategy}"
    return {"weights and statistics of ResNet-18": network, name: peak - before}


def growth_of_a_run(generations: int = GENERATIONS, settled: int = SETTLED) -> dict[str, float]:
    """Search a small network for so many generations."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    model = initialised(lambda: torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)), 0)
    data = TensorData(torch.randn(64, 16, generator=generator), torch.arange(64) % 4)
    problem = NetworkProblem(
        model, SuperBatches(data, 32), "cross_entropy", reduction=lambda theta: RandomBlocking(theta, 20), seed=0
    )
    searcher = DE(problem, popsize=6)
    searcher.run(settled)
    before = _memory("VmRSS")
    searcher.run(generations - settled)
    return {f"growth from generation {settled:,} to {generations:,}": _memory("VmRSS") - before}


def _memory(what: str) -> float:
    """Resident memory of this process now (`VmRSS`), or at most so far (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:")) / 1_024
