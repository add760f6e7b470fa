"""How much smaller and faster does a network get by whole channels, without training it again?

Claim: of a CNN for 8x8 digits with 32 and 64 channels, NSGA-II cuts 57 % of the multiply-adds for one point of held-out
accuracy (.981 to .970), where the same share off both layers costs eight (.901). BatchNorm statistics taken anew bring
that one to .959, so most of the gap can be had without a search. The time falls by a quarter only.
Price: 1,200 candidates, 360,000 samples through networks of all sizes, ten seconds on one CPU core; one seed;
pip install "evohbde[structured]"
Run: python -m examples.prune_channels
"""

import torch
from torch import nn

from evohbde import StructuredProblem, TensorData, pretrain, run_until
from evohbde.pruning.latency import Latency, measure
from evohbde.recalibrate import batch_norms, recalibrated
from evohbde.searchers import NSGA2
from problems.digits import splits
from problems.networks import initialised

torch.set_num_threads(1)  # networks this small are fastest on one thread

MOST_LOSS = 0.01  # of accuracy on the samples of the search


def build() -> nn.Sequential:
    first = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))


pretraining, train, test = (TensorData(part.x[:, None], part.y) for part in splits(seed=0))
model = pretrain(initialised(build, 0), pretraining, epochs=30, seed=0)
problem = StructuredProblem(model, train, ["error", "multiply_adds"], seed=0)
searcher = NSGA2(problem, popsize=40, include_center=True)
run_until(searcher, num_evaluations=1_200)

errors, costs = searcher.population.evals.T
is_good = errors <= problem.score(model, train, ["error"])["error"] + MOST_LOSS
chosen = int(costs.masked_fill(~is_good, torch.inf).argmin())

# The same share off both layers, the largest that is not cheaper than what was found.
shares = torch.linspace(0, 0.9, 91)[:, None].expand(-1, problem.pruning.dim)
cost_of = problem.objectives[1]
uniform = [network for network in map(problem.make_network, shares) if cost_of(network) >= costs[chosen]][-1]

networks = {"as trained": model, "searched": problem.make_network(searcher.population[chosen]), "uniform": uniform}
for name in ("searched", "uniform"):
    network = networks[name]
    networks[f"{name}, new norms"] = recalibrated(network, train.x, [1.0] * len(batch_norms(network)))
latency = Latency(model, test.x, num_repeats=100)
noise = latency.noise
print(f"the network against itself: {noise.median:.2f} of its time ({noise.lower:.2f} to {noise.upper:.2f})")
for (name, network), size in zip(networks.items(), measure(list(networks.values()), test), strict=True):
    accuracy, time = problem.score(network, test, ["accuracy"])["accuracy"], latency.timing(network)
    counts = f"{size.multiply_adds:7,} multiply-adds, {size.num_bytes:6,} bytes"
    print(f"{name:19} held-out accuracy {accuracy:.3f}, {counts}, {time.median:.2f} of the time")
