"""Which optimizer does a name stand for?"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

BATCH_SIZE = 128
"""Samples per gradient step where neither the caller nor the optimizer's name says how many."""

ScheduleLike = str | Callable[[int], float]


class OptimizerChoice(NamedTuple):
    """What a name stands for: a class, the options that make it so, and samples per step (`inf`: all of them)."""

    kind: type[Optimizer]
    options: Mapping[str, Any] = {}
    batch_size: float = BATCH_SIZE

    def samples_per_step(self, batch_size: int | None, num: int) -> int:
        """Samples per step out of `num`: those asked for, else those that the name implies."""
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1 sample, got {batch_size}")
        return int(min(self.batch_size if batch_size is None else batch_size, num))

    def build(self, parameters: Iterable[nn.Parameter], lr: float, options: Mapping[str, Any] | None = None) -> Any:
        """Make the optimizer; `options` win over those that come with the name."""
        if not 0 <= lr < math.inf:
            raise ValueError(f"`lr` must be a finite number >= 0, got {lr}")
        return _construct(self.kind, "options", list(parameters), lr=lr, **{**self.options, **(options or {})})


class Ftrl(Optimizer):
    """FTRL-Proximal ("follow the regularised leader"), each weight with a learning rate of its own.

    Per weight, with gradient g, n the sum of g^2, and 1/eta = (beta + n^-p) / lr, where p is `learning_rate_power`:

        z += g - (1/eta_new - 1/eta_old) w
        w = 0 if |z| <= l1, else -(z - sign(z) l1) / (1/eta_new + l2)

    The textbook starts at z = 0, which stands for w = 0: the weights as given are hardly looked at. Where n starts
    above zero, the first step of a pre-trained network wipes it out, also where the gradient is zero. The warm start
    z = -w (beta + n^-p) / lr centres the first proximal term at the weights as given instead, so that without l1 and l2
    the first step starts there; l1 and l2 pull to zero either way. Then (p = -1/2) Ftrl is Adagrad with `eps = beta`.
    A change of the learning rate between two steps enters through 1/eta_old; otherwise a rate that falls to zero would
    take the weights along.

    Args:
        params: Weights, or groups of them, as for any optimizer.
        lr: The paper's alpha.
        l1, l2: The paper's lambda_1, lambda_2 >= 0. Keras' `l2_regularization_strength` is half of lambda_2.
        beta: The paper's beta >= 0.
        learning_rate_power: Not positive; -1/2 is the paper, 0 a constant learning rate.
        initial_accumulator_value: Where n starts, >= 0. The paper has 0, Keras 0.1.
        warm_start: Whether to start at the weights as given; False is the textbook.

    Raises:
        ValueError: If an option is out of its range.

    Source: McMahan et al. (2013), KDD, "Ad Click Prediction: a View from the Trenches", Algorithm 1; Keras' options.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        beta: float = 0.0,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        warm_start: bool = True,
    ) -> None:
        at_least_zero = {"l1": l1, "l2": l2, "beta": beta, "initial_accumulator_value": initial_accumulator_value}
        for name, value in at_least_zero.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"`{name}` must be a finite number >= 0, got {value}")
        if not lr > 0:
            raise ValueError(f"`lr` must be above 0, got {lr}: Ftrl divides by it")
        if not learning_rate_power <= 0:
            raise ValueError(f"`learning_rate_power` must not be positive, got {learning_rate_power}")
        options = {"lr": lr, "learning_rate_power": learning_rate_power, "warm_start": warm_start}
        super().__init__(params, {**options, **at_least_zero})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; a closure that computes loss and gradients is called once, and its loss returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["lr"] > 0:  # the limit of a vanishing rate is to stay
                for weights in group["params"]:
                    if weights.grad is not None:
                        self._update(weights, group)
        return loss

    def _update(self, weights: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[weights], weights.grad
        if not state:
            self._start(state, weights, group)
        inverse_rate = _inverse_rate(state["n"], state["lr"], group)
        state["n"].addcmul_(gradient, gradient)
        state["lr"] = group["lr"]
        new_inverse_rate = _inverse_rate(state["n"], state["lr"], group)
        z = state["z"].add_(gradient).sub_((new_inverse_rate - inverse_rate) * weights)
        shrunk = z.sign() * (z.abs() - group["l1"]).clamp(min=0)
        denominator = new_inverse_rate + group["l2"]
        # It is zero only while all gradients of a weight were, and then nothing is known against the weight.
        weights.copy_(torch.where(denominator > 0, -shrunk / denominator, weights))

    def _start(self, state: dict[str, Any], weights: Tensor, group: dict[str, Any]) -> None:
        state["n"] = torch.full_like(weights, group["initial_accumulator_value"])
        state["lr"] = group["lr"]
        state["z"] = torch.zeros_like(weights)
        if group["warm_start"]:
            state["z"] -= weights * _inverse_rate(state["n"], state["lr"], group)


def _inverse_rate(n: Tensor, lr: float, group: dict[str, Any]) -> Tensor:
    return (group["beta"] + n.pow(-group["learning_rate_power"])) / lr


NAMED: dict[str, OptimizerChoice] = {
    "GD": OptimizerChoice(torch.optim.SGD, batch_size=math.inf),
    "SGD": OptimizerChoice(torch.optim.SGD, batch_size=1),
    "mini-batch SGD": OptimizerChoice(torch.optim.SGD),
    "momentum": OptimizerChoice(torch.optim.SGD, {"momentum": 0.9}),
    "Nesterov": OptimizerChoice(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "Adagrad": OptimizerChoice(torch.optim.Adagrad),
    "Adadelta": OptimizerChoice(torch.optim.Adadelta),
    "RMSprop": OptimizerChoice(torch.optim.RMSprop),
    "Adam": OptimizerChoice(torch.optim.Adam),
    "NAdam": OptimizerChoice(torch.optim.NAdam),
    "Adamax": OptimizerChoice(torch.optim.Adamax),
    "Ftrl": OptimizerChoice(Ftrl),
    "AdamW": OptimizerChoice(torch.optim.AdamW),
}
"""The optimizers with a name of their own. All options that are not here are the class's, batches are of 128.

| name | class | options | samples per step |
|---|---|---|---|
| GD | `torch.optim.SGD` | | all |
| SGD | `torch.optim.SGD` | | 1 |
| mini-batch SGD | `torch.optim.SGD` | | 128 |
| momentum | `torch.optim.SGD` | `momentum=0.9` | 128 |
| Nesterov | `torch.optim.SGD` | `momentum=0.9, nesterov=True` | 128 |
| Adagrad, Adadelta, RMSprop, Adam, NAdam, Adamax, AdamW | that of `torch.optim` | | 128 |
| Ftrl | `Ftrl` | | 128 |

Upper and lower case, blanks, hyphens and underscores make no difference.
"""


def resolve_optimizer(optimizer: str | type[Optimizer]) -> OptimizerChoice:
    """Find what a name stands for: one of `NAMED`, else a class of `torch.optim`, else one of `pytorch_optimizer`.

    Args:
        optimizer: The name, in upper or lower case, or an `Optimizer` class of your own.

    Raises:
        ValueError: If nobody knows the name; the message says what to install if `pytorch_optimizer` is missing.
    """
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        return OptimizerChoice(optimizer)
    if not isinstance(optimizer, str):
        raise TypeError(f"expected `optimizer` to be a name or a class of torch.optim.Optimizer, got {optimizer!r}")
    key = _key(optimizer)
    for name, choice in NAMED.items():
        if _key(name) == key:
            return choice
    kind = _class_of(torch.optim, key, Optimizer) or _class_elsewhere(optimizer, key)
    return OptimizerChoice(kind)


def make_schedule(
    schedule: ScheduleLike | None, optimizer: Optimizer, options: Mapping[str, Any] | None = None
) -> LRScheduler | None:
    """Make a learning-rate schedule: a class of `torch.optim.lr_scheduler` by name, or a factor per step.

    Args:
        schedule: The name, in upper or lower case, or a function from the number of gradient steps so far to a factor
            of the learning rate; None: no schedule.
        optimizer: Whose learning rate is set.
        options: The schedule's own options, by name.

    Raises:
        ValueError: If the name is unknown or the options do not fit.
    """
    if schedule is None:
        return None
    if not isinstance(schedule, str):
        return _construct(LambdaLR, "schedule_options", optimizer, schedule, **(options or {}))
    kind = _class_of(lr_scheduler, _key(schedule), LRScheduler)
    if kind is None:
        known = ", ".join(sorted(_classes(lr_scheduler, LRScheduler)))
        raise ValueError(f"unknown `schedule` {schedule!r}; torch.optim.lr_scheduler has: {known}; or pass a function")
    return _construct(kind, "schedule_options", optimizer, **(options or {}))


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether a step cannot be made without a function that computes the loss, as often as it wants (L-BFGS)."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _key(name: str) -> str:
    return name.casefold().translate({ord(mark): None for mark in " -_"})


def _classes(module: ModuleType, base: type) -> dict[str, Any]:
    found = {name: kind for name, kind in vars(module).items() if isinstance(kind, type) and issubclass(kind, base)}
    return {name: kind for name, kind in found.items() if kind is not base and not name.startswith("_")}


def _class_of(module: ModuleType, key: str, base: type) -> Any:
    return next((kind for name, kind in _classes(module, base).items() if _key(name) == key), None)


def _class_elsewhere(optimizer: str, key: str) -> type[Optimizer]:
    try:
        more = import_module("pytorch_optimizer")
    except ModuleNotFoundError:
        more, remedy = None, "; more names need pytorch_optimizer: pip install 'evohbde[optimizers]'"
    else:
        remedy = ", or any class of pytorch_optimizer"
    kind = _class_of(more, key, Optimizer) if more else None
    if kind is None:
        raise ValueError(
            f"unknown optimizer {optimizer!r}; known: {', '.join(NAMED)}, any class of torch.optim{remedy}"
        )
    return kind


def _construct(kind: Any, argument: str, *given: Any, **options: Any) -> Any:
    try:
        return kind(*given, **options)
    except (TypeError, ValueError, AttributeError, RuntimeError, ImportError) as error:  # others' classes, others' ways
        raise ValueError(f"{kind.__name__} cannot be made with {options}: {error}; see `{argument}`") from error
