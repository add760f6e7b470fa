"""Where do one network, its kept activations and the strategy that runs it live together?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.reductions import Reduction
from evohbde.stages import PrefixCache, pieces
from evohbde.strategies import Choice, Strategy, Working, choose

SMALLEST_BATCH = 16
"""Smaller batches take other kernels, whose results differ in the last bits."""


class Engine:
    """Runs candidates of one problem and counts what they cost.

    Attributes:
        working: The network that candidates are written into.
        cache: Activations in front of the first searched weight.
        strategy: How candidates are run; None before `choose`.
        choice: Why; None before `choose`.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        reduction: Reduction,
        data: TensorData,
        *,
        batch_size: int,
        stage_names: tuple[str, ...] | None,
        cache_bytes: int,
    ) -> None:
        self.reduction, self.batch_size = reduction, batch_size
        self.working = working = Working(model, layout, data.x, stage_names)
        self.cache = PrefixCache(data, working.stages, working.depth, batch_size, cache_bytes)
        self.strategy: Strategy | None = None
        self.choice: Choice | None = None
        self._tail_samples = 0
        self._is_invariant: bool | None = None
        self._room: Tensor | None = None

    @property
    def num_samples_seen(self) -> float:
        share = self.working.prefix_share
        return self.cache.num_computed * share + self._tail_samples * (1.0 - share)

    def choose(self, name: str, z: Tensor, features: Tensor) -> Choice:
        """Take the strategy of this name, once."""
        if self.strategy is None or self.choice is None:
            self.strategy, self.choice = choose(name, self.working, self.reduction, self.batch_size, z, features)
        return self.choice

    def start(self, features: Tensor) -> tuple[Strategy, Tensor]:
        """The strategy, set up for these samples, and the samples in the memory layout that it likes best."""
        assert self.strategy is not None
        self.strategy.fit(min(len(features), self.batch_size))
        return self.strategy, self.strategy.prepare(features)

    def room(self, num_candidates: int, num_samples: int) -> Tensor:
        """Room for the outputs of a population, `(N, B, C)`; the same memory again wherever the shape allows."""
        shape = (num_candidates, num_samples, self.working.num_outputs)
        if self._room is None or self._room.shape != shape:
            self._room = self.working.theta.new_empty(shape)
        return self._room

    def forward(self, features: Tensor, out: Tensor) -> None:
        """Write the outputs of the loaded candidates on all samples, `(B, ...)`, into `out`, `(p, B, C)`."""
        start = 0
        for piece in pieces(features, self.batch_size):
            out[:, start : start + len(piece)] = self.run(piece)
            start += len(piece)

    def run(self, piece: Tensor) -> Tensor:
        """Outputs on one piece of samples; out of memory halves it, and all later ones."""
        assert self.strategy is not None
        try:
            outputs = self.strategy.run(piece)
        except RuntimeError as error:
            half = len(piece) // 2
            if not _is_out_of_memory(error) or half < SMALLEST_BATCH:
                raise
            self.batch_size = min(self.batch_size, half)
        else:
            self._tail_samples += len(piece) * len(outputs)
            return outputs
        return torch.cat([self.run(piece[:half]), self.run(piece[half:])], dim=1)

    def is_invariant(self, z: Tensor, features: Tensor) -> bool:
        """Whether a sample's outputs are the same bits whatever its batch and place; tried once, on two batches."""
        if self._is_invariant is None:
            strategy, some = self.start(features[: 2 * self.batch_size])
            strategy.load(z[:1])
            order = torch.arange(len(some) - 1, -1, -1, device=some.device)
            straight = [strategy.run(piece) for piece in pieces(some, self.batch_size)]
            turned = [strategy.run(piece) for piece in pieces(strategy.prepare(some[order]), self.batch_size)]
            self._is_invariant = torch.equal(torch.cat(straight, 1)[:, order], torch.cat(turned, 1))
        return self._is_invariant


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
