"""Does a small network reach more with a teacher than with labels alone, at the same number of its own forwards?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from evotorch.algorithms import SNES
from torch import nn

from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde import (
    Distillation,
    GradientSearcher,
    Identity,
    NetworkProblem,
    ParameterLayout,
    SuperBatches,
    TensorData,
    head_names,
    norm_names,
    pretrain,
    run_until,
    score,
)
from evohbde.objectives import ObjectiveLike
from problems.cifar import resnet20_jpeg
from problems.digits import splits
from problems.networks import initialised

LABELS, TEACHER = "labels", "teacher"
GRADIENTS, NO_GRADIENTS = "Adam", "SNES"
Row = dict[str, object]


class Lesson(NamedTuple):
    """A teacher, its student, and the samples of both.

    Attributes:
        teacher: The larger network.
        student: The smaller one, where all searches start.
        train: What is searched on.
        test: What only the table sees.
        budgets: Sample forwards of the student that each search may spend.
    """

    teacher: nn.Module
    student: nn.Module
    train: TensorData
    test: TensorData
    budgets: tuple[int, ...]


def digits(seed: int) -> Lesson:
    """A CNN that has learnt from 600 digits, and a perceptron (D = 1,210) at random weights with 300 others."""
    pretraining, train, test = (TensorData(part.x[:, None], part.y) for part in splits(seed))
    teacher = pretrain(initialised(_teacher, seed), pretraining, epochs=30, seed=seed)
    return Lesson(teacher, initialised(_student, seed), train, test, (600_000, 3_000_000))


def cifar(seed: int) -> Lesson:
    """The released ResNet-20, and three convolutions (D = 24,346) after 10 epochs on the 3,000 images to search on."""
    task = resnet20_jpeg(seed, train_per_class=300, validation_per_class=0, test_per_class=300)
    assert task.test is not None
    student = pretrain(initialised(_narrow, seed), task.train, epochs=10, seed=seed)
    return Lesson(task.model, student, task.train, task.test, (30_000, 100_000))


LESSONS: dict[str, Callable[[int], Lesson]] = {"digits": digits, "cifar": cifar}


def measure(lesson: str, seeds: list[int]) -> None:
    """Both losses by both kinds of searcher on every seed."""
    rows: list[Row] = []
    for seed in seeds:
        for row in _rows(LESSONS[lesson](seed), seed):
            rows.append(row)
            print(*row.values(), flush=True)
        write_csv(f"distillation-{lesson}", rows)
    publish(f"distillation-{lesson}", table(rows), f"python -m benchmarks distillation --lesson {lesson}")


def _rows(lesson: Lesson, seed: int) -> Iterator[Row]:
    yield _row(seed, "teacher", "", 0, lesson.teacher, lesson.test)
    yield _row(seed, "start", "", 0, lesson.student, lesson.test)
    losses: dict[str, ObjectiveLike] = {LABELS: "cross_entropy", TEACHER: Distillation(lesson.teacher)}
    for budget in lesson.budgets:
        for loss, objective in losses.items():
            for searcher, search in ((GRADIENTS, _descend), (NO_GRADIENTS, _search)):
                found = search(lesson, objective, budget, seed)
                yield _row(seed, searcher, loss, budget, found, lesson.test)


def _descend(lesson: Lesson, loss: ObjectiveLike, budget: int, seed: int) -> nn.Module:
    """Adam at its defaults on all weights, scored after every epoch but at most every 30 steps."""
    problem = NetworkProblem(lesson.student, lesson.train, loss, reduction=Identity, seed=seed)
    epoch = -(-len(lesson.train) // 128)
    searcher = GradientSearcher(problem, "adam", loss=loss, steps_per_generation=max(epoch, 30))
    run_until(searcher, num_samples=budget)
    return problem.make_network(searcher.center)


def _search(lesson: Lesson, loss: ObjectiveLike, budget: int, seed: int) -> nn.Module:
    """SNES on all weights of a small network; of a larger one on norms and head, with 250 samples per generation."""
    student = lesson.student
    is_small = len(ParameterLayout(student)) < 10_000
    problem = NetworkProblem(
        student,
        lesson.train if is_small else SuperBatches(lesson.train, 250, order="file"),
        loss,
        reduction=Identity,
        layout=None if is_small else ParameterLayout(student, [*norm_names(student), *head_names(student)]),
        seed=seed,
    )
    # Random weights of a perceptron are of size 0.1; trained ones get a tenth of their size.
    stdev = 0.1 if is_small else problem.stdev
    searcher = SNES(problem, popsize=50 if is_small else 20, stdev_init=stdev, center_init=problem.center)
    run_until(searcher, num_samples=budget)
    return problem.make_network(searcher.status["center"])


def _row(seed: int, searcher: str, loss: str, budget: int, network: nn.Module, test: TensorData) -> Row:
    found = score(network, test, ["accuracy", "f1_macro", "cross_entropy"])
    row: Row = {"seed": seed, "searcher": searcher, "loss": loss, "budget": budget}
    return row | {key: round(value, 5) for key, value in found.items()}


def table(rows: list[Row]) -> str:
    """Accuracy in percent of each searcher and budget with either loss, and the difference on the same seed."""
    lines = [[name, "", spread(_percent(rows, name, "", 0), 1), "", ""] for name in ("teacher", "start")]
    budgets = dict.fromkeys(int(str(row["budget"])) for row in rows if row["loss"])
    for searcher in (GRADIENTS, NO_GRADIENTS):
        for budget in budgets:
            alone, taught = (_percent(rows, searcher, loss, budget) for loss in (LABELS, TEACHER))
            gains = [after - before for before, after in zip(alone, taught, strict=True)]
            won = f"{spread(gains, 1)}, better on {sum(gain > 0 for gain in gains)} of {len(gains)}"
            lines.append([searcher, f"{budget:,}", spread(alone, 1), spread(taught, 1), won])
    return markdown(["network", "sample forwards", "labels alone: accuracy, %", "with teacher", "difference"], lines)


def _percent(rows: list[Row], searcher: str, loss: str, budget: int) -> list[float]:
    """Accuracies in the order of seeds."""
    found = [row for row in rows if (row["searcher"], row["loss"], int(str(row["budget"]))) == (searcher, loss, budget)]
    return [100 * float(str(row["accuracy"])) for row in found]


def _teacher() -> nn.Sequential:
    first = [nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))


def _student() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def _narrow() -> nn.Sequential:
    widths = (3, 16, 32, 64)
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
