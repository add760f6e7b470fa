"""How fast and how large is a network really, on this machine?"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.pruning.cost import NetworkObjective, multiply_adds, num_parameters
from evohbde.rundir import save_network


class Timing(NamedTuple):
    """Seconds, or a ratio of them, over repeats: the median and the quartiles around it."""

    median: float
    lower: float
    upper: float

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.upper - self.lower) / self.median


class Footprint(NamedTuple):
    """What a network takes up.

    Attributes:
        parameters: How many numbers it has learnt.
        multiply_adds: Of one sample, see `evohbde.pruning.cost.weight_uses`.
        num_bytes: Size of its state dict as a safetensors file.
        latency: Seconds per batch.
    """

    parameters: int
    multiply_adds: int
    num_bytes: int
    latency: Timing


def measure(
    networks: Sequence[nn.Module], data: TensorData, *, batch_size: int = 100, num_repeats: int = 20
) -> list[Footprint]:
    """Measure networks side by side: one `Footprint` each. Nothing is counted as saved that is not.

    Args:
        networks: The networks to compare; their repeats take turns, so that a busy machine slows all of them alike.
        data: Where the batch comes from, its first samples.
        batch_size: Samples in it.
        num_repeats: Timed passes per network, at least 2.
    """
    x = data.x[:batch_size]
    times = time_networks(networks, x, num_repeats=num_repeats)
    return [
        Footprint(num_parameters(network), multiply_adds(network, x[:1]), _num_bytes(network), _quartiles(row))
        for network, row in zip(networks, times, strict=True)
    ]


@torch.inference_mode()
def time_networks(
    networks: Sequence[nn.Module], x: Tensor, *, num_repeats: int = 20, num_warmups: int = 3
) -> np.ndarray:
    """Seconds of a forward pass on this machine, in evaluation mode: `(networks, num_repeats)`.

    Every network runs once per repeat, so that two times of one column saw the same machine; each repeat starts with
    the next network, as whoever runs first finds other things in the cache.

    Args:
        networks: Networks for the same inputs, each on the device of `x`.
        x: One batch, `(B, ...)`.
        num_repeats: Timed passes per network, at least 2.
        num_warmups: Passes before the first timed one.
    """
    if num_repeats < 2:
        raise ValueError(f"`num_repeats` must be at least 2, as one time has no spread, got {num_repeats}")
    if num_warmups < 0:
        raise ValueError(f"`num_warmups` must be at least 0, got {num_warmups}")
    modes = [(module, module.training) for network in networks for module in network.modules()]
    times = np.empty((num_repeats, len(networks)))
    try:
        for network in networks:
            network.eval()
        for repeat in range(-num_warmups, num_repeats):
            for turn in range(len(networks)):
                i = (repeat + turn) % len(networks)
                seconds = _seconds(networks[i], x)
                if repeat >= 0:
                    times[repeat, i] = seconds
    finally:
        for module, training in modes:
            module.training = training
    return times.T


class Latency(NetworkObjective):
    """Time of a forward pass on this machine, as a share of the full network's.

    The median over repeats in which both networks take turns. `noise` says how sure it is: the full network against a
    copy of itself, where only chance differs. Two candidates closer than that are equal.

    Args:
        model: The full network; copied.
        x: Samples, `(n, ...)`; the first `batch_size` of them are the batch.
        batch_size: Samples in the batch; 1 where single answers count.
        num_repeats: Timed passes per candidate, at least 2.
        num_warmups: Passes before the first timed one.

    Attributes:
        noise: `Timing` of the full network against itself: median near 1, and its quartiles.
    """

    name = "latency"

    def __init__(
        self, model: nn.Module, x: Tensor, *, batch_size: int = 100, num_repeats: int = 20, num_warmups: int = 3
    ) -> None:
        self._model, self._x = deepcopy(model).eval(), x[:batch_size]
        self._num_repeats, self._num_warmups = num_repeats, num_warmups
        self.noise = self.timing(deepcopy(model))

    def timing(self, network: nn.Module) -> Timing:
        """Time of `network` as a share of the full network's: median and quartiles over repeats."""
        own, full = time_networks(
            [network, self._model], self._x, num_repeats=self._num_repeats, num_warmups=self._num_warmups
        )
        return _quartiles(own / full)

    def __call__(self, network: nn.Module) -> float:
        return self.timing(network).median


def _seconds(network: nn.Module, x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = perf_counter()
    network(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return perf_counter() - start


def _quartiles(times: np.ndarray) -> Timing:
    lower, median, upper = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return Timing(median, lower, upper)


def _num_bytes(network: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_network(network, path)
        return path.stat().st_size
