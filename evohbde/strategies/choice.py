"""Which strategy is the fastest here that computes the same?

Every other strategy first proves on a probe batch that its outputs are those of `Views`, then has to be faster by a
clear margin in interleaved runs. The times are kept per network, samples and device, so that equal problems of one
process are evaluated alike; `Choice` is what a record needs to repeat it elsewhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from evohbde.reductions import Reduction
from evohbde.stages import PROBE_SAMPLES, pieces
from evohbde.strategies.batched import Batched, group_bytes
from evohbde.strategies.folded import Folded
from evohbde.strategies.graphs import Graphs
from evohbde.strategies.onednn import OneDNN
from evohbde.strategies.precision import computing
from evohbde.strategies.views import Strategy, Views, Working
from evohbde.strategies.vmapped import MOST_SAMPLES, Vmapped

NAMES = ("auto", "views", "folded", "onednn", "batched", "vmap", "graphs")

TOLERANCE = 1e-3
"""Largest accepted deviation of an output, as a share of the largest output of the same candidate."""

ADVANTAGE = 0.95
"""A strategy is preferred to `Views` if it takes at most this share of its time; so much that two runs choose alike."""

ROUNDS = 3
SECONDS_PER_RUN = 0.15
SHORTEST_RUN = 0.01

_known: dict[str, dict[str, float]] = {}


@dataclass(frozen=True)
class Choice:
    """The strategy taken, and why.

    Attributes:
        name: Its name.
        ratios: Time per candidate of each measured strategy as a share of `Views`'.
        deviations: Largest deviation of an output from `Views`' in float32, as a share of the largest output: of each
            proved strategy, and under its own name of the precision taken, if that is not `"float32"`.
        score_deviations: Largest deviation of a score by that precision from the score in float32, by objective, over
            a few candidates; empty in float32.
        signature: What was measured, hashed: problems of equal signature take the same strategy.
    """

    name: str
    ratios: dict[str, float] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)
    score_deviations: dict[str, float] = field(default_factory=dict)
    signature: str = ""


def recall_choice(choice: Choice) -> Choice:
    """Let problems that equal the one of this choice, which another process made, be evaluated alike; returns it."""
    if choice.signature:
        _known[choice.signature] = dict(choice.ratios)
    return choice


def check_strategy(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"`strategy` must be one of {', '.join(NAMES)}, got {name!r}")


def build(name: str, working: Working, reduction: Reduction) -> Iterator[Strategy]:
    """The strategies of this name, best first; none where it cannot run this network. Each has memory of its own."""
    if name == "views":
        yield Views(working, reduction)
    elif name == "folded":
        # A network that calls `view` needs the memory format that it was written for.
        for memory_format in (torch.channels_last, torch.contiguous_format):
            if (folded := Folded.build(working, reduction, memory_format)) is not None:
                yield folded
    elif name == "onednn":
        if (onednn := OneDNN.build(working, reduction)) is not None:
            yield onednn
    elif name == "batched":
        if (batched := Batched.build(working, reduction)) is not None:
            yield batched
    elif name == "vmap":
        yield Vmapped(working, reduction)
    elif name == "graphs" and working.theta.device.type == "cuda":
        for other in ("folded", "views"):
            yield from map(Graphs, build(other, working, reduction))


def choose(
    name: str,
    working: Working,
    reduction: Reduction,
    batch_size: int,
    z: Tensor,
    features: Tensor,
    precision: str = "float32",
) -> tuple[Strategy, Choice]:
    """The strategy asked for, or for `"auto"` the fastest one.

    Args:
        name: One of `NAMES`.
        working: The network.
        reduction: Expands candidates.
        batch_size: Samples per forward pass.
        z: Some candidates, `(p, d)`, to measure with.
        features: What a generation passes through the searched part, `(B, ...)`.
        precision: One of `evohbde.strategies.precision.PRECISIONS`.

    Raises:
        ValueError: If a strategy or a precision is asked for by name that this network cannot be run with.
    """
    check_strategy(name)
    probe = features[:PROBE_SAMPLES]
    views = Views(working, reduction)
    proved: dict[str, Strategy] = {"views": views}
    deviations = {} if precision == "float32" else {precision: _rounding(precision, views, probe)}
    for other in _worth_trying(working, features) if name == "auto" else {name} - {"views"}:
        strategy, deviation = _prove(other, views, probe)
        if strategy is not None:
            strategy.compute_in(precision)
            proved[other], deviations[other] = strategy, deviation
        elif name != "auto":
            raise ValueError(f"`strategy` {name!r} cannot run this network: {_reason(name, deviation)}; use 'auto'")
    if name != "auto":
        return proved[name], Choice(name, deviations=deviations)
    signature = _signature(views, batch_size, features, precision, list(proved)) if len(proved) > 1 else ""
    ratios = _ratios(proved, batch_size, z, features, precision, signature) if signature else {"views": 1.0}
    best = min(ratios, key=lambda other: ratios[other])
    best = best if ratios[best] <= ADVANTAGE else "views"
    return proved[best], Choice(best, ratios, deviations, signature=signature)


def _worth_trying(working: Working, features: Tensor) -> list[str]:
    """All but `vmap` where it has never been faster: many samples, or weights of which only one candidate fits."""
    weight_bytes = working.theta.numel() * working.theta.element_size()
    is_small = len(features) <= MOST_SAMPLES and 2 * weight_bytes <= group_bytes(working.theta.device)
    return [name for name in NAMES[2:] if name != "vmap" or is_small]


def _prove(name: str, views: Views, probe: Tensor) -> tuple[Strategy | None, float]:
    """The first strategy of this name that computes what `views` does, and its deviation."""
    deviation = float("inf")
    for strategy in build(name, views.working, views.reduction):
        deviation = deviation_of(strategy, views, probe)
        if deviation <= TOLERANCE:
            return strategy, deviation
    return None, deviation


def _reason(name: str, deviation: float) -> str:
    if deviation < float("inf"):
        return f"its outputs differ by {deviation:.1e} of the largest one"
    return {
        "folded": "it needs convolutions and a forward method that torch.fx can trace",
        "onednn": "it needs oneDNN, linear layers, no convolutions, and a forward method that torch.fx can trace",
        "batched": "it needs a chain of nn.Linear and elementwise modules",
        "graphs": "it needs a CUDA device and a network that never waits for it",
    }.get(name, "torch.func.vmap fails on it")


def _signature(views: Views, batch_size: int, features: Tensor, precision: str, names: list[str]) -> str:
    network = [(type(module), module.extra_repr()) for part in views.working.tail for module in part.modules()]
    reduction = type(views.reduction), views.reduction.dim
    samples = tuple(features.shape), features.dtype, features.device, batch_size
    all_of_it = repr((network, reduction, samples, torch.get_num_threads(), precision, names))
    return blake2b(all_of_it.encode(), digest_size=16).hexdigest()


FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError)
"""What a network may raise that is run in a way it was not written for."""


@torch.inference_mode()
def deviation_of(strategy: Strategy, views: Views, probe: Tensor) -> float:
    """Largest difference of outputs on a probe batch, as a share of the largest output; infinite if it fails.

    Two candidates are loaded one after the other, so that what does not follow the weights is found out.
    """
    worst = 0.0
    with computing("float32", probe.device):
        for z in _two_candidates(strategy.reduction):
            views.load(z)
            expected = views.run(probe).clone()
            try:
                strategy.fit(len(probe))
                strategy.load(z)
                found = strategy.run(strategy.prepare(probe))
            except FAILURES:
                return float("inf")
            worst = max(worst, _deviation(found, expected))
    return worst


def _deviation(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((found - expected).abs().max() / scale)


def _two_candidates(reduction: Reduction) -> list[Tensor]:
    """The network as given, and one with other weights."""
    center = reduction.center[None]
    moved = center + 0.01 * center.abs().mean().clamp(min=1e-3)
    if torch.equal(reduction.expand(moved), reduction.expand(center)):  # decisions move by steps
        moved = (reduction.lower + reduction.upper)[None] - center
    return [center, moved]


@torch.inference_mode()
def _rounding(precision: str, views: Views, probe: Tensor) -> float:
    """By how much this precision changes the outputs of the network as given."""
    views.load(views.reduction.center[None])
    with computing("float32", probe.device):
        expected = views.run(probe).clone()
    try:
        with computing(precision, probe.device):
            found = views.run(probe)
    except FAILURES as error:
        raise ValueError(
            f"`precision` {precision!r} cannot run this network on {probe.device.type!r}: {error}; use 'float32'"
        ) from error
    deviation = _deviation(found.to(expected.dtype), expected)
    if deviation == float("inf"):
        raise ValueError(f"`precision` {precision!r} overflows in this network: scale its inputs, or use 'float32'")
    return deviation


def _ratios(
    strategies: dict[str, Strategy], batch_size: int, z: Tensor, features: Tensor, precision: str, signature: str
) -> dict[str, float]:
    """Time per candidate of each strategy as a share of that of `Views`."""
    if signature not in _known:
        with computing(precision, features.device):
            times = _times(list(strategies.values()), batch_size, z, features)
        _known[signature] = {name: seconds / times["views"] for name, seconds in times.items()}
    return dict(_known[signature])


@torch.inference_mode()
def _times(strategies: list[Strategy], batch_size: int, z: Tensor, features: Tensor) -> dict[str, float]:
    """Seconds per candidate of each strategy, the least of `ROUNDS` turns, on one piece of samples if they are many.

    What else the machine does can only add to a time, so that the least is what two runs agree on. A candidate is
    loaded once for all pieces, so that one piece tells what they take together only if loading is timed apart.
    """
    parts = pieces(features, batch_size)
    num_parts = len(parts)
    first = _seconds(strategies[0], z, parts[:1], 1)
    if first * num_parts > SECONDS_PER_RUN:
        parts = parts[:1]
    repeats = max(1, int(SHORTEST_RUN / (first * len(parts))))
    for strategy in strategies:
        strategy.fit(len(parts[0]))
    prepared = {strategy.name: [strategy.prepare(part) for part in parts] for strategy in strategies}
    times: dict[str, list[float]] = {strategy.name: [] for strategy in strategies}
    for _ in range(ROUNDS + 1):  # the first one warms up
        for strategy in strategies:
            seconds = _seconds(strategy, z, prepared[strategy.name], repeats)
            if len(parts) < num_parts:
                loading = _seconds(strategy, z, [], repeats)
                seconds = loading + num_parts * max(0.0, seconds - loading)
            times[strategy.name].append(seconds)
    return {name: min(found[1:]) for name, found in times.items()}


def _seconds(strategy: Strategy, z: Tensor, parts: list[Tensor], repeats: int) -> float:
    """Seconds per candidate for at least `repeats` of them on these pieces of samples."""
    group = z[: strategy.group]
    rounds = -(-repeats // len(group))
    # One thread's own time leaves out that a process was stopped, or that another one had the core. Windows counts it
    # in steps of 16 ms, which is longer than a run.
    is_alone = z.device.type == "cpu" and torch.get_num_threads() == 1 and os.name != "nt"
    clock = time.thread_time if is_alone else time.perf_counter
    _wait(z)
    start = clock()
    for _ in range(rounds):
        strategy.load(group)
        for part in parts:
            strategy.run(part)
    _wait(z)
    return (clock() - start) / (rounds * len(group))


def _wait(z: Tensor) -> None:
    if z.device.type == "cuda":
        torch.cuda.synchronize(z.device)
