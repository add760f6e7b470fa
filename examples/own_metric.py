"""How is a network tuned for a metric that has no gradient?

Claim: with a cost table for mistakes (an overlooked 8 costs ten times any other), the held-out cost per digit goes from
.729 to .254. Adam on cross-entropy, at the same number of sample forwards, ends at .255 although its macro-F1 is higher
(.915 against .847): where a differentiable loss stands in well for the metric, gradients are as good or better.
Price: 2,000 candidates, 600,000 sample forwards, one second on one CPU core.
Run: python -m examples.own_metric
"""

from copy import deepcopy

import torch
from evotorch.algorithms import SNES
from torch import Tensor

from evohbde import HistogramBlocking, NetworkProblem, run_until, score
from evohbde.gradient import train
from evohbde.objectives import Function
from problems.digits import shifted_mlp

torch.set_num_threads(1)  # networks this small are fastest on one thread

COST = torch.ones(10, 10)  # of predicting the column where the row is true
COST[8] = 10.0
COST.fill_diagonal_(0.0)


def cost_per_digit(logits: Tensor, labels: Tensor) -> Tensor:
    """Look the mistakes of one network up: `(B, C), (B,) -> ()`. Piecewise constant, so its gradient is zero."""
    return COST[labels, logits.argmax(-1)].mean()


task = shifted_mlp(seed=0)
cost = Function(cost_per_digit, sense="min")
problem = NetworkProblem(
    task.model,
    task.train,
    cost,
    reduction=lambda theta0: HistogramBlocking(theta0, 1_000, mode="offset"),
    seed=0,
)
searcher = SNES(problem, popsize=50, stdev_init=0.03, center_init=problem.center)
run_until(searcher, num_evaluations=2_000)

networks = {
    "untouched": task.model,
    "searched for cost": problem.make_network(searcher.status["center"]),
    "Adam on cross-entropy": train(deepcopy(task.model), task.train, num_samples=problem.num_samples_seen),
}
for name, network in networks.items():
    scores = score(network, task.test, [cost, "f1_macro"])
    print(f"{name:21}  held-out cost {scores['cost_per_digit']:.3f}, macro-F1 {scores['f1_macro']:.3f}")
