"""How do others search the same functions? Each is imported only where it is called for, and none is needed."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from benchmarks.functions import Search, Task

POPSIZE = 100
DE_RAND_1 = {"F": 0.5, "CR": 0.9}


def scipy_de(task: Task, seed: int) -> None:
    """rand1bin; new genes are drawn for those outside the box."""
    from scipy.optimize import differential_evolution

    differential_evolution(
        lambda x: task(x.T),
        [(-task.box, task.box)] * task.dim,
        strategy="rand1bin",
        init=task.start(POPSIZE, seed),
        mutation=DE_RAND_1["F"],
        recombination=DE_RAND_1["CR"],
        maxiter=task.budget,
        tol=0,
        polish=False,
        updating="deferred",
        vectorized=True,
        rng=seed,
    )


def _pymoo(algorithm: Any, task: Task, seed: int) -> None:
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination

    class OfTask(Problem):
        def __init__(self) -> None:
            super().__init__(n_var=task.dim, n_obj=1, xl=-task.box, xu=task.box)

        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: object, **kwargs: object) -> None:
            out["F"] = task(X)[:, None]

    algorithm.setup(OfTask(), seed=seed, termination=NoTermination())
    while algorithm.has_next():
        algorithm.next()


def pymoo_de(task: Task, seed: int) -> None:
    """DE/rand/1/bin without pymoo's polynomial mutation; genes outside are drawn between the bound and the base."""
    from pymoo.algorithms.soo.nonconvex.de import DE

    _pymoo(DE(pop_size=POPSIZE, variant="DE/rand/1/bin", prob_mut=0.0, **DE_RAND_1), task, seed)


def pymoo_cmaes(task: Task, seed: int) -> None:
    """CMA-ES at pymoo's defaults, stops included, with the step size of the others."""
    from pymoo.algorithms.soo.nonconvex.cmaes import CMAES

    _pymoo(CMAES(x0=task.start(1, seed)[0], sigma=0.3), task, seed)


@functools.cache
def _evosax_de(dim: int) -> Any:
    import jax
    from evosax.algorithms import DifferentialEvolution

    jax.config.update("jax_enable_x64", True)
    return DifferentialEvolution(population_size=POPSIZE, solution=jax.numpy.zeros(dim))


def evosax_de(task: Task, seed: int) -> None:
    """rand/1/bin; evosax knows no bounds."""
    algorithm = _evosax_de(task.dim)
    import jax

    params = algorithm.default_params.replace(
        elitism=False,
        crossover_rate=DE_RAND_1["CR"],
        differential_weight=DE_RAND_1["F"],
        differential_weight_min=DE_RAND_1["F"],
        differential_weight_max=DE_RAND_1["F"],
    )
    start = task.start(POPSIZE, seed)
    key = jax.random.key(seed)
    state = algorithm.init(key, start, task(start), params)
    while True:
        key, asked, told = jax.random.split(key, 3)
        x, state = algorithm.ask(asked, state, params)
        state, _ = algorithm.tell(told, x, task(np.asarray(x)), state, params)


def _evox(name: str, task: Task, seed: int) -> None:
    import evox.algorithms
    from evox.core import Problem
    from evox.workflows import StdWorkflow

    class OfTask(Problem):
        def evaluate(self, pop: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(task(pop.numpy()))

    # EvoX draws from torch's global generator, in its default dtype.
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            upper = torch.full((task.dim,), task.box)
            workflow = StdWorkflow(getattr(evox.algorithms, name)(pop_size=POPSIZE, lb=-upper, ub=upper), OfTask())
            workflow.init_step()
            while True:
                workflow.step()
    finally:
        torch.set_default_dtype(before)


def _mealpy(module: str, name: str, options: dict[str, float], task: Task, seed: int) -> None:
    import importlib

    from mealpy import FloatVar

    np.random.seed(seed)  # noqa: NPY002 - it draws its Cauchy numbers from the global generator
    num_generations = task.budget // POPSIZE
    algorithm = getattr(importlib.import_module(f"mealpy.evolutionary_based.{module}"), name)(
        epoch=num_generations, pop_size=POPSIZE, **options
    )
    algorithm.solve(
        {
            "obj_func": lambda x: float(task(x[None])[0]),
            "bounds": FloatVar(lb=[-task.box] * task.dim, ub=[task.box] * task.dim),
            "minmax": "min",
            "log_to": None,
        },
        seed=seed,
    )


def pycma(task: Task, seed: int) -> None:
    """CMA-ES at pycma's defaults from a point of the box, with a step size of 0.3 of its width and no other stop."""
    import cma

    options = {"seed": seed + 1, "verbose": -9}  # 0 would be the clock
    algorithm = cma.CMAEvolutionStrategy(task.start(1, seed)[0], 0.6 * task.box, options)
    while True:
        x = algorithm.ask()
        algorithm.tell(x, task(np.stack(x)).tolist())


PEERS: dict[str, tuple[str, Search]] = {
    "scipy DE/rand/1/bin": ("scipy", scipy_de),
    "pymoo DE/rand/1/bin": ("pymoo", pymoo_de),
    "evosax DE/rand/1/bin": ("evosax", evosax_de),
    "EvoX DE": ("evox", functools.partial(_evox, "DE")),
    "EvoX JaDE": ("evox", functools.partial(_evox, "JaDE")),
    "EvoX SHADE": ("evox", functools.partial(_evox, "SHADE")),
    "mealpy JADE": ("mealpy", functools.partial(_mealpy, "DE", "JADE", {"pt": 0.05, "ap": 0.1})),
    "mealpy SHADE": ("mealpy", functools.partial(_mealpy, "SHADE", "OriginalSHADE", {})),
    "mealpy L-SHADE": ("mealpy", functools.partial(_mealpy, "SHADE", "L_SHADE", {})),
    "pymoo CMA-ES": ("pymoo", pymoo_cmaes),
    "pycma CMA-ES": ("cma", pycma),
}
"""The package that has to be there, and the search."""


def installed(names: list[str]) -> dict[str, Search]:
    """Those whose package is there; the others are named on the screen."""
    found = {}
    for name in names:
        package, search = PEERS[name]
        if find_spec(package) is None:
            print(f"{name}: not installed")
        else:
            found[name] = search
    return found
