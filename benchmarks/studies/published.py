"""Does the published table hold: Adam, blocking alone, DE, HBDE and ours on ResNet-18?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from benchmarks.runs import run
from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde import Identity, NetworkProblem, SuperBatches, Task, pretrain
from evohbde.durable import write_whole
from evohbde.hbde_2024 import HBDE2024
from evohbde.history import current_solution
from evohbde.preset_base import Assignment, Outcome, Preset
from evohbde.searchers import DE
from problems.cifar import resnet18_cifar10, resnet18_cifar100
from problems.networks import initialised, resnet20

Row = dict[str, object]
BUILD_RESNET20 = {"cifar10": 10, "cifar100": 100}


@dataclass(frozen=True)
class AllWeights:
    """DE on every weight, without blocks: as HBDE otherwise, the trained network among the first population."""

    popsize: int = 100
    batch_size: int = 1_000

    @property
    def name(self) -> str:
        return "DE, all weights"

    def run(self, job: Assignment) -> Outcome:
        problem = NetworkProblem(
            job.model,
            SuperBatches(job.train, min(self.batch_size, len(job.train)), seed=job.seed, parents="stale"),
            "f1_macro",
            reduction=Identity,
            seed=job.seed,
        )
        searcher = DE(problem, popsize=self.popsize, stdev_init="auto", include_center=True)
        job.search(self.name, problem, searcher)
        return Outcome(problem.make_network(current_solution(searcher)))


@dataclass(frozen=True)
class Study:
    """What is measured.

    Attributes:
        network: `"resnet18"`, or `"resnet20"` for a quick look.
        datasets: `"cifar10"`, `"cifar100"`.
        num_evaluations: Candidates of each search; the paper's 100 generations of 1,000 calls would be 100,000.
        epochs: Of Adam beforehand.
        images: Training images of each class; None: all.
        device: Where all of it runs.
        root: Folder of torchvision's data; None: CIFAR-10 as JPEG images, and no CIFAR-100.
    """

    network: str = "resnet18"
    datasets: tuple[str, ...] = ("cifar10", "cifar100")
    num_evaluations: int = 10_000
    epochs: int = 10
    images: int | None = None
    device: str = "cpu"
    root: Path | None = None

    @property
    def cases(self) -> dict[str, Preset]:
        """The methods; those of HBDE differ in what the paper leaves open."""
        return {
            "DE, all weights": AllWeights(),
            "HBDE": HBDE2024(),
            "HBDE, trained network injected": HBDE2024(inject="first"),
            "HBDE, parents refreshed": HBDE2024(parents="refresh"),
            "HBDE, order/1/bin, F from 0.1 to 1": HBDE2024(strategy="order/1/bin", differential_weight=(0.1, 1.0)),
            "HBDE, as in the authors' code": HBDE2024(rule="authors", batch_size=128, order="file", advance=100),
            "default": "default",  # type: ignore[dict-item]
        }

    def command(self, seeds: list[int]) -> str:
        """The line that runs it; the folder of images is the reader's own."""
        options = {
            "--network": self.network,
            "--datasets": ",".join(self.datasets),
            "--seeds": f"{seeds[0]}-{seeds[-1]}",
            "--device": self.device,
            "--num-evaluations": self.num_evaluations,
            "--epochs": self.epochs,
            "--images": self.images,
        }
        words = [f"{name} {value}" for name, value in options.items() if value is not None]
        return " ".join(["python -m benchmarks study-resnet18", *words])

    def task(self, dataset: str, seed: int) -> Task | None:
        """Network and images; None where the images are not here."""
        sizes = {} if self.images is None else {"train_per_class": self.images, "validation_per_class": self.images}
        if dataset == "cifar100" and self.root is None:
            return None
        factory = {"cifar10": resnet18_cifar10, "cifar100": resnet18_cifar100}[dataset]
        task = factory(seed, root=self.root, **sizes)  # type: ignore[arg-type]
        if self.network == "resnet18":
            return task
        model = initialised(lambda: resnet20(BUILD_RESNET20[dataset]), seed)
        return Task(model, task.train, validation=task.validation, test=task.test, name=f"resnet20-{dataset}")


def measure(study: Study, seeds: list[int], out: Path | None = None) -> None:
    """Every method on every seed and data set; a method that is in the records already is not run again."""
    if study.network not in ("resnet18", "resnet20"):
        raise ValueError(f"`network` must be 'resnet18' or 'resnet20', got {study.network!r}")
    name = f"study-{study.network}"
    out = out or Path("runs") / name
    out.mkdir(parents=True, exist_ok=True)
    absent = [dataset for dataset in study.datasets for seed in seeds if not measure_seed(study, dataset, seed, out)]
    rows = list(records(out))
    if rows:
        write_csv(name, rows)
        publish(name, table(rows, list(dict.fromkeys(absent))), study.command(seeds))


def measure_seed(study: Study, dataset: str, seed: int, out: Path) -> bool:
    """Run what is missing of one seed, and say whether its images are here."""
    task = study.task(dataset, seed)
    if task is None:
        return False
    trained: Task | None = None
    for label, preset in study.cases.items():
        record = out / f"{dataset}-{seed}-{list(study.cases).index(label)}.json"
        if record.exists():
            continue
        trained = trained or _pretrained(task, study, seed)
        rows = run(trained, label, preset, seed, num_evaluations=study.num_evaluations)
        marked = [{"dataset": dataset, **row} for row in rows]
        write_whole(record, json.dumps(marked).encode())
        print(f"{dataset}, seed {seed}, {label}: macro-F1 {rows[-1]['f1_macro']}", flush=True)
    return True


def records(out: Path) -> Iterator[Row]:
    """All rows there are; the pre-trained network, which every method reports, once per seed."""
    seen = set()
    for path in sorted(out.glob("*.json")):
        for row in json.loads(path.read_text()):
            label = str(row["label"])
            row["label"] = "Adam" if label.endswith(": untouched") else label
            key = row["dataset"], row["seed"], row["label"]
            if key not in seen:
                seen.add(key)
                yield row


def table(rows: list[Row], absent: list[str]) -> str:
    """Methods by data sets: held-out macro-F1 and accuracy, mean and deviation over seeds, and the median."""
    labels = list(dict.fromkeys((str(row["dataset"]), str(row["label"])) for row in rows))
    lines = []
    for dataset, label in labels:
        chosen = [row for row in rows if (row["dataset"], row["label"]) == (dataset, label)]
        scores = [float(str(row["f1_macro"])) for row in chosen]
        accuracy = [float(str(row["accuracy"])) for row in chosen]
        lines.append([dataset, label, spread(scores), f"{np.median(scores):.3f}", spread(accuracy), str(len(chosen))])
    lines += [[dataset, "not run here", "", "", "", "0"] for dataset in absent]
    return markdown(["data", "method", "held-out macro-F1", "median", "accuracy", "seeds"], lines)


def _pretrained(task: Task, study: Study, seed: int) -> Task:
    parts = [None if part is None else part.to(study.device) for part in (task.train, task.validation, task.test)]
    train, validation, test = parts
    assert train is not None
    model: nn.Module = deepcopy(task.model).to(study.device)
    model = pretrain(model, train, epochs=study.epochs, seed=seed) if study.epochs else model
    return Task(model, train, validation=validation, test=test, name=task.name)
