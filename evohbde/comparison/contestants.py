"""How does a searcher of any package start at the network, with a step by the size of its weights?

What the user sets wins; what is left out is filled in here, so that all searchers of a comparison start alike.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from evotorch import Problem, algorithms
from evotorch.algorithms.searchalgorithm import SearchAlgorithm
from evotorch.operators import GaussianMutation, SimulatedBinaryCrossOver
from torch import Tensor

from evohbde import searchers
from evohbde.gradient_searcher import GradientSearcher
from evohbde.references import call_factory

POPSIZE = 50
"""Of searchers that have a population."""

DISTRIBUTION_POPSIZE = 20
"""Of searchers that have a distribution."""

BOX = 10.0
"""Half the width of the box for searchers that need one, in steps."""

Settings = Mapping[str, Any]

_DISTRIBUTIONS = (algorithms.SNES, algorithms.XNES, algorithms.PGPE, algorithms.CMAES, searchers.CMAES)
_DE_FAMILY = (searchers.DE, searchers.JDE, searchers.JADE, searchers.SHADE, searchers.LSHADE)
_POPULATIONS = (*_DE_FAMILY, searchers.RandomSearch)
_SCALAR_STEP = (algorithms.CMAES,)


def make_searcher(
    kind: Callable[..., Any], problem: Problem, settings: Settings, num_evaluations: int | None = None
) -> SearchAlgorithm:
    """Build a searcher, with a start at the problem's centre and a step of its `stdev` where nothing else is set.

    A problem that has neither starts where the searcher starts by itself; a step that must be given then is the
    standard deviation of the uniform distribution over the initial bounds.

    Args:
        kind: A searcher class of evohbde or EvoTorch, one of your own, an algorithm class of pymoo, or a function
            `(problem, **settings) -> searcher`.
        problem: A fresh problem with one objective.
        settings: What to set; `stdev_init="auto"` is the problem's own in every package.
        num_evaluations: The budget, for searchers that want to know it (L-SHADE).

    Raises:
        TypeError: If something other than a searcher comes out.
        ValueError: If a setting is unknown, or one is missing that has no default here.
    """
    name = getattr(kind, "__name__", repr(kind))
    if _is_pymoo(kind):
        return _from_pymoo(kind, problem, settings, name)
    defaults = _defaults(kind, problem, num_evaluations)
    given = {**defaults, **settings}
    if given.get("stdev_init") == "auto" and not kind.__module__.startswith("evohbde."):
        given["stdev_init"] = _step(problem, kind)
    found = call_factory(kind, {"problem": problem, **given}, name=name)
    if not isinstance(found, SearchAlgorithm):
        raise TypeError(f"{name} gave a {type(found).__name__}: expected an EvoTorch searcher")
    if kind in (algorithms.GeneticAlgorithm, algorithms.SteadyStateGA, algorithms.Cosyne):
        found.population.set_values(first_population(problem, len(found.population)))
    return found


def first_population(problem: Problem, popsize: int) -> Tensor:
    """First population of searchers that draw none around a centre: normal, the centre among it; `(popsize, d)`."""
    center = getattr(problem, "center", None)
    if center is None:
        return problem.generate_values(popsize).as_subclass(Tensor)
    drawn = torch.randn(popsize, problem.solution_length, generator=problem.generator, device=center.device)
    drawn[0] = 0
    return center + _stdev(problem) * drawn.to(center.dtype)


def _defaults(kind: Any, problem: Problem, num_evaluations: int | None) -> dict[str, Any]:
    """What is set where the user sets nothing: a start, a step, and how many candidates make a generation."""
    if not isinstance(kind, type) or issubclass(kind, GradientSearcher):
        return {}
    special = _SPECIAL.get(kind)
    if special is not None:
        return special(problem)
    known = inspect.signature(kind).parameters
    needed = {name for name, one in known.items() if one.default is one.empty}
    found: dict[str, Any] = {}
    if "popsize" in known:
        if issubclass(kind, _DISTRIBUTIONS):
            found["popsize"] = DISTRIBUTION_POPSIZE
        elif issubclass(kind, _POPULATIONS) or "popsize" in needed:
            found["popsize"] = POPSIZE
    if "num_evaluations" in needed and num_evaluations is not None:
        found["num_evaluations"] = num_evaluations
    if kind.__module__.startswith("evohbde."):
        if getattr(problem, "stdev", None) is not None:
            found["stdev_init"] = "auto"
        elif "stdev_init" in needed:
            found["stdev_init"] = _root_mean_square(_stdev(problem))
        return found
    if "stdev_init" in known:
        found["stdev_init"] = _step(problem, kind)
    if "center_init" in known and getattr(problem, "center", None) is not None:
        found["center_init"] = problem.center
    return found


def _pgpe(problem: Problem) -> dict[str, Any]:
    """Adam on the centre at half a step, as the default preset of this package does."""
    start = {} if getattr(problem, "center", None) is None else {"center_init": problem.center}
    return {
        "popsize": DISTRIBUTION_POPSIZE,
        **start,
        "stdev_init": _stdev(problem),
        "center_learning_rate": 0.5 * _root_mean_square(_stdev(problem)),
        "stdev_learning_rate": 0.1,
        "optimizer": "adam",
        "ranking_method": "centered",
    }


def _cem(problem: Problem) -> dict[str, Any]:
    start = {} if getattr(problem, "center", None) is None else {"center_init": problem.center}
    return {"popsize": POPSIZE, **start, "stdev_init": _stdev(problem), "parenthood_ratio": 0.2}


def _genetic(problem: Problem) -> dict[str, Any]:
    """Scores are kept, since all candidates meet the same samples."""
    crossover = SimulatedBinaryCrossOver(problem, tournament_size=4, eta=8, cross_over_rate=1.0)
    mutation = GaussianMutation(problem, stdev=_root_mean_square(_stdev(problem)))
    return {"popsize": POPSIZE, "operators": [crossover, mutation], "re_evaluate": False}


def _cosyne(problem: Problem) -> dict[str, Any]:
    step = _root_mean_square(_stdev(problem))
    return {"popsize": POPSIZE, "tournament_size": 4, "mutation_stdev": step, "num_elites": POPSIZE // 10}


def _coordinates(problem: Problem) -> dict[str, Any]:
    """Its intervals reach two steps to either side, so that the first trials lie one step away."""
    center = getattr(problem, "center", None)
    if center is None:
        return {}
    reach = 2 * _stdev(problem)
    return {"stdev_init": 0.0, "intervals": (center - reach, center + reach)}


def _nsga2(problem: Problem) -> dict[str, Any]:
    box = {"bounds": _box(problem)}
    return {"popsize": POPSIZE, **box, **({"stdev_init": "auto"} if hasattr(problem, "stdev") else {})}


_SPECIAL: dict[type, Callable[[Problem], dict[str, Any]]] = {
    algorithms.PGPE: _pgpe,
    algorithms.CEM: _cem,
    algorithms.GeneticAlgorithm: _genetic,
    algorithms.SteadyStateGA: _genetic,
    algorithms.Cosyne: _cosyne,
    searchers.CoordinateSearch: _coordinates,
    searchers.NSGA2: _nsga2,
}


def _is_pymoo(kind: Any) -> bool:
    return isinstance(kind, type) and any(one.__module__ == "pymoo.core.algorithm" for one in kind.__mro__)


def _from_pymoo(kind: Any, problem: Problem, settings: Settings, name: str) -> SearchAlgorithm:
    """pymoo's populations start as a sample, its local searches at one point with a share of the box as their step."""
    bridge = importlib.import_module("evohbde.pymoo_bridge")
    known = {key for one in kind.__mro__ for key in inspect.signature(one).parameters}
    center, given = getattr(problem, "center", None), dict(settings)
    if any(one.__name__ == "LocalSearch" for one in kind.__mro__):
        known.add("x0")
    if "x0" in known and center is not None:
        given.setdefault("x0", center.double().cpu().numpy())
        for option in ("sigma", "init_simplex_scale", "init_delta"):
            if option in known:
                given.setdefault(option, 0.5 / BOX)
        if "sigma" in known:
            given.setdefault("pop_size", DISTRIBUTION_POPSIZE)
    elif "pop_size" in known:
        popsize = given.setdefault("pop_size", POPSIZE)
        if center is not None:
            given.setdefault("sampling", first_population(problem, int(popsize)).double().cpu().numpy())
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f"{name} does not know {unknown[0]!r}: it takes {', '.join(sorted(known - {'kwargs'}))}")
    return bridge.PymooSearcher(problem, kind(**given), bounds=None if center is None else _box(problem))


def _stdev(problem: Problem) -> Tensor:
    """A step per variable, `(d,)`: the problem's own, or that of the uniform distribution over its initial bounds."""
    own = getattr(problem, "stdev", None)
    if own is not None:
        return own
    lower, upper = problem.initial_lower_bounds, problem.initial_upper_bounds
    if lower is None or upper is None:
        raise ValueError(
            "the problem has neither a `stdev` nor `initial_bounds` to take a step from: give the searcher a stdev_init"
        )
    width = (upper - lower).as_subclass(Tensor)
    return (width / 12**0.5).expand(problem.solution_length).clone()


def _root_mean_square(stdev: Tensor) -> float:
    """One step size for searchers that take no vector."""
    return float(stdev.square().mean().sqrt())


def _step(problem: Problem, kind: Any) -> float | Tensor:
    return _root_mean_square(_stdev(problem)) if kind in _SCALAR_STEP else _stdev(problem)


def _box(problem: Problem) -> tuple[Tensor, Tensor]:
    center, width = getattr(problem, "center", None), BOX * _stdev(problem)
    if center is None:
        return problem.initial_lower_bounds, problem.initial_upper_bounds
    return center - width, center + width
