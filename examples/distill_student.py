"""What does a teacher add for a smaller network that has few labelled samples?

Claim: from random weights, a perceptron with 1,210 weights gets to a held-out accuracy of .941 by Adam on the labels of
300 digits, and to .952 with a CNN as its teacher, which has learnt from 600 others and has .981 itself. SNES loses at
this budget, .660 with the teacher after .788 without: a search that sees only scores gains nothing from softer targets.
Price: 600,000 sample forwards of the student each, ten seconds on one CPU core; one seed, docs/results.md has five.
Run: python -m examples.distill_student
"""

import torch
from evotorch.algorithms import SNES
from torch import nn

from evohbde import Distillation, GradientSearcher, Identity, NetworkProblem, TensorData, pretrain, run_until, score
from problems.digits import splits
from problems.networks import initialised

torch.set_num_threads(1)  # networks this small are fastest on one thread

NUM_SAMPLES = 600_000


def build_teacher() -> nn.Sequential:
    first = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))


def build_student() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


pretraining, train, test = (TensorData(part.x[:, None], part.y) for part in splits(seed=0))
teacher = pretrain(initialised(build_teacher, 0), pretraining, epochs=30, seed=0)
student = initialised(build_student, 0)
print(f"teacher                  held-out accuracy {score(teacher, test)['accuracy']:.3f}")

for name, loss in {"labels": "cross_entropy", "teacher": Distillation(teacher, temperature=4.0, alpha=0.9)}.items():
    # The teacher is run once on all samples, and the loss knows which sample is which.
    problem = NetworkProblem(student, train, loss, reduction=Identity, seed=0)
    adam = GradientSearcher(problem, "adam", loss=loss, steps_per_generation=30)
    run_until(adam, num_samples=NUM_SAMPLES)
    print(f"student, {name:7} by Adam held-out accuracy {problem.score(adam.center, test)['accuracy']:.3f}")

    problem = NetworkProblem(student, train, loss, reduction=Identity, seed=0)
    snes = SNES(problem, popsize=50, stdev_init=0.1, center_init=problem.center)
    run_until(snes, num_samples=NUM_SAMPLES)
    print(f"student, {name:7} by SNES held-out accuracy {problem.score(snes.status['center'], test)['accuracy']:.3f}")
