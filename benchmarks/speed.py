"""How fast is it, beside the limits of the machine and beside others?"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import get_context
from statistics import median

import torch
from sklearn.metrics import f1_score

from benchmarks.speed_blocking import measure_blocking
from benchmarks.speed_networks import measure_convolutions, measure_digits, resnet18_case, resnet20_case
from benchmarks.tables import markdown, publish
from benchmarks.timing import Row, Times, cells, in_turn, ratio, row, write_json
from evohbde.metrics import confusion_matrix, f1

NUM_PROCESSES = 3

Section = Callable[[], tuple[list[Row], Times]]


def measure_metrics(repeats: int, popsize: int = 100, num_samples: int = 1_797) -> tuple[list[Row], Times]:
    """Macro-F1 of a population against scikit-learn's, one network after the other."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (num_samples,), generator=generator)
    predicted = torch.randint(10, (popsize, num_samples), generator=generator)
    truth, guesses = labels.numpy(), predicted.numpy()
    theirs = [f1_score(truth, one, average="macro") for one in guesses]
    difference = (f1(confusion_matrix(predicted, labels, 10)) - torch.tensor(theirs, dtype=torch.float64)).abs().max()
    times = in_turn(
        {
            "ours": lambda: f1(confusion_matrix(predicted, labels, 10)),
            "scikit-learn": lambda: [f1_score(truth, one, average="macro") for one in guesses],
        },
        repeats,
    )
    return [
        row(f"macro-F1 of {popsize} candidates: scikit-learn", ratio(times, "scikit-learn", "ours"), "times of ours"),
        Row("macro-F1: largest difference", *3 * (float(difference),), "", "<= 1e-12"),
    ], times


def sections(is_quick: bool) -> dict[str, Section]:
    """What is measured; `is_quick`: small sizes, to see that all of it runs."""
    if is_quick:
        return {
            "blocking": lambda: measure_blocking(2, 60_000),
            "resnet20": lambda: measure_convolutions("ResNet-20", resnet20_case(16, 1), 1),
            "digits": lambda: measure_digits(200, 8, 2, ("", "")),
            "metrics": lambda: measure_metrics(2, 10, 200),
        }
    return {
        "blocking": lambda: measure_blocking(15),
        "resnet20": lambda: measure_convolutions("ResNet-20", resnet20_case(192, 2), 9),
        "resnet18": lambda: measure_convolutions("ResNet-18, 3x3 stem", resnet18_case(192, 1), 7),
        "digits": lambda: measure_digits(1_797, 100, 15, ("<= 1.15", ">= 2.7")),
        "few samples": lambda: measure_digits(64, 100, 15, ("<= 0.5", ""), generations=10),
        "metrics": lambda: measure_metrics(15),
    }


def in_processes(name: str, num_processes: int) -> list[tuple[list[Row], Times]]:
    """A section in fresh processes, which find memory in different states: that moves some ratios by a tenth."""
    found = []
    for _ in range(num_processes):
        with get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_section, (name,)))
    return found


def _section(name: str) -> tuple[list[Row], Times]:
    torch.set_num_threads(1)
    return sections(False)[name]()


def pooled(rows: tuple[Row, ...]) -> Row:
    """One line for the same line of several processes: the median of their medians, the widest of their quartiles."""
    names = " / ".join(dict.fromkeys(one.what for one in rows))
    middle = median(one.value for one in rows)
    return rows[0]._replace(what=names, value=middle, low=min(r.low for r in rows), high=max(r.high for r in rows))


def measure(is_quick: bool = False) -> list[Row]:
    """Measure all of it; a quick look is printed and not kept."""
    rows: list[Row] = []
    seconds: dict[str, list[dict[str, list[float]]]] = {}
    for name, section in sections(is_quick).items():
        start = time.perf_counter()
        turns = [section()] if is_quick else in_processes(name, NUM_PROCESSES)
        rows += [pooled(same) for same in zip(*(found for found, _ in turns), strict=True)]
        seconds[name] = [{work: values.tolist() for work, values in times.items()} for _, times in turns]
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    table = markdown(["what", "median [quartiles]", "in", "target", ""], [cells(one) for one in rows])
    if is_quick:
        print(table)
        return rows
    kept = [{**one._asdict(), "is_met": one.is_met} for one in rows]
    write_json("speed", {"rows": kept, "seconds": seconds})
    publish("speed", table, "python -m benchmarks speed")
    return rows
