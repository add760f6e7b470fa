"""Which problem is "make this better" where only a function from weights and inputs to outputs is given?"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evohbde.data import SuperBatches, TensorData
from evohbde.objectives import ObjectiveLike
from evohbde.problem import NetworkProblem, ReductionLike

Array = np.ndarray
Values = Tensor | Array | Mapping[str, Tensor] | Mapping[str, Array]
Predict = Callable[[Any, Any], Tensor | Array]


class BlackBox(nn.Module):
    """A network whose forward pass is a function of its weights that nobody looks into.

    `weights` are what `predict` is called with: in the shapes, under the names and in the kind (tensor or NumPy array)
    of `theta0`, but always as copies of their own. Copies of this module share `predict`, which may hold what cannot be
    copied, such as a session of an inference engine.

    Args:
        predict: `(weights, x) -> class scores (B, C)`, as a tensor or an array; `x` comes in the kind of the weights.
        theta0: One tensor or array, or a mapping from names to them; floating-point.

    Raises:
        TypeError: If `predict` cannot be called, or `theta0` is neither.
        ValueError: By a call, if `predict` returns anything but one row of class scores per sample.
    """

    def __init__(self, predict: Predict, theta0: Values) -> None:
        super().__init__()
        if not callable(predict):
            raise TypeError(f"expected `predict` to be a function of weights and inputs, got {type(predict).__name__}")
        values = dict(theta0) if isinstance(theta0, Mapping) else {"theta0": theta0}
        if not values:
            raise ValueError("`theta0` is an empty mapping: there is nothing to search")
        for name, value in values.items():
            _check_value(name, value)
        self._shared = _Shared(predict)
        self._names = tuple(values) if isinstance(theta0, Mapping) else None
        self._takes_arrays = all(isinstance(value, Array) for value in values.values())
        self.theta = nn.ParameterList([nn.Parameter(torch.as_tensor(value).clone()) for value in values.values()])

    @property
    def weights(self) -> Any:
        """What `predict` gets: copies of the weights, in the form of `theta0`."""
        found = [self._as_given(value.detach().clone()) for value in self.theta]
        return found[0] if self._names is None else dict(zip(self._names, found, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        outputs = self._shared.predict(self.weights, self._as_given(x))
        if not isinstance(outputs, Tensor | Array):
            raise ValueError(f"`predict` must return a tensor or an array, got {type(outputs).__name__}")
        if outputs.ndim != 2 or len(outputs) != len(x):
            raise ValueError(
                f"`predict` must return class scores of shape ({len(x)}, C) for {len(x)} samples, got "
                f"{tuple(outputs.shape)}"
            )
        return torch.as_tensor(outputs).to(self.theta[0])

    def _as_given(self, value: Tensor) -> Tensor | Array:
        return value.cpu().numpy() if self._takes_arrays else value


class BlackBoxProblem(NetworkProblem):
    """Search the weights of a model that is only a function: an inference engine, a simulator, integer arithmetic.

    A `NetworkProblem` in all else, with the same objectives, reductions, super-batches, counting, seeds, actors and
    searchers. `make_network(z)` is a `BlackBox`, whose `weights` go back to where they came from. There are no
    gradients. Scores that are not finite lose. The function is called on up to `batch_size` samples at a time; before
    the search a few times on at most 16 of them, to learn what it returns, which no budget counts.

    Args:
        predict: `(weights, x) -> class scores (B, C)`; called with copies, in the form of `theta0` (`BlackBox`). It
            gives the same outputs for the same weights and samples.
        theta0: The weights to start from: a tensor, an array, or a mapping from names to either.
        data: As in `NetworkProblem`.
        objectives: As in `NetworkProblem`.
        reduction, pull, num_actors, num_subbatches, subbatch_size, seed, batch_size: As in `NetworkProblem`. With
            actors `predict` must be picklable.
        racing: As in `NetworkProblem`; trying whether it is safe costs two passes over the samples.

    Raises:
        TypeError: If `predict` cannot be called or sent to the actors asked for, or `theta0` is none of the above.
        ValueError: If `predict` fails on the samples or returns anything but `(B, C)`, or arguments do not fit.

    Example:
        >>> problem = BlackBoxProblem(run_engine, theta0, TensorData(x, y), "f1_macro", seed=0)
        >>> searcher = SNES(problem, stdev_init=0.02, center_init=problem.center)
        >>> searcher.run(100)
        >>> weights = problem.make_network(searcher.status["center"]).weights
    """

    def __init__(
        self,
        predict: Predict,
        theta0: Values,
        data: TensorData | SuperBatches,
        objectives: ObjectiveLike | Sequence[ObjectiveLike] = "f1_macro",
        *,
        reduction: ReductionLike | None = None,
        pull: float = 0.0,
        num_actors: int | str | None = None,
        num_subbatches: int | None = None,
        subbatch_size: int | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        racing: bool = True,
    ) -> None:
        box = BlackBox(predict, theta0)
        if num_actors not in (None, 0, 1):
            _check_picklable(box)
        super().__init__(
            box,
            data,
            objectives,
            reduction=reduction,
            pull=pull,
            num_actors=num_actors,
            num_subbatches=num_subbatches,
            subbatch_size=subbatch_size,
            seed=seed,
            batch_size=batch_size,
            strategy="views",  # the others look into a network
            racing=racing,
        )

    def outputs(self, z: Tensor, x: Tensor) -> Tensor:
        """There are none that have a gradient.

        Raises:
            TypeError: Always.
        """
        raise TypeError("a black box has no gradients: use a searcher that needs none, such as SNES or DE")


class _Shared:
    """Holds a function that all copies of a module share."""

    def __init__(self, predict: Predict) -> None:
        self.predict = predict

    def __deepcopy__(self, memo: dict[int, object]) -> _Shared:
        return self


def _check_value(name: str, value: object) -> None:
    if not isinstance(value, Tensor | Array):
        raise TypeError(
            f"expected {name!r} to be a tensor or a NumPy array, or `theta0` a mapping from names to them, got "
            f"{type(value).__name__}"
        )
    if not torch.as_tensor(value).is_floating_point():
        raise TypeError(
            f"expected {name!r} to hold floating-point weights, got {value.dtype}: search floats and round them inside "
            "`predict`"
        )


def _check_picklable(box: BlackBox) -> None:
    import ray.cloudpickle

    try:
        ray.cloudpickle.dumps(box)
    except (pickle.PicklingError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise TypeError(
            f"`predict` cannot be sent to actors: {error}; make it a class that opens what cannot be pickled in "
            "`__setstate__`, or use num_actors=0"
        ) from error
