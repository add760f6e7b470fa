"""Which choices of the default preset matter on the digits?"""

from dataclasses import dataclass

from evotorch.algorithms import SNES
from evotorch.algorithms.searchalgorithm import SearchAlgorithm

from benchmarks.runs import of, run
from benchmarks.tables import markdown, publish, spread, write_csv
from evohbde import HistogramBlocking, NetworkProblem
from evohbde.hbde_2024 import HBDE2024
from evohbde.history import current_solution
from evohbde.preset_base import Assignment, Outcome, Preset
from evohbde.searchers import CMAES, DE
from evohbde.staged import Staged
from problems.digits import shifted_mlp


@dataclass(frozen=True)
class OtherSearcher:
    """Another searcher on the default's problem: offset blocks, cross-entropy, all samples, step 0.02, no gate."""

    searcher: str

    @property
    def name(self) -> str:
        return self.searcher

    def run(self, job: Assignment) -> Outcome:
        problem = NetworkProblem(
            job.model,
            job.train,
            "cross_entropy",
            reduction=lambda theta0: HistogramBlocking(theta0, mode="offset"),
            seed=job.seed,
        )
        searcher = self._searcher(problem)
        job.search(self.searcher, problem, searcher)
        return Outcome(problem.make_network(current_solution(searcher)))

    def _searcher(self, problem: NetworkProblem) -> SearchAlgorithm:
        if self.searcher == "SNES":
            return SNES(problem, popsize=20, center_init=problem.center, stdev_init=0.02)
        if self.searcher == "separable CMA-ES":
            return CMAES(problem, popsize=20, stdev_init=0.02, separable=True)
        return DE(problem, popsize=30, stdev_init=0.03, include_center=True)


CASES: dict[str, Preset] = {
    "default": Staged(),
    "objective: macro-F1 with a smooth tie-breaker": Staged(objective="smooth_f1"),
    "objective: macro-F1": Staged(objective="f1_macro"),
    "1,000 bins": Staged(num_bins=1_000),
    "100 bins": Staged(num_bins=100),
    "step size: divergence 0.001": Staged(divergence=0.001),
    "step size: divergence 0.03": Staged(divergence=0.03),
    "step size: divergence 0.1": Staged(divergence=0.1),
    "popsize 40": Staged(popsize=40),
    "learning rate doubled": Staged(learning_rate=1.0),
    "super-batches of 100": Staged(batch_size=100),
    "searcher: separable CMA-ES": OtherSearcher("separable CMA-ES"),
    "searcher: SNES": OtherSearcher("SNES"),
    "searcher: DE/rand/1/bin from the given network": OtherSearcher("DE"),
    "hbde-2024, 100 bins": HBDE2024(num_bins=100),
    "hbde-2024, 100 bins, trained network injected": HBDE2024(num_bins=100, inject="first"),
    "hbde-2024, 100 bins, order/1/bin": HBDE2024(num_bins=100, strategy="order/1/bin"),
    "hbde-2024, 100 bins, F from 0.1 to 1 per dimension": HBDE2024(
        num_bins=100, differential_weight=(0.1, 1.0), dither="dimension"
    ),
    "hbde-2024, 100 bins, super-batches of 100, stale": HBDE2024(num_bins=100, batch_size=100),
    "hbde-2024, 100 bins, super-batches of 100, refreshed": HBDE2024(num_bins=100, batch_size=100, parents="refresh"),
    "hbde-2024, 1,000 bins": HBDE2024(num_bins=1_000),
    "hbde-2024, 10,000 bins": HBDE2024(),
    "hbde-2024, 10,000 bins, equal trials accepted": HBDE2024(accept_equal=True),
}


def measure(seeds: list[int]) -> None:
    """Every case with 5,000 evaluations."""
    rows: list[dict[str, object]] = []
    for seed in seeds:
        task = shifted_mlp(seed=seed)
        for label, preset in CASES.items():
            rows += run(task, label, preset, seed, num_evaluations=5_000)
        print(f"seed {seed} done", flush=True)
    write_csv("ablation", rows)
    table = markdown(
        ["variant", "held-out macro-F1", *(f"seed {seed}" for seed in seeds)],
        [
            [label, spread(of(rows, label, "f1_macro")), *(f"{value:.3f}" for value in of(rows, label, "f1_macro"))]
            for label in CASES
        ],
    )
    publish("ablation", table, "python -m benchmarks ablation")
