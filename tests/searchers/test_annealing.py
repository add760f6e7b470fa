"""Does simulated annealing accept as Metropolis says, cool by its schedules and sample Boltzmann's distribution?"""

import math
import pickle

import numpy as np
import pytest
import torch
from evotorch import Problem
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from evohbde.searchers import SimulatedAnnealing
from evohbde.searchers.annealing import (
    acceptance_of_worse,
    geometric_cooling,
    logarithmic_cooling,
    metropolis,
    temperature_for,
)


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def negative_sphere(x: Tensor) -> Tensor:
    return -sphere(x)


def problem_of(function=sphere, sense="min", length=6, **options) -> Problem:
    options = {"initial_bounds": (-1, 1), "seed": 3, **options}
    return Problem(sense, function, solution_length=length, vectorized=True, **options)


def uniform(num: int, seed: int = 0) -> Tensor:
    return torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("change", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_worsening_is_accepted_with_the_probability_of_metropolis(change, temperature):
    accepted = metropolis(torch.full((50_000,), change), temperature, uniform(50_000))
    assert stats.binomtest(int(accepted.sum()), 50_000, math.exp(-change / temperature)).pvalue > 1e-4


def test_gains_are_always_accepted_and_what_is_no_number_never():
    change = torch.tensor([-math.inf, -1.0, 0.0, 1e-3, math.inf, math.nan])
    for temperature in (0.0, 1e-6):
        accepted = metropolis(change, temperature, torch.full((6,), 1 - 1e-7))
        assert accepted.tolist() == [True, True, True, False, False, False]
    assert metropolis(change, math.nan, torch.zeros(6)).tolist() == [True, True, True, False, False, False]


@given(seed=st.integers(0, 2**31), acceptance=st.floats(0.01, 0.99), spread=st.floats(0, 4))
def test_the_first_temperature_gives_the_wanted_acceptance_of_worse_neighbours(seed, acceptance, spread):
    normal = torch.randn(40, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    change = torch.where(normal > 0, (spread * normal).exp(), normal)
    temperature = temperature_for(change, acceptance)
    assert acceptance_of_worse(change, temperature).item() == pytest.approx(acceptance, abs=1e-6)
    scaled = torch.cat([1e6 * change, torch.tensor([-math.inf, math.nan, 0.0])])
    assert temperature_for(scaled, acceptance).item() == pytest.approx(1e6 * temperature.item(), rel=1e-6)


def test_without_a_worse_neighbour_there_is_no_temperature_yet():
    assert temperature_for(torch.tensor([-1.0, 0.0, math.nan]), 0.8).isnan()


def test_the_schedules_are_those_of_the_books():
    assert [geometric_cooling(k, 0.9) for k in range(3)] == pytest.approx([1, 0.9, 0.81])
    expected = [math.log(2) / math.log(1 + t) for t in range(1, 5)]
    assert [logarithmic_cooling(k) for k in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("steps_per_level", [1, 3])
@pytest.mark.parametrize(
    ("cooling", "factor"), [("geometric", lambda k: 0.9**k), ("logarithmic", lambda k: math.log(2) / math.log(2 + k))]
)
@pytest.mark.parametrize("temperature_init", [5.0, None])
def test_the_temperature_follows_its_schedule(cooling, factor, steps_per_level, temperature_init):
    searcher = SimulatedAnnealing(
        problem_of(),
        temperature_init=temperature_init,
        cooling=cooling,
        cooling_rate=0.9,
        steps_per_level=steps_per_level,
    )
    searcher.run(2)
    first = searcher.status["temperature"]
    assert temperature_init is None or first == temperature_init
    for move in range(1, 10):
        searcher.step()
        expected = first * factor(move // steps_per_level)
        assert searcher.status["temperature"] == pytest.approx(expected, rel=1e-5)


def test_adaptive_cooling_leads_the_acceptance_of_worse_neighbours_to_the_wanted_one():
    problem = problem_of(length=3)
    searcher = SimulatedAnnealing(
        problem, popsize=500, cooling="adaptive", cooling_rate=1.0, acceptance_init=0.3, temperature_init=1e3
    )
    searcher.run(400)
    change = torch.cat([searcher._loss_change(*pair) for pair in moves(searcher, 20)])
    assert acceptance_of_worse(change, searcher._temperature).item() == pytest.approx(0.3, abs=0.05)


def moves(searcher: SimulatedAnnealing, num: int):
    """Utilities before and those of the neighbours, per step."""
    for _ in range(num):
        old = searcher.utility(searcher.population.evals.as_subclass(Tensor)).clone()
        z = searcher.ask()
        scores = sphere(z)
        yield old, searcher.utility(scores)
        searcher.tell(z, scores)


LEVELS = torch.tensor([0.0, 1.0, 0.3, 2.0, 0.7])


def levels(x: Tensor) -> Tensor:
    return LEVELS[x[:, 0].long()]


def negative_levels(x: Tensor) -> Tensor:
    return -levels(x)


class Ring(SimulatedAnnealing):
    """One step to the left or to the right, on a ring of five places."""

    def neighbours(self, incumbents: Tensor) -> Tensor:
        return (incumbents + torch.where(self.rand(*incumbents.shape) < 0.5, -1, 1)) % len(LEVELS)


@pytest.mark.parametrize(("sense", "function"), [("min", levels), ("max", negative_levels)])
@pytest.mark.parametrize("temperature", [0.4, 1.5])
def test_at_a_constant_temperature_chains_are_distributed_as_boltzmann_says(sense, function, temperature):
    start = torch.zeros(20_000, 1)
    searcher = Ring(
        problem_of(function, sense, 1),
        popsize=20_000,
        neighbour_stdev=1.0,
        temperature_init=temperature,
        cooling_rate=1.0,
        initial_population=start,
    )
    # A ring of five is not bipartite: the chains forget where they started.
    searcher.run(150)
    counts = np.bincount(searcher.population.values[:, 0].long().numpy(), minlength=len(LEVELS))
    weight = torch.exp(-LEVELS.double() / temperature)
    assert stats.chisquare(counts, (weight / weight.sum() * 20_000).numpy()).pvalue > 1e-3


def test_incumbents_may_worsen_but_the_best_of_a_chain_is_kept():
    searcher = SimulatedAnnealing(problem_of(), popsize=8, temperature_init=10.0, cooling_rate=1.0)
    searcher.run(1)
    best, has_worsened = searcher.population.evals[:, 0].clone().as_subclass(Tensor), False
    for _ in range(30):
        before = searcher.population.evals[:, 0].clone()
        searcher.step()
        now = searcher.population.evals[:, 0].as_subclass(Tensor)
        has_worsened |= bool((now > before).any())
        best = torch.minimum(best, now)
        assert torch.equal(searcher.chain_best.evals[:, 0].as_subclass(Tensor), best)
        assert torch.equal(sphere(searcher.chain_best.values.as_subclass(Tensor)), best)
    assert has_worsened


@pytest.mark.parametrize(
    "options", [{}, {"cooling": "adaptive"}, {"cooling": "logarithmic", "temperature_init": 0.01}, {"move_rate": 0.3}]
)
@pytest.mark.parametrize(("sense", "function"), [("min", sphere), ("max", negative_sphere)])
def test_a_sphere_is_improved_a_hundredfold(sense, function, options):
    searcher = SimulatedAnnealing(problem_of(function, sense), **{"cooling_rate": 0.97, **options})
    searcher.run(1)
    first = abs(float(searcher.status["best_eval"]))
    searcher.run(400)
    assert abs(float(searcher.status["best_eval"])) < first / 100


def test_move_rate_is_the_share_of_values_that_move():
    searcher = SimulatedAnnealing(problem_of(length=50), popsize=400, move_rate=0.2, temperature_init=0.0)
    searcher.run(1)
    start = searcher.population.values.as_subclass(Tensor).clone()
    moved = (searcher.ask() != start).sum(1)
    assert moved.min() >= 1
    assert moved.float().mean().item() == pytest.approx(10, abs=0.5)


class Drifting(Problem):
    """The goal moves with every batch that is scored."""

    rescore_parents = True

    def __init__(self) -> None:
        super().__init__("min", solution_length=2, initial_bounds=(-1, 1), seed=1)
        self.batches: list[Tensor] = []

    def _evaluate_batch(self, batch) -> None:
        values = batch.access_values(keep_evals=True).as_subclass(Tensor)
        self.batches.append(values.clone())
        batch.set_evals(sphere(values - 0.1 * len(self.batches)))


def test_where_scores_go_stale_incumbents_and_bests_are_scored_with_the_neighbours():
    problem = Drifting()
    searcher = SimulatedAnnealing(problem, popsize=4)
    for num in (4, 12, 12):
        assert searcher.next_num_evaluations == num
        searcher.step()
        assert len(problem.batches[-1]) == num
    for _ in range(10):
        searcher.step()
        goal = 0.1 * len(problem.batches)
        for batch in (searcher.population, searcher.chain_best):
            assert torch.allclose(batch.evals[:, 0], sphere(batch.values - goal), atol=1e-6)


@pytest.mark.parametrize("cooling", ["geometric", "adaptive"])
def test_a_pickled_search_goes_on_bit_for_bit(cooling):
    searcher = SimulatedAnnealing(problem_of(), cooling=cooling)
    searcher.run(5)
    twin = pickle.loads(pickle.dumps(searcher))
    for one in (searcher, twin):
        one.run(20)
    assert torch.equal(twin.population.values, searcher.population.values)
    assert torch.equal(twin.chain_best.evals, searcher.chain_best.evals)
    assert twin.status["temperature"] == searcher.status["temperature"]
    assert twin.status["step_size"] == searcher.status["step_size"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_than_float32(dtype):
    problem = problem_of(dtype=dtype, eval_dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    searcher = SimulatedAnnealing(problem, move_rate=0.5)
    searcher.run(100)
    assert searcher.ask().dtype == searcher.population.values.dtype == dtype
    assert float(searcher.status["best_eval"]) < 0.3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"popsize": 0}, r"`popsize`, the number of chains, must be at least 1, got 0"),
        ({"cooling": "linear"}, r"`cooling` must be one of geometric, logarithmic, adaptive, got 'linear'"),
        ({"cooling_rate": 0}, r"`cooling_rate` must lie in \(0, 1\], got 0"),
        ({"move_rate": 1.5}, r"`move_rate` must lie in \(0, 1\], got 1\.5"),
        ({"acceptance_init": 1.0}, r"`acceptance_init` must lie in \(0, 1\), got 1\.0"),
        ({"step_acceptance": 0.0}, r"`step_acceptance` must lie in \(0, 1\), got 0\.0"),
        ({"temperature_init": -1.0}, r"`temperature_init` must be finite and not negative, got -1\.0"),
        ({"temperature_init": math.inf}, r"`temperature_init` must be finite"),
        ({"steps_per_level": 0}, r"`steps_per_level` must be at least 1, got 0"),
        ({"neighbour_stdev": torch.ones(5)}, r"`neighbour_stdev`: a number, or shape \(6,\), got \(5,\)"),
        ({"neighbour_stdev": 0.0}, r"`neighbour_stdev` must be finite and not negative, and positive somewhere"),
        ({"bounds": "bounce"}, r"`bounds` must be one of .*, got 'bounce'"),
        ({"center_init": torch.zeros(6)}, r"`center_init` needs `stdev_init`"),
        ({"initial_population": torch.zeros(3, 6)}, r"`initial_population` of shape \(10, 6\).*got \(3, 6\)"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedAnnealing(problem_of(), **options)


def test_scores_of_another_shape_are_refused():
    searcher = SimulatedAnnealing(problem_of())
    with pytest.raises(ValueError, match=r"scores of shape \(n, 1\).*got \(10, 6\) and \(9, 1\)"):
        searcher.tell(searcher.ask(), torch.zeros(9))
