"""Where does an actor run its candidates, and what becomes of a generation when one dies?"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import copy

import torch
from evotorch import Problem
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.util import ActorPool
from torch import Tensor, nn

from evohbde.evaluator import NetworkEvaluator
from evohbde.objectives import AnyObjective

LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)
"""What Ray raises when a process, its machine or what it sent is gone; errors of a problem's own are others."""

MAX_RENEWALS = 3
"""New pools of actors for one generation."""


def redo_where_actors_die(problem: Problem, generation: Callable[[], None]) -> None:
    """Run one generation in the problem's actors; where one of them dies, start new ones and run all of it again.

    What an unfinished generation left behind is never used: neither in the new pool nor, after an error or Ctrl-C, in
    the next generation.

    Args:
        problem: The main problem; its actors have been started.
        generation: Sends the counters, scores every candidate and fetches the counters, as one piece of work.

    Raises:
        RuntimeError: If an actor dies in each of four attempts, or cannot be started; Ray's own error is the cause.
    """
    for num_renewals in range(MAX_RENEWALS + 1):
        try:
            return generation()
        except LOST as error:
            problem.kill_actors()
            if num_renewals == MAX_RENEWALS or getattr(error, "actor_init_failed", False):
                raise RuntimeError(_hopeless(error, num_renewals)) from error
            warnings.warn(
                f"an actor died, {problem.num_actors} new ones score this generation again: {_first_line(error)}",
                RuntimeWarning,
                stacklevel=2,
            )
            problem._parallelize()
        except BaseException:
            # The old pool would wait for answers that nobody asks for any more.
            problem._actor_pool = ActorPool(problem.actors)
            raise


def _hopeless(error: Exception, num_renewals: int) -> str:
    happened = f"died in {num_renewals + 1} attempts" if num_renewals else "cannot be started"
    return (
        f"the actors of this problem {happened}: {_first_line(error)} Give fewer actors if memory runs out, or "
        "num_actors=0 to see the error itself"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def on_own_card(evaluator: NetworkEvaluator, problem: Problem) -> NetworkEvaluator:
    """The evaluator on the card that Ray gave to this actor; the same one where there is none, or outside of actors.

    Args:
        evaluator: Where the problem is.
        problem: Its `num_gpus_per_actor` decides; one card among several actors is shared, `"all"` gives card number i
            to actor number i.
    """
    if not problem.is_remote or not problem._num_gpus_per_actor:
        return evaluator
    device = torch.device(problem.aux_device)
    if evaluator.data.device.type == device.type:
        return evaluator
    return NetworkEvaluator(
        evaluator.model.to(device),
        evaluator.layout,
        copy(evaluator.reduction).to(device),  # the problem goes on with its own
        [_moved(objective, device) for objective in evaluator.objectives],
        evaluator.data.to(device),
        batch_size=evaluator.batch_size,
        stages=evaluator.stage_names,
        cache_bytes=evaluator.cache_bytes,
        strategy=evaluator.strategy,
        precision=evaluator.precision,
    )


def _moved(objective: AnyObjective, device: torch.device) -> AnyObjective:
    """An objective with what it knows of samples, or the networks it asks, on another device."""
    there = copy(objective)
    for name, value in vars(objective).items():
        if isinstance(value, Tensor | nn.Module):
            setattr(there, name, value.to(device))
    return there
