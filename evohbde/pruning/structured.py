"""Which EvoTorch problem is "make this network smaller by whole channels"?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.objectives import Objective, ObjectiveLike, has_finite_outputs, resolve
from evohbde.outputs import REPORTED, check_outputs, default_batch_size, predict, score
from evohbde.problem_base import BaseProblem
from evohbde.pruning.channels import ChannelGroup, find_groups, importance, masked, shrunk
from evohbde.pruning.cost import MultiplyAddsShare, NetworkObjective, ParameterShare
from evohbde.pruning.latency import Latency
from evohbde.recalibrate import batch_norms, recalibrated
from evohbde.reconstruct import Reconstructor

NUM_PROBES = 4
"""Samples on which groups are tried and multiply-adds are counted."""


class StructuredPruning:
    """Turn decisions about channels into a network that really is smaller.

    With genes `"ratios"` there is one value per group of channels, the share of them to cut, in [0, `most`]: the least
    important go first, `floor(share * n)` of them. With genes `"channels"` there is one bit per channel, kept above
    0.5. A layer that would lose all its channels keeps the most important one. Values outside the range count as its
    ends.

    Args:
        model: The network; copied.
        x: Some samples, `(n, ...)`: on up to four of them each group is tried, see `find_groups`.
        genes: `"ratios"` or `"channels"`.
        most: Largest share of a group that may go, in (0, 1); of ratios only.
        exclude, require_equal: See `evohbde.pruning.channels.find_groups`.

    Attributes:
        groups: The groups of channels, in the order of definition.
        left_out: Groups that stay whole, with the reason, by name.
        importance: L2 norm of what goes with each channel, `(C,)`, those of all groups one after the other.
        dim: `d`, the number of genes.
        center: The network as given, `(d,)`: zeros (ratios) or ones (channels).
        lower, upper: Range of the genes, `(d,)`.
        is_binary: Whether genes are bits.

    Raises:
        ValueError: If an option is out of its range, or no channels can be cut.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        genes: str = "ratios",
        *,
        most: float = 0.9,
        exclude: str | Iterable[str] = (),
        require_equal: bool = True,
    ) -> None:
        if genes not in ("ratios", "channels"):
            raise ValueError(f"`genes` must be 'ratios' (one per group) or 'channels' (one per channel), got {genes!r}")
        if not 0 < most < 1:
            raise ValueError(f"`most` must lie strictly between 0 and 1, as each layer keeps a channel, got {most}")
        self.genes, self.most, self.is_binary = genes, float(most), genes == "channels"
        self._model = deepcopy(model).eval()
        self.groups, self.left_out = find_groups(model, x[:NUM_PROBES], exclude=exclude, require_equal=require_equal)
        self.importance = importance(model, self.groups)
        self.num_channels = [group.num_channels for group in self.groups]
        self._order = [scores.argsort(stable=True) for scores in self.importance.split(self.num_channels)]
        self.dim = sum(self.num_channels) if self.is_binary else len(self.groups)
        self.lower = torch.zeros(self.dim)
        self.upper = torch.full((self.dim,), 1.0 if self.is_binary else self.most)
        self.center = self.upper.clone() if self.is_binary else self.lower.clone()

    def keep(self, z: Tensor) -> Tensor:
        """Tell which channels stay: `(d,) -> (C,)`, bool."""
        if z.shape != (self.dim,):
            raise ValueError(f"expected `z` of shape ({self.dim},), got {tuple(z.shape)}")
        z = z.detach().cpu()
        kept = torch.cat(self._keep_shares(z)) if not self.is_binary else z > 0.5
        for group, keep, scores in zip(
            self.groups, kept.split(self.num_channels), self.importance.split(self.num_channels), strict=True
        ):
            _spare(group, keep, scores)
        return kept

    def to(self, device: torch.device | str) -> StructuredPruning:
        """Move the network to `device` in place; genes and importance stay where they are."""
        self._model.to(device)
        return self

    def is_of(self, model: nn.Module) -> bool:
        """Tell whether `model` has the weights that this was built from."""
        own, other = self._model.state_dict(), model.state_dict()
        return own.keys() == other.keys() and all(torch.equal(own[name].cpu(), other[name].cpu()) for name in own)

    def network(self, z: Tensor) -> nn.Module:
        """The smaller network, in evaluation mode: `(d,)`."""
        return shrunk(self._model, self.groups, self.keep(z))

    def reconstructed(self, z: Tensor, x: Tensor, *, seed: int = 0) -> nn.Module:
        """The smaller network, `(d,)`, with what is left fitted to the layers of the full one on samples `x`.

        Source: He, Zhang & Sun (2017), arXiv 1707.06168, section 3.2; see `evohbde.reconstruct`.
        """
        keep = self.keep(z)
        fitted = Reconstructor(self._model, x, seed=seed)(masked(self._model, self.groups, keep))
        return shrunk(fitted, self.groups, keep)

    def masked(self, z: Tensor) -> nn.Module:
        """The full network with zeros in place of the channels that `network` cuts: `(d,)`."""
        return masked(self._model, self.groups, self.keep(z))

    def _keep_shares(self, z: Tensor) -> list[Tensor]:
        kept = []
        for share, order in zip(z.double().clamp(0, self.most).tolist(), self._order, strict=True):
            keep = torch.ones(len(order), dtype=torch.bool)
            keep[order[: int(share * len(order))]] = False
            kept.append(keep)
        return kept

    def __repr__(self) -> str:
        return f"StructuredPruning({sum(self.num_channels)} channels in {len(self.groups)} groups, {self.dim} genes)"


def _spare(group: ChannelGroup, keep: Tensor, scores: Tensor) -> None:
    """Keep a channel in every layer, in place: layers that are concatenated have only some of a group's channels."""
    for cut in group.cuts:
        own = cut.channels.unique()
        if not bool(keep[own].any()):
            keep[own[scores[own].argmax()]] = True


class StructuredProblem(BaseProblem):
    """Search which channels of a trained classifier to cut; each candidate is scored as the small network it is.

    A native EvoTorch `Problem` over the genes of a `StructuredPruning`, for its searchers, ours and pymoo's. Genes
    `"channels"` want `variation="binary"` in `NSGA2` and `MOEAD`. Cost: one copy of the network and its forward passes
    per candidate.

    Args:
        model: Any `nn.Module` that maps inputs to class scores `(B, C)`.
        data: The samples that score every candidate.
        objectives: Names or instances of `evohbde.objectives` that judge outputs, and of what the network costs:
            `"multiply_adds"` and `"parameters"` (shares of the full network's), `"latency"` (see `Latency`), or a
            `NetworkObjective`.
        pruning: The genes; None: one ratio per group.
        recalibrate: BatchNorm statistics are re-estimated on so many samples in every candidate; 0: not at all.
        device: Where networks live; None: the data's device.
        num_actors, num_gpus_per_actor, seed: As in EvoTorch. Latencies taken by several actors disturb each other.
        batch_size: Samples per forward pass; None: found by the sizes of the network's layers.

    Raises:
        ValueError: If model and data do not fit, or `recalibrate` is not from 0 to the number of samples.
        TypeError: If an objective judges searched weights, which a smaller network does not have.

    Example:
        >>> problem = StructuredProblem(model, data, ["error", "multiply_adds"])
        >>> searcher = NSGA2(problem, popsize=40, include_center=True)
        >>> searcher.run(20)
        >>> smaller = problem.make_network(searcher.population[0])
    """

    def __init__(
        self,
        model: nn.Module,
        data: TensorData,
        objectives: Sequence[ObjectiveLike | NetworkObjective] = ("error", "multiply_adds"),
        *,
        pruning: StructuredPruning | None = None,
        recalibrate: int = 0,
        device: torch.device | str | None = None,
        num_actors: int | str | None = None,
        num_gpus_per_actor: int | float | str | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected `model` to be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(data, TensorData):
            raise TypeError(f"expected `data` to be a TensorData, got {type(data).__name__}: wrap it, TensorData(x, y)")
        if recalibrate == 1 or not 0 <= recalibrate <= len(data):
            raise ValueError(
                f"`recalibrate` must be 0 (off) or from 2 to {len(data)}, the number of samples, got {recalibrate}"
            )
        self.data = data if device is None else data.to(device)
        model = deepcopy(model).to(self.data.device).eval()
        check_outputs(model, self.data)
        if pruning is not None and not pruning.is_of(model):
            raise ValueError("`pruning` was built from another network: StructuredPruning(model, data.x)")
        self.pruning = deepcopy(pruning or StructuredPruning(model, self.data.x)).to(self.data.device)
        self.recalibrate = int(recalibrate)
        self.batch_size = batch_size or default_batch_size(model, self.data.x)
        self._share = MultiplyAddsShare(model, self.data.x[:NUM_PROBES])
        self.objectives = _resolve(objectives, model, self.data, self._share)
        self.objective_names: tuple[str, ...] = tuple(objective.name for objective in self.objectives)
        self._samples_seen = 0.0
        super().__init__(
            [objective.sense for objective in self.objectives],
            solution_length=self.pruning.dim,
            initial_bounds=(self.pruning.lower.clone(), self.pruning.upper.clone()),
            dtype=torch.float32,
            device=self.data.device,
            num_actors=num_actors,
            num_gpus_per_actor=num_gpus_per_actor,
            seed=seed,
        )

    @property
    def center(self) -> Tensor:
        """The network as given, `(d,)`."""
        return self.pruning.center.to(self.device)

    @property
    def num_samples_seen(self) -> float:
        return self._samples_seen

    def _counters(self) -> dict[str, float]:
        return {"samples_seen": self._samples_seen}

    def _recall_counters(self, counters: Mapping[str, float]) -> None:
        self._samples_seen = counters["samples_seen"]

    def make_network(self, z: Solution | Tensor) -> nn.Module:
        """The smaller network of one candidate, re-estimated where the problem does so, in evaluation mode."""
        values = z.values if isinstance(z, Solution) else torch.as_tensor(z)
        network = self.pruning.network(values.as_subclass(Tensor).reshape(-1))
        if not self.recalibrate:
            return network
        return recalibrated(network, self.data.x[: self.recalibrate], [1.0] * len(batch_norms(network)))

    def score(
        self, network: nn.Module | Solution | Tensor, data: TensorData, objectives: Sequence[ObjectiveLike] = REPORTED
    ) -> dict[str, float]:
        """Score a network, or a candidate, on data of your choice: one number per objective name."""
        if not isinstance(network, nn.Module):
            network = self.make_network(network)
        return score(network, data.to(self.data.device), objectives)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        z = batch.access_values(keep_evals=True).as_subclass(Tensor)
        scores = torch.stack([self._judge(one) for one in z])
        batch.set_evals(scores.to(device=self.device, dtype=self.eval_dtype))

    def _judge(self, z: Tensor) -> Tensor:
        network = self.make_network(z)
        needs_outputs = any(isinstance(objective, Objective) for objective in self.objectives)
        logits = predict(network, self.data, batch_size=self.batch_size)[None] if needs_outputs else None
        self._samples_seen += self._share(network) * (self.recalibrate + len(self.data) * needs_outputs)
        return torch.tensor([self._value(objective, network, logits) for objective in self.objectives]).double()

    def _value(self, objective: Objective | NetworkObjective, network: nn.Module, logits: Tensor | None) -> float:
        if isinstance(objective, NetworkObjective):
            return objective(network)
        assert logits is not None
        return float(objective(logits, self.data.y)[0]) if bool(has_finite_outputs(logits)) else float("nan")

    def _make_sync_data_for_actors(self) -> float:
        return 0.0

    def _use_sync_data_from_main(self, received: float) -> None:
        self._counted = self._samples_seen

    def _make_sync_data_for_main(self) -> float:
        return self._samples_seen - self._counted

    def _use_sync_data_from_actors(self, received: list[float]) -> None:
        self._samples_seen += sum(received)


def _resolve(objectives: Any, model: nn.Module, data: TensorData, share: MultiplyAddsShare) -> list[Any]:
    several = [objectives] if isinstance(objectives, str | Objective | NetworkObjective) else list(objectives)
    costs = {
        "multiply_adds": lambda: share,
        "parameters": lambda: ParameterShare(model),
        "latency": lambda: Latency(model, data.x),
    }
    found: list[Any] = []
    for objective in several:
        if isinstance(objective, str) and objective in costs:
            found.append(costs[objective]())
        elif isinstance(objective, NetworkObjective):
            found.append(objective)
        else:
            found += [one.for_data(data) for one in resolve(objective)]
    for objective in found:
        if not isinstance(objective, Objective | NetworkObjective):
            raise TypeError(
                f"objective {objective.name!r} judges searched weights, of which a smaller network has none: "
                f"use one of {', '.join(costs)}"
            )
    return found
