"""How many bytes does a network take in each form, what does that cost it, and what do forward passes win back?

Every network is written to disk, read back, proved to give equal outputs, and scored as it was read. Repair decides on
validation samples that no search saw; all scores are on test samples. The network in full precision is repaired too: it
is what the others are to be compared with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde.compress.codebook import share_weights
from evohbde.compress.codebook_front import codebook_front
from evohbde.compress.compact import CODINGS, load_compact, save_compact
from evohbde.compress.quantization import quantize, quantized_weights, train_quantized
from evohbde.data import Task, TensorData
from evohbde.outputs import predict, score
from evohbde.parts import norm_names
from evohbde.pruning.pipeline import prune
from evohbde.recovery import repair
from evohbde.reductions import HistogramBlocking
from evohbde.rundir import load_network, save_network
from problems.cifar import resnet20_jpeg, shifted_resnet20
from problems.digits import build_cnn, cnn
from problems.networks import resnet20

MAX_LOSS = 0.01
"""Validation accuracy that a searched network may lose: the lightest within it is taken."""

NUM_PROBED = 100
"""Test samples whose outputs must be equal before and after the file."""


@dataclass(frozen=True)
class Case:
    """One network with its samples, and what is spent on it.

    Attributes:
        build: Makes a network of the architecture.
        model: The trained one.
        train, validation, test: Disjoint samples.
        repair: Sample forwards of each repair, and of quantization-aware training.
        search: Candidates of the search for a mask, and of that for a codebook.
    """

    build: Callable[[], nn.Module]
    model: nn.Module
    train: TensorData
    validation: TensorData
    test: TensorData
    repair: int
    search: int


def digits(seed: int) -> Case:
    """Half of the 300 digits that may be searched on are kept for validation."""
    task = cnn(seed)
    train, validation = task.train.split(0.5, seed)
    assert task.test is not None
    return Case(build_cnn, task.model, train, validation, task.test, repair=50_000, search=2_000)


def images(make: Callable[..., Task], seed: int) -> Case:
    """ResNet-20 with 200 images to search on, 300 to decide on and 1,000 to report on."""
    task = make(seed, train_per_class=20, validation_per_class=30, test_per_class=100)
    assert task.validation is not None and task.test is not None
    return Case(resnet20, task.model, task.train, task.validation, task.test, repair=2_000, search=60)


CASES: dict[str, Callable[[int], Case]] = {
    "digits": digits,
    "resnet20": lambda seed: images(resnet20_jpeg, seed),
    "shifted-resnet20": lambda seed: images(shifted_resnet20, seed),
}


def measure(network: str, seeds: list[int]) -> None:
    """All forms before and after repair, seed by seed; one table and one CSV per network."""
    rows: list[dict[str, object]] = []
    for seed in seeds:
        try:
            case = CASES[network](seed)
        except FileNotFoundError as error:
            print(f"{network} is left out: {error}")
            return
        rows += _Seed(case, seed).rows()
        write_csv(f"compression-{network}", rows)
    command = f"python -m benchmarks compression --network {network} --seeds {seeds[0]}-{seeds[-1]}"
    publish(f"compression-{network}", _table(rows), command)


class _Seed:
    """All forms of one network with one seed."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case, self.seed = case, seed
        self.found: list[dict[str, object]] = []

    def rows(self) -> list[dict[str, object]]:
        case = self.case
        model = deepcopy(case.model).eval()
        self._add("float32", model)
        self._add("float16", _halved(model), settle=_halved)
        for kind, group_size in (("int8", None), ("int8-dynamic", None), ("int4", None), ("int4", 16)):
            name = kind if group_size is None else f"{kind}, groups of {group_size}"
            self._add(name, quantize(model, kind, group_size=group_size))
        trained = train_quantized(model, case.train, "int4", num_samples=case.repair, lr=1e-4, seed=self.seed)
        self._add("int4, trained with gradients", trained, spent=case.repair)
        for num_bins in (10_000, 256, 64):
            self._add(f"codebook, {num_bins:,} bins", _shared(model, num_bins))
        front = codebook_front(
            model, case.train, validation=case.validation, num_evaluations=case.search, popsize=30, seed=self.seed
        )
        self._add("codebook, searched", front.network(front.select(max_loss=MAX_LOSS)), spent=front.num_samples)
        result = prune(model, case.train, validation=case.validation, num_evaluations=case.search, seed=self.seed)
        pruned = result.network(result.select(max_loss=MAX_LOSS))
        spent = result.history.num_samples_seen
        self._add("pruned", pruned, spent=spent)
        self._add("pruned, codebook, 64 bins", _shared(pruned, 64), spent=spent)
        return self.found

    def _add(
        self,
        method: str,
        network: nn.Module,
        *,
        spent: float = 0.0,
        settle: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        """Write, read and score a network, repair it, and do so again."""
        case = self.case
        is_shared = method.endswith("bins") or method.endswith("searched")
        parts = ("codebook", "biases") if is_shared and not norm_names(network) else ("statistics", "scales", "biases")
        found = repair(network, case.train, case.validation, parts=parts, num_samples=case.repair, seed=self.seed)
        repaired = found.network if settle is None else settle(found.network)
        row: dict[str, object] = {"method": method, "seed": self.seed}
        for when, some in (("given", network), ("repaired", repaired)):
            coding, num_bytes, loaded = self._through_a_file(method, some)
            scores = score(loaded, case.test, ["f1_macro", "accuracy"])
            row |= {
                f"{when}_coding": coding,
                f"{when}_bytes": num_bytes,
                f"{when}_f1_macro": round(scores["f1_macro"], 5),
                f"{when}_accuracy": round(scores["accuracy"], 5),
            }
        row |= {"kept": "+".join(found.kept), "shrinking": round(spent), "repair": round(found.num_samples)}
        self.found.append(row)
        print(row, flush=True)

    def _through_a_file(self, method: str, network: nn.Module) -> tuple[str, int, nn.Module]:
        """The smallest file of a network, and the network that was read from it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.safetensors"
            if method in ("float32", "float16"):
                written = network if method == "float32" else deepcopy(network).half()
                save_network(written, path)
                loaded = load_network(self.case.build().to(next(written.parameters()).dtype), path).float()
                coding, num_bytes = "in full", path.stat().st_size
            else:
                coding, num_bytes = _smallest(network, path)
                loaded = load_compact(path, self.case.build())
        probe = self.case.test.subset(torch.arange(NUM_PROBED))
        if not torch.equal(predict(loaded, probe), predict(network, probe)):
            raise AssertionError(f"{method}: the network read from its file gives other outputs")
        return coding, num_bytes, loaded


def _halved(network: nn.Module) -> nn.Module:
    """All numbers rounded to 16 bits; computed with in 32."""
    return deepcopy(network).half().float()


def _shared(network: nn.Module, num_bins: int) -> nn.Module:
    return share_weights(network, lambda theta: HistogramBlocking(theta, num_bins))


def _smallest(network: nn.Module, path: Path) -> tuple[str, int]:
    """Write the smallest of the files that there are for a network."""
    sizes: dict[str, int] = {}
    for coding in CODINGS:
        if coding != "codebook" or not quantized_weights(network):
            try:
                sizes[coding] = save_compact(network, path, coding=coding)
            except ValueError as error:
                if "a codebook saves nothing" not in str(error):
                    raise
    best = min(sizes, key=lambda coding: sizes[coding])
    save_compact(network, path, coding=best)
    return best, sizes[best]


def _table(rows: list[dict[str, object]]) -> str:
    """Means and deviations over seeds, in the order of the rows."""
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    full = _numbers(rows, "float32", "given_bytes")
    reference = _numbers(rows, "float32", "repaired_f1_macro")
    body = []
    for method in methods:
        num_bytes, repaired = _numbers(rows, method, "given_bytes"), _numbers(rows, method, "repaired_f1_macro")
        shares = [100 * some / all_ for some, all_ in zip(num_bytes, full, strict=True)]
        lost = [100 * (after - before) for after, before in zip(repaired, reference, strict=True)]
        codings = sorted({str(row["given_coding"]) for row in rows if row["method"] == method})
        body.append(
            [
                method,
                "/".join(codings),
                f"{sum(num_bytes) / len(num_bytes):,.0f}",
                f"{sum(shares) / len(shares):.1f} %",
                spread(_numbers(rows, method, "given_f1_macro")),
                spread(repaired),
                f"{sum(lost) / len(lost):+.1f}",
                f"{max(_numbers(rows, method, 'shrinking')):,.0f}",
                f"{max(_numbers(rows, method, 'repair')):,.0f}",
            ]
        )
    scores = ["macro-F1", "repaired", "points to float32, repaired"]
    return markdown(["form", "file", "bytes", "of float32", *scores, "forwards to shrink", "to repair"], body)


def _numbers(rows: list[dict[str, object]], method: str, column: str) -> list[float]:
    return [float(str(row[column])) for row in rows if row["method"] == method]
