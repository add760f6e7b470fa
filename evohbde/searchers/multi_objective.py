"""What do searchers share that follow all objectives at once?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from evotorch import Problem, Solution, SolutionBatch
from torch import Tensor

from evohbde.searchers.base import PopulationSearcher, StdevInit
from evohbde.searchers.duplicates import is_repeated, row_keys
from evohbde.searchers.pareto import is_nondominated
from evohbde.searchers.variation import NO_BOUNDS, BinaryVariation, Box, Parents, RealVariation, Variation

Violation = Callable[[Tensor], Tensor]
Bound = float | Tensor
NUM_RETRIES = 10


class MultiObjectiveSearcher(PopulationSearcher):
    """One child per individual and generation; who survives is up to the subclass, and so is who mates.

    A subclass fills in `_mate` and `_select`; its `__init__` calls this one, whose arguments are documented in `NSGA2`.
    A candidate with a score that is not finite, in any objective, has failed and is worse than every other.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        popsize: int,
        variation: str | Variation | None,
        violation: Violation | int | None,
        center_init: Tensor | Solution | None,
        stdev_init: StdevInit,
        initial_population: SolutionBatch | Tensor | None,
        include_center: bool,
        bounds: tuple[Bound, Bound] | None,
        eliminate_duplicates: bool,
        rescore_parents: bool | None,
    ) -> None:
        super().__init__(problem, front_size=self._front_size)
        if popsize < 4:
            raise ValueError(f"`popsize` must be at least 4, got {popsize}")
        self._signs = torch.tensor([1.0 if sense == "min" else -1.0 for sense in problem.senses], device=problem.device)
        self._box = _find_box(problem, bounds)
        self._variation = _find_variation(problem, variation, self._box)
        self._violation = _check_violation(problem, violation)
        self.eliminate_duplicates, self._rescore_parents = eliminate_duplicates, rescore_parents
        if initial_population is None and getattr(self._variation, "is_binary", False):
            values = self._random_bits(popsize, stdev_init)
        else:
            values = self.initial_values(popsize, center_init, stdev_init, initial_population)
        if initial_population is None and self._box is not None:
            values = self._box.clip(values)
        if include_center:
            values[0] = self.center_values(center_init, "include_center")
        if isinstance(self._variation, BinaryVariation) and bool(((values != 0) & (values != 1)).any()):
            raise ValueError("binary variation needs a first population of zeros and ones")
        self._population = SolutionBatch(problem, popsize=popsize, device=problem.device, empty=True)
        self._population.set_values(values)
        self._survived: Tensor | None = None
        self._generation = 0
        self._is_started = False
        self._start_reporting()

    def _choose_objective(self, obj_index: int | None) -> None:
        return None

    @property
    def popsize(self) -> int:
        return len(self._population)

    @property
    def rescore_parents(self) -> bool:
        if self._rescore_parents is None:
            return bool(getattr(self.problem, "rescore_parents", False))
        return self._rescore_parents

    @property
    def next_num_evaluations(self) -> int:
        return self.popsize * (2 if self._is_started and self.rescore_parents else 1)

    @property
    def sign(self) -> float:
        raise AttributeError("there are several objectives: see `losses`")

    def utility(self, scores: Tensor) -> Tensor:
        raise AttributeError("there are several objectives: see `losses`")

    def losses(self, scores: Tensor) -> Tensor:
        """All objectives to be minimised, `inf` in all of them where one is not finite: `(n, M + q) -> (n, M)`."""
        losses = scores[:, : len(self._signs)] * self._signs.to(scores.dtype)
        failed = ~(losses.abs() < torch.finfo(losses.dtype).max).all(1, keepdim=True)
        return losses.masked_fill_(failed, torch.inf)

    def violations(self, values: Tensor, scores: Tensor) -> Tensor | None:
        """How far the constraints are violated, 0 if they are kept: `(n, d)`, `(n, M + q) -> (n,)`."""
        if self._violation is None:
            return None
        if isinstance(self._violation, int):
            found = scores[:, len(self._signs) + self._violation]
        else:
            found = torch.as_tensor(self._violation(values)).as_subclass(Tensor).to(scores)
            if found.shape != (len(values),):
                raise ValueError(f"expected `violation` to give shape ({len(values)},), got {tuple(found.shape)}")
        return torch.where(found.isnan(), torch.inf, found.clamp(min=0))

    @property
    def pareto_front(self) -> SolutionBatch:
        """The distinct members of the population that no other dominates: a copy, empty if all have failed."""
        return self._population[self._in_front().nonzero()[:, 0].tolist()]

    def _front_size(self) -> int:
        return int(self._in_front().sum())

    @torch.no_grad()
    def _in_front(self) -> Tensor:
        values, scores = self._population._data, self._population._evdata
        losses = self.losses(scores)
        in_front = is_nondominated(losses, self.violations(values, scores)) & losses[:, 0].isfinite()
        return in_front & ~is_repeated(row_keys(values))

    @torch.no_grad()
    def ask(self) -> Tensor:
        """The first population, later one child per individual, followed by the parents where they are re-scored."""
        population = self._population._data
        if not self._is_started:
            return population.clone()
        children = self._make_children()
        return torch.cat([children, population]) if self.rescore_parents else children

    @torch.no_grad()
    def tell(self, z: Tensor, scores: Tensor) -> None:
        scores = scores if scores.ndim == 2 else scores[:, None]
        popsize, values, evals = self.popsize, self._population._data, self._population._evdata
        if len(z) not in (popsize, 2 * popsize) or scores.shape != (len(z), evals.shape[1]):
            raise ValueError(
                f"expected the candidates that `ask` gave and scores of shape (n, {evals.shape[1]}), one column per "
                f"objective, got {tuple(z.shape)} and {tuple(scores.shape)}"
            )
        z, scores = z.as_subclass(Tensor).to(values), scores.as_subclass(Tensor).to(evals)
        if not self._is_started:
            values.copy_(z)
            evals.copy_(scores)
            self._is_started = True
            self._start()
            return
        if len(z) == 2 * popsize:
            evals.copy_(scores[popsize:])
        source = self._select(values, evals, z[:popsize], scores[:popsize])
        is_parent, parent, child = (source < popsize)[:, None], source.clamp(max=popsize - 1), source - popsize
        child.clamp_(min=0)
        torch.where(is_parent, values[parent], z[child], out=values)
        torch.where(is_parent, evals[parent], scores[child], out=evals)
        entered = torch.zeros(2 * popsize, dtype=torch.bool, device=source.device).index_fill_(0, source, True)
        self._survived = entered[popsize:]
        self._generation += 1

    def _start(self) -> None:
        """Look at the first population, now that it is scored."""

    def _mate(self, rows: Tensor) -> Tensor:
        """Children for some places in the population: `(n,) -> (n, d)`."""
        raise NotImplementedError

    def _select(self, values: Tensor, evals: Tensor, z: Tensor, scores: Tensor) -> Tensor:
        """Which of parents, `0 <= i < N`, and children, `N + i`, takes each place: `(N,)`, int64."""
        raise NotImplementedError

    def _make_children(self) -> Tensor:
        """Children unlike each other and all parents, as far as some retries give such: `(N, d)`."""
        popsize, population = self.popsize, self._population._data
        children = self._mate(torch.arange(popsize, device=population.device))
        if not self.eliminate_duplicates:
            return children
        known = row_keys(population)
        for _ in range(NUM_RETRIES):
            rows = is_repeated(torch.cat([known, row_keys(children)]))[popsize:].nonzero()[:, 0]
            if not len(rows):
                break
            children[rows] = self._mate(rows)
        return children

    def _vary(self, index: Tensor, places: Tensor) -> Tensor:
        """Children of pairs of parents for some places, -1 for none: `(2, n)`, `(c, n) -> (c, n, d)`."""
        num_children = len(places)
        population = self._population
        parents = Parents(
            index=index,
            population=population._data,
            scores=population._evdata,
            num_children=num_children,
            box=self._box,
            generator=self.problem.generator,
            survived=self._survived,
            generation=self._generation,
            places=places,
        )
        children = self._variation(parents)
        expected = (num_children, index.shape[1], population._data.shape[1])
        if children.shape != expected:
            raise ValueError(f"expected `variation` to give children of shape {expected}, got {tuple(children.shape)}")
        return children.to(population._data)

    def _random_bits(self, popsize: int, stdev_init: StdevInit) -> Tensor:
        if stdev_init is not None:
            raise ValueError("a binary population has no `stdev_init`: it starts from random bits or as given")
        return (self.rand(popsize, self.problem.solution_length) < 0.5).to(self.problem.dtype)


def _find_box(problem: Problem, bounds: tuple[Bound, Bound] | None) -> Box | None:
    """Bounds as given, else the problem's strict ones, else its initial ones, which are not enforced."""
    is_strict = bounds is not None or problem.lower_bounds is not None
    if bounds is None:
        initial = problem.initial_lower_bounds, problem.initial_upper_bounds
        bounds = (problem.lower_bounds, problem.upper_bounds) if is_strict else initial
    if bounds[0] is None:
        return None
    lower, upper = (torch.as_tensor(bound, dtype=problem.dtype, device=problem.device) for bound in bounds)
    lower, upper = lower.as_subclass(Tensor), upper.as_subclass(Tensor)
    width = upper.double() - lower.double()
    if not bool((width.isfinite() & (width >= 0)).all()):
        raise ValueError("every lower bound must be finite and at most the upper bound, which must be finite, too")
    if lower.ndim and lower.shape != (problem.solution_length,):
        raise ValueError(f"expected `bounds` of {problem.solution_length} values each, got {tuple(lower.shape)}")
    return Box(lower, upper, is_strict)


def _find_variation(problem: Problem, variation: str | Variation | None, box: Box | None) -> Variation:
    if variation is None:
        variation = "real" if problem.dtype.is_floating_point else "binary"
    if variation == "real":
        variation = RealVariation()
    elif variation == "binary":
        variation = BinaryVariation()
    if not callable(variation):
        raise ValueError(f"`variation` must be 'real', 'binary' or a callable, got {variation!r}")
    if isinstance(variation, RealVariation):
        if not problem.dtype.is_floating_point:
            raise ValueError(f"real variation needs a floating point problem, got {problem.dtype}")
        if box is None:
            raise ValueError(NO_BOUNDS)
    is_beyond_bits = box is not None and bool(((box.lower != 0) | (box.upper != 1)).any())
    if isinstance(variation, BinaryVariation) and is_beyond_bits and not problem.dtype.is_floating_point:
        raise ValueError("binary variation needs bounds 0 and 1; other whole numbers need a `variation` of your own")
    return variation


def _check_violation(problem: Problem, violation: Violation | int | None) -> Violation | int | None:
    if not (violation is None or isinstance(violation, int) or callable(violation)):
        raise TypeError(f"expected `violation` to be a function or the number of a column, got {violation!r}")
    if isinstance(violation, int) and not 0 <= violation < problem.eval_data_length:
        raise ValueError(
            f"`violation` {violation} must be a column of the evaluation data, of which there are "
            f"{problem.eval_data_length}"
        )
    return violation
