"""How do pymoo's algorithms search EvoTorch's problems?"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from typing import Any

import numpy as np
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms.searchalgorithm import SearchAlgorithm, SinglePopulationAlgorithmMixin
from torch import Tensor

try:
    import cloudpickle
    from pymoo.core.algorithm import Algorithm
    from pymoo.core.duplicate import DefaultDuplicateElimination
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.core.termination import NoTermination, Termination
except ImportError as error:
    raise ImportError("evohbde.pymoo_bridge needs pymoo: pip install 'evohbde[pymoo]'") from error

Bounds = tuple[float | Tensor, float | Tensor]

# Their state is a running generator, or they lose a part of it when pickled. ParallelMOEAD is a MOEAD, and sound.
CANNOT_RESUME = {
    "ParallelMOEAD": None,
    "MOEAD": "ParallelMOEAD",
    "CMAES": "SimpleCMAES, or evohbde.searchers.CMAES",
    "CMOPSO": "MOPSO_CD",
    "G3PCX": "GA or DE",
    "PatternSearch": "DE or ES",
}

MANY_VALUES = 10_000_000
"""Values of one generation from which on looking for duplicates takes a noticeable part of a second."""


class PymooSearcher(SearchAlgorithm, SinglePopulationAlgorithmMixin):
    """Any algorithm of pymoo as a native EvoTorch searcher.

    One step is pymoo's ask, one `problem.evaluate` for all that was asked, and pymoo's tell. Status, hooks, loggers,
    actors and senses are EvoTorch's; pymoo sees losses, a score of NaN as +inf, and the values as they were really
    scored, that is, rounded to the problem's dtype. The search stays inside its bounds.

    A copy or a pickle goes on bit for bit. MOEAD, CMAES, CMOPSO, G3PCX and PatternSearch cannot be copied, NelderMead
    not within a move. CMOPSO draws from unseeded generators.

    Args:
        problem: A numeric EvoTorch problem with any number of objectives.
        algorithm: An algorithm of pymoo, not yet set up; it is copied. pymoo ignores keywords it does not know, also
            misspelt ones. Its `evaluator` is replaced, with the callback kept. RVEA needs a `termination`.
        seed: pymoo's seed; None: drawn from the problem's generator. 0 is the clock to pymoo's CMAES.
        termination: A termination of pymoo or a tuple such as `("n_gen", 100)`, then `is_terminated`, and further steps
            do nothing; None: never, also where the algorithm has a default of its own.
        bounds: `(lower, upper)`, numbers or `(d,)`; None: the problem's strict bounds, else its `initial_bounds`.

    Raises:
        TypeError: If `problem` or `algorithm` is something else.
        ValueError: If the algorithm has been set up before, or there are no finite bounds.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: Algorithm,
        *,
        seed: int | None = None,
        termination: Termination | tuple[Any, ...] | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        domain = as_pymoo(problem, bounds=bounds)
        _check_algorithm(algorithm)
        reports = {"pareto_size": self._get_pareto_size} if len(problem.senses) > 1 else {}
        SearchAlgorithm.__init__(self, problem, **reports)
        if seed is None:
            seed = int(torch.randint(1, 2**31 - 1, (1,), generator=problem.generator, device=problem.device))
        self._numpy_state: Any = np.random.RandomState(seed % 2**32).get_state()
        self._is_exhausted = False
        self._population: SolutionBatch | None = None
        self._algorithm = deepcopy(algorithm)
        self._algorithm.evaluator = _BatchEvaluator(callback=algorithm.evaluator.callback)
        termination = NoTermination() if termination is None else deepcopy(termination)
        with self._own_numpy_state():
            self._algorithm.setup(domain, seed=seed, termination=termination)
        _warn(problem, self._algorithm)
        SinglePopulationAlgorithmMixin.__init__(self)

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm of pymoo, with its archive, counters and data; its scores are losses."""
        return self._algorithm

    @property
    def is_terminated(self) -> bool:
        """Whether the termination has fired, or the algorithm finds no new candidates any more."""
        return self._is_exhausted or self._algorithm.termination.has_terminated()

    @property
    def population(self) -> SolutionBatch | None:
        """The algorithm's population with scores in the problem's own senses; None before the first step."""
        if self._population is None:
            self._population = self._as_solutions(self._algorithm.pop)
        return self._population

    @property
    def pareto_front(self) -> SolutionBatch | None:
        """What pymoo reports as its result: the best candidate, or the non-dominated ones of several objectives."""
        return self._as_solutions(self._algorithm.opt)

    def _get_pareto_size(self) -> int:
        return 0 if self._algorithm.opt is None else len(self._algorithm.opt)

    def _as_solutions(self, individuals: Population | None) -> SolutionBatch | None:
        if individuals is None or len(individuals) == 0:
            return None
        problem = self.problem
        batch = _make_batch(problem, individuals.get("X"))
        evals = np.full(batch.evals.shape, np.nan)
        signs = _signs(problem.senses)
        for row, individual in zip(evals, individuals, strict=True):
            if individual.evaluated:
                row[: len(signs)] = individual.F * signs
                row[len(signs) :] = individual.data.get("eval_data", np.nan)
        batch.set_evals(torch.as_tensor(evals, dtype=problem.eval_dtype, device=batch.device))
        return batch

    def _step(self) -> None:
        if self.is_terminated:
            return
        algorithm = self._algorithm
        with self._own_numpy_state():
            asked = algorithm.ask()  # a Population, an Individual, or None if mating finds nothing new
        if asked is None:
            self._is_exhausted = True
            return
        algorithm.evaluator.eval(algorithm.problem, asked, algorithm=algorithm)
        with self._own_numpy_state():
            algorithm.tell(infills=asked)
        self._population = None

    @contextmanager
    def _own_numpy_state(self) -> Iterator[None]:
        """Hold NumPy's global state for this searcher: `cma` seeds it and draws from it, and nobody else shall see."""
        outside = np.random.get_state()  # noqa: NPY002
        np.random.set_state(self._numpy_state)  # noqa: NPY002
        try:
            yield
        finally:
            self._numpy_state = np.random.get_state()  # noqa: NPY002
            np.random.set_state(outside)  # noqa: NPY002

    def __getstate__(self) -> dict[str, Any]:
        _check_resumable(self._algorithm)
        buffer = io.BytesIO()
        _AlgorithmPickler(buffer, self.problem).dump(self._algorithm)
        return {**self.__dict__, "_population": None, "_algorithm": buffer.getvalue()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._algorithm = _AlgorithmUnpickler(io.BytesIO(state["_algorithm"]), self.problem).load()


def as_pymoo(problem: Problem, *, bounds: Bounds | None = None) -> PymooProblem:
    """Make an EvoTorch problem one of pymoo, for `pymoo.optimize.minimize` and all else that takes a pymoo problem.

    One `_evaluate` is one batch evaluation. Scores are losses to pymoo: maximised objectives change their sign, NaN is
    +inf. pymoo computes in float64; the values are cast to the problem's dtype to be scored, and the rounded ones
    cannot be handed back: use a float64 problem, `PymooSearcher`, or a `Repair` that rounds, where that matters.

    Args:
        problem: A numeric EvoTorch problem with any number of objectives.
        bounds: As in `PymooSearcher`.

    Raises:
        TypeError: If `problem` is something else.
        ValueError: If there are no finite bounds.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"expected `problem` to be an evotorch.Problem, got {type(problem).__name__}")
    problem.ensure_numeric()
    return _EvoTorchProblem(problem, *_find_bounds(problem, bounds))


class _EvoTorchProblem(PymooProblem):
    """A pymoo problem that shares its EvoTorch problem with its copies: `save_history` makes one a generation."""

    def __init__(self, source: Problem, lower: np.ndarray, upper: np.ndarray) -> None:
        super().__init__(n_var=source.solution_length, n_obj=len(source.senses), xl=lower, xu=upper)
        self.source = source

    def _evaluate(self, x: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = _losses(_score(self.source, x))

    def __deepcopy__(self, memo: dict[int, Any]) -> _EvoTorchProblem:
        return copy(self)


class _BatchEvaluator(Evaluator):
    """Scores what pymoo asks for, and writes down what was scored: values, losses and evaluation data."""

    def _eval(self, problem: _EvoTorchProblem, pop: Population, evaluate_values_of: list[str], **kwargs: Any) -> None:
        batch = _score(problem.source, pop.get("X"))
        pop.set(X=_to_numpy(batch.values), F=_losses(batch))
        if problem.source.eval_data_length:
            pop.set(eval_data=_to_numpy(batch.evals[:, problem.n_obj :]))
        for individual in pop:
            individual.evaluated.update(("F", "G", "H"))


class _AlgorithmPickler(cloudpickle.Pickler):
    """Leaves out the EvoTorch problem, with its network and data, and NumPy's global generator, which `cma` refers to.

    cloudpickle, because pymoo's decorators hide the names of functions that it needs.
    """

    def __init__(self, file: io.BytesIO, problem: Problem) -> None:
        super().__init__(file)
        self.names = {id(part): name for name, part in _left_out(problem).items()}

    def persistent_id(self, obj: object) -> str | None:
        return self.names.get(id(obj))


class _AlgorithmUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, problem: Problem) -> None:
        super().__init__(file)
        self.parts = _left_out(problem)

    def persistent_load(self, pid: str) -> object:
        return self.parts[pid]


def _left_out(problem: Problem) -> dict[str, object]:
    return {"problem": problem, "numpy": np.random.mtrand._rand}


def _make_batch(problem: Problem, X: np.ndarray) -> SolutionBatch:
    values = torch.as_tensor(np.asarray(X, dtype=np.float64)).to(dtype=problem.dtype, device=problem.device)
    batch = SolutionBatch(problem, popsize=len(values), device=values.device, empty=True)
    batch.set_values(values)
    return batch


def _score(problem: Problem, X: np.ndarray) -> SolutionBatch:
    batch = _make_batch(problem, X)
    problem.evaluate(batch)
    return batch


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.as_subclass(Tensor).to(dtype=torch.float64, device="cpu").numpy()


def _signs(senses: Iterable[str]) -> np.ndarray:
    """1 where an objective is minimised, -1 where it is maximised: `(M,)`."""
    return np.array([1.0 if sense == "min" else -1.0 for sense in senses])


def _losses(batch: SolutionBatch) -> np.ndarray:
    """Scores as pymoo minimises them, without evaluation data, NaN as +inf: `(n, M)`."""
    signs = _signs(batch.senses)
    losses = _to_numpy(batch.evals[:, : len(signs)]) * signs
    return np.where(np.isnan(losses), np.inf, losses)


def _find_bounds(problem: Problem, bounds: Bounds | None) -> tuple[np.ndarray, np.ndarray]:
    """Bounds that are given, strict, or initial, the first finite ones of these: `(d,)` and `(d,)`."""
    strict = (problem.lower_bounds, problem.upper_bounds)
    initial = (problem.initial_lower_bounds, problem.initial_upper_bounds)
    for lower, upper in [strict, initial] if bounds is None else [bounds]:
        if lower is not None and upper is not None:
            found = _read_bound(problem, lower), _read_bound(problem, upper)
            if np.isfinite(found).all():
                if (found[0] > found[1]).any():
                    raise ValueError("expected `bounds` as (lower, upper), got a lower bound above its upper one")
                return found
    if bounds is None:
        raise ValueError("pymoo needs bounds, and the problem has no finite ones: give `bounds=(lower, upper)`")
    raise ValueError("pymoo needs finite `bounds`, got infinite or missing ones")


def _read_bound(problem: Problem, bound: float | Tensor) -> np.ndarray:
    # in the problem's own dtype, so that rounding a value does not take it out of its bounds
    tensor = torch.as_tensor(bound).to(dtype=problem.dtype, device="cpu")
    if tensor.shape not in ((), (1,), (problem.solution_length,)):
        raise ValueError(
            f"expected `bounds` of two numbers or two vectors of {problem.solution_length} values, "
            f"got shape {tuple(tensor.shape)}"
        )
    return _to_numpy(tensor.expand(problem.solution_length)).copy()


def _check_algorithm(algorithm: Algorithm) -> None:
    if not isinstance(algorithm, Algorithm):
        got = f"the class {algorithm.__name__}" if isinstance(algorithm, type) else type(algorithm).__name__
        raise TypeError(f"expected `algorithm` to be an algorithm of pymoo such as `GA(pop_size=50)`, got {got}")
    if algorithm.problem is not None:
        raise ValueError("`algorithm` has already been set up for a problem: give a new one")


def _check_resumable(algorithm: Algorithm) -> None:
    names = [cls.__name__ for cls in type(algorithm).__mro__]
    known = next((name for name in names if name in CANNOT_RESUME), None)
    if known is not None and CANNOT_RESUME[known] is not None:
        raise TypeError(f"pymoo's {known} cannot be copied or pickled: use {CANNOT_RESUME[known]} to stop and resume")
    if getattr(algorithm, "generator", None) is not None:
        raise TypeError(f"{names[0]} cannot be copied or pickled within a move: try again after the next step")


def _warn(problem: Problem, algorithm: Algorithm) -> None:
    popsize = getattr(algorithm, "pop_size", None) or 0
    finds_duplicates = isinstance(getattr(algorithm, "eliminate_duplicates", None), DefaultDuplicateElimination)
    if finds_duplicates and popsize * problem.solution_length >= MANY_VALUES:
        warnings.warn(
            f"looking for duplicates among {popsize} candidates of {problem.solution_length:,} values is slow: "
            f"give {type(algorithm).__name__} eliminate_duplicates=False",
            stacklevel=3,
        )
    if getattr(problem, "rescore_parents", False):
        warnings.warn(
            "the problem scores every generation on other samples, and pymoo keeps the old scores of those that "
            'survive: give SuperBatches parents="fixed", or "stale" to say that this is meant',
            stacklevel=3,
        )
