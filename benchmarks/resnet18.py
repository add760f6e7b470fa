"""What do 11.2 million weights cost to block and unblock?"""

import resource
import time

import torch

from benchmarks.tables import markdown, publish, write_csv
from evohbde import HistogramBlocking, ParameterLayout
from problems.networks import initialised, resnet18


def measure(repeats: int = 5) -> None:
    """Fit and unblock ResNet-18, against copying its weights in the same run."""
    network = initialised(resnet18, seed=0)
    layout = ParameterLayout(network)
    theta = layout.bind_(network)
    theta0 = theta.clone()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit, unblock, copy = [], [], []
    for _ in range(repeats):
        fit.append(_seconds(lambda: HistogramBlocking(theta0)))
        blocks = HistogramBlocking(theta0)
        unblock.append(_seconds(lambda found=blocks: found.expand_into(found.center, theta)))
        copy.append(_seconds(lambda: theta.copy_(theta0)))
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    rows = [
        {"what": "fit 10,000 bins", "seconds": min(fit), "copies": min(fit) / min(copy)},
        {"what": "unblock one candidate", "seconds": min(unblock), "copies": min(unblock) / min(copy)},
    ]
    write_csv("resnet18", [*rows, {"what": "extra memory, MiB", "seconds": extra, "copies": ""}])
    body = [[str(r["what"]), f"{r['seconds'] * 1000:.0f} ms", f"{r['copies']:.1f}"] for r in rows]
    body.append([f"memory above the network and its copy: {extra:.0f} MiB", "", ""])
    title = f"ResNet-18, {layout.size:,} weights, {blocks.dim:,} blocks"
    publish("resnet18", markdown([title, "time", "in copies of the weights"], body), "python -m benchmarks resnet18")


def _seconds(work) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        work()
    return time.perf_counter() - start
