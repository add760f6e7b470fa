"""What do gradients reach at the same price?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.evaluator import check_outputs

GRADIENT_STEP_COST = 3
"""Sample forwards that one sample of a gradient step counts: one forward, a backward worth two."""


def train(
    model: nn.Module,
    data: TensorData,
    *,
    num_samples: float,
    optimizer: str = "Adam",
    lr: float = 1e-3,
    batch_size: int = 128,
    seed: int = 0,
    after_step: Callable[[int], None] | None = None,
) -> nn.Module:
    """Train `model` in place on cross-entropy with a `torch.optim` optimizer and return it in evaluation mode.

    Args:
        model: The network; its trainable parameters are updated, BatchNorm in training mode.
        data: Training samples; each epoch is a new permutation.
        num_samples: Budget in sample forwards; a sample of a gradient step counts 3 (`GRADIENT_STEP_COST`). The last
            batch is cut to fit.
        optimizer: Name of a class in `torch.optim`.
        lr: Learning rate.
        batch_size: Samples per step.
        seed: Seed of the order of samples; dropout draws from the global generator, which is put back afterwards.
        after_step: Called with the sample forwards spent so far.

    Raises:
        ValueError: If the optimizer is unknown, nothing can be trained, or model and data do not fit.
    """
    if not hasattr(torch.optim, optimizer):
        raise ValueError(f"torch.optim has no optimizer {optimizer!r}; try 'Adam', 'SGD' or 'AdamW'")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("the model has no parameter with requires_grad=True: nothing to train")
    check_outputs(model, data)
    stepper = getattr(torch.optim, optimizer)(parameters, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    left = int(num_samples / GRADIENT_STEP_COST)
    spent = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        while left > 0:
            for index in torch.randperm(len(data), generator=generator).split(batch_size):
                index = index[:left].to(data.device)
                if len(index) == 0:
                    break
                _gradient_step(model, stepper, data, index)
                left -= len(index)
                spent += GRADIENT_STEP_COST * len(index)
                if after_step is not None:
                    after_step(spent)
    return model.eval()


def _gradient_step(model: nn.Module, stepper: torch.optim.Optimizer, data: TensorData, index: torch.Tensor) -> None:
    if len(index) < 2:
        return  # BatchNorm has no statistics of a single sample
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
