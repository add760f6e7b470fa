"""How far may a candidate step before the network's answers change too much?"""

from __future__ import annotations

from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import Divergence
from evohbde.outputs import predict
from evohbde.reductions import Reduction


def probe_stdev(
    model: nn.Module,
    data: TensorData,
    layout: ParameterLayout,
    reduction: Reduction,
    *,
    divergence: float = 0.01,
    directions: Tensor,
    num_rounds: int = 3,
    first_guess: float = 0.01,
) -> tuple[float, int, float]:
    """Find the standard deviation at which random candidates move the network's predictions by a set amount.

    The Kullback-Leibler divergence grows with the square of the step, so a few secant steps on a logarithmic scale find
    the step. No labels are needed.

    Args:
        model: The network, in evaluation mode.
        data: Samples to ask.
        layout, reduction: The searched space; candidates are `center +- stdev * directions`.
        divergence: Wanted divergence KL(network || candidate), in nats per sample, mean over samples and geometric mean
            over candidates.
        directions: Standard normal draws, `(k, d)`; each is tried with both signs.
        num_rounds: Corrections of the first guess.
        first_guess: Where to begin.

    Returns:
        The standard deviation, the number of candidates scored, and the sample forwards spent.
    """
    objective = Divergence(predict(model, data))
    evaluator = NetworkEvaluator(model, layout, reduction, [objective], data)
    both = directions.repeat(2, 1)
    both[len(directions) :] *= -1
    stdev, num_evaluations = first_guess, 0
    for _ in range(num_rounds):
        divergences = evaluator(reduction.center + stdev * both, slice(0, len(data)))[:, 0].nan_to_num(nan=1e3)
        # Geometric mean: in spaces with a few very sensitive weights single directions would rule the mean.
        moved = divergences.clamp(min=1e-12).log().mean().exp()
        num_evaluations += len(both)
        stdev *= min(10.0, max(0.1, (divergence / float(moved)) ** 0.5))
    return stdev, num_evaluations, evaluator.num_samples_seen + len(data)
