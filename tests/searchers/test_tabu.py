"""Does tabu search go to the best neighbour, and never back to where it has just been?"""

import itertools
import math
import pickle

import pytest
import torch
from evotorch import Problem
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evohbde.searchers import BinaryTabuSearch, TabuSearch
from evohbde.searchers.tabu import choose_neighbour, in_tabu_ball


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def negative_sphere(x: Tensor) -> Tensor:
    return -sphere(x)


def wavy(x: Tensor) -> Tensor:
    return (x.square() - 0.5 * torch.cos(15 * x)).sum(-1)


def problem_of(function=sphere, sense="min", length=4, **options) -> Problem:
    options = {"initial_bounds": (-1, 1), "seed": 3, **options}
    return Problem(sense, function, solution_length=length, vectorized=True, **options)


def values_of(batch) -> Tensor:
    return batch.values.as_subclass(Tensor).clone()


def scores_of(batch) -> Tensor:
    return batch.evals[:, 0].as_subclass(Tensor).clone()


# The choice


def test_the_best_admissible_neighbour_is_chosen():
    lost = -math.inf
    utility = torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [1.0, 3.0, 2.0], [lost, lost, lost], [lost, 1.0, lost]])
    is_tabu = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=torch.bool)
    best = torch.tensor([5.0, 5.0, 2.5, 5.0, 5.0])
    chosen, moves = choose_neighbour(utility, is_tabu, best, torch.zeros(5))
    assert moves.tolist() == [True, True, True, False, False]
    # free, the best is tabu, the best is tabu but better than all before
    assert chosen[:3].tolist() == [1, 2, 1]


def test_only_from_a_failed_incumbent_one_goes_to_a_failed_neighbour():
    worst = torch.finfo(torch.float32).max
    for failed in (-math.inf, -worst):
        utility = torch.full((2, 2), failed)
        is_tabu = torch.tensor([[False, False], [True, False]])
        chosen, moves = choose_neighbour(utility, is_tabu, torch.full((2,), failed), torch.tensor([0.0, failed]))
        assert moves.tolist() == [False, True]
        assert chosen[1] == 1


@given(seed=st.integers(0, 2**31), tenure=st.integers(1, 4), num=st.integers(1, 5))
def test_a_ball_is_the_set_of_what_differs_by_less_than_the_radius_everywhere(seed, tenure, num):
    generator = torch.Generator().manual_seed(seed)
    z, tabu = (torch.rand(*s, generator=generator, dtype=torch.float64) for s in ((3, num, 2), (tenure, 3, 2)))
    tabu[0, 1] = torch.nan
    radius = torch.tensor([[[0.3, 0.2]], [[0.3, 0.2]], [[0.1, 0.0]]], dtype=torch.float64)
    found = in_tabu_ball(z, tabu, radius)
    for chain, candidate in itertools.product(range(3), range(num)):
        counts = radius[chain, 0] > 0
        near = ((z[chain, candidate] - tabu[:, chain]).abs() < radius[chain, 0])[:, counts].all(1)
        assert found[chain, candidate] == bool(near.any())


# Real values


@pytest.mark.parametrize("tenure", [1, 3, 8])
def test_no_chain_comes_near_its_last_incumbents_but_for_the_best_so_far(tenure):
    searcher = TabuSearch(problem_of(wavy, length=2), popsize=6, tenure=tenure, tabu_radius=0.1, patience=None)
    searcher.run(1)
    path, num_aspirations, num_moves = [values_of(searcher.population)], 0, 0
    for _ in range(60):
        best = scores_of(searcher.chain_best)
        searcher.step()
        now = values_of(searcher.population)
        distance = torch.stack([(now - old).abs().amax(1) for old in path[-tenure:]]).amin(0)
        moved = (now != path[-1]).any(1)
        is_back = moved & (distance < 0.1 * 0.5 * (1 - 1e-4))
        aspired = scores_of(searcher.population) < best
        assert not bool((is_back & ~aspired).any())
        num_aspirations += int((is_back & aspired).sum())
        num_moves += int(moved.sum())
        path.append(now)
    assert num_moves > 200


def test_the_best_neighbour_is_taken_even_if_it_is_worse():
    searcher = TabuSearch(problem_of(length=3), popsize=5, initial_population=torch.zeros(5, 3))
    searcher.run(1)
    z = searcher.ask()
    scores = sphere(z)
    searcher.tell(z, scores)
    best = scores.view(5, 10).min(1)
    assert torch.equal(scores_of(searcher.population), best.values)
    assert torch.equal(values_of(searcher.population), z.view(5, 10, 3)[torch.arange(5), best.indices])
    assert torch.equal(values_of(searcher.chain_best), torch.zeros(5, 3))


@pytest.mark.parametrize("num", [1, 4, 10])
def test_neighbours_lie_in_nested_zones(num):
    radius = torch.tensor([0.5, 2.0, 1.0])
    searcher = TabuSearch(problem_of(length=3), popsize=200, num_neighbours=num, neighbour_radius=radius)
    searcher.run(1)
    step = (searcher.ask().view(200, num, 3) - values_of(searcher.population)[:, None]) / radius
    edge = 0.01 ** (1 - torch.arange(num + 1) / num)
    distance = step.abs().amax(2)
    assert bool((distance >= edge[:-1] * (1 - 1e-3)).all() and (distance <= edge[1:] * (1 + 1e-3)).all())


def test_a_chain_that_finds_nothing_better_goes_back_to_its_best_with_halved_boxes():
    searcher = TabuSearch(problem_of(), popsize=2, initial_population=torch.zeros(2, 4), patience=3)
    searcher.run(3)
    assert searcher.status["neighbour_radius"] == 1.0
    assert values_of(searcher.population).abs().sum() > 0
    searcher.step()
    assert searcher.status["neighbour_radius"] == 0.5
    assert torch.equal(values_of(searcher.population), torch.zeros(2, 4))
    assert (searcher.ask().abs() <= 0.25).all()


@pytest.mark.parametrize(("sense", "function"), [("min", sphere), ("max", negative_sphere)])
def test_a_sphere_is_improved_a_thousandfold(sense, function):
    searcher = TabuSearch(problem_of(function, sense))
    searcher.run(1)
    first = abs(float(searcher.status["best_eval"]))
    searcher.run(200)
    assert abs(float(searcher.status["best_eval"])) < first / 1000


# Bits

WEIGHTS = torch.randn(10, 10, generator=torch.Generator().manual_seed(5))


def quadratic(x: Tensor) -> Tensor:
    x = x.to(torch.float32)
    return ((x @ WEIGHTS) * x).sum(-1)


@pytest.mark.parametrize("num_neighbours", [None, 4])
@pytest.mark.parametrize("tenure", [1, 3, 6])
def test_a_bit_stays_for_the_tenure_but_for_the_best_so_far(tenure, num_neighbours):
    problem = problem_of(quadratic, length=10)
    searcher = BinaryTabuSearch(problem, popsize=6, tenure=tenure, num_neighbours=num_neighbours)
    searcher.run(1)
    old = values_of(searcher.population)
    last_flip = torch.full((6, 10), -100)
    for step in range(60):
        best = scores_of(searcher.chain_best)
        searcher.step()
        now = values_of(searcher.population)
        flipped = now != old
        assert bool((flipped.sum(1) <= 1).all())
        too_early = (flipped & (step - last_flip <= tenure)).any(1)
        assert not bool((too_early & (scores_of(searcher.population) >= best)).any())
        last_flip[flipped], old = step, now


@pytest.mark.parametrize("sense", ["min", "max"])
def test_the_best_of_all_bit_strings_is_found(sense):
    everything = torch.tensor(list(itertools.product([0.0, 1.0], repeat=10)))
    expected = getattr(quadratic(everything), sense)()
    searcher = BinaryTabuSearch(problem_of(quadratic, sense, 10), popsize=3)
    searcher.run(60)
    assert torch.isclose(torch.tensor(float(searcher.status["best_eval"])), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bool, torch.uint8, torch.int64])
def test_neighbours_differ_in_one_bit_in_any_type(dtype):
    problem = problem_of(quadratic, length=10, dtype=dtype, eval_dtype=torch.float32, initial_bounds=None)
    searcher = BinaryTabuSearch(problem, popsize=3)
    searcher.run(1)
    old = values_of(searcher.population)
    z = searcher.ask()
    assert z.dtype == old.dtype == dtype
    flipped = z.view(3, 10, 10) != old[:, None]
    assert torch.equal(flipped.sum(2), torch.ones(3, 10, dtype=torch.int64))
    assert torch.equal(flipped.sum(1), torch.ones(3, 10, dtype=torch.int64))
    searcher.run(5)


def test_the_first_bits_are_fair_or_those_of_the_centre_with_some_flipped():
    problem = problem_of(length=10)
    assert values_of(BinaryTabuSearch(problem, popsize=500).population).mean().item() == pytest.approx(0.5, abs=0.05)
    center = torch.arange(10) % 2
    searcher = BinaryTabuSearch(problem, popsize=500, center_init=center, flip_rate=0.1, include_center=True)
    flipped = values_of(searcher.population) != center
    assert flipped.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert not bool(flipped[0].any())


# Both


@pytest.mark.parametrize("kind", [TabuSearch, BinaryTabuSearch])
def test_a_pickled_search_goes_on_bit_for_bit(kind):
    searcher = kind(problem_of(wavy), tenure=3)
    searcher.run(12)
    twin = pickle.loads(pickle.dumps(searcher))
    for one in (searcher, twin):
        one.run(30)
    assert torch.equal(values_of(twin.population), values_of(searcher.population))
    assert torch.equal(values_of(twin.chain_best), values_of(searcher.chain_best))


@pytest.mark.parametrize("kind", [TabuSearch, BinaryTabuSearch])
def test_stale_scores_are_renewed_and_counted(kind):
    searcher = kind(problem_of(), popsize=3, num_neighbours=4, rescore_parents=True)
    searcher.run(3)
    assert searcher.next_num_evaluations == len(searcher.ask()) == 3 * (4 + 2)
    z = searcher.ask()
    scores = sphere(z) + 1
    searcher.tell(z, scores)
    assert torch.allclose(scores_of(searcher.population), sphere(values_of(searcher.population)) + 1)
    assert torch.allclose(scores_of(searcher.chain_best), sphere(values_of(searcher.chain_best)) + 1)


@pytest.mark.parametrize("kind", [TabuSearch, BinaryTabuSearch])
def test_what_is_no_number_is_never_an_incumbent_again(kind):
    searcher = kind(problem_of(), popsize=3)
    searcher.run(1)
    for _ in range(20):
        z = searcher.ask()
        scores = sphere(z)
        scores[::2] = torch.nan
        searcher.tell(z, scores)
        assert not bool(scores_of(searcher.population).isnan().any())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (TabuSearch, {"num_neighbours": 0}, r"`num_neighbours` must be at least 1, got 0"),
        (TabuSearch, {"tenure": 0}, r"`tenure` must be at least 1, got 0"),
        (TabuSearch, {"patience": 0}, r"`patience` must be at least 1, got 0"),
        (TabuSearch, {"tabu_radius": 1.0}, r"`tabu_radius` must lie in \(0, 1\), got 1\.0"),
        (BinaryTabuSearch, {"num_neighbours": 5}, r"`num_neighbours` must lie in 1 \.\.\. 4.*got 5"),
        (BinaryTabuSearch, {"tenure": 4}, r"`tenure` must be at least 1 and less than the number of bits, 4, got 4"),
        (BinaryTabuSearch, {"flip_rate": 1.5}, r"`flip_rate` must lie in \[0, 1\], got 1\.5"),
        (BinaryTabuSearch, {"initial_population": torch.full((4, 4), 0.5)}, r"of 0 and 1 only"),
        (BinaryTabuSearch, {"center_init": torch.full((4,), 0.5), "flip_rate": 0.1}, r"of 0 and 1 only"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(problem_of(), **options)
