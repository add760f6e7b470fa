"""What does a candidate network cost beside plain forward passes of one fixed network, and beside others' ways?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from evotorch import SolutionBatch
from evotorch.neuroevolution import SupervisedNE
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Row, Times, Work, in_turn, ratio, row
from evohbde import HistogramBlocking, ParameterLayout, TensorData
from evohbde.evaluator import NetworkEvaluator
from evohbde.objectives import F1
from evohbde.stages import pieces
from evohbde.strategies.onednn import product
from problems.networks import initialised, resnet18, resnet20

PRODUCT = 1_024
"""Rows and columns of the matrices whose product is the limit of convolutions; both are computed by oneDNN."""


class Case(NamedTuple):
    """A network, samples, how many of them pass through it at once (None: the evaluator's choice), and candidates."""

    network: nn.Module
    data: TensorData
    batch_size: int | None
    popsize: int


def case(network: nn.Module, shape: tuple[int, ...], num_samples: int, batch_size: int | None, popsize: int) -> Case:
    """Random samples of 10 classes: time does not depend on what they show."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_samples, *shape, generator=generator)
    y = torch.randint(10, (num_samples,), generator=generator)
    y[:10] = torch.arange(10)
    return Case(network.eval(), TensorData(x, y), batch_size, popsize)


def resnet20_case(num_images: int, popsize: int) -> Case:
    return case(initialised(resnet20, 0), (3, 32, 32), num_images, None, popsize)


def resnet18_case(num_images: int, popsize: int) -> Case:
    """ResNet-18 with the stem for 32x32 images: a 3x3 convolution and no pooling."""
    network = initialised(resnet18, 0)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return case(network, (3, 32, 32), num_images, None, popsize)


def digits_case(num_samples: int, popsize: int) -> Case:
    """64-64-10."""
    network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    return case(network, (64,), num_samples, num_samples, popsize)


class Ways(NamedTuple):
    """The same candidates in several ways, and ours once more."""

    works: dict[str, Work]
    ours: NetworkEvaluator
    z: Tensor


def ways(of: Case, num_bins: int = 300) -> Ways:
    """A plain forward loop, our evaluator, and what others do; each scores `popsize` candidates on all samples."""
    network, data = of.network, of.data
    layout = ParameterLayout(network)
    theta0 = layout.flatten(network)
    reduction = HistogramBlocking(theta0, num_bins, "offset")
    evaluator = NetworkEvaluator(network, layout, reduction, [F1()], data, batch_size=of.batch_size)
    generator = torch.Generator().manual_seed(1)
    z = 0.01 * torch.randn(of.popsize, reduction.dim, generator=generator)
    size = evaluator.engine.batch_size
    thetas, parts, span = reduction.expand(z), pieces(data.x, size), slice(0, len(data))

    def plain() -> None:
        for _ in range(of.popsize):
            torch.cat([network(part) for part in parts]).argmax(-1)

    def at_once() -> None:
        for _ in range(of.popsize):
            network(data.x).argmax(-1)

    def call() -> None:
        for theta in thetas:
            views = layout.views(theta)
            torch.cat([functional_call(network, views, (part,)) for part in parts]).argmax(-1)

    def mapped() -> None:
        run = vmap(lambda views, part: functional_call(network, views, (part,)), in_dims=(0, None))
        for some in thetas.split(10):
            views = layout.views(some)
            torch.cat([run(views, part) for part in parts], 1).argmax(-1)

    works: dict[str, Work] = {
        "plain": plain,
        "all at once": at_once,
        "ours": lambda: evaluator(z, span),
        "functional_call": call,
        "vmap": mapped,
        "SupervisedNE": supervised_ne(of, thetas, size),
    }
    return Ways(works, evaluator, z)


def supervised_ne(of: Case, thetas: Tensor, size: int) -> Work:
    """EvoTorch's own problem on the same samples, `size` at once, and candidates; its network is in evaluation mode."""
    num_minibatches = -(-len(of.data) // size)
    problem = SupervisedNE(
        TensorDataset(of.data.x, of.data.y),
        of.network,
        nn.CrossEntropyLoss(),
        minibatch_size=size,
        num_minibatches=num_minibatches,
        num_actors=0,
    )
    batch = SolutionBatch(problem, popsize=len(thetas), empty=True)

    def work() -> None:
        batch.set_values(thetas)
        problem.evaluate(batch)

    return work


@torch.inference_mode()
def overhead(found: Ways, repeats: int) -> tuple[Times, float]:
    """What a candidate costs besides forward passes: writing it, folding, judging; and candidates per piece of work."""
    engine, ours = found.ours.engine, found.ours
    strategy, _ = engine.start(ours.data.x)
    labels, group = ours.data.y, found.z[: strategy.group]
    logits = torch.randn(len(found.z), len(labels), 10)
    judge = F1()
    works: dict[str, Work] = {
        "load": lambda: [strategy.load(group) for _ in range(len(found.z))],
        "judge": lambda: judge(logits, labels),
        "ours": found.works["ours"],
    }
    return in_turn(works, repeats), len(group)


def multiply_adds(of: Case) -> int:
    """Of a plain forward pass of all samples."""
    with FlopCounterMode(display=False) as counter:
        of.network(of.data.x[:16])
    return counter.get_total_flops() // 2 * len(of.data) // 16


def measure_convolutions(name: str, of: Case, repeats: int) -> tuple[list[Row], Times]:
    """One candidate against a plain forward pass, and against others' ways."""
    found = ways(of)
    with torch.inference_mode():
        x, flops = torch.randn(PRODUCT, PRODUCT), multiply_adds(of) * of.popsize
        times = in_turn({**found.works, "product": lambda: product(x, x)}, repeats)
    rate = ratio({"a": times["product"] * flops / PRODUCT**3, "b": times["plain"]}, "a", "b", 100)
    own, group = overhead(found, repeats)
    share = (own["load"] / group + own["judge"]) / own["ours"]
    choice = found.ours.choice.name if found.ours.choice else ""
    rows = [
        row(f"{name}: candidate ({choice})", ratio(times, "ours", "plain"), "plain forwards", "<= 0.8"),
        row(f"{name}: loading, folding, judging", ratio({"a": share, "b": share**0}, "a", "b", 100), "% of it", "<= 2"),
        row(f"{name}: plain forwards", rate, "% of the rate of a matrix product"),
        row(f"{name}: plain forwards, all images at once", ratio(times, "all at once", "plain"), "plain forwards"),
    ]
    others = ("functional_call", "vmap", "SupervisedNE")
    return rows + [
        row(f"{name}: {other}", ratio(times, other, "ours"), "candidates of ours") for other in others
    ], times


def measure_digits(
    num_samples: int, popsize: int, repeats: int, targets: tuple[str, str], generations: int = 1
) -> tuple[list[Row], Times]:
    """The perceptron; `targets` for candidates against plain forwards, and for SupervisedNE against candidates.

    A turn is so many generations in a row: short ones find the caches as the others left them, which no search does.
    """
    found = ways(digits_case(num_samples, popsize))
    works = {name: lambda work=work: [work() for _ in range(generations)] for name, work in found.works.items()}
    with torch.inference_mode():
        times = in_turn(works, repeats)
    choice = found.ours.choice.name if found.ours.choice else ""
    name = f"64-64-10, {num_samples:,} samples"
    rows = [
        row(f"{name}: candidate ({choice})", ratio(times, "ours", "plain"), "plain forwards", targets[0]),
        row(f"{name}: SupervisedNE", ratio(times, "SupervisedNE", "ours"), "candidates of ours", targets[1]),
    ]
    others = ("functional_call", "vmap")
    return rows + [
        row(f"{name}: {other}", ratio(times, other, "ours"), "candidates of ours") for other in others
    ], times
