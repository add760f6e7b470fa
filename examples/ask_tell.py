"""How is a searcher driven by an evaluation loop of one's own?

Claim: a digits network whose weights are rounded to 3 bits keeps a held-out macro-F1 of .893 of its .953; a search that
scores the *rounded* candidates finds weights that keep .946. Rounding has a zero gradient almost everywhere.
Price: 60 generations of 50, 900,000 sample forwards, two seconds on one CPU core.
Run: python -m examples.ask_tell
"""

from copy import deepcopy

import torch
from torch import nn

from evohbde import HistogramBlocking, NetworkProblem, score
from evohbde.searchers import DE
from problems.digits import mlp

torch.set_num_threads(1)  # networks this small are fastest on one thread

NUM_BITS = 3

task = mlp(seed=0)


@torch.no_grad()
def rounded(network: nn.Module) -> nn.Module:
    """Copy a network with each tensor on an even grid of 2^bits - 1 values around zero."""
    network = deepcopy(network)
    for parameter in network.parameters():
        step = parameter.abs().max() / (2 ** (NUM_BITS - 1) - 1)
        parameter.copy_((parameter / step).round() * step)
    return network


problem = NetworkProblem(
    task.model,
    task.train,
    "cross_entropy",
    reduction=lambda theta0: HistogramBlocking(theta0, 1_000, mode="offset"),
    seed=0,
)
searcher = DE(problem, popsize=50, stdev_init=0.03, include_center=True)

# `ask` gives candidates, `tell` takes their scores in the problem's sense; what lies between is yours.
for _ in range(60):
    candidates = searcher.ask()
    networks = [rounded(problem.make_network(z)) for z in candidates]
    losses = [score(network, task.train, ["cross_entropy"])["cross_entropy"] for network in networks]
    searcher.tell(candidates, torch.tensor(losses))

population = searcher.population
best = problem.make_network(population[int(population.argbest())])
shown = {"full precision": task.model, "rounded": rounded(task.model), "rounded, searched": rounded(best)}
for name, network in shown.items():
    print(f"{name:18} held-out macro-F1 {score(network, task.test)['f1_macro']:.3f}")
