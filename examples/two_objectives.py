"""How far can a network follow new data before it forgets the old?

Claim: EvoTorch's NSGA-II finds 50 networks between "nothing forgotten" (held-out macro-F1 .95 on clean digits, .69 on
shifted ones) and "moved over" (.94 on clean ones, .83 on shifted ones); the untouched network has .953 and .666.
Price: 5,000 candidates, 3,000,000 sample forwards, two seconds on one CPU core. EvoTorch 0.6.1 sorts crowding distances
by the wrong index, so its fronts are less even, and often lose their ends, compared with a correct NSGA-II.
Run: python -m examples.two_objectives
"""

import torch
from evotorch.algorithms import GeneticAlgorithm
from evotorch.operators import GaussianMutation, SimulatedBinaryCrossOver
from torch import Tensor
from torch.nn.functional import cross_entropy

from evohbde import HistogramBlocking, NetworkProblem, TensorData, run_until, score
from evohbde.objectives import Function
from problems.digits import shifted_mlp, splits

torch.set_num_threads(1)  # networks this small are fastest on one thread

NUM_OLD = 300

task, clean = shifted_mlp(seed=0), splits(seed=0)
old = TensorData(clean.pretrain.x.flatten(1)[:NUM_OLD], clean.pretrain.y[:NUM_OLD])
old_test = TensorData(clean.test.x.flatten(1), clean.test.y)
both = TensorData(torch.cat([old.x, task.train.x]), torch.cat([old.y, task.train.y]))


def on_old(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[:NUM_OLD], labels[:NUM_OLD])


def on_new(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits[NUM_OLD:], labels[NUM_OLD:])


problem = NetworkProblem(
    task.model,
    both,  # TensorData, not SuperBatches: all samples, in the order given, score every generation
    [Function(on_old, "min"), Function(on_new, "min")],
    reduction=lambda theta0: HistogramBlocking(theta0, 1_000, mode="offset"),
    seed=0,
)
crossover = SimulatedBinaryCrossOver(problem, tournament_size=3, eta=8)
mutation = GaussianMutation(problem, stdev=0.01, mutation_probability=0.1)
searcher = GeneticAlgorithm(problem, popsize=50, operators=[crossover, mutation], re_evaluate=False)
run_until(searcher, num_evaluations=5_000)

population = searcher.population
front = population.take(population.arg_pareto_sort()[0][0])
networks = [task.model] + [problem.make_network(front.values[i]) for i in front.evals[:, 0].argsort()[::7].tolist()]
print(f"{len(front)} networks on the front; the untouched one, then every seventh:")
for network in networks:
    clean_f1, shifted_f1 = (score(network, data)["f1_macro"] for data in (old_test, task.test))
    print(f"held-out F1 on clean digits {clean_f1:.3f}, on shifted ones {shifted_f1:.3f}")
