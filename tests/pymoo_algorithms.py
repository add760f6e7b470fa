"""Which algorithms of pymoo and which functions do the tests of the bridge share?"""

import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from evotorch import Problem, SolutionBatch
from torch import Tensor

pytest.importorskip("pymoo", reason="pymoo is not installed")

from pymoo.core.problem import Problem as PymooProblem
from pymoo.util.ref_dirs import get_reference_directions

DIM = 5
SINGLE = ("DE", "PSO", "CMAES", "SimpleCMAES", "GA", "ES", "NelderMead", "PatternSearch", "G3PCX")
MULTI = ("NSGA2", "NSGA3", "MOEAD", "ParallelMOEAD", "SMSEMOA", "RVEA", "SPEA2", "AGEMOEA2", "GDE3", "CTAEA")
MORE_MULTI = ("UNSGA3", "NSDE", "MOPSO_CD", "CMOPSO")
ONE_BY_ONE = ("NelderMead", "PatternSearch", "G3PCX", "MOEAD")  # they ask for less than a generation at a time
MODULES = {
    "CMAES": "soo.nonconvex.cmaes",
    "SimpleCMAES": "soo.nonconvex.cmaes",
    "NelderMead": "soo.nonconvex.nelder",
    "PatternSearch": "soo.nonconvex.pattern",
    "RandomSearch": "soo.nonconvex.random_search",
    "ParallelMOEAD": "moo.moead",
    "SMSEMOA": "moo.sms",
    "AGEMOEA2": "moo.age2",
}


def make_algorithm(name: str):
    """A new algorithm of that name with a population of 12 to 20."""
    if name == "AGEMOEA2":
        pytest.importorskip("numba", reason="pymoo's AGEMOEA2 needs numba")
    folder = "moo" if name in MULTI + MORE_MULTI else "soo.nonconvex"
    module = importlib.import_module(f"pymoo.algorithms.{MODULES.get(name, f'{folder}.{name.lower()}')}")
    make = getattr(module, name)
    if name in ("NSGA3", "UNSGA3", "MOEAD", "ParallelMOEAD", "RVEA", "CTAEA"):
        directions = get_reference_directions("das-dennis", 2, n_partitions=13)
        return make(directions, n_neighbors=5) if "MOEAD" in name else make(directions)
    if name == "SPEA2":  # its default survival is one object for all
        return make(pop_size=14, survival=module.SPEA2Survival(normalize=True))
    if name == "ES":
        return make(pop_size=4, n_offsprings=16)
    if name == "RandomSearch":
        return make(n_points_per_iteration=14)
    return make() if name in ("CMAES", "SimpleCMAES", "NelderMead", "PatternSearch") else make(pop_size=14)


def hills(x: Tensor) -> Tensor:
    """A function of several hills: `(n, d) -> (n,)`."""
    return (x - 0.3).square().sum(1) - 0.1 * torch.cos(9 * x).sum(1)


def two_goals(x: Tensor) -> Tensor:
    """Distances to two points, the second one curved: `(n, d) -> (n, 2)`."""
    return torch.stack([(x - 0.4).square().sum(1), (x + 0.3).square().sum(1) + 0.1 * x[:, 0].abs()], dim=1)


class Functions(Problem):
    """One of the functions above with its senses; scores are negated where they are maximised."""

    def __init__(self, senses: str | list[str] = "min", *, dtype=torch.float64, bounded=True, seed=1, **options):
        bounds = {"bounds" if bounded else "initial_bounds": (-1.0, 1.0)}
        super().__init__(senses, solution_length=DIM, dtype=dtype, seed=seed, **{**bounds, **options})
        self.function: Callable[[Tensor], Tensor] = hills if isinstance(senses, str) else two_goals
        self.signs = torch.tensor([1.0 if sense == "min" else -1.0 for sense in self.senses], dtype=dtype)
        self.batches: list[Tensor] = []

    def score(self, x: Tensor) -> Tensor:
        return self.function(x).reshape(len(x), -1) * self.signs

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        x = batch.access_values(keep_evals=True).as_subclass(Tensor)
        self.batches.append(x.clone())
        batch.set_evals(self.score(x))


class Theirs(PymooProblem):
    """The same, as a pymoo user would write it."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__(n_var=DIM, n_obj=1 if function is hills else 2, xl=-1.0, xu=1.0)
        self.function = function

    def _evaluate(self, x, out, *args, **kwargs):
        out["F"] = self.function(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def senses_of(name: str, sense: str = "min") -> str | list[str]:
    return [sense, sense] if name in MULTI + MORE_MULTI else sense
