"""Is a problem seen through a reduction the same problem, only smaller?"""

import copy
import math

import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import CMAES, SNES
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evohbde.data import SuperBatches
from evohbde.problem import NetworkProblem, ReducedProblem
from evohbde.reductions import HistogramBlocking, Identity, RandomBlocking
from evohbde.run import run_until
from evohbde.searchers import DE
from tests.small_networks import digits, mlp

D = 40
THETA0 = torch.randn(D, generator=torch.Generator().manual_seed(0))


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def two_and_more(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([sphere(x), x.sum(-1)], dim=1), x[:, :3]


def inner_of(function=sphere, sense="min", **options) -> Problem:
    return Problem(sense, function, solution_length=D, vectorized=True, **{"initial_bounds": (-1, 1), **options})


def scores_of(problem: Problem, z: Tensor) -> Tensor:
    batch = SolutionBatch(problem, popsize=len(z), empty=True)
    batch.set_values(z)
    problem.evaluate(batch)
    return batch.evals.as_subclass(Tensor).clone()


def candidates(problem: ReducedProblem, num: int) -> Tensor:
    return torch.randn(num, problem.solution_length, generator=torch.Generator().manual_seed(1))


REDUCTIONS = {
    "identity": Identity(THETA0),
    "histogram": HistogramBlocking(THETA0, 8),
    "random": RandomBlocking(THETA0, 5),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("several", [False, True])
@given(chunk_size=st.integers(1, 20), num=st.integers(1, 20))
def test_scores_equal_those_of_the_inner_problem_at_the_expanded_point(name, several, chunk_size, num):
    reduction = REDUCTIONS[name]
    options = {"function": two_and_more, "sense": ["min", "max"], "eval_data_length": 3} if several else {}
    problem = ReducedProblem(inner_of(**options), reduction, chunk_size=chunk_size)
    z = candidates(problem, num)
    expected = scores_of(inner_of(**options), reduction.expand(z))
    assert expected.shape == (num, 5 if several else 1)
    assert torch.allclose(scores_of(problem, z), expected)


def test_the_wrapper_takes_over_what_the_inner_problem_is():
    inner = inner_of(two_and_more, ["min", "max"], eval_data_length=3, dtype=torch.float64)
    reduction = HistogramBlocking(THETA0.double(), 8)
    problem = ReducedProblem(inner, reduction, seed=3)
    assert problem.senses == ["min", "max"]
    assert problem.dtype == problem.eval_dtype == torch.float64
    assert problem.eval_data_length == 3
    assert problem.solution_length == reduction.dim
    assert torch.equal(problem.center, reduction.center)
    assert torch.equal(problem.initial_lower_bounds.as_subclass(Tensor), reduction.lower)
    assert torch.equal(problem.initial_upper_bounds.as_subclass(Tensor), reduction.upper)


def test_no_more_candidates_than_a_chunk_are_expanded_at_a_time():
    shapes = []

    def remember(x: Tensor) -> Tensor:
        shapes.append(tuple(x.shape))
        return sphere(x)

    problem = ReducedProblem(inner_of(remember), REDUCTIONS["random"], chunk_size=6)
    scores_of(problem, candidates(problem, 20))
    assert shapes == [(6, D), (6, D), (6, D), (2, D)]


def test_only_the_wrapper_keeps_solutions():
    inner = inner_of()
    problem = ReducedProblem(inner, REDUCTIONS["random"])
    searcher = DE(problem, popsize=8)
    searcher.run(3)
    assert len(searcher.status["best"]) == problem.solution_length
    assert "best" not in inner.status
    assert searcher.status["num_evaluations"] == 24


@pytest.mark.parametrize("limit", [0.2, 1.0])
def test_values_are_clipped_into_the_bounds_of_the_inner_problem(limit):
    seen = []

    def remember(x: Tensor) -> Tensor:
        seen.append(x.as_subclass(Tensor).clone())
        return sphere(x)

    reduction = REDUCTIONS["random"]
    problem = ReducedProblem(inner_of(remember, bounds=(-limit, limit)), reduction)
    assert problem.lower_bounds is None and problem.upper_bounds is None
    z = 10 * candidates(problem, 5)
    scores_of(problem, z)
    assert torch.equal(torch.cat(seen), reduction.expand(z).clamp(-limit, limit))
    assert torch.equal(problem.decode(z), reduction.expand(z).clamp(-limit, limit))


@pytest.mark.parametrize("kind", [SNES, CMAES])
def test_searchers_that_refuse_bounds_run_on_a_bounded_problem(kind):
    inner = inner_of(bounds=(-0.5, 0.5))
    with pytest.raises(ValueError):
        kind(inner, stdev_init=0.1)
    problem = ReducedProblem(inner, REDUCTIONS["histogram"], seed=1)
    searcher = kind(problem, stdev_init=0.1, center_init=problem.center)
    searcher.run(30)
    assert searcher.status["best_eval"] < float(scores_of(problem, problem.center[None]))


def test_the_reduced_values_may_have_bounds_of_their_own():
    problem = ReducedProblem(inner_of(), REDUCTIONS["random"], bounds=(-0.1, 0.2), seed=1)
    searcher = DE(problem, popsize=8)
    searcher.run(10)
    values = searcher.population.values
    assert bool(((values >= -0.1) & (values <= 0.2)).all())


def test_decoding_takes_a_solution_a_vector_or_many():
    reduction = REDUCTIONS["histogram"]
    problem = ReducedProblem(inner_of(), reduction)
    batch = problem.generate_batch(3)
    z = batch.values.as_subclass(Tensor)
    assert torch.equal(problem.decode(batch[1]), reduction.expand(z[1]))
    assert torch.equal(problem.decode(z), reduction.expand(z))
    assert type(problem.decode(batch[1])) is Tensor


@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_failed_candidates_of_a_plain_inner_problem_are_the_worst(sense, bad):
    problem = ReducedProblem(
        inner_of(lambda x: torch.where(x[:, 0] > 0, sphere(x), bad), sense), Identity(THETA0), seed=2
    )
    searcher = DE(problem, popsize=20, stdev_init=1.0)
    searcher.run(10)
    assert bool((searcher.population.values[:, 0] > 0).all())
    assert math.isfinite(searcher.status["best_eval"])


def test_a_copy_made_mid_run_continues_bit_for_bit():
    searcher = DE(ReducedProblem(inner_of(), REDUCTIONS["random"], seed=5), popsize=8)
    searcher.run(3)
    twin = copy.deepcopy(searcher)
    searcher.run(3)
    twin.run(3)
    assert torch.equal(searcher.population.values, twin.population.values)
    assert searcher.status["num_evaluations"] == twin.status["num_evaluations"] == 48


@pytest.mark.parametrize("strategy", ["views", "batched"])
def test_a_network_problem_in_the_full_space_may_be_reduced(strategy):
    data = digits(60)
    full, direct = (
        NetworkProblem(mlp(), data, "cross_entropy", reduction=reduction, strategy=strategy)
        for reduction in (Identity, lambda theta0: HistogramBlocking(theta0, 20))
    )
    problem = ReducedProblem(full, direct.reduction, seed=1)
    z = candidates(problem, 9)
    assert torch.equal(scores_of(problem, z), scores_of(direct, z))
    assert problem.num_samples_seen == direct.num_samples_seen == 9 * 60
    assert run_until(DE(problem, popsize=5), num_samples=20 * 60) == "num_samples"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": Identity(torch.ones(7))}, r"problem has 40 decision values but the reduction expands to 7"),
        ({"chunk_size": 0}, r"`chunk_size` must be at least 1, got 0"),
        ({"problem": inner_of(num_actors=2), "num_actors": 2}, r"give `num_actors` to the ReducedProblem only"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    arguments = {"problem": inner_of(), "reduction": REDUCTIONS["random"], **arguments}
    with pytest.raises(ValueError, match=message):
        ReducedProblem(**arguments)


def test_super_batches_need_the_reduction_inside():
    full = NetworkProblem(mlp(), SuperBatches(digits(60), 20), reduction=Identity)
    with pytest.raises(ValueError, match="give the reduction to the NetworkProblem itself"):
        ReducedProblem(full, HistogramBlocking(full.center, 20))
