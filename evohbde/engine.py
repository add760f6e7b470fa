"""Where do one network, its kept activations and the strategy that runs it live together?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.layout import ParameterLayout
from evohbde.reductions import Reduction
from evohbde.stages import PIECE_GRAIN, PrefixCache, pieces, samples_at_once
from evohbde.strategies import Choice, Strategy, Views, Working, choose, computing

SMALLEST_BATCH = 16
"""Smaller batches take other kernels, whose results differ in the last bits."""


class Engine:
    """Runs candidates of one problem and counts what they cost.

    Attributes:
        working: The network that candidates are written into.
        cache: Activations in front of the first searched weight.
        strategy: How candidates are run; None before `choose`.
        choice: Why; None before `choose`.
        batch_size: Samples per forward pass: a multiple of 32 from 32 on, halved when memory runs out.
        precision: See `evohbde.strategies.precision`.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: ParameterLayout,
        reduction: Reduction,
        data: TensorData,
        *,
        batch_size: int | None,
        stage_names: tuple[str, ...] | None,
        cache_bytes: int,
        precision: str = "float32",
    ) -> None:
        self.reduction, self.precision = reduction, precision
        self.working = working = Working(model, layout, data.x, stage_names)
        self.batch_size = batch_size = _aligned(batch_size or samples_at_once(working.widest, data.device))
        self.cache = PrefixCache(data, working.stages, working.depth, batch_size, cache_bytes)
        self.strategy: Strategy | None = None
        self.choice: Choice | None = None
        self._tail_samples = 0
        self._is_invariant: dict[tuple[int, int], bool] = {}
        self._room: Tensor | None = None

    @property
    def num_samples_seen(self) -> float:
        return sum(self.samples_by_part)

    @property
    def samples_by_part(self) -> tuple[float, float]:
        """Of `num_samples_seen`: in front of the first searched weight, and behind it."""
        share = self.working.prefix_share
        return self.cache.num_computed * share, self._tail_samples * (1.0 - share)

    def counters(self) -> dict[str, int]:
        """What another process needs to count on from here, see `recall`."""
        return {
            "prefix_samples": self.cache.num_computed,
            "tail_samples": self._tail_samples,
            "batch_size": self.batch_size,
            "prefix_batch_size": self.cache.batch_size,
        }

    def recall(self, counters: dict[str, int], span: slice | None) -> None:
        """Go on counting where another process was after it had scored candidates on the samples in `span`."""
        if span is not None:
            self.cache.recall(span, counters["prefix_samples"])
        self._tail_samples = counters["tail_samples"]
        self.batch_size, self.cache.batch_size = counters["batch_size"], counters["prefix_batch_size"]

    def activations(self, span: slice) -> Tensor:
        """What lies in front of the first searched weight, for the samples in `span`, in float32."""
        while True:
            try:
                with computing("float32", self.working.theta.device):
                    return self.cache.activations(span)
            except RuntimeError as error:
                self.cache.batch_size = self._half(error, self.cache.batch_size)

    def choose(self, name: str, z: Tensor, features: Tensor) -> Choice:
        """Take the strategy of this name, once."""
        while self.strategy is None or self.choice is None:
            try:
                self.strategy, self.choice = choose(
                    name, self.working, self.reduction, self.batch_size, z, features, self.precision
                )
            except RuntimeError as error:
                self.batch_size = self._half(error, min(self.batch_size, len(features)))
        return self.choice

    def start(self, features: Tensor) -> tuple[Strategy, Tensor]:
        """The strategy, set up for these samples, and the samples in the memory layout that it likes best."""
        assert self.strategy is not None
        self.strategy.fit(min(len(features), self.batch_size))
        return self.strategy, self.strategy.prepare(features)

    def room(self, num_candidates: int, num_samples: int) -> Tensor:
        """Room for the outputs of a population, `(N, B, C)`; the same memory again wherever the shape allows."""
        shape = (num_samples, self.working.num_outputs)
        if self._room is None or self._room.shape[1:] != shape or len(self._room) < num_candidates:
            self._room = self.working.theta.new_empty(num_candidates, *shape)
        return self._room[:num_candidates]

    def load(self, z: Tensor) -> Tensor:
        """Write a group of candidates into the network; returns their weights, `(p, D)`, valid until the next call."""
        assert self.strategy is not None
        with computing("float32", z.device):
            return self.strategy.load(z)

    def forward(self, features: Tensor, out: Tensor, size: int | None = None) -> None:
        """Write the outputs of the loaded candidates on all samples, `(B, ...)`, into `out`, `(p, B, C)`.

        Args:
            features: The samples, as `start` gave them.
            out: Where outputs go.
            size: Samples per piece; None: `batch_size`.
        """
        start = 0
        for piece in pieces(features, size or self.batch_size):
            self.run(piece, out[:, start : start + len(piece)])
            start += len(piece)

    def run(self, piece: Tensor, out: Tensor) -> None:
        """Write outputs on one piece of samples into `out`; out of memory halves it, and all later ones."""
        assert self.strategy is not None
        try:
            with computing(self.precision, piece.device):
                out.copy_(self.strategy.run(piece))
        except RuntimeError as error:
            half = self._half(error, len(piece))
        else:
            self._tail_samples += len(piece) * len(out)
            return
        self.batch_size = min(self.batch_size, half)
        self.run(piece[:half], out[:, :half])
        self.run(piece[half:], out[:, half:])

    def outputs(self, z: Tensor, features: Tensor, size: int | None = None) -> Tensor:
        """Outputs of some candidates, `(p, B, C)`, in pieces of `size` samples as in `forward`; not counted."""
        before = self._tail_samples
        strategy, features = self.start(features)
        outputs = self.working.theta.new_empty(len(z), len(features), self.working.num_outputs)
        for start in range(0, len(z), strategy.group):
            self.load(z[start : start + strategy.group])
            self.forward(features, outputs[start : start + strategy.group], size)
        self._tail_samples = before
        return outputs

    def reference(self, z: Tensor, features: Tensor) -> Tensor:
        """Outputs of some candidates by `Views` in float32, `(p, B, C)`; not counted."""
        views, outputs = Views(self.working, self.reduction), []
        with computing("float32", z.device):
            for row in range(len(z)):
                views.load(z[row : row + 1])
                outputs.append(torch.cat([views.run(piece) for piece in pieces(features, self.batch_size)], 1))
        return torch.cat(outputs)

    def is_invariant(self, features: Tensor, size: int) -> bool:
        """Whether a sample's outputs are the same bits whatever its place among these, in pieces of `size` samples too.

        Tried once on all of them.
        """
        key = len(features), self.batch_size
        if key not in self._is_invariant:
            center = self.reduction.center[None]
            order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).to(features.device)
            straight, mixed = self.outputs(center, features), self.outputs(center, features[order], size)
            self._is_invariant[key] = torch.equal(straight[:, order], mixed) and key[1] == self.batch_size
        return self._is_invariant[key]

    def _half(self, error: RuntimeError, num_samples: int) -> int:
        """Half as many samples, if the error is that memory ran out and half is enough; else raise it."""
        half = _aligned(num_samples // 2)
        if not _is_out_of_memory(error) or half < SMALLEST_BATCH:
            raise error
        return half


def _aligned(batch_size: int) -> int:
    for grain in (PIECE_GRAIN, SMALLEST_BATCH):
        if batch_size >= grain:
            return batch_size - batch_size % grain
    return batch_size


def _is_out_of_memory(error: RuntimeError) -> bool:
    text = str(error)
    is_said = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, torch.cuda.OutOfMemoryError) or is_said
