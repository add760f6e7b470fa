"""Do searchers of all packages start at the network, and does what is set win?"""

import pytest
import torch
from evotorch import algorithms

from evohbde import HistogramBlocking, NetworkProblem, searchers
from evohbde.comparison.contestants import POPSIZE, first_population, make_searcher
from tests.comparison.factories import small_task, sphere

POPULATIONS = [searchers.DE, searchers.JDE, searchers.JADE, searchers.SHADE, searchers.LSHADE, searchers.RandomSearch]
GENETIC = [algorithms.GeneticAlgorithm, algorithms.SteadyStateGA, algorithms.Cosyne]
DISTRIBUTIONS = [algorithms.SNES, algorithms.XNES, algorithms.PGPE, algorithms.CEM, algorithms.CMAES, searchers.CMAES]


@pytest.fixture
def problem():
    task = small_task()
    blocks = lambda theta0: HistogramBlocking(theta0, 30, mode="offset")  # noqa: E731
    return NetworkProblem(task.model, task.train, "cross_entropy", reduction=blocks, seed=0)


@pytest.mark.parametrize("kind", [*POPULATIONS, *GENETIC])
def test_populations_are_of_one_size_and_hold_the_network_as_given(kind, problem):
    found = make_searcher(kind, problem, {}, num_evaluations=500)
    seen = []
    problem.before_eval_hook.append(lambda batch: seen.append(batch.values.clone()))
    found.step()
    first = seen[0].as_subclass(torch.Tensor)
    assert len(first) == POPSIZE
    assert (first == problem.center).all(1).any()
    assert 0.5 < float((first - problem.center).std() / problem.stdev.mean()) < 2


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_distributions_start_at_the_network_with_its_own_step(kind, problem):
    found = make_searcher(kind, problem, {})
    seen = []
    problem.before_eval_hook.append(lambda batch: seen.append(batch.values.clone()))
    found.step()
    first = seen[0].as_subclass(torch.Tensor)
    assert 0.5 < float((first - problem.center).std() / problem.stdev.mean()) < 2
    assert float(((first.mean(0) - problem.center) / problem.stdev).square().mean()) < 4 / len(first)


def test_what_is_set_wins_over_what_is_filled_in(problem):
    assert make_searcher(searchers.DE, problem, {"popsize": 7}).population.values.shape[0] == 7
    found = make_searcher(algorithms.CMAES, problem, {"popsize": 9, "separable": True, "stdev_init": "auto"})
    found.step()
    assert len(found.population) == 9
    uniform = make_searcher(searchers.DE, problem, {"stdev_init": None}).population.values.as_subclass(torch.Tensor)
    assert (uniform >= problem.initial_lower_bounds - 1e-6).all()


def test_a_function_is_given_the_problem(problem):
    found = make_searcher(lambda problem, popsize: searchers.DE(problem, popsize=popsize), problem, {"popsize": 8})
    assert len(found.population) == 8
    with pytest.raises(TypeError, match="expected an EvoTorch searcher"):
        make_searcher(lambda problem: 3, problem, {})


def test_a_misspelt_setting_is_named(problem):
    with pytest.raises(ValueError, match=r"DE does not know 'popsze'.*'popsize'"):
        make_searcher(searchers.DE, problem, {"popsze": 3})


@pytest.mark.parametrize("kind", [*POPULATIONS, *GENETIC, *DISTRIBUTIONS, searchers.CoordinateSearch])
def test_plain_problems_need_no_step_of_their_own(kind):
    problem = sphere(seed=3)
    found = make_searcher(kind, problem, {}, num_evaluations=500)
    found.run(3)
    assert float(problem.status["best_eval"]) < 20


def test_the_first_population_is_normal_around_the_network(problem):
    drawn = first_population(problem, 400)
    assert drawn[0].equal(problem.center)
    assert torch.allclose(drawn[1:].std(0) / problem.stdev, torch.ones(problem.solution_length), atol=0.2)


def test_pymoo_is_given_the_same_start_and_its_unknown_options_are_named(problem):
    pytest.importorskip("pymoo", reason="pymoo is not installed")
    from pymoo.algorithms.soo.nonconvex.cmaes import CMAES
    from pymoo.algorithms.soo.nonconvex.de import DE

    found = make_searcher(DE, problem, {"pop_size": 12})
    found.step()
    values = found.population.values.as_subclass(torch.Tensor)
    assert len(values) == 12 and torch.isclose(values, problem.center).all(1).any()
    local, seen = make_searcher(CMAES, problem, {}), []
    problem.before_eval_hook.append(lambda batch: seen.append(batch.values.clone()))
    local.run(2)
    steps = (torch.cat([one.as_subclass(torch.Tensor) for one in seen]) - problem.center) / problem.stdev
    assert 0.5 < float(steps[1:].std()) < 2
    with pytest.raises(ValueError, match="DE does not know 'popsize'"):
        make_searcher(DE, problem, {"popsize": 12})
