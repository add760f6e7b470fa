"""Which EvoTorch problem is "make this network better"?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor, nn
from torch.func import functional_call

from evohbde.actors import on_own_card
from evohbde.checkpoint import describe_data, describe_network, describe_objectives, describe_reduction
from evohbde.data import SuperBatches, TensorData
from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import ObjectiveLike, resolve
from evohbde.outputs import REPORTED, check_outputs, score
from evohbde.problem_base import BaseProblem
from evohbde.reductions import HistogramBlocking, Reduction
from evohbde.scale import reduced_stdev, weight_stdev
from evohbde.stages import CACHE_BYTES
from evohbde.strategies import Choice

ReductionLike = Reduction | Callable[[Tensor], Reduction]


class NetworkProblem(BaseProblem):
    """Search the reduced weights of a trained classifier.

    A native EvoTorch `Problem` with `d = reduction.dim` decision values: every searcher of EvoTorch, and ours, runs on
    it. The model is copied and used in evaluation mode: dropout is off, BatchNorm keeps its statistics.

    Args:
        model: Any `nn.Module` that maps inputs to class scores `(B, C)`.
        data: `TensorData` (all samples score every generation) or `SuperBatches` of it.
        objectives: Name(s) or instance(s), see `evohbde.objectives`; their senses become the problem's.
        reduction: A `Reduction` of the layout's weights, or a function `theta0 -> Reduction`; None: the published
            `HistogramBlocking(theta0)`.
        layout: Which weights are searched; None: all that are not frozen.
        pull: Price of the squared distance from the network as given, `pull * |z - center|^2`: added to a minimised
            first objective, taken off a maximised one. Keeps a search on few samples near the trained weights.
        device: Where networks and candidates live; None: the data's device. With actors: `"cpu"`.
        num_actors, num_gpus_per_actor, num_subbatches, subbatch_size, seed: As in EvoTorch.
        batch_size, stages, cache_bytes, strategy, precision: See `NetworkEvaluator`.
        racing: Give up candidates that can no longer reach what the searcher asks for (`evohbde.racing`): the search
            takes the same way with fewer sample forwards.

    Raises:
        ValueError: If data, model, labels, layout and reduction do not fit each other.

    Example:
        >>> problem = NetworkProblem(model, TensorData(x, y), reduction=lambda theta: HistogramBlocking(theta, 300))
        >>> searcher = DE(problem, popsize=100)
        >>> searcher.run(50)
        >>> better = problem.make_network(searcher.status["best"])
    """

    def __init__(
        self,
        model: nn.Module,
        data: TensorData | SuperBatches,
        objectives: ObjectiveLike | Sequence[ObjectiveLike] = "f1_macro",
        *,
        reduction: ReductionLike | None = None,
        layout: ParameterLayout | None = None,
        pull: float = 0.0,
        device: torch.device | str | None = None,
        num_actors: int | str | None = None,
        num_gpus_per_actor: int | float | str | None = None,
        num_subbatches: int | None = None,
        subbatch_size: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        stages: Sequence[str] | None = None,
        cache_bytes: int = CACHE_BYTES,
        strategy: str = "auto",
        precision: str = "float32",
        racing: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected `model` to be a torch.nn.Module, got {type(model).__name__}")
        if not (0 <= pull < float("inf")):
            raise ValueError(f"`pull` must be a finite number >= 0, got {pull}")
        batches = _as_batches(data)
        device = torch.device(device) if device is not None else batches.data.device
        if num_actors not in (None, 0, 1) and batches.advance != "generation":
            raise ValueError(
                "`advance` by a number of evaluations needs num_actors=0: use SuperBatches(advance='generation')"
            )
        model = deepcopy(model).to(device).eval()
        batches = batches.to(device)
        check_outputs(model, batches.data)
        layout = layout or ParameterLayout(model)
        if not isinstance(layout, ParameterLayout):
            raise TypeError(f"expected `layout` to be a ParameterLayout, got {type(layout).__name__}")
        theta0 = layout.flatten(model)
        reduction = _as_reduction(reduction, theta0)
        found = resolve(objectives)
        self.layout, self.reduction, self.batches, self.pull = layout, reduction, batches, pull
        self.objective_names: tuple[str, ...] = tuple(objective.name for objective in found)
        self._model = model
        self._evaluator = NetworkEvaluator(
            model,
            layout,
            reduction,
            found,
            batches.data,
            batch_size=batch_size,
            stages=stages,
            cache_bytes=cache_bytes,
            strategy=strategy,
            precision=precision,
        )
        self.racing = racing
        self._samples_elsewhere = 0.0
        super().__init__(
            [objective.sense for objective in found],
            solution_length=reduction.dim,
            initial_bounds=(reduction.lower.clone(), reduction.upper.clone()),
            dtype=layout.dtype,
            eval_dtype=torch.float64 if layout.dtype == torch.float64 else torch.float32,
            device=device,
            num_actors=num_actors,
            num_gpus_per_actor=num_gpus_per_actor,
            num_subbatches=num_subbatches,
            subbatch_size=subbatch_size,
            seed=seed,
        )

    @property
    def center(self) -> Tensor:
        """The network as given, `(d,)`: a good `center_init` for distribution-based searchers."""
        return self.reduction.center

    @property
    def stdev(self) -> Tensor:
        """A step of each reduced value that fits the sizes of the weights it moves, `(d,)`: a good `stdev_init`."""
        theta0 = self.layout.flatten(self._model)
        return reduced_stdev(self.reduction, weight_stdev(theta0, self.layout.tensor_index))

    @property
    def rescore_parents(self) -> bool:
        return self.batches.rescore_parents

    @property
    def num_samples_seen(self) -> float:
        return self._evaluator.num_samples_seen + self._samples_elsewhere

    def count_samples(self, num: float) -> None:
        """Add sample forwards that were spent elsewhere, on gradients say, to `num_samples_seen`."""
        self._samples_elsewhere += num

    def outputs(self, z: Tensor, x: Tensor) -> Tensor:
        """Outputs of one candidate, differentiable in `z` and not counted: `(d,)` and `(B, ...)` to `(B, C)`."""
        weights = self.layout.views(self.reduction.expand(z))
        return functional_call(self._model, weights, (x,))

    @property
    def strategy(self) -> Choice | None:
        """How candidates are run, and the measurement behind it; None before the first evaluation."""
        return self._evaluator.choice

    def precompute(self) -> None:
        """Compute what lies in front of the searched weights for all samples now, so that generations cost the same.

        Counted in `num_samples_seen`; without effect where the first searched weight lies at the front.
        """
        self._evaluator.precompute()

    def decode(self, z: Solution | Tensor) -> Tensor:
        """Full weights of one candidate: a `Solution` or `(d,)` or `(1, d)` to `(D,)`."""
        values = z.values if isinstance(z, Solution) else torch.as_tensor(z)
        values = values.as_subclass(Tensor).to(self.reduction.device)
        if values.numel() != self.reduction.dim:
            raise ValueError(f"expected one candidate of {self.reduction.dim} values, got shape {tuple(values.shape)}")
        return self.reduction.expand(values.reshape(-1))

    def make_network(self, z: Solution | Tensor) -> nn.Module:
        """A new network with the weights of one candidate, in evaluation mode."""
        return self.layout.load_(deepcopy(self._model), self.decode(z))

    def score(
        self, network: nn.Module | Solution | Tensor, data: TensorData, objectives: Sequence[ObjectiveLike] = REPORTED
    ) -> dict[str, float]:
        """Score a network, or a candidate, on data of your choice: one number per objective name."""
        if not isinstance(network, nn.Module):
            network = self.make_network(network)
        return score(network, data.to(self.reduction.device), objectives, layout=self.layout)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        z = batch.access_values(keep_evals=True).as_subclass(Tensor)
        steps = self.batches.steps(self.num_calls, self.num_evaluations, len(z))
        scores = torch.empty(len(z), len(self.senses), dtype=torch.float64, device=z.device)
        price = self._price(z)
        different = steps.unique().tolist()
        contest = self._contest if self.racing and len(different) == 1 else None
        for step in different:
            rows = (steps == step).nonzero()[:, 0].to(z.device)
            there = z[rows].to(self._evaluator.data.device)
            scores[rows] = self._evaluator(there, self.batches.span(step), contest, price).to(z.device)
        self.is_bound = self._evaluator.is_bound if contest is not None else None
        scores[:, 0] += price
        batch.set_evals(scores.to(self.eval_dtype))

    def _price(self, z: Tensor) -> Tensor:
        """What `pull` adds to the first objective: `(N,)`, float64."""
        if not self.pull:
            return z.new_zeros(len(z), dtype=torch.float64)
        sign = 1.0 if self.senses[0] == "min" else -1.0
        return (sign * self.pull * (z - self.reduction.center).square().sum(1)).double()

    def _parallelize(self) -> None:
        if self.is_main and self._actors is None and (self._num_actors or 0) >= 2:
            self._evaluator.settle(self.center[None], self.batches.span(0))
        super()._parallelize()

    def _make_sync_data_for_actors(self) -> dict[str, int]:
        return {"num_calls": self.num_calls, "num_evaluations": self.num_evaluations}

    def _use_sync_data_from_main(self, received: dict[str, int]) -> None:
        self.num_calls, self.num_evaluations = received["num_calls"], received["num_evaluations"]
        self._evaluator = on_own_card(self._evaluator, self)
        self._counted = self._evaluator.engine.samples_by_part

    def _make_sync_data_for_main(self) -> tuple[float, ...]:
        parts = zip(self._evaluator.engine.samples_by_part, self._counted, strict=True)
        return tuple(now - then for now, then in parts)

    def _use_sync_data_from_actors(self, received: list[tuple[float, ...]]) -> None:
        # Activations that each actor keeps for itself count once, so that a budget ends where it does without actors.
        prefixes, tails = zip(*received, strict=True)
        self._samples_elsewhere += max(prefixes) + sum(tails)

    @property
    def records_scores(self) -> bool:
        return self._actors is None

    def _counters(self) -> dict[str, float]:
        return {"samples_elsewhere": self._samples_elsewhere}

    def _recall_counters(self, counters: Mapping[str, float]) -> None:
        self._samples_elsewhere = counters["samples_elsewhere"]

    def fingerprint(self) -> dict[str, object]:
        """What decides the scores, as far as it can be told."""
        data = self.batches.data
        return {
            "network": describe_network(self._model),
            "data": describe_data(data),
            "batches": repr(self.batches),
            "objectives": describe_objectives(self._evaluator.objectives, self._model, self.decode(self.center), data),
            "reduction": describe_reduction(self.reduction),
            "pull": self.pull,
        }

    def _get_cloned_state(self, *, memo: dict) -> dict:
        state = super()._get_cloned_state(memo=memo)
        # A clone's evaluator starts counting from zero; what was seen so far moves to the other counter.
        state["_samples_elsewhere"] = self.num_samples_seen
        return state


class ReducedProblem(BaseProblem):
    """Any EvoTorch problem seen through a reduction: searchers work on `d` values, the problem gets `D`.

    Candidates are expanded in pieces of at most `chunk_size`, so the full `(N, D)` population never exists. Actors
    belong to this problem; the inner one must not have its own.

    Args:
        problem: The problem over full vectors of length `reduction.full_dim`.
        reduction: The map between them.
        bounds: Bounds of the reduced values; None: unbounded, so that every searcher fits; a bounded inner problem
            then gets its values clipped.
        chunk_size: Candidates expanded at a time.
        num_actors, num_gpus_per_actor, seed: As in EvoTorch.
    """

    def __init__(
        self,
        problem: Problem,
        reduction: Reduction,
        *,
        bounds: tuple[Any, Any] | None = None,
        chunk_size: int = 16,
        num_actors: int | str | None = None,
        num_gpus_per_actor: int | float | str | None = None,
        seed: int | None = None,
    ) -> None:
        if problem.solution_length != reduction.full_dim:
            raise ValueError(
                f"the problem has {problem.solution_length} decision values but the reduction expands to "
                f"{reduction.full_dim}: build the reduction from a vector of the problem's length"
            )
        if chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}")
        if problem.num_actors and problem.num_actors >= 2 and num_actors not in (None, 0, 1):
            raise ValueError("both problems ask for actors: give `num_actors` to the ReducedProblem only")
        if isinstance(problem, NetworkProblem) and len(problem.batches) > 1:
            raise ValueError(
                "super-batches advance with the searcher's generations, which the inner problem cannot see: give the "
                "reduction to the NetworkProblem itself"
            )
        self.problem, self.reduction, self.chunk_size = problem, reduction.to(problem.device), chunk_size
        problem._store_solution_stats = False
        super().__init__(
            list(problem.senses),
            solution_length=reduction.dim,
            initial_bounds=(reduction.lower.clone(), reduction.upper.clone()),
            bounds=bounds,
            dtype=problem.dtype,
            eval_dtype=problem.eval_dtype,
            eval_data_length=problem.eval_data_length,
            device=problem.device,
            num_actors=num_actors,
            num_gpus_per_actor=num_gpus_per_actor,
            seed=seed,
        )
        self.remote_hook.append(_mark_inner_remote)

    @property
    def records_scores(self) -> bool:
        return self._actors is None and isinstance(self.problem, BaseProblem)

    @property
    def num_samples_seen(self) -> float:
        return float(getattr(self.problem, "num_samples_seen", 0.0))

    @property
    def center(self) -> Tensor:
        """The point from which the reduction was built, `(d,)`."""
        return self.reduction.center

    @property
    def stdev(self) -> Tensor | None:
        """A step of each reduced value that makes steps of the inner problem's `stdev`; None where that has none."""
        inner = getattr(self.problem, "stdev", None)
        return None if inner is None else reduced_stdev(self.reduction, inner)

    def decode(self, z: Solution | Tensor) -> Tensor:
        """Full vector(s) of a `Solution` or of `(..., d)`, clipped into the inner problem's bounds."""
        values = z.values if isinstance(z, Solution) else torch.as_tensor(z)
        full = self.reduction.expand(values.as_subclass(Tensor))
        lower, upper = self.problem.lower_bounds, self.problem.upper_bounds
        return full if lower is None or upper is None else full.clamp(lower, upper)

    def fingerprint(self) -> dict[str, object]:
        """What decides the scores, as far as it can be told."""
        inner = {"inner": type(self.problem).__name__, **getattr(self.problem, "fingerprint", dict)()}
        return {**inner, "reduction": [inner.get("reduction"), describe_reduction(self.reduction)]}

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        z = batch.access_values(keep_evals=True).as_subclass(Tensor)
        evals = []
        for piece in z.split(self.chunk_size):
            full = SolutionBatch(self.problem, popsize=len(piece), device=batch.device, empty=True)
            full.set_values(self.decode(piece))
            self.problem.evaluate(full)
            evals.append(full.access_evals().as_subclass(Tensor))
        batch.set_evals(torch.cat(evals))


def _mark_inner_remote(problem: ReducedProblem) -> None:
    # Inside an actor the inner problem must not believe that it is the main one and start actors of its own.
    problem.problem._actor_index = problem.actor_index


def _as_batches(data: TensorData | SuperBatches) -> SuperBatches:
    if isinstance(data, SuperBatches):
        return data
    if isinstance(data, TensorData):
        return SuperBatches(data, size=len(data), order="file", parents="fixed")
    raise TypeError(
        f"expected `data` to be TensorData or SuperBatches, got {type(data).__name__}: wrap it, TensorData(x, y)"
    )


def _as_reduction(reduction: ReductionLike | None, theta0: Tensor) -> Reduction:
    if reduction is None:
        return HistogramBlocking(theta0)
    found = reduction if isinstance(reduction, Reduction) else reduction(theta0)
    if not isinstance(found, Reduction):
        raise TypeError(
            f"expected `reduction` to be a Reduction or a function that makes one, got {type(found).__name__}"
        )
    if found.full_dim != len(theta0):
        raise ValueError(
            f"the reduction was built for {found.full_dim} weights, the layout has {len(theta0)}: "
            "build it from layout.flatten(model)"
        )
    return found.to(theta0.device)
