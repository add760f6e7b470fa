"""How does cost grow with candidates, weights, reduced values, samples and classes?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from evotorch import Problem
from torch import nn

from benchmarks import extrapolation
from benchmarks.speed_networks import case
from benchmarks.tables import ROOT, markdown, publish
from benchmarks.timing import Work, in_turn, write_json
from evohbde import HistogramBlocking, ParameterLayout
from evohbde.evaluator import NetworkEvaluator
from evohbde.metrics import confusion_matrix, f1
from evohbde.objectives import F1
from evohbde.searchers import DE

FIT, GENERATION = "fit blocks", "generation of DE, N = 100"


class Curve(NamedTuple):
    """Time of one piece of work at several sizes: N candidates, B samples, D weights, d reduced values, C classes.

    `expected` says in words how it should grow.
    """

    what: str
    size_of: str
    expected: str
    make: Callable[[int], Work]
    sizes: Sequence[int]


def _weights(size: int) -> torch.Tensor:
    return 0.05 * torch.randn(size, generator=torch.Generator().manual_seed(0))


def _fit(num_weights: int, num_bins: int) -> Work:
    weights = _weights(num_weights)
    return lambda: HistogramBlocking(weights, num_bins)


def _unblock(num_weights: int, num_bins: int) -> Work:
    weights = _weights(num_weights)
    blocks = HistogramBlocking(weights, num_bins)
    return lambda: blocks.expand_into(blocks.center, weights)


def _population(popsize: int, num_samples: int) -> Work:
    of = case(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), (64,), num_samples, 4_096, popsize)
    layout = ParameterLayout(of.network)
    reduction = HistogramBlocking(layout.flatten(of.network), 300, "offset")
    evaluator = NetworkEvaluator(of.network, layout, reduction, [F1()], of.data, strategy="batched")
    z = 0.01 * torch.randn(popsize, reduction.dim, generator=torch.Generator().manual_seed(1))
    return lambda: evaluator(z, slice(0, num_samples))


def _generation(dim: int, popsize: int) -> Work:
    problem = Problem("min", lambda x: x[:, 0], solution_length=dim, initial_bounds=(-1, 1), vectorized=True, seed=1)
    searcher = DE(problem, popsize=popsize)
    searcher.step()
    return searcher.step


def _metric(num_classes: int, num_samples: int) -> Work:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num_samples,), generator=generator)
    predicted = torch.randint(num_classes, (100, num_samples), generator=generator)
    return lambda: f1(confusion_matrix(predicted, labels, num_classes))


def curves(is_quick: bool) -> list[Curve]:
    """What is measured; `is_quick`: small sizes, to see that all of it runs."""
    shrink = 100 if is_quick else 1

    def sizes(*full: int) -> list[int]:
        return [size // shrink for size in full]

    weights, samples, dim = 4_000_000 // shrink, 1_800 // shrink, 3_000 // shrink
    bins, of_weights = 10_000 // shrink, sizes(1_000_000, 4_000_000, 16_000_000)
    values, classes = sizes(300, 3_000, 30_000), [2, 10, 50]
    return [
        Curve("score candidates", "N", "linear", lambda n: _population(n, samples), sizes(400, 1_600, 6_400)),
        Curve("generation of DE", "N", "linear", lambda n: _generation(dim, n), sizes(400, 1_600, 6_400)),
        Curve("score 100 candidates", "B", "linear", lambda n: _population(100, n), sizes(2_000, 8_000, 32_000)),
        Curve(FIT, "D", "linear", lambda n: _fit(n, bins), of_weights),
        Curve("write a candidate", "D", "linear", lambda n: _unblock(n, bins), of_weights),
        Curve(f"fit blocks, D = {weights:,}", "d", "flat", lambda n: _fit(weights, n), values),
        Curve(f"write a candidate, D = {weights:,}", "d", "flat", lambda n: _unblock(weights, n), values),
        Curve(GENERATION, "d", "linear", lambda n: _generation(n, 100), sizes(3_000, 10_000, 30_000)),
        Curve("macro-F1 of 100 candidates", "C", "flat", lambda n: _metric(n, 10_000 // shrink), classes),
    ]


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Slope of log time over log size: 1 is linear, 0 is flat."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def measure(repeats: int = 7, is_quick: bool = False) -> None:
    """Time all curves, fit exponents, draw; a quick look is printed and not kept."""
    body: list[list[str]] = []
    kept: list[dict[str, Any]] = []
    for curve in curves(is_quick):
        works = {str(size): curve.make(size) for size in curve.sizes}
        times = in_turn(works, 2 if is_quick else repeats)
        seconds = [float(np.median(times[str(size)])) for size in curve.sizes]
        slope = exponent(curve.sizes, seconds)
        kept.append({**curve._asdict(), "make": None, "seconds": seconds, "exponent": slope})
        spent = ", ".join(f"{1e3 * s:.3g}" for s in seconds)
        at = ", ".join(f"{size:,}" for size in curve.sizes)
        body.append([curve.what, f"{curve.size_of} = {at}", f"{spent} ms", f"{slope:.2f}", curve.expected])
        print(f"{curve.what}: {slope:.2f}", flush=True)
    table = markdown(["what", "sizes", "CPU time", "exponent", "should be"], body)
    if is_quick:
        print(f"{table}\n\n{one_billion(kept)}")
        return
    write_json("growth", {"curves": kept})
    draw(kept)
    publish(
        "growth",
        f"{table}\n\n![Time over size, exponents in the legends](results/growth.png)",
        "python -m benchmarks growth",
    )
    publish("one-billion", one_billion(kept), "python -m benchmarks growth")


def one_billion(found: list[dict[str, Any]]) -> str:
    """The estimate of `benchmarks.extrapolation` from the largest fit and the middle generation of N = 100."""
    fit, generation = (next(one for one in found if one["what"] == what) for what in (FIT, GENERATION))
    return extrapolation.table(fit["seconds"][-1] / fit["sizes"][-1], generation["seconds"][1])


def draw(found: list[dict[str, Any]]) -> None:
    """One panel per size, log over log, into `docs/results/growth.png`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, NullFormatter

    from evohbde.plots import BLUE, GREEN, ORANGE

    names = list(dict.fromkeys(one["size_of"] for one in found))
    figure = Figure(figsize=(2.8 * len(names), 3.2), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        curves_of = [one for one in found if one["size_of"] == name]
        for one, colour in zip(curves_of, (BLUE, ORANGE, GREEN), strict=False):
            label = f"{one['what']}: {one['exponent']:.2f}"
            panel.loglog(one["sizes"], one["seconds"], "o-", color=colour, label=label)
        panel.set_xticks(sorted({size for one in curves_of for size in one["sizes"][:: len(one["sizes"]) - 1]}))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel(name)
        panel.legend(fontsize=6)
    figure.supylabel("CPU seconds")
    figure.savefig(ROOT / "docs" / "results" / "growth.png", dpi=80)
