"""How far does a gradient optimizer get on the same problem?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from evohbde.gradient import GRADIENT_STEP_COST
from evohbde.objectives import Function, Objective, ObjectiveLike, WeightObjective, resolve
from evohbde.optimizers import OptimizerChoice, ScheduleLike, make_schedule, resolve_optimizer
from evohbde.problem import NetworkProblem
from evohbde.reductions import Identity
from evohbde.searchers.base import PopulationSearcher

LossLike = ObjectiveLike | Callable[[Tensor, Tensor], Tensor]


class _Recipe(NamedTuple):
    """What optimizer and schedule are made from, at the start and in every copy."""

    choice: OptimizerChoice
    lr: float
    options: Mapping[str, Any] | None
    schedule: ScheduleLike | None
    schedule_options: Mapping[str, Any] | None


class GradientSearcher(PopulationSearcher):
    """Move one candidate of a `NetworkProblem` by a gradient optimizer, and score it after every step.

    A step of the searcher is `steps_per_generation` gradient steps on mini-batches, an epoch if not told otherwise,
    followed by one scoring of the point that was reached. The population is that point. Gradients reach the candidate
    `z` through `problem.reduction.expand`; under `Identity` the optimizer is given one tensor per network parameter,
    otherwise one vector, so that layer-wise optimizers see a single layer.

    The network is in evaluation mode, as the problem scores it: BatchNorm keeps its statistics and dropout is off.
    In training mode the statistics would move along, a part of the network that is not in `z`: the problem, a copy
    and `problem.make_network` would know nothing of it. `evohbde.gradient.train` is training with moving statistics.

    Mini-batches come from all of `problem.batches.data`, each epoch in a new order from the problem's generator, the
    last one as small as it gets. A full batch stays in the order of the data. Every sample of a gradient step counts 3
    sample forwards in `problem.num_samples_seen`. With actors, gradients are computed in the main process and only
    scoring goes to the actors.

    Where loss or weights stop being finite, the step fails, and `center` is put back to where the last good step began,
    a point of finite loss. The optimizer's memory is spoilt then; `problem.status["best"]` is not.

    Status: `center` (the point, `(d,)`), `loss` (mean over the samples of the last step, each at the weights it met),
    `lr` (of the next gradient step).

    Args:
        problem: The problem; its objectives need no gradient.
        optimizer: A name in `evohbde.optimizers.NAMED`, a class of `torch.optim` or `pytorch_optimizer` by name, or
            your own class. Not those that want more than gradients: Hessians, the model, another optimizer inside.
        lr: Learning rate. Good ones lie far apart: about 1 for Adadelta, 0.1 for GD, Adagrad and Ftrl, 1e-3 for Adam.
        batch_size: Samples per gradient step; None: what the name implies (GD all, SGD 1), else 128.
        loss: What gradients descend: an objective's name or instance (one to be maximised is negated), or a function
            `(logits (B, C), labels (B,)) -> ()` to be minimised. The problem's `pull` is added to it.
        schedule: A class of `torch.optim.lr_scheduler` by name, or a function from the number of gradient steps so
            far to a factor of `lr`; followed after every gradient step. `ReduceLROnPlateau` looks at the batch's loss.
        options: The optimizer's own options, by name.
        schedule_options: The schedule's own options, by name.
        steps_per_generation: Gradient steps between two scorings; None: one epoch.
        center_init: Where to start, `(d,)`; None: `problem.center`, the network as given.

    Raises:
        TypeError: If `problem` is not a `NetworkProblem`, or `loss` is none of the above.
        ValueError: If a name is unknown, an option is out of its range, or the reduction has no derivative.
        FloatingPointError: By a step whose loss or weights are NaN or infinite.
    """

    def __init__(
        self,
        problem: NetworkProblem,
        optimizer: str | type[Optimizer] = "adam",
        lr: float = 1e-3,
        batch_size: int | None = None,
        loss: LossLike = "cross_entropy",
        schedule: ScheduleLike | None = None,
        options: Mapping[str, Any] | None = None,
        *,
        schedule_options: Mapping[str, Any] | None = None,
        steps_per_generation: int | None = None,
        center_init: Tensor | Solution | None = None,
    ) -> None:
        if not isinstance(problem, NetworkProblem):
            raise TypeError(
                f"expected `problem` to be a NetworkProblem, got {type(problem).__name__}: gradients need the network; "
                "give a reduction to the NetworkProblem itself"
            )
        if problem.reduction.is_binary or not problem.reduction.is_smooth:
            raise ValueError(
                f"a {type(problem.reduction).__name__} has no derivative: search it with NSGA2, DE or another searcher "
                "that needs none"
            )
        if steps_per_generation is not None and steps_per_generation < 1:
            raise ValueError(f"`steps_per_generation` must be at least 1, got {steps_per_generation}")
        super().__init__(problem, center=self._get_center, loss=self._get_loss, lr=self._get_lr)
        choice = resolve_optimizer(optimizer)
        num = len(problem.batches.data)
        self.batch_size = choice.samples_per_step(batch_size, num)
        self.steps_per_generation = steps_per_generation or -(-num // self.batch_size)
        self._objective = _as_loss(loss).for_data(problem.batches.data)
        self._recipe = _Recipe(choice, lr, options, schedule, schedule_options)
        self._parameters = self._split(self.center_values(center_init, "GradientSearcher"))
        self._optimizer, self._schedule = self._build()
        self._sound = self.center
        self._order, self._position = torch.empty(0), 0
        self._loss_sum = self._last_loss = torch.tensor(math.nan)
        self._num_drawn = 0
        self._gradient_price, self._scoring_price = float(GRADIENT_STEP_COST), 0.0
        self._seen_before_scoring = 0.0
        self._population = SolutionBatch(problem, popsize=1, device=problem.device, empty=True)
        self._population.set_values(self.center[None])
        self._start_reporting()

    def _choose_objective(self, obj_index: int | None) -> int | None:
        return 0 if len(self.problem.senses) == 1 else None

    def _split(self, z: Tensor) -> list[nn.Parameter]:
        """The tensors that the optimizer moves: copies of one piece of `z` per network parameter, or of all of it."""
        problem = self.problem
        pieces = problem.layout.views(z).values() if isinstance(problem.reduction, Identity) else [z]
        return [nn.Parameter(piece.detach().clone()) for piece in pieces]

    def _joined(self) -> Tensor:
        return torch.cat([piece.reshape(-1) for piece in self._parameters])

    def _build(self) -> tuple[Optimizer, Any]:
        recipe = self._recipe
        optimizer = recipe.choice.build(self._parameters, recipe.lr, recipe.options)
        return optimizer, make_schedule(recipe.schedule, optimizer, recipe.schedule_options)

    @property
    def center(self) -> Tensor:
        """The point that the optimizer has reached: `(d,)`, a copy."""
        return self._joined().detach()

    @property
    def next_num_evaluations(self) -> int:
        return 1

    @property
    def next_num_samples(self) -> float | None:
        """Sample forwards that the next step counts; None before the first one has told what a scoring costs.

        An optimizer that computes its loss several times a step (L-BFGS) is taken to do so as often as in the last one.
        """
        if not self.step_count:
            return None
        num, position, upcoming = len(self.problem.batches.data), self._position, 0
        for _ in range(self.steps_per_generation):
            size = min(self.batch_size, num - position)
            position, upcoming = (position + size) % num, upcoming + size
        return upcoming * self._gradient_price + self._scoring_price

    def ask(self) -> Tensor:
        """Make the gradient steps of one generation and return the point they lead to: `(1, d)`."""
        problem, before = self.problem, self.center
        self._loss_sum, self._num_drawn = torch.zeros((), dtype=torch.float64, device=problem.device), 0
        num_batched = 0
        seed = int(torch.randint(2**62, (), generator=problem.generator, device=problem.device))
        # An optimizer or a layer that draws random numbers draws from the global generator, which is put back.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            for _ in range(self.steps_per_generation):
                num_batched += self._gradient_step()
        self._gradient_price = GRADIENT_STEP_COST * self._num_drawn / num_batched
        self._check_finite()
        self._sound = before
        self._seen_before_scoring = problem.num_samples_seen
        return self.center[None]

    def tell(self, z: Tensor, scores: Tensor) -> None:
        self._scoring_price = self.problem.num_samples_seen - self._seen_before_scoring
        self._population.set_values(z)
        self._population.set_evals(scores.reshape(1, -1))

    def _gradient_step(self) -> int:
        """Step on the next mini-batch; returns its size."""
        index = self._next_batch()
        self._optimizer.step(lambda: self._differentiate(index))
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(self._last_loss)
        elif self._schedule is not None:
            self._schedule.step()
        return len(index)

    def _next_batch(self) -> Tensor:
        problem = self.problem
        num, device = len(problem.batches.data), problem.device
        if self._position == 0 and self.batch_size == num:
            self._order = torch.arange(num, device=device)
        elif self._position == 0:
            self._order = torch.randperm(num, generator=problem.generator, device=device)
        index = self._order[self._position : self._position + self.batch_size]
        self._position = (self._position + len(index)) % num
        return index

    @torch.enable_grad()  # some optimizers call their closure without
    def _differentiate(self, index: Tensor) -> Any:
        """Loss on some samples, its gradient put where the optimizer looks for it."""
        problem = self.problem
        data, z = problem.batches.data, self._joined()
        logits, labels = problem.outputs(z, data.x[index]), data.y[index]
        problem.count_samples(GRADIENT_STEP_COST * len(index))
        loss = self._loss(self._objective.for_rows(index), logits, labels)
        if problem.pull:
            loss = loss + problem.pull * (z - problem.center).square().sum()
        for parameter, gradient in zip(self._parameters, torch.autograd.grad(loss, self._parameters), strict=True):
            parameter.grad = gradient
        self._last_loss = loss.detach()
        self._loss_sum += len(index) * self._last_loss
        self._num_drawn += len(index)
        return self._last_loss

    def _loss(self, objective: Objective, logits: Tensor, labels: Tensor) -> Tensor:
        loss = objective(logits[None], labels)
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            raise ValueError(
                f"`loss` {objective.name!r} must give one number that has a gradient, got {loss!r}: "
                "use 'cross_entropy' or a differentiable function of (logits, labels)"
            )
        return loss.reshape(()) * (1 if objective.sense == "min" else -1)

    def _check_finite(self) -> None:
        loss, lr = self._get_loss(), self._recipe.lr
        if math.isfinite(loss) and bool(torch.isfinite(self.center).all()):
            return
        for parameter, kept in zip(self._parameters, self._split(self._sound), strict=True):
            parameter.data = kept.data
        raise FloatingPointError(
            f"the loss was {loss} or the weights were not finite in step {self.step_count + 1} with `lr`={lr}: start a "
            "new searcher with a lower `lr`, with center_init=searcher.center to go on from a finite loss"
        )

    def _get_center(self) -> Tensor:
        return self.center

    def _get_loss(self) -> float:
        return float(self._loss_sum) / self._num_drawn if self._num_drawn else math.nan

    def _get_lr(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    def __getstate__(self) -> dict[str, Any]:
        # Optimizers and schedules promise to keep their state in `state_dict`, not to survive a copy as objects.
        schedule = None if self._schedule is None else self._schedule.state_dict()
        return {**self.__dict__, "_optimizer": self._optimizer.state_dict(), "_schedule": schedule}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._optimizer, self._schedule = self._build()
        # After the schedule, which has set learning rates anew when it was made.
        self._optimizer.load_state_dict(state["_optimizer"])
        if self._schedule is not None:
            self._schedule.load_state_dict(state["_schedule"])


def _as_loss(loss: LossLike) -> Objective:
    if callable(loss) and not isinstance(loss, (Objective, WeightObjective)):
        return Function(loss, sense="min")
    (objective,) = resolve([loss])
    if isinstance(objective, WeightObjective):
        raise TypeError(f"`loss` {objective.name!r} judges weights, not outputs: use 'cross_entropy' or a function")
    return objective
