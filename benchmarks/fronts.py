"""Do our NSGA-II and MOEA/D find fronts as good as pymoo's, at equal evaluations?"""

from collections.abc import Callable

import numpy as np
import torch
from evotorch import Problem
from pymoo.algorithms.moo.moead import MOEAD as PymooMOEAD
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.indicators.hv import HV
from pymoo.optimize import minimize
from pymoo.problems import get_problem
from pymoo.util.ref_dirs import get_reference_directions
from scipy.stats import mannwhitneyu
from torch import Tensor

from benchmarks.tables import markdown, publish, write_csv
from evohbde.run import run_until
from evohbde.searchers import MOEAD, NSGA2, PopulationSearcher

BUDGETS = {"zdt1": 10_000, "zdt2": 10_000, "zdt3": 10_000, "zdt4": 25_000, "dtlz2": 10_000}
REFERENCE = 1.1
NUM_PARTITIONS = {2: 99, 3: 12}  # 100 and 91 weight vectors
COLUMNS = ("our NSGA2", "pymoo NSGA2", "our MOEAD", "pymoo MOEAD")


def measure(seeds: list[int]) -> None:
    """Hypervolume of the last population's front on five problems, ours and pymoo's."""
    rows: list[dict[str, object]] = []
    for name, budget in BUDGETS.items():
        for column in COLUMNS:
            found = [round(hypervolume(name, column, seed, budget), 5) for seed in seeds]
            rows += [
                {"problem": name, "searcher": column, "seed": seed, "num_evaluations": budget, "hypervolume": volume}
                for seed, volume in zip(seeds, found, strict=True)
            ]
            print(f"{name}, {column}: {_quartiles(found)}", flush=True)
    write_csv("fronts", rows)
    header = ["problem, evaluations", *COLUMNS[:2], "p", *COLUMNS[2:], "p"]
    publish("fronts", markdown(header, [_cells(rows, name) for name in BUDGETS]), "python -m benchmarks fronts")


def hypervolume(name: str, column: str, seed: int, num_evaluations: int) -> float:
    """Volume between the front that is found and (1.1, ..., 1.1); 0 where no point is below that."""
    problem = get_problem(name)
    owner, kind = column.split()
    search = _ours if owner == "our" else _pymoos
    front = search(problem, kind, seed, num_evaluations)
    return float(HV(ref_point=np.full(problem.n_obj, REFERENCE))(np.atleast_2d(front)))


def _ours(problem: PymooProblem, kind: str, seed: int, num_evaluations: int) -> np.ndarray:
    searcher = _searchers(problem.n_obj)[kind](_as_evotorch(problem, seed))
    run_until(searcher, num_evaluations=num_evaluations)
    return searcher.pareto_front.evals.numpy()


def _searchers(num_objectives: int) -> dict[str, Callable[[Problem], PopulationSearcher]]:
    # pymoo's MOEAD takes Tchebycheff for two objectives and PBI for three, and so do we here.
    decomposition = "tchebycheff" if num_objectives == 2 else "pbi"
    popsize = 100 if num_objectives == 2 else 91
    return {
        "NSGA2": lambda problem: NSGA2(problem, popsize=100),
        "MOEAD": lambda problem: MOEAD(problem, popsize=popsize, decomposition=decomposition),
    }


def _as_evotorch(problem: PymooProblem, seed: int) -> Problem:
    def score(x: Tensor) -> Tensor:
        return torch.from_numpy(problem.evaluate(x.numpy(), return_values_of=["F"]))

    bounds = (torch.from_numpy(problem.xl), torch.from_numpy(problem.xu))
    options = {"solution_length": problem.n_var, "bounds": bounds, "dtype": torch.float64, "seed": seed}
    return Problem(["min"] * problem.n_obj, score, vectorized=True, **options)


def _pymoos(problem: PymooProblem, kind: str, seed: int, num_evaluations: int) -> np.ndarray:
    if kind == "NSGA2":
        algorithm = PymooNSGA2(pop_size=100)
    else:
        partitions = NUM_PARTITIONS[problem.n_obj]
        algorithm = PymooMOEAD(get_reference_directions("das-dennis", problem.n_obj, n_partitions=partitions))
    return minimize(problem, algorithm, ("n_eval", num_evaluations), seed=seed).F


def _volumes(rows: list[dict[str, object]], name: str, column: str) -> list[float]:
    return [float(str(row["hypervolume"])) for row in rows if (row["problem"], row["searcher"]) == (name, column)]


def _quartiles(volumes: list[float]) -> str:
    lower, median, upper = np.quantile(volumes, [0.25, 0.5, 0.75])
    return f"{median:.4f} [{lower:.4f}, {upper:.4f}]"


def _cells(rows: list[dict[str, object]], name: str) -> list[str]:
    cells = [f"{name.upper()}, {BUDGETS[name]:,}"]
    for ours, theirs in (COLUMNS[:2], COLUMNS[2:]):
        pair = [_volumes(rows, name, column) for column in (ours, theirs)]
        cells += [*map(_quartiles, pair), f"{mannwhitneyu(*pair).pvalue:.3f}"]
    return cells
