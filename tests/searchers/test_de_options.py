"""What may a user of differential evolution ask for, and what is he told when it does not fit?"""

import numpy as np
import pytest
import torch
from evotorch import Problem, SolutionBatch
from torch import Tensor

from evohbde.searchers import DE


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def problem_of(length: int = 6, **options) -> Problem:
    options.setdefault("initial_bounds", (-1, 1))
    return Problem("min", sphere, solution_length=length, vectorized=True, seed=3, **options)


class Centred(Problem):
    """A problem that knows where a search had best begin."""

    center = torch.full((6,), 4.0)

    def __init__(self) -> None:
        super().__init__("min", sphere, solution_length=6, vectorized=True, seed=3)


def first(searcher: DE) -> Tensor:
    return searcher.ask().clone()


def test_the_first_population_is_uniform_in_the_initial_bounds():
    lower, upper = torch.tensor([0.0, -5.0, 2.0]), torch.tensor([1.0, 5.0, 2.0])
    z = first(DE(problem_of(3, initial_bounds=(lower, upper)), popsize=4_000))
    assert bool(((z >= lower) & (z <= upper)).all())
    assert torch.allclose(z.mean(0), (lower + upper) / 2, atol=0.2)
    assert torch.allclose(z.var(0), (upper - lower) ** 2 / 12, rtol=0.05)


@pytest.mark.parametrize("stdev", [0.5, torch.tensor([0.1, 1, 0, 1, 1, 2.0])])
def test_the_first_population_is_normal_around_a_centre(stdev):
    center = torch.arange(6.0)
    z = first(DE(problem_of(), popsize=4_000, center_init=center, stdev_init=stdev))
    expected = torch.as_tensor(stdev).expand(6)
    assert bool(((z.mean(0) - center).abs() <= 5 * expected / 4_000**0.5).all())
    assert torch.allclose(z.std(0), expected, rtol=0.06)


def test_the_first_population_lies_around_the_centre_of_the_problem():
    z = first(DE(Centred(), popsize=500, stdev_init=0.1))
    assert torch.allclose(z.mean(0), Centred.center, atol=0.03)


def test_the_first_population_may_be_given():
    given = torch.randn(5, 6)
    batch = SolutionBatch(problem_of(), popsize=5, empty=True)
    batch.set_values(given)
    for population in (given, batch):
        searcher = DE(problem_of(), popsize=5, initial_population=population)
        assert torch.equal(first(searcher), given)
        searcher.run(3)
    assert torch.equal(batch.values.as_subclass(Tensor), given)


@pytest.mark.parametrize("kind", ["tensor", "row", "solution", "problem"])
def test_individual_0_is_the_centre_where_asked_for(kind):
    center = Centred.center
    solution = SolutionBatch(Centred(), popsize=1, empty=True)[0]
    solution.set_values(center)
    center_init = {"tensor": center, "row": center[None], "solution": solution, "problem": None}[kind]
    with_it = first(DE(Centred(), popsize=5, center_init=center_init, stdev_init=1.0, include_center=True))
    without = first(DE(Centred(), popsize=5, center_init=center_init, stdev_init=1.0))
    assert torch.equal(with_it[0], center)
    assert torch.equal(with_it[1:], without[1:])
    assert not torch.equal(without[0], center)


def test_the_best_is_never_worse_than_the_included_centre():
    searcher = DE(Centred(), popsize=5, stdev_init=1.0, include_center=True)
    searcher.run(5)
    assert searcher.status["best_eval"] <= float(sphere(Centred.center))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"popsize": 3}, r"`popsize` must be at least 4 for rand/1/bin: 3 distinct donors besides the target, got 3"),
        ({"popsize": 5, "strategy": "rand/2/bin"}, r"at least 6 for rand/2/bin"),
        ({"popsize": 4, "strategy": "best/2/exp"}, r"at least 5 for best/2/exp"),
        ({"popsize": 3, "strategy": "best/1/bin"}, r"at least 4 for best/1/bin"),
        ({"crossover_rate": 1.1}, r"`crossover_rate` must lie in \[0, 1\], got 1\.1"),
        ({"crossover_rate": float("nan")}, r"`crossover_rate` must lie in \[0, 1\], got nan"),
        ({"differential_weight": 0}, r"`differential_weight` must be positive.*got 0"),
        ({"differential_weight": (0.9, 0.1)}, r"or a range \(low, high\).*got \(0\.9, 0\.1\)"),
        ({"differential_weight": float("inf")}, r"`differential_weight` must be positive"),
        ({"strategy": "rand1bin"}, r"unknown `strategy` 'rand1bin'; known: rand/1/bin, rand/1/exp, best/1/bin"),
        ({"strategy": "rand/3/bin"}, r"unknown `strategy`"),
        ({"dither": "generation"}, r"`dither` must be 'trial' or 'dimension', got 'generation'"),
        ({"bounds": "bounce"}, r"`bounds` must be one of none, clip, reflect, resample, midpoint, got 'bounce'"),
        ({"center_init": torch.zeros(6)}, r"`center_init` needs `stdev_init`"),
        ({"stdev_init": 1.0}, r"`stdev_init` needs `center_init`: this problem has no `center`"),
        ({"center_init": torch.zeros(5), "stdev_init": 1.0}, r"`center_init` of 6 values, got shape \(5,\)"),
        ({"center_init": torch.full((6,), float("nan")), "stdev_init": 1.0}, r"`center_init` holds NaN or infinite"),
        ({"center_init": torch.zeros(6), "stdev_init": -1.0}, r"`stdev_init` must be finite and not negative"),
        ({"center_init": torch.zeros(6), "stdev_init": float("nan")}, r"`stdev_init` must be finite"),
        ({"include_center": True}, r"`include_center` needs `center_init`"),
        ({"initial_population": torch.zeros(10, 5)}, r"`initial_population` of shape \(10, 6\).*got \(10, 5\)"),
        ({"initial_population": torch.full((10, 6), float("inf"))}, r"`initial_population` holds NaN or infinite"),
        ({"initial_population": torch.zeros(9, 6)}, r"`initial_population` of shape \(10, 6\).*got \(9, 6\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DE(problem_of(), **{"popsize": 10, **options})


def test_the_centre_that_is_included_must_fit_too():
    with pytest.raises(ValueError, match=r"`center_init` of 6 values, got shape \(3,\)"):
        DE(
            problem_of(),
            popsize=5,
            initial_population=torch.zeros(5, 6),
            center_init=torch.zeros(3),
            include_center=True,
        )


def test_a_problem_without_any_bounds_needs_a_start_and_has_nothing_to_repair_at():
    free = Problem("min", sphere, solution_length=6, vectorized=True)
    with pytest.raises(ValueError, match=r"no `initial_bounds`.*give `center_init` and `stdev_init`"):
        DE(free, popsize=10)
    with pytest.raises(ValueError, match=r"bounds='clip' needs a problem with `bounds` or `initial_bounds`"):
        DE(free, popsize=10, center_init=torch.zeros(6), stdev_init=1.0, bounds="clip")
    DE(free, popsize=10, center_init=torch.zeros(6), stdev_init=1.0).run(2)


def test_only_numeric_evotorch_problems_are_searched():
    with pytest.raises(TypeError, match=r"expected `problem` to be an evotorch\.Problem, got function"):
        DE(sphere)
    with pytest.raises(ValueError, match="numeric"):
        DE(Problem("min", len, dtype=object))


def test_several_objectives_need_a_choice():
    problem = Problem(["min", "max"], sphere, solution_length=6, vectorized=True, initial_bounds=(-1, 1))
    with pytest.raises(ValueError, match="explicit objective index"):
        DE(problem, popsize=10)
    with pytest.raises(IndexError):
        DE(problem, popsize=10, obj_index=2)
    assert DE(problem, popsize=10, obj_index=-1).obj_index == 1


@pytest.mark.parametrize(("strategy", "popsize"), [("rand/1/bin", 4), ("rand/2/exp", 6), ("best/2/bin", 5)])
def test_the_smallest_population_works(strategy, popsize):
    searcher = DE(problem_of(), popsize=popsize, strategy=strategy)
    searcher.run(10)
    assert searcher.popsize == len(searcher.population) == popsize


@pytest.mark.parametrize("weight", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 1, (0.5, 0.5), [0.2, 0.4]])
def test_a_weight_may_be_any_number_or_pair(weight):
    DE(problem_of(), popsize=5, differential_weight=weight).run(3)
