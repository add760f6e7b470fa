"""Do jDE, JADE, SHADE and L-SHADE keep what every search must: senses, failures, drift, bounds, precision, progress?"""

import math

import numpy as np
import pytest
import torch
from evotorch import Problem
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evohbde.searchers import JADE, JDE, LSHADE, SHADE
from evohbde.searchers.one_to_one import midpoint

ADAPTIVE = {
    "JDE": lambda p, **options: JDE(p, **{"popsize": 12, **options}),
    "JADE": lambda p, **options: JADE(p, **{"popsize": 12, **options}),
    "SHADE": lambda p, **options: SHADE(p, **{"popsize": 12, "memory_size": 5, **options}),
    "LSHADE": lambda p, **options: LSHADE(p, **{"popsize": 12, "num_evaluations": 200, **options}),
}
each = pytest.mark.parametrize("name", ADAPTIVE)


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def negative_sphere(x: Tensor) -> Tensor:
    return -sphere(x)


def both(x: Tensor) -> Tensor:
    return torch.stack([x.sum(-1), negative_sphere(x)], dim=1)


def rastrigin(x: Tensor) -> Tensor:
    return (x.square() - 10 * torch.cos(2 * math.pi * x) + 10).sum(-1)


def problem_of(function=sphere, sense="min", length=6, **options) -> Problem:
    if "bounds" not in options:
        options.setdefault("initial_bounds", (-1, 1))
    options.setdefault("seed", 3)
    return Problem(sense, function, solution_length=length, vectorized=True, **options)


def values_of(searcher) -> Tensor:
    return searcher.population.values.as_subclass(Tensor)


def scores_of(searcher) -> Tensor:
    return searcher.population.evals.as_subclass(Tensor)


@each
def test_minimising_f_and_maximising_minus_f_are_the_same_search(name):
    down = ADAPTIVE[name](problem_of())
    up = ADAPTIVE[name](problem_of(negative_sphere, "max"))
    several = ADAPTIVE[name](problem_of(both, ["min", "max"]), obj_index=1)
    for searcher in (down, up, several):
        searcher.run(15)
    assert torch.equal(values_of(down), values_of(up)) and torch.equal(values_of(up), values_of(several))
    assert torch.equal(scores_of(down), -scores_of(up))
    assert torch.equal(scores_of(several), both(values_of(several)))


@each
def test_scores_belong_to_their_values_and_never_get_worse(name):
    searcher = ADAPTIVE[name](problem_of(rastrigin))
    searcher.run(1)
    for _ in range(20):
        before = scores_of(searcher).clone()
        searcher.run(1)
        assert torch.equal(scores_of(searcher)[:, 0], rastrigin(values_of(searcher)))
        assert bool((scores_of(searcher).sort(0).values <= before.sort(0).values[: searcher.popsize]).all())


@each
@pytest.mark.parametrize("sense", ["min", "max"])
def test_a_NaN_score_never_wins_and_teaches_nothing(name, sense):
    sign = 1 if sense == "min" else -1
    searcher = ADAPTIVE[name](problem_of(sense=sense), popsize=6)
    searcher.tell(searcher.ask(), sign * torch.tensor([1.0, torch.nan, 1.0, torch.nan, 1.0, torch.nan]))
    parents, trials = values_of(searcher).clone(), searcher.ask()
    new = sign * torch.tensor([torch.nan, 5.0, 0.0, 7.0, torch.inf, 9.0])
    searcher.tell(trials, new)
    expected = torch.where(torch.tensor([False, True, True, True, False, True])[:, None], trials, parents)
    kept = [row.tolist() in expected.tolist() for row in values_of(searcher)]
    assert all(kept) and not bool(scores_of(searcher).isnan().any())
    for _ in range(5):
        searcher.tell(searcher.ask(), torch.full((searcher.popsize,), torch.nan))
    learnt = [value for value in vars(searcher).values() if isinstance(value, Tensor)]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in learnt)


class Drifting(Problem):
    """The sphere plus the number of the call, so that old scores are always too good."""

    rescore_parents = True

    def __init__(self) -> None:
        super().__init__("min", solution_length=4, initial_bounds=(-1, 1), seed=1)
        self.num_calls = 0

    def _evaluate_batch(self, batch) -> None:
        batch.set_evals(sphere(batch.access_values(keep_evals=True)) + self.num_calls)
        self.num_calls += 1


@each
def test_parents_are_scored_again_where_the_problem_says_that_its_samples_change(name):
    searcher = ADAPTIVE[name](Drifting(), popsize=8)
    for step in range(6):
        assert searcher.next_num_evaluations == searcher.popsize * (2 if step else 1)
        searcher.run(1)
        assert torch.equal(scores_of(searcher)[:, 0], sphere(values_of(searcher)) + step)
    stale = ADAPTIVE[name](Drifting(), popsize=8, rescore_parents=False)
    stale.run(6)
    assert float(scores_of(stale).max()) < 4


@settings(max_examples=10)
@given(
    name=st.sampled_from(sorted(ADAPTIVE)),
    bounds=st.sampled_from([None, "midpoint", "resample"]),
    seed=st.integers(0, 1000),
)
def test_bounds_hold_for_every_candidate_from_the_first_population_on(name, bounds, seed):
    lower, upper = torch.tensor([-1.0, 0.0, -2.0, 0.5]), torch.tensor([1.0, 0.1, 3.0, 0.5])
    problem = problem_of(length=4, bounds=(lower, upper), seed=seed)
    for options in ({}, {"center_init": torch.full((4,), 0.05), "stdev_init": 10.0}):
        searcher = ADAPTIVE[name](problem, bounds=bounds, **options)
        for _ in range(5):
            z = searcher.ask()
            assert bool(((z >= lower) & (z <= upper)).all())
            searcher.tell(z, -sphere(z))


def test_the_midpoint_lies_between_the_bound_and_the_target():
    lower, upper = torch.full((4,), -1.0), torch.full((4,), 2.0)
    trial, target = torch.tensor([-5.0, 2.5, 0.3, torch.inf]), torch.tensor([0.0, 1.0, 0.7, -1.0])
    assert midpoint(trial, target, lower, upper).tolist() == pytest.approx([-0.5, 1.5, 0.3, 0.5])
    bounded = problem_of(bounds=(-1, 1))
    assert JADE(bounded)._bounds.kind == SHADE(bounded)._bounds.kind == "midpoint" != JDE(bounded)._bounds.kind


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_than_float32(name, dtype):
    problem = problem_of(dtype=dtype, eval_dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    searcher = ADAPTIVE[name](problem, popsize=30, **({"num_evaluations": 3_000} if name == "LSHADE" else {}))
    searcher.run(1)
    first = scores_of(searcher).min().item()
    searcher.run(60)
    assert searcher.population.values.dtype == searcher.ask().dtype == dtype
    assert scores_of(searcher).min().item() < first / 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: JDE(p, popsize=3), r"`popsize` must be at least 4, got 3"),
        (lambda p: JDE(p, tau1=1.1), r"`tau1` must lie in \[0, 1\], got 1\.1"),
        (lambda p: JDE(p, crossover_rate=-1), r"`crossover_rate` must lie in \[0, 1\]"),
        (lambda p: JDE(p, differential_weight=0), r"`differential_weight` must be positive.*got 0"),
        (lambda p: JDE(p, differential_weight_range=(1, 0.1)), r"`differential_weight_range` must be \(low, high\)"),
        (lambda p: JADE(p, pbest_rate=2), r"`pbest_rate` must lie in \[0, 1\], got 2"),
        (lambda p: JADE(p, learning_rate=float("nan")), r"`learning_rate` must lie in \[0, 1\], got nan"),
        (lambda p: JADE(p, archive_rate=-1), r"`archive_rate` must not be negative"),
        (lambda p: SHADE(p, memory_size=0), r"`memory_size` must be at least 1, got 0"),
        (lambda p: SHADE(p, bounds="bounce"), r"`bounds` must be one of .*midpoint, got 'bounce'"),
        (lambda p: LSHADE(p, num_evaluations=100), r"must cover the first population of 108, got 100"),
        (lambda p: LSHADE(p, num_evaluations=100, popsize=9, min_popsize=3), r"`min_popsize` must lie between 4 and"),
        (lambda p: LSHADE(p, num_evaluations=100, popsize=9, min_popsize=10), r"`popsize`=9, got 10"),
    ],
)
def test_options_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(problem_of())


@each
def test_only_numeric_evotorch_problems_are_searched(name):
    with pytest.raises(TypeError, match=r"expected `problem` to be an evotorch\.Problem, got function"):
        ADAPTIVE[name](sphere)


# Medians of 7 seeds: JDE 2e-2, 10; JADE 4e-4, 10; SHADE 1e-4, 5; LSHADE 6e-9, 5e-4.
@pytest.mark.parametrize(
    ("name", "of_sphere", "of_rastrigin"),
    [("JDE", 1e-1, 25), ("JADE", 3e-3, 20), ("SHADE", 3e-3, 10), ("LSHADE", 1e-6, 3)],
)
def test_they_converge(name, of_sphere, of_rastrigin):
    for function, box, limit in ((sphere, 100, of_sphere), (rastrigin, 5.12, of_rastrigin)):
        found = []
        for seed in range(3):
            problem = problem_of(function, length=10, bounds=(-box, box), dtype=torch.float64, seed=seed)
            budget = {"num_evaluations": 5_000} if name == "LSHADE" else {}
            searcher = ADAPTIVE[name](problem, popsize=40, **budget)
            spent = 0
            while spent + searcher.next_num_evaluations <= 5_000:
                spent += searcher.next_num_evaluations
                searcher.step()
            found.append(searcher.status["pop_best_eval"])
        assert np.median(found) < limit
