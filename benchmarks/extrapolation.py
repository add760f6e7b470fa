"""What would a generation cost for a network of 1,000,000,000 weights on 8 cards?

Nothing here was run at that size: bytes and operations are counted, constants of this package are measured on small
problems by `benchmarks.growth`, and the rates of a card are those in `CARD`.
"""

from __future__ import annotations

import pickle
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.tables import markdown
from evohbde import HistogramBlocking, NetworkProblem, TensorData


class Card(NamedTuple):
    """Bytes/s (read and written) of a copy, FLOP/s of a large TF32 product, and the share of it that networks reach."""

    copy: float
    product: float
    share: float


CARD = Card(copy=4.3e12, product=394e12, share=0.55)
"""One H200-class card on paper: half of 788 TFLOP/s in bfloat16. To be replaced by what `benchmarks gpu` measures."""

WEIGHTS, CARDS, POPSIZE, DIM = 10**9, 8, 104, 10_000
SAMPLES, TOKENS = 1_000, 128


def pickled_bytes_per_weight(width: int = 700) -> float:
    """What EvoTorch sends to every actor once, per weight, counted on a perceptron: `width`^2 weights and more."""
    network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    data = TensorData(torch.zeros(10, width), torch.arange(10))
    problem = NetworkProblem(network, data, reduction=lambda theta: HistogramBlocking(theta, 300))
    return len(pickle.dumps(problem)) / problem.reduction.full_dim


def table(fit_per_weight: float, generation: float) -> str:
    """The estimate.

    Args:
        fit_per_weight: Seconds of a fit of blocks on one CPU core, per weight.
        generation: Seconds of a generation of the searcher itself, at about this popsize and number of values.
    """
    sent = pickled_bytes_per_weight()
    write = 8.0 * WEIGHTS  # int32 index read, float32 weight written
    forward = 2.0 * WEIGHTS * SAMPLES * TOKENS
    rounds = -(-POPSIZE // CARDS)
    writing, running = write / CARD.copy, forward / (CARD.product * CARD.share)
    values = 4 * POPSIZE * DIM
    rows = [
        ["fit blocks, once, one core", f"{fit_per_weight * 1e9:.2f} ns per weight", _time(fit_per_weight * WEIGHTS)],
        ["send the problem to an actor, once", f"{sent:.1f} bytes per weight", f"{sent * WEIGHTS / 1e9:.0f} GB"],
        ["memory of a card", "16 bytes per weight", f"{16 * WEIGHTS / 1e9:.0f} GB and activations"],
        ["write a candidate", "8 bytes per weight", _time(writing)],
        [f"forward of {SAMPLES:,} x {TOKENS} tokens", f"{forward:.2g} FLOP", _time(running)],
        [f"searcher, N = {POPSIZE}, d = {DIM:,}", "measured", _time(generation)],
        ["candidates to all cards", f"{values / 1e6:.1f} MB per generation", "one way"],
        [
            f"a generation on {CARDS} cards",
            f"{rounds} candidates each",
            _time(rounds * (writing + running) + generation),
        ],
    ]
    return markdown(["1,000,000,000 weights", "counted or measured", "estimate"], rows)


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds >= 1 else f"{1e3 * seconds:.2g} ms"
