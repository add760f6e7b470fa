"""How is a model searched that is only a function: integer arithmetic in NumPy, as on a microcontroller?

Claim: a perceptron whose weights are whole numbers from -3 to 3 per layer, and whose activations have 8 bits, has a
held-out macro-F1 of .689 on shifted digits, and .865 once SNES has searched its weights through the rounding. Weights
that were searched in floating point and rounded afterwards reach .852. Outputs are step functions of the weights, so
that there is no gradient to follow.
Price: 2,000 candidates, 600,000 sample forwards each, ten seconds on one CPU core.
Run: python -m examples.black_box
"""

import numpy as np
import torch
from evotorch.algorithms import SNES

from evohbde import BlackBox, BlackBoxProblem, HistogramBlocking, NetworkProblem, run_until, score
from problems.digits import shifted_mlp

torch.set_num_threads(1)  # networks this small are fastest on one thread

Weights = dict[str, np.ndarray]

task = shifted_mlp(seed=0)
theta0: Weights = {name: value.detach().numpy() for name, value in task.model.named_parameters()}


def integers(values: np.ndarray, largest: int) -> tuple[np.ndarray, float]:
    """Round to whole numbers of at most `largest`, and say what one of them is worth."""
    unit = max(float(np.abs(values).max()) / largest, 1e-12)
    return np.round(values / unit).astype(np.int32), unit


def predict(weights: Weights, x: np.ndarray) -> np.ndarray:
    """Class scores by sums of integers: `(n, 64) -> (n, 10)`."""
    for layer in ("hidden1", "hidden2", "output"):
        matrix, unit = integers(weights[f"{layer}.weight"], 3)
        inputs, worth = integers(np.maximum(x, 0), 255)
        bias = np.round(weights[f"{layer}.bias"] / (unit * worth)).astype(np.int32)
        x = (inputs @ matrix.T + bias) * (unit * worth)
    return x


def blocks(theta0: torch.Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, 1_000, mode="offset")


problems = {
    "searched in integers": BlackBoxProblem(predict, theta0, task.train, "cross_entropy", reduction=blocks, seed=0),
    "searched in floats": NetworkProblem(task.model, task.train, "cross_entropy", reduction=blocks, seed=0),
}
found = {"as trained": theta0}
for name, problem in problems.items():
    searcher = SNES(problem, popsize=50, stdev_init=0.03, center_init=problem.center)
    run_until(searcher, num_evaluations=2_000)
    weights = problem.layout.views(problem.decode(searcher.status["center"])).values()
    found[name] = dict(zip(theta0, (value.numpy() for value in weights), strict=True))
for name, weights in found.items():
    f1 = score(BlackBox(predict, weights), task.test)["f1_macro"]
    print(f"{name:20} held-out macro-F1 of the integers {f1:.3f}")
