"""Does iterated local search climb, kick and accept by its rules, and coordinate search halve its intervals?"""

import itertools
import pickle
import random

import pytest
import torch
from evotorch import Problem
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evohbde.searchers import CoordinateSearch, IteratedLocalSearch
from evohbde.searchers.coordinate_search import intervals_of_neighbours, next_interval
from evohbde.searchers.local_search import one_fifth_rule


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def negative_sphere(x: Tensor) -> Tensor:
    return -sphere(x)


def flat(x: Tensor) -> Tensor:
    return torch.zeros(len(x))


def problem_of(function=sphere, sense="min", length=4, **options) -> Problem:
    options = {"initial_bounds": (-1, 1), "seed": 3, **options}
    return Problem(sense, function, solution_length=length, vectorized=True, **options)


def values_of(batch) -> Tensor:
    return batch.values.as_subclass(Tensor).clone()


def scores_of(batch) -> Tensor:
    return batch.evals[:, 0].as_subclass(Tensor).clone()


# Iterated local search


def test_one_success_in_five_leaves_the_step_size_as_it_is():
    step_size = torch.ones(1, dtype=torch.float64)
    for success in (True, False, False, False, False):
        step_size = one_fifth_rule(step_size, torch.tensor([success]))
    assert step_size.item() == pytest.approx(1)
    assert one_fifth_rule(torch.ones(2), torch.tensor([True, False])).tolist() == pytest.approx([1.5, 1.5**-0.25])


def test_a_climb_never_worsens_and_adapts_its_steps():
    searcher = IteratedLocalSearch(problem_of(), popsize=5, patience=1_000)
    searcher.run(1)
    for _ in range(60):
        before, size = scores_of(searcher.population), searcher._step_size.clone()
        searcher.step()
        now = scores_of(searcher.population)
        assert bool((now <= before).all())
        assert torch.equal(searcher._step_size, one_fifth_rule(size, now < before))
    assert searcher.status["num_kicks"] == 0


def told(acceptance: str, climbs: list[list[float]], **options) -> IteratedLocalSearch:
    """One chain that gets the given scores; with patience 1, a climb ends at the first that is not better."""
    searcher = IteratedLocalSearch(problem_of(), popsize=1, patience=1, acceptance=acceptance, **options)
    for climb in climbs:
        for score in climb:
            searcher.tell(searcher.ask(), torch.tensor([score]))
    return searcher


@pytest.mark.parametrize(
    ("acceptance", "home", "best"), [("better", 3.0, 3.0), ("always", 6.0, 3.0), ("restart", 3.0, 3.0)]
)
def test_from_a_worse_local_optimum_only_always_goes_on(acceptance, home, best):
    searcher = told(acceptance, [[5.0, 3.0, 4.0], [9.0, 6.0, 7.0]])
    assert scores_of(searcher.home).tolist() == [home]
    assert scores_of(searcher.chain_best).tolist() == [best]
    assert scores_of(searcher.population).tolist() == [6.0]
    assert searcher.status["num_kicks"] == 1


@pytest.mark.parametrize("acceptance", ["better", "always", "restart"])
@pytest.mark.parametrize("found", [2.0, 3.0])
def test_a_local_optimum_that_is_not_worse_is_home(acceptance, found):
    searcher = told(acceptance, [[5.0, 3.0, 4.0], [9.0, found, 7.0]])
    assert scores_of(searcher.home).tolist() == [found]
    assert torch.equal(values_of(searcher.home), values_of(searcher.population))


def test_kicks_start_from_home_and_move_the_wanted_share_that_far():
    searcher = IteratedLocalSearch(problem_of(length=20), popsize=400, patience=1, kick_stdev=3.0, kick_rate=0.25)
    start = searcher.ask()
    searcher.tell(start, torch.zeros(400))
    searcher.tell(searcher.ask(), torch.ones(400))  # worse: home is the start, and kicks are due
    kick = searcher.ask() - start
    moved = kick[kick != 0]
    assert (kick != 0).any(1).all()
    assert len(moved) / kick.numel() == pytest.approx(0.25, abs=0.02)
    assert moved.std().item() == pytest.approx(3.0, rel=0.05)


def test_after_too_many_vain_kicks_restart_goes_on_from_a_fresh_candidate():
    vain = [9.0, 8.0, 8.5]
    searcher = told("restart", [[5.0, 3.0, 4.0], vain, vain], max_kicks=2)
    assert bool(searcher._is_fresh_due())
    z = searcher.ask()
    searcher.tell(z, torch.tensor([20.0]))
    for batch in (searcher.home, searcher.population):
        assert torch.equal(values_of(batch), z)
    assert scores_of(searcher.chain_best).tolist() == [3.0]
    for score in (10.0, 11.0):  # the climb from there; its end is home, though worse than what was before
        searcher.tell(searcher.ask(), torch.tensor([score]))
    assert scores_of(searcher.home).tolist() == [10.0]
    assert not bool(searcher._is_fresh_due())
    assert told("better", [[5.0, 3.0, 4.0], *[vain] * 9]).home.evals.item() == 3.0


def test_a_kick_that_fails_is_tried_again():
    searcher = told("better", [[5.0, 3.0, 4.0]])
    for failed in (torch.nan, torch.finfo(torch.float32).max):
        searcher.tell(searcher.ask(), torch.tensor([failed]))
        assert scores_of(searcher.population).tolist() == [3.0]
        assert searcher.status.get("num_kicks", 0) == 0
    searcher.tell(searcher.ask(), torch.tensor([100.0]))
    assert scores_of(searcher.population).tolist() == [100.0]


def test_on_a_plateau_chains_drift_with_smaller_and_smaller_steps():
    searcher = IteratedLocalSearch(problem_of(flat), popsize=3, patience=50)
    searcher.run(1)
    start = values_of(searcher.population)
    searcher.run(20)
    assert bool((values_of(searcher.population) != start).all())
    assert searcher.status["step_size"] == pytest.approx(1.5**-5)


@pytest.mark.parametrize("acceptance", ["better", "always", "restart"])
@pytest.mark.parametrize(("sense", "function"), [("min", sphere), ("max", negative_sphere)])
def test_a_sphere_is_improved_a_thousandfold(sense, function, acceptance):
    searcher = IteratedLocalSearch(problem_of(function, sense), popsize=4, acceptance=acceptance)
    searcher.run(1)
    first = abs(float(searcher.status["best_eval"]))
    searcher.run(250)
    assert abs(float(searcher.status["best_eval"])) < first / 1000


def test_stale_scores_of_incumbents_homes_and_bests_are_renewed():
    searcher = IteratedLocalSearch(problem_of(), popsize=3, patience=3, rescore_parents=True)
    searcher.run(20)
    assert searcher.next_num_evaluations == len(searcher.ask()) == 12
    z = searcher.ask()
    searcher.tell(z, sphere(z) + 1)
    for batch in (searcher.population, searcher.home, searcher.chain_best):
        assert torch.allclose(scores_of(batch), sphere(values_of(batch)) + 1)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: IteratedLocalSearch(p, popsize=3, patience=3, acceptance="restart", max_kicks=1),
        lambda p: CoordinateSearch(p, popsize=3),
    ],
)
def test_a_pickled_search_goes_on_bit_for_bit(make):
    searcher = make(problem_of())
    searcher.run(15)
    twin = pickle.loads(pickle.dumps(searcher))
    for one in (searcher, twin):
        one.run(30)
    assert torch.equal(values_of(twin.population), values_of(searcher.population))
    assert torch.equal(scores_of(twin.population), scores_of(searcher.population))


# Coordinate search


@pytest.mark.parametrize("rule", ["corrected", "authors"])
@pytest.mark.parametrize(
    ("low", "high", "best", "winner", "left"),
    [
        (1.0, 2.0, 3.0, 1, (0.0, 0.5)),
        (2.0, 1.0, 3.0, 2, (0.5, 1.0)),
        (4.0, 5.0, 3.0, 0, (0.25, 0.75)),
        (3.0, 3.0, 3.0, 0, (0.25, 0.75)),
        (float("nan"), 2.0, 3.0, 2, (0.5, 1.0)),
    ],
)
def test_half_of_the_interval_from_0_to_1_is_left(rule, low, high, best, winner, left):
    searcher = CoordinateSearch(
        problem_of(length=3), rule=rule, intervals=(torch.zeros(3), torch.ones(3)), initial_population=torch.zeros(1, 3)
    )
    searcher.tell(searcher.ask(), torch.tensor([best]))
    z = searcher.ask()
    value = int((z[0] != 0).nonzero())
    assert z[:, value].tolist() == [0.25, 0.75]
    assert z.sum() == 1
    searcher.tell(z, torch.tensor([low, high]))
    lower, upper = searcher.intervals
    assert (lower[0, value], upper[0, value]) == left
    assert searcher.population.evals.item() == (best, low, high)[winner]
    assert searcher.population.values[0, value].item() == (0, 0.25, 0.75)[winner]


def test_two_equal_trials_that_beat_the_best_are_thrown_away_by_the_authors_only():
    scores = (torch.tensor([5.0]), torch.tensor([5.0]), torch.tensor([3.0]))
    for rule, expected in (("authors", (0.25, 0.75, 0)), ("corrected", (0.0, 0.5, 1))):
        assert tuple(t.item() for t in next_interval(torch.zeros(1), torch.ones(1), scores, rule)) == expected


def test_intervals_reach_from_the_block_before_to_the_block_after():
    lower, upper = torch.tensor([-3.0, -1.0, 0.5, 2.0]), torch.tensor([-2.0, 0.0, 1.0, 4.0])
    first, last = intervals_of_neighbours(lower, upper, "authors")
    assert (first.tolist(), last.tolist()) == ([0, -3, -1, 0], [0, 1, 4, 0])
    first, last = intervals_of_neighbours(lower, upper)
    assert (first.tolist(), last.tolist()) == ([-3, -3, -1, 0.5], [0, 1, 4, 4])


def loop(function, best: list[float], lower, upper, orders, rule: str) -> tuple[list[float], float, int]:
    """The specification, one value after the other."""
    score, num_evaluations = function(best), 1
    lower, upper = list(lower), list(upper)
    if rule == "authors":
        lower, upper = [0, *lower[:-2], 0], [0, *upper[2:], 0]
    else:
        pad = range(len(lower))
        lower, upper = (
            [min(lower[max(i - 1, 0)], lower[i]) for i in pad],
            [max(upper[min(i + 1, len(pad) - 1)], upper[i]) for i in pad],
        )
    for sweep, order in enumerate(orders):
        if rule == "authors" and sweep > 0:
            score = function(best)
            num_evaluations += 1
        for i in order:
            length = upper[i] - lower[i]
            c1, c2 = lower[i] + length / 4, upper[i] - length / 4
            z1, z2 = ([*best[:i], c, *best[i + 1 :]] for c in (c1, c2))
            f1, f2 = function(z1), function(z2)
            num_evaluations += 2
            if f1 < score and (f1 < f2 or (rule == "corrected" and f1 == f2)):
                best, score, upper[i] = z1, f1, upper[i] - length / 2
            elif f2 < score and f2 < f1:
                best, score, lower[i] = z2, f2, lower[i] + length / 2
            else:
                lower[i], upper[i] = lower[i] + length / 4, upper[i] - length / 4
    return best, score, num_evaluations


def bumpy(x: Tensor) -> Tensor:
    """Exact in every order of summation, and with ties."""
    return (4 * (x - 0.3)).round().square().sum(-1) + 0.25 * (8 * x.roll(1, -1) * x).round().abs().sum(-1)


@pytest.mark.parametrize("rule", ["corrected", "authors"])
@given(seed=st.integers(0, 2**31), length=st.integers(2, 6))
def test_it_equals_a_plain_loop_over_values(rule, seed, length):
    numbers = random.Random(seed)
    ends = sorted(numbers.uniform(-2, 2) for _ in range(length + 1))
    lower, upper = (torch.tensor(e, dtype=torch.float64) for e in (ends[:-1], ends[1:]))
    start = torch.tensor([[numbers.uniform(*pair) for pair in itertools.pairwise(ends)]] * 3).double()
    problem = problem_of(bumpy, length=length, dtype=torch.float64, initial_bounds=(lower, upper), seed=seed + 1)
    searcher = CoordinateSearch(problem, popsize=3, rule=rule, initial_population=start)
    orders, count = [], 0
    for _ in range(1 + 3 * length):
        count += searcher.next_num_evaluations
        searcher.step()
        if searcher._num_moves % length == 1:
            orders.append(searcher._order.tolist())
    for chain in range(3):

        def score_of(z: list[float]) -> float:
            return bumpy(torch.tensor([z], dtype=torch.float64)).item()

        own_orders = [order[chain] for order in orders]
        best, score, num = loop(score_of, start[chain].tolist(), ends[:-1], ends[1:], own_orders, rule)
        assert searcher.population.values[chain].tolist() == best
        assert searcher.population.evals[chain].item() == score
        assert all(sorted(order) == list(range(length)) for order in own_orders)
        assert count == 3 * num


def test_orders_differ_between_chains_and_sweeps():
    searcher = CoordinateSearch(problem_of(length=8), popsize=30)
    searcher.run(2)
    first = searcher._order.clone()
    searcher.run(8)
    assert len({tuple(order) for order in first.tolist()}) > 25
    assert not torch.equal(first, searcher._order)


@pytest.mark.parametrize(("sense", "function"), [("min", sphere), ("max", negative_sphere)])
def test_ten_sweeps_find_the_least_value_of_a_sphere(sense, function):
    searcher = CoordinateSearch(problem_of(function, sense, initial_bounds=(-1, 2)), popsize=2)
    searcher.run(1 + 4 * 10)
    assert abs(float(searcher.status["best_eval"])) < 1e-4
    assert searcher.status["interval_width"] == pytest.approx(3 / 2**10)


def test_the_published_search_starts_at_the_centre():
    center = torch.tensor([-0.5, 0.0, 0.1, 0.5])
    searcher = CoordinateSearch(problem_of(), center_init=center, stdev_init=0.0, rule="authors")
    assert torch.equal(searcher.ask(), center[None])


def test_incumbents_are_scored_again_where_scores_go_stale():
    searcher = CoordinateSearch(problem_of(), popsize=3, rescore_parents=True)
    searcher.run(1)
    assert searcher.next_num_evaluations == len(searcher.ask()) == 9
    z = searcher.ask()
    searcher.tell(z, sphere(z) + 1)
    assert torch.allclose(scores_of(searcher.population), sphere(values_of(searcher.population)) + 1)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (IteratedLocalSearch, {"acceptance": "worse"}, r"`acceptance` must be one of better, always, restart"),
        (IteratedLocalSearch, {"patience": 0}, r"`patience` must be at least 1, got 0"),
        (IteratedLocalSearch, {"max_kicks": 0}, r"`max_kicks` must be at least 1, got 0"),
        (IteratedLocalSearch, {"kick_rate": 0}, r"`kick_rate` must lie in \(0, 1\], got 0"),
        (IteratedLocalSearch, {"kick_stdev": -1.0}, r"`kick_stdev` must be finite and not negative"),
        (CoordinateSearch, {"rule": "mine"}, r"`rule` must be one of corrected, authors, got 'mine'"),
        (CoordinateSearch, {"intervals": "wide"}, r"`intervals` must be 'neighbours', 'own' or \(lower, upper\)"),
        (CoordinateSearch, {"intervals": (1.0, 0.0)}, r"lower ends do not exceed the upper"),
    ],
)
def test_options_that_do_not_fit_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(problem_of(), **options)


def test_intervals_are_needed_where_the_problem_has_no_bounds():
    free = Problem("min", sphere, solution_length=3, vectorized=True, seed=1)
    with pytest.raises(ValueError, match=r"give `intervals`"):
        CoordinateSearch(free, center_init=torch.zeros(3), stdev_init=0.0)
    with pytest.raises(ValueError, match=r"give `neighbour_stdev`"):
        IteratedLocalSearch(free, initial_population=torch.zeros(10, 3))
