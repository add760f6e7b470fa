"""Which strategy is the fastest here that computes the same?

Every other strategy first proves on a probe batch that its outputs are those of `Views`, then has to be faster by a
clear margin in interleaved runs. The answer is kept per network, samples and device, so that equal problems of one
process are evaluated alike; `Choice` is what a record needs to repeat it elsewhere.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from evohbde.reductions import Reduction
from evohbde.stages import PROBE_SAMPLES, pieces
from evohbde.strategies.batched import Batched
from evohbde.strategies.folded import Folded
from evohbde.strategies.views import Strategy, Views, Working
from evohbde.strategies.vmapped import MOST_SAMPLES, Vmapped

NAMES = ("auto", "views", "folded", "batched", "vmap")

TOLERANCE = 1e-3
"""Largest accepted deviation of an output, as a share of the largest output of the same candidate."""

ADVANTAGE = 0.97
"""A strategy is preferred to `Views` if it takes at most this share of its time."""

ROUNDS = 3
SECONDS_PER_RUN = 0.15
SHORTEST_RUN = 0.01

_known: dict[tuple[object, ...], Choice] = {}


@dataclass(frozen=True)
class Choice:
    """The strategy taken, and why.

    Attributes:
        name: Its name.
        ratios: Time per candidate of each measured strategy as a share of `Views`'.
        deviations: Largest deviation of an output from `Views`', as a share of the largest output, of each proved one.
    """

    name: str
    ratios: dict[str, float] = field(default_factory=dict)
    deviations: dict[str, float] = field(default_factory=dict)


def check_strategy(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"`strategy` must be one of {', '.join(NAMES)}, got {name!r}")


def build(name: str, working: Working, reduction: Reduction) -> Strategy | None:
    """The strategy of this name, or None where it cannot run this network."""
    if name == "folded":
        return Folded.build(working, reduction)
    if name == "batched":
        return Batched.build(working, reduction)
    if name == "vmap":
        return Vmapped(working, reduction)
    return Views(working, reduction)


def choose(
    name: str, working: Working, reduction: Reduction, batch_size: int, z: Tensor, features: Tensor
) -> tuple[Strategy, Choice]:
    """The strategy asked for, or for `"auto"` the fastest one.

    Args:
        name: One of `NAMES`.
        working: The network.
        reduction: Expands candidates.
        batch_size: Samples per forward pass.
        z: Some candidates, `(p, d)`, to prove and measure with.
        features: What a generation passes through the searched part, `(B, ...)`.

    Raises:
        ValueError: If a strategy is asked for by name that this network cannot be run with.
    """
    check_strategy(name)
    views = Views(working, reduction)
    if name == "views":
        return views, Choice("views")
    if name != "auto":
        strategy = build(name, working, reduction)
        deviation = float("inf") if strategy is None else deviation_of(strategy, views, z, features)
        if strategy is None or deviation > TOLERANCE:
            raise ValueError(f"`strategy` {name!r} cannot run this network: {_reason(name, deviation)}; use 'auto'")
        return strategy, Choice(name, deviations={name: deviation})
    signature = _signature(working, reduction, batch_size, features)
    if signature not in _known:
        _known[signature] = _measure(views, batch_size, z, features)
    choice = _known[signature]
    return build(choice.name, working, reduction) or views, choice


def _reason(name: str, deviation: float) -> str:
    if deviation < float("inf"):
        return f"its outputs differ by {deviation:.1e} of the largest one"
    return {
        "folded": "it needs convolutions and a forward method that torch.fx can trace",
        "batched": "it needs a chain of nn.Linear and elementwise modules",
    }.get(name, "torch.func.vmap fails on it")


def _signature(working: Working, reduction: Reduction, batch_size: int, features: Tensor) -> tuple[object, ...]:
    network = tuple((type(module).__name__, module.extra_repr()) for part in working.tail for module in part.modules())
    samples = (tuple(features.shape), features.dtype, features.device, batch_size)
    return network, type(reduction).__name__, reduction.dim, samples, torch.get_num_threads()


@torch.inference_mode()
def deviation_of(strategy: Strategy, views: Views, z: Tensor, features: Tensor) -> float:
    """Largest difference of outputs on a probe batch, as a share of the largest output; infinite if it fails.

    Two candidates are loaded one after the other, so that what does not follow the weights is found out.
    """
    probe = features[:PROBE_SAMPLES]
    strategy.fit(len(probe))
    worst = 0.0
    try:
        for one in (z[:1], _moved(z[:1]), z[-1:]):
            views.load(one)
            expected = views.run(probe).clone()
            strategy.load(one)
            found = strategy.run(strategy.prepare(probe))
            if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
                return float("inf")
            scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
            worst = max(worst, float((found - expected).abs().max() / scale))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, NotImplementedError):
        return float("inf")
    return worst


def _moved(z: Tensor) -> Tensor:
    return z + 0.01 * z.abs().mean().clamp(min=1e-3)


def _measure(views: Views, batch_size: int, z: Tensor, features: Tensor) -> Choice:
    strategies: list[Strategy] = [views]
    deviations = {}
    for name in NAMES[2:]:
        if name == "vmap" and len(features) > MOST_SAMPLES:
            continue
        strategy = build(name, views.working, views.reduction)
        if strategy is None:
            continue
        deviation = deviation_of(strategy, views, z, features)
        if deviation <= TOLERANCE:
            deviations[name] = deviation
            strategies.append(strategy)
    if len(strategies) == 1:
        return Choice("views")
    times = _times(strategies, batch_size, z, features)
    ratios = {
        strategy.name: median(other / base for other, base in zip(times[strategy.name], times["views"], strict=True))
        for strategy in strategies
    }
    best = min(ratios, key=lambda name: ratios[name])
    return Choice(best if ratios[best] <= ADVANTAGE else "views", ratios, deviations)


@torch.inference_mode()
def _times(strategies: list[Strategy], batch_size: int, z: Tensor, features: Tensor) -> dict[str, list[float]]:
    """Seconds per candidate of each strategy, `ROUNDS` times in turn, on as many samples as a short look allows."""
    parts = pieces(features, batch_size)
    first = _seconds(strategies[0], z, parts[:1], 1)
    if first * len(parts) > SECONDS_PER_RUN:
        parts = parts[:1]
    repeats = max(1, int(SHORTEST_RUN / (first * len(parts))))
    for strategy in strategies:
        strategy.fit(len(parts[0]))
    prepared = {strategy.name: [strategy.prepare(part) for part in parts] for strategy in strategies}
    times: dict[str, list[float]] = {strategy.name: [] for strategy in strategies}
    for _ in range(ROUNDS + 1):  # the first one warms up
        for strategy in strategies:
            times[strategy.name].append(_seconds(strategy, z, prepared[strategy.name], repeats))
    return {name: found[1:] for name, found in times.items()}


def _seconds(strategy: Strategy, z: Tensor, parts: list[Tensor], repeats: int) -> float:
    """Seconds per candidate for at least `repeats` of them on these pieces of samples."""
    group = z[: strategy.group]
    rounds = -(-repeats // len(group))
    _wait(parts[0])
    start = time.perf_counter()
    for _ in range(rounds):
        strategy.load(group)
        for part in parts:
            strategy.run(part)
    _wait(parts[0])
    return (time.perf_counter() - start) / (rounds * len(group))


def _wait(features: Tensor) -> None:
    if features.device.type == "cuda":
        torch.cuda.synchronize(features.device)
