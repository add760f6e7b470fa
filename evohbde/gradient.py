"""What do gradients reach at the same price?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from evohbde.data import TensorData
from evohbde.optimizers import needs_closure, resolve_optimizer
from evohbde.outputs import check_outputs
from evohbde.threads import threads_for

GRADIENT_STEP_COST = 3
"""Sample forwards that one sample of a gradient step counts: one forward, a backward worth two."""


def train(
    model: nn.Module,
    data: TensorData,
    *,
    num_samples: float,
    optimizer: str | type[Optimizer] = "Adam",
    lr: float = 1e-3,
    batch_size: int | None = None,
    seed: int = 0,
    after_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train `model` in place on cross-entropy and return it in evaluation mode.

    This is ordinary training, BatchNorm in training mode and dropout on. `GradientSearcher` is the one that leaves
    BatchNorm statistics alone and works in a reduced space too. Small networks are trained on one torch thread.

    Args:
        model: The network; its trainable parameters are updated, and BatchNorm statistics with them.
        data: Training samples; each epoch is a new permutation.
        num_samples: Budget in sample forwards; a sample of a gradient step counts 3 (`GRADIENT_STEP_COST`). The last
            batch is cut to fit.
        optimizer: A name that `evohbde.optimizers.resolve_optimizer` knows, or a class.
        lr: Learning rate.
        batch_size: Samples per step; None: what the optimizer's name implies (GD all, SGD 1), else 128. A lone sample
            left over from larger batches is counted and left out.
        seed: Seed of the order of samples; dropout draws from the global generator, which is put back afterwards.
        after_step: Called with the sample forwards spent so far.

    Raises:
        ValueError: If the optimizer is unknown or has no fixed price per step, nothing can be trained, or model and
            data do not fit.
    """
    choice = resolve_optimizer(optimizer)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter with requires_grad=True: nothing to train")
    check_outputs(model, data)
    stepper = choice.build(parameters, lr)
    _check_closure(stepper)
    size = choice.samples_per_step(batch_size, len(data))
    smallest = _smallest_batch(model, size, len(data))
    generator = torch.Generator().manual_seed(seed)
    left = int(num_samples / GRADIENT_STEP_COST)
    spent = 0
    with torch.random.fork_rng(), threads_for(model):
        torch.manual_seed(seed)
        model.train()
        while left > 0:
            for index in torch.randperm(len(data), generator=generator).split(size):
                index = index[:left].to(data.device)
                if len(index) == 0:
                    break
                if len(index) >= smallest:
                    _gradient_step(model, stepper, data, index)
                left -= len(index)
                spent += GRADIENT_STEP_COST * len(index)
                if after_step is not None:
                    after_step(spent)
    return model.eval()


def _check_closure(stepper: Optimizer) -> None:
    if needs_closure(stepper):
        raise ValueError(
            f"{type(stepper).__name__} computes the loss several times a step, so that no budget can be kept to the "
            "sample: run it by GradientSearcher"
        )


def _smallest_batch(model: nn.Module, size: int, num: int) -> int:
    has_norm = any(isinstance(module, _BatchNorm) for module in model.modules())
    if has_norm and size == 1 < num:
        raise ValueError("BatchNorm has no statistics of a single sample: give `batch_size` of at least 2")
    return 2 if has_norm or size > 1 else 1


def _gradient_step(model: nn.Module, stepper: Optimizer, data: TensorData, index: torch.Tensor) -> None:
    stepper.zero_grad()
    functional.cross_entropy(model(data.x[index]), data.y[index]).backward()
    stepper.step()


def pretrain(
    model: nn.Module, data: TensorData, *, epochs: int = 10, lr: float = 1e-3, batch_size: int = 128, seed: int = 0
) -> nn.Module:
    """Stage 1 of the published method: Adam on cross-entropy for some epochs, in place; returns the model.

    Defaults are the published code's (arXiv 2408.07194): learning rate 1e-3, batches of 128, no schedule, last epoch.
    """
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1, got {epochs}")
    num_samples = GRADIENT_STEP_COST * epochs * len(data)
    return train(model, data, num_samples=num_samples, lr=lr, batch_size=batch_size, seed=seed)
