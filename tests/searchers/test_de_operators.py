"""Do the operators of differential evolution obey their laws?"""

import math

import numpy as np
import pytest
import torch
from evotorch import Problem
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evohbde.searchers.bounds import reflect
from evohbde.searchers.de import (
    DE,
    MUTATIONS,
    Donors,
    binomial_mask,
    distinct_indices,
    exponential_mask,
)

SEEDS = st.integers(0, 2**31)
RATES = st.floats(0, 1)


def uniform(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(num=st.integers(1, 6), more=st.integers(0, 40), seed=SEEDS)
def test_indices_are_distinct_and_never_the_target(num, more, seed):
    popsize = num + 1 + more
    index = distinct_indices(uniform(popsize, num, seed=seed))
    rows = torch.cat([torch.arange(popsize)[:, None], index], dim=1)
    assert index.dtype == torch.int64
    assert int(index.min()) >= 0 and int(index.max()) < popsize
    assert all(len(set(row)) == num + 1 for row in rows.tolist())


@given(popsize=st.integers(2, 50), edge=st.sampled_from([0.0, 1.0]))
def test_indices_are_valid_at_the_edges_of_the_uniform_draw(popsize, edge):
    index = distinct_indices(torch.full((popsize, 1), edge))
    assert bool((index[:, 0] != torch.arange(popsize)).all())
    assert int(index.min()) >= 0 and int(index.max()) < popsize


def test_every_ordered_choice_of_donors_is_equally_likely():
    popsize, num, num_draws = 5, 3, 5_000
    draws = uniform(num_draws, popsize, num, seed=1)
    chosen = torch.stack([distinct_indices(draw) for draw in draws])
    code = (chosen * torch.tensor([25, 5, 1])).sum(-1)
    for target in range(popsize):
        counts = np.unique(code[:, target], return_counts=True)[1]
        assert len(counts) == 4 * 3 * 2
        assert stats.chisquare(counts).pvalue > 1e-4


def test_each_donor_is_equally_likely_in_a_large_population():
    popsize, num = 40, 5
    chosen = torch.stack([distinct_indices(draw) for draw in uniform(3_000, popsize, num, seed=7)])
    for position in range(num):
        for target in (0, 17, 39):
            counts = np.bincount(chosen[:, target, position], minlength=popsize)
            assert counts[target] == 0
            assert stats.chisquare(np.delete(counts, target)).pvalue > 1e-4


@given(popsize=st.integers(1, 20), dim=st.integers(1, 20), rate=RATES, seed=SEEDS)
def test_the_binomial_mask_is_the_draw_below_CR_and_the_forced_gene(popsize, dim, rate, seed):
    draw = uniform(popsize, dim, seed=seed)
    forced = torch.arange(popsize) % dim
    mask = binomial_mask(draw, rate, forced)
    expected = [[bool(draw[i, j] < rate) or j == i % dim for j in range(dim)] for i in range(popsize)]
    assert mask.tolist() == expected


@pytest.mark.parametrize(("rate", "dim"), [(0.9, 5), (0.9, 50), (0.3, 4), (0.0, 7), (1.0, 7)])
def test_the_share_of_mutant_genes_under_binomial_crossover(rate, dim):
    popsize = 40_000
    forced = (uniform(popsize, seed=2) * dim).long()
    mask = binomial_mask(uniform(popsize, dim, seed=3), rate, forced)
    expected = rate + (1 - rate) / dim
    error = math.sqrt(expected * (1 - expected) / mask.numel())
    assert mask.double().mean().item() == pytest.approx(expected, abs=4 * error + 1e-12)


@given(popsize=st.integers(1, 20), dim=st.integers(1, 20), rate=RATES, seed=SEEDS)
def test_the_exponential_mask_is_one_circular_run_from_its_start(popsize, dim, rate, seed):
    start = (uniform(popsize, seed=seed) * dim).long()
    mask = exponential_mask(uniform(popsize, seed=seed + 1), rate, start, dim)
    for row, first in zip(mask, start.tolist(), strict=True):
        run = row.roll(-first).long()
        assert run[0] == 1
        assert bool((run.diff() <= 0).all())


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_the_length_law_of_exponential_crossover(rate):
    popsize, dim = 100_000, 40
    start = torch.zeros(popsize, dtype=torch.int64)
    length = exponential_mask(uniform(popsize, seed=4), rate, start, dim).sum(1)
    for k in range(1, dim + 1):
        expected = rate ** (k - 1)
        error = math.sqrt(expected * (1 - expected) / popsize)
        assert (length >= k).double().mean().item() == pytest.approx(expected, abs=4.5 * error + 1e-12)


def reflect_one(value: float, lower: float, upper: float) -> float:
    """A ball between two walls, bounce by bounce."""
    while not lower <= value <= upper:
        value = 2 * lower - value if value < lower else 2 * upper - value
    return value


@given(lower=st.floats(-10, 10), width=st.floats(0.01, 10), offset=st.floats(-20, 20))
def test_reflection_equals_bouncing_step_by_step(lower, width, offset):
    value, upper = lower + offset * width, lower + width
    expected = reflect_one(value, lower, upper)
    arguments = (torch.tensor([x], dtype=torch.float64) for x in (value, lower, upper))
    assert reflect(*arguments).item() == pytest.approx(expected, abs=1e-9 * max(1.0, width))


@given(
    values=st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=10),
    lower=st.floats(-1e6, 1e6, width=32),
    width=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6]),
)
def test_reflection_ends_within_the_bounds_whatever_comes(values, lower, width):
    low = torch.full((len(values),), lower)
    high = low + width
    result = reflect(torch.tensor(values), low, high)
    assert bool(((result >= low) & (result <= high)).all())


@given(seed=SEEDS)
def test_reflection_leaves_what_is_inside_bit_for_bit(seed):
    lower, upper = torch.full((50,), -0.7), torch.full((50,), 1.3)
    inside = lower + (upper - lower) * uniform(50, seed=seed)
    assert torch.equal(reflect(inside, lower, upper), inside)
    once = reflect(10 * inside, lower, upper)
    assert torch.equal(reflect(once, lower, upper), once)


def mutant_of(name: str, i: int, x: np.ndarray, utility: np.ndarray, r: list[int], F: float) -> np.ndarray:
    """The textbook formulas, one individual at a time."""
    best = x[int(np.argmax(utility))]
    if name == "rand/1":
        return x[r[0]] + F * (x[r[1]] - x[r[2]])
    if name == "best/1":
        return best + F * (x[r[0]] - x[r[1]])
    if name == "rand/2":
        return x[r[0]] + F * (x[r[1]] - x[r[2]]) + F * (x[r[3]] - x[r[4]])
    if name == "best/2":
        return best + F * (x[r[0]] - x[r[1]]) + F * (x[r[2]] - x[r[3]])
    if name == "current-to-best/1":
        return x[i] + F * (best - x[i]) + F * (x[r[0]] - x[r[1]])
    first, second, third = sorted(r[:3], key=lambda donor: -utility[donor])
    return x[first] + F * (x[second] - x[third])


@pytest.mark.parametrize("name", MUTATIONS)
@given(popsize=st.integers(6, 20), dim=st.integers(1, 8), weight=st.floats(0.05, 1.5), seed=SEEDS)
def test_mutations_equal_the_textbook(name, popsize, dim, weight, seed):
    population, utility = normal(popsize, dim, seed=seed), normal(popsize, seed=seed + 1)
    num, mutate = MUTATIONS[name]
    index = distinct_indices(uniform(popsize, num, seed=seed + 2))
    before = population.clone()
    mutant = mutate(Donors(population, utility, index), torch.tensor(weight, dtype=torch.float64))
    expected = [
        mutant_of(name, i, population.numpy(), utility.numpy(), index[i].tolist(), weight) for i in range(popsize)
    ]
    np.testing.assert_allclose(mutant.numpy(), np.stack(expected), rtol=1e-12, atol=1e-12)
    assert torch.equal(population, before)


def test_order_1_keeps_the_drawn_order_among_equals_and_puts_failed_donors_last():
    population = torch.arange(4.0)[:, None]
    utility = torch.tensor([0.0, 5.0, 5.0, -torch.inf])
    index = torch.tensor([[3, 2, 1]])
    mutant = MUTATIONS["order/1"][1](Donors(population, utility, index), torch.tensor(0.5))
    assert mutant.item() == 2 + 0.5 * (1 - 3)


def constant(x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(x))


@pytest.mark.parametrize(("weight", "rate", "popsize"), [(0.5, 0.9, 100), (0.8, 0.3, 100), (0.5, 0.9, 10)])
def test_the_variance_grows_as_calculated_under_neutral_selection(weight, rate, popsize):
    problem = Problem(
        "min", constant, solution_length=50, initial_bounds=(-1, 1), seed=5, vectorized=True, dtype=torch.float64
    )
    searcher = DE(problem, popsize=popsize, differential_weight=weight, crossover_rate=rate)
    searcher.run(1)
    before = searcher.population.values.as_subclass(torch.Tensor).var(0, correction=0).mean()
    # The donors are the same in all dimensions, so that only many draws of them average out.
    after = torch.stack([searcher.ask().var(0, correction=0).mean() for _ in range(40_000 // popsize)])
    rate = rate + (1 - rate) / 50
    expected = 1 + 2 * weight**2 * rate - 2 * rate / popsize + rate**2 / popsize
    error = (after.std() / before / math.sqrt(len(after))).item()
    assert error < 0.004
    assert (after.mean() / before).item() == pytest.approx(expected, abs=4 * error)


def test_neutral_selection_lets_every_trial_in():
    problem = Problem("min", constant, solution_length=5, initial_bounds=(-1, 1), seed=5, vectorized=True)
    searcher = DE(problem, popsize=10)
    searcher.run(1)
    trial = searcher.ask()
    searcher.tell(trial, constant(trial))
    assert torch.equal(searcher.population.values.as_subclass(torch.Tensor), trial)


@pytest.mark.parametrize("dither", ["trial", "dimension"])
def test_a_range_of_weights_is_drawn_per_trial_or_per_dimension(dither):
    problem = Problem("min", constant, solution_length=400, initial_bounds=(-1, 1), seed=6, vectorized=True)
    searcher = DE(problem, popsize=100, differential_weight=(0.1, 1.0), dither=dither)
    weight = searcher._differential_weight(100, 400)
    assert weight.shape == ((100, 1) if dither == "trial" else (100, 400))
    assert stats.kstest(weight.flatten().numpy(), stats.uniform(0.1, 0.9).cdf).pvalue > 1e-4
