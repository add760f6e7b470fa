"""Are the draws of random search those of the first population, and is the best of each row kept?"""

import pytest
import torch
from evotorch import Problem
from scipy import stats
from torch import Tensor

from evohbde.searchers import RandomSearch


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def negative_sphere(x: Tensor) -> Tensor:
    return -sphere(x)


def problem_of(function=sphere, sense="min", length=3, **options) -> Problem:
    options = {"initial_bounds": (-1, 1), "seed": 3, **options}
    return Problem(sense, function, solution_length=length, vectorized=True, **options)


@pytest.mark.parametrize("step", [0, 1, 4])
def test_draws_are_uniform_in_the_initial_bounds_at_every_step(step):
    searcher = RandomSearch(problem_of(initial_bounds=(-1, 3)), popsize=2_000)
    searcher.run(step)
    z = searcher.ask()
    assert stats.kstest(z.flatten().numpy(), stats.uniform(-1, 4).cdf).pvalue > 1e-3


@pytest.mark.parametrize("step", [0, 1, 4])
def test_draws_are_normal_around_the_centre_at_every_step(step):
    center, stdev = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 1.0, 2.0])
    searcher = RandomSearch(problem_of(), popsize=2_000, center_init=center, stdev_init=stdev)
    searcher.run(step)
    z = (searcher.ask() - center) / stdev
    assert stats.kstest(z.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("sense", "function", "best"), [("min", sphere, min), ("max", negative_sphere, max)])
def test_each_row_keeps_the_best_of_its_draws(sense, function, best):
    searcher = RandomSearch(problem_of(function, sense), popsize=4)
    seen: list[list[float]] = [[], [], [], []]
    for _ in range(10):
        z = searcher.ask()
        scores = function(z)
        searcher.tell(z, scores)
        for row, score in zip(seen, scores.tolist(), strict=True):
            row.append(score)
        assert searcher.population.evals[:, 0].tolist() == [best(row) for row in seen]
    assert torch.equal(function(searcher.population.values.as_subclass(Tensor)), searcher.population.evals[:, 0])


def test_what_is_no_number_is_never_kept():
    searcher = RandomSearch(problem_of(), popsize=2, initial_population=torch.zeros(2, 3))
    searcher.tell(searcher.ask(), torch.tensor([1.0, torch.nan]))
    searcher.tell(searcher.ask(), torch.tensor([torch.nan, 2.0]))
    assert searcher.population.evals[:, 0].tolist() == [1.0, 2.0]


def test_the_centre_may_be_among_the_first_draws_and_bounds_hold():
    problem = problem_of(bounds=(-0.5, 0.5), initial_bounds=(-0.5, 0.5))
    center = torch.full((3,), 0.25)
    searcher = RandomSearch(problem, popsize=50, center_init=center, stdev_init=1.0, include_center=True)
    assert torch.equal(searcher.ask()[0], center)
    for _ in range(3):
        assert searcher.ask().abs().max() <= 0.5
        searcher.step()


def test_without_a_distribution_there_is_nothing_to_draw_from():
    free = Problem("min", sphere, solution_length=3, vectorized=True)
    with pytest.raises(ValueError, match=r"no `initial_bounds`"):
        RandomSearch(free, popsize=2, initial_population=torch.zeros(2, 3))


def test_stale_scores_are_renewed_and_counted():
    searcher = RandomSearch(problem_of(), popsize=5, rescore_parents=True)
    assert searcher.next_num_evaluations == 5
    searcher.run(1)
    assert searcher.next_num_evaluations == len(searcher.ask()) == 10
    z = searcher.ask()
    searcher.tell(z, torch.cat([torch.full((5,), 8.0), torch.full((5,), 7.0)]))
    assert searcher.population.evals[:, 0].tolist() == [7.0] * 5
