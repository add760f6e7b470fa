"""How near do candidates come to what one accelerator can do, and what does the loop a user would write reach?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed_networks import Case, case, resnet18_case
from benchmarks.tables import markdown, publish
from benchmarks.timing import Times, in_turn, ratio, write_json
from evohbde import HistogramBlocking, ParameterLayout
from evohbde.evaluator import NetworkEvaluator
from evohbde.objectives import F1
from evohbde.stages import pieces
from evohbde.strategies.precision import PRECISIONS, computing
from problems.networks import initialised, resnet56


def cases(is_quick: bool) -> dict[str, Case]:
    """Networks with samples and candidates; `is_quick`: few of them, to see that all of it runs."""
    images, popsize, batch_size = (16, 2, 16) if is_quick else (10_000, 20, 2_000)
    samples, candidates = (64, 4) if is_quick else (10_000, 1_000)
    perceptron = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    found = {
        "64-64-10": case(perceptron, (64,), samples, samples, candidates),
        "ResNet-56": case(initialised(resnet56, 0), (3, 32, 32), images, batch_size, popsize),
    }
    if not is_quick:
        found["ResNet-18, 3x3 stem"] = resnet18_case(images, popsize)._replace(batch_size=1_000)
    return found


def ceilings(device: torch.device, precision: str, is_quick: bool) -> tuple[float, float]:
    """FLOP/s of a square matrix product in this precision, and bytes/s (read and written) of a copy."""
    side, length = (256, 1 << 16) if is_quick else (8_192, 1 << 28)
    kind = torch.float16 if precision == "float16" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    source, target = (torch.randn(length, device=device) for _ in range(2))
    with computing(precision, device):
        times = in_turn({"product": lambda: a @ b, "copy": lambda: target.copy_(source)}, 7, str(device))
    return 2 * side**3 / float(np.median(times["product"])), 8 * length / float(np.median(times["copy"]))


def flops_and_bytes(network: nn.Module, x: Tensor) -> tuple[float, float]:
    """Of one sample: arithmetic, and bytes of activations if each leaf module's output is written and read once."""
    moved = 0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal moved
        moved += 2 * output.numel() * output.element_size()

    hooks = [m.register_forward_hook(count) for m in network.modules() if not list(m.children())]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    for hook in hooks:
        hook.remove()
    return counter.get_total_flops() / len(x), moved / len(x)


@torch.inference_mode()
def against_loop(of: Case, device: torch.device, precision: str, repeats: int) -> tuple[Times, str]:
    """Seconds of our evaluator and of a loop that writes weights, predicts and judges; and the strategy taken."""
    network, data = of.network.to(device), of.data.to(device)
    layout = ParameterLayout(network)
    reduction = HistogramBlocking(layout.flatten(network), 300, "offset")
    evaluator = NetworkEvaluator(
        network, layout, reduction, [F1()], data, batch_size=of.batch_size, precision=precision
    )
    z = 0.01 * torch.randn(of.popsize, reduction.dim, generator=torch.Generator().manual_seed(1)).to(device)
    judge, parts = F1(), pieces(data.x, of.batch_size)

    def loop() -> None:
        with computing(precision, device):
            for one in z:
                nn.utils.vector_to_parameters(reduction.expand(one), network.parameters())
                float(judge(torch.cat([network(part) for part in parts])[None], data.y)[0])

    works = {"ours": lambda: evaluator(z, slice(0, len(data))).tolist(), "loop": loop}
    times = in_turn(works, repeats, str(device))
    return times, evaluator.choice.name if evaluator.choice else ""


def measure(device: str, is_quick: bool = False) -> list[list[str]]:
    """All networks at all precisions that the device has a use for; a quick look is printed and not kept."""
    place = torch.device(device)
    body: list[list[str]] = []
    kept: list[dict[str, Any]] = []
    for precision in PRECISIONS if place.type == "cuda" else PRECISIONS[:1]:
        limits = ceilings(place, precision, is_quick)
        kept.append({"precision": precision, "product": limits[0], "copy": limits[1]})
        for name, of in cases(is_quick).items():
            work = flops_and_bytes(of.network, of.data.x[:2])
            times, strategy = against_loop(of, place, precision, 2 if is_quick else 5)
            per_second = of.popsize / float(np.median(times["ours"]))
            shares = [100 * len(of.data) * per_second * w / limit for w, limit in zip(work, limits, strict=True)]
            cells = [f"{per_second:.3g}", *(f"{share:.0f} %" for share in shares), str(ratio(times, "loop", "ours"))]
            body.append([f"{name} ({strategy})", precision, *cells])
            kept.append({"network": name, "precision": precision, "seconds": {k: v.tolist() for k, v in times.items()}})
    table = markdown(["network", "precision", "candidates/s", "of product", "of copy", "loop, times of ours"], body)
    if is_quick:
        print(table)
        return body
    card = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    write_json("gpu", {"device": card, "rows": kept})
    publish("gpu", f"{table}\n\nOn: {card}.", f"python -m benchmarks gpu --device {device}")
    return body
