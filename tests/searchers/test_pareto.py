"""Are fronts, crowding and survival those of NSGA-II, also with ties, duplicates and failures?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting
from pymoo.util.ref_dirs import get_reference_directions

from evohbde.searchers import pareto
from evohbde.searchers.duplicates import is_repeated, row_keys
from evohbde.searchers.pareto import (
    best_by_rank_and_crowding,
    crowded_tournament,
    crowding_distance,
    domination_sign,
    is_nondominated,
    nondominated_rank,
    simplex_lattice,
    slots,
)


@st.composite
def fronts(draw, max_objectives=4):
    """Losses `(N, M)`; few levels give ties and duplicates, many give none."""
    popsize, num = draw(st.integers(1, 40)), draw(st.integers(1, max_objectives))
    levels, seed = draw(st.sampled_from([2, 4, 10, 10**6])), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (popsize, num), generator=generator).double()


def ranks_of_pymoo(losses: torch.Tensor) -> np.ndarray:
    rank = np.full(len(losses), -1)
    for number, front in enumerate(NonDominatedSorting().do(losses.numpy())):
        rank[front] = number
    return rank


def dominates(losses, violation, i, j) -> bool:
    if violation[i] != violation[j]:
        return bool(violation[i] < violation[j])
    return bool((losses[i] <= losses[j]).all() and (losses[i] < losses[j]).any())


def survivors_of(losses: torch.Tensor, keep: int, seed: int = 0) -> torch.Tensor:
    rank = nondominated_rank(losses, stop_at=keep)
    tie_break = torch.rand(len(losses), generator=torch.Generator().manual_seed(seed))
    return best_by_rank_and_crowding(rank, crowding_distance(losses, rank), keep, tie_break)


@given(losses=fronts())
def test_ranks_equal_those_of_pymoo(losses):
    np.testing.assert_array_equal(nondominated_rank(losses), ranks_of_pymoo(losses))


@given(losses=fronts(), data=st.data())
def test_ranks_with_constraints_equal_a_peeling_by_hand(losses, data):
    popsize = len(losses)
    violation = torch.tensor(data.draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=popsize, max_size=popsize)))
    rank, left, number = torch.full((popsize,), -1), set(range(popsize)), 0
    while left:
        front = {j for j in left if not any(dominates(losses, violation, i, j) for i in left)}
        rank[list(front)] = number
        left, number = left - front, number + 1
    assert torch.equal(nondominated_rank(losses, violation), rank)
    assert torch.equal(is_nondominated(losses, violation), rank == 0)


@given(losses=fronts(), stop_at=st.integers(1, 40))
def test_ranking_stops_after_the_front_that_is_cut(losses, stop_at):
    full, stopped = nondominated_rank(losses), nondominated_rank(losses, stop_at=stop_at)
    is_ranked = stopped < len(losses)
    assert torch.equal(stopped[is_ranked], full[is_ranked])
    assert is_ranked.sum() >= min(stop_at, len(losses))


def test_neither_chunks_nor_rarer_synchronisation_change_a_rank(monkeypatch):
    losses = torch.rand(90, 3, generator=torch.Generator().manual_seed(1))
    violation = (torch.arange(90) % 4 == 0).float()
    expected = nondominated_rank(losses, violation), is_nondominated(losses), nondominated_rank(losses, stop_at=30)
    monkeypatch.setattr(pareto, "CHUNK", 7 * 90)
    monkeypatch.setattr(pareto, "SYNC_EVERY_FRONT_ON", ())
    found = nondominated_rank(losses, violation), is_nondominated(losses), nondominated_rank(losses, stop_at=30)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_what_has_failed_comes_last_and_changes_nothing_for_the_others():
    losses = torch.rand(20, 2, generator=torch.Generator().manual_seed(2))
    with_failures = torch.cat([losses, torch.full((5, 2), torch.inf)])
    rank = nondominated_rank(with_failures)
    assert torch.equal(rank[:20], nondominated_rank(losses))
    assert (rank[20:] == rank[:20].max() + 1).all()
    crowding = crowding_distance(with_failures, rank)
    assert torch.equal(crowding[:20], crowding_distance(losses, rank[:20]))
    assert (crowding[20:] == 0).all()


@given(losses=fronts())
def test_crowding_equals_that_of_pymoo_front_by_front(losses):
    rank = nondominated_rank(losses)
    crowding = crowding_distance(losses, rank)
    reference = get_crowding_function("cd")
    for number in range(int(rank.max()) + 1):
        front = rank == number
        np.testing.assert_allclose(crowding[front], reference.do(losses[front].numpy()), rtol=1e-12)


@given(losses=fronts(), share=st.floats(0.1, 1), seed=st.integers(0, 1000))
def test_survivors_are_those_of_pymoo_up_to_ties(losses, share, seed):
    keep = max(1, int(share * len(losses)))
    rank = nondominated_rank(losses)
    crowding = crowding_distance(losses, rank)
    kept = survivors_of(losses, keep, seed)
    population = Population.new("X", np.arange(len(losses))[:, None], "F", losses.numpy())
    population.set("G", np.zeros((len(losses), 0)), "H", np.zeros((len(losses), 0)))
    problem = PymooProblem(n_var=1, n_obj=losses.shape[1])
    theirs = RankAndCrowding().do(problem, population, n_survive=keep, random_state=np.random.default_rng(seed))
    chosen = theirs.get("X")[:, 0]
    assert len(set(kept.tolist())) == keep
    ours = sorted(zip(rank[kept].tolist(), crowding[kept].round(decimals=9).tolist(), strict=True))
    assert ours == sorted(zip(rank[chosen].tolist(), crowding[chosen].round(decimals=9).tolist(), strict=True))


def test_both_ends_of_a_front_survive_in_all_of_300_selections():
    generator = torch.Generator().manual_seed(3)
    for seed in range(300):
        first = torch.rand(20, generator=generator)
        losses = torch.stack([first, (1 - first) ** 2], dim=1)
        assert {int(first.argmin()), int(first.argmax())} <= set(survivors_of(losses, 10, seed).tolist())


def test_equally_crowded_ones_survive_at_random():
    counts = torch.zeros(10)
    for seed in range(400):
        counts[survivors_of(torch.ones(10, 2), 4, seed)] += 1
    assert (counts - 160).abs().max() < 4 * (400 * 0.4 * 0.6) ** 0.5


@given(losses=fronts(), data=st.data())
def test_the_sign_of_a_pair_says_who_dominates(losses, data):
    popsize = len(losses)
    violation = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 0, 1, 2, torch.inf]), min_size=popsize, max_size=popsize))
    )
    pairs = torch.cartesian_prod(torch.arange(popsize), torch.arange(popsize)).T
    expected = [dominates(losses, violation, j, i) - dominates(losses, violation, i, j) for i, j in pairs.T.tolist()]
    assert domination_sign(pairs, losses, violation).tolist() == expected


def test_a_tournament_goes_by_sign_then_by_crowding_then_by_the_coin():
    pairs = torch.tensor([[0, 0, 0, 1, 1, 2, 2], [1, 1, 1, 0, 0, 3, 3]])
    crowding = torch.tensor([torch.inf, 1.0, 2.0, 2.0])
    sign = torch.tensor([-1, 1, 0, 0, -1, 0, 0])
    coin = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.9, 0.4, 0.6])
    assert crowded_tournament(pairs, sign, crowding, coin).tolist() == [0, 1, 0, 0, 1, 2, 3]


@given(popsize=st.integers(1, 30), seed=st.integers(0, 1000))
def test_surviving_parents_stay_in_place_and_every_survivor_gets_one(popsize, seed):
    survivors = torch.randperm(2 * popsize, generator=torch.Generator().manual_seed(seed))[:popsize]
    source = slots(survivors, popsize)
    assert sorted(source.tolist()) == sorted(survivors.tolist())
    parents = survivors[survivors < popsize]
    assert torch.equal(source[parents], parents)


@pytest.mark.parametrize(("num_objectives", "divisions"), [(1, 30), (2, 30), (2, 1), (3, 12), (3, 4), (4, 5)])
def test_the_lattice_is_that_of_das_and_dennis(num_objectives, divisions):
    if num_objectives == 1:
        assert torch.equal(simplex_lattice(1, 30), torch.ones(30, 1, dtype=torch.float64))
        return
    expected = get_reference_directions("das-dennis", num_objectives, n_partitions=divisions)
    for wanted in (len(expected), len(expected) - (num_objectives > 2)):
        found = simplex_lattice(num_objectives, wanted).numpy()
        np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dim", [1, 3, 9])
def test_rows_are_repeated_if_an_earlier_one_is_equal(dtype, dim):
    generator = torch.Generator().manual_seed(dim)
    values = torch.randint(0, 2, (200, dim), generator=generator).to(dtype)
    rows = [tuple(row) for row in values.tolist()]
    assert is_repeated(row_keys(values)).tolist() == [row in rows[:i] for i, row in enumerate(rows)]


def test_keys_neither_depend_on_chunks_nor_on_the_sign_of_zero(monkeypatch):
    values = torch.randn(50, 40, generator=torch.Generator().manual_seed(4))
    values[:, 7] = 0.0
    expected = row_keys(values)
    assert len(expected.unique()) == 50
    values[:, 7] = -0.0
    monkeypatch.setattr("evohbde.searchers.duplicates.CHUNK", 130)
    assert torch.equal(row_keys(values), expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64, torch.float32, torch.bfloat16])
def test_two_to_the_eighteen_rows_of_bits_have_as_many_keys(dtype):
    rows = (torch.arange(2**18)[:, None] >> torch.arange(18)) & 1
    assert len(row_keys(rows.to(dtype)).unique()) == 2**18
