"""Do jDE, JADE, SHADE and L-SHADE adapt, archive and shrink as their papers say?"""

import math

import numpy as np
import pytest
import torch
from evotorch import Problem
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from evohbde.searchers import JADE, JDE, LSHADE, SHADE
from evohbde.searchers.de import binomial_mask, distinct_indices
from evohbde.searchers.jade import archived, cauchy_weights, lehmer_mean, normal_rates, union_indices, weighted_mean
from evohbde.searchers.shade import TERMINAL, planned_popsize, success_weights

ADAPTIVE = {
    "JDE": lambda p, **options: JDE(p, **{"popsize": 12, **options}),
    "JADE": lambda p, **options: JADE(p, **{"popsize": 12, **options}),
    "SHADE": lambda p, **options: SHADE(p, **{"popsize": 12, "memory_size": 5, **options}),
    "LSHADE": lambda p, **options: LSHADE(p, **{"popsize": 12, "num_evaluations": 200, **options}),
}
SEEDS = st.integers(0, 2**31)


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


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Draws of F and CR


@pytest.mark.parametrize("location", [0.0, 0.05, 0.5, 0.95])
def test_F_is_a_cauchy_number_redrawn_below_0_and_cut_at_1(location):
    weight = cauchy_weights(uniform(50_000, seed=1), torch.full((50_000,), location, dtype=torch.float64)).numpy()
    assert weight.min() > 0 and weight.max() == 1
    law = stats.cauchy(location, 0.1)
    at_one = law.sf(1) / law.sf(0)
    assert stats.binomtest(int((weight == 1).sum()), len(weight), at_one).pvalue > 1e-4
    below = weight[weight < 1]
    truncated = stats.kstest(below, lambda x: (law.cdf(x) - law.cdf(0)) / (law.cdf(1) - law.cdf(0)))
    assert truncated.pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_F_lies_in_its_range_at_the_edges_of_the_draw(dtype):
    edges = torch.tensor([0.0, torch.finfo(dtype).eps, 1 - torch.finfo(dtype).eps, 1.0], dtype=dtype)
    for location in (0.0, 1e-6, 0.3, 1.0):
        weight = cauchy_weights(edges, torch.full((4,), location, dtype=dtype))
        assert bool((weight > 0).all()) and weight[2:].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("location", [0.0, 0.1, 0.5, 0.95])
def test_CR_is_a_normal_number_cut_at_0_and_1(location):
    rate = normal_rates(normal(50_000, seed=2), torch.tensor(location, dtype=torch.float64)).numpy()
    law = stats.norm(location, 0.1)
    for edge, probability in ((0.0, law.cdf(0)), (1.0, law.sf(1))):
        assert stats.binomtest(int((rate == edge).sum()), len(rate), probability).pvalue > 1e-4
    inside = rate[(rate > 0) & (rate < 1)]
    assert stats.kstest(inside, stats.truncnorm(-location / 0.1, (1 - location) / 0.1, location, 0.1).cdf).pvalue > 1e-4


def test_the_searchers_draw_around_their_means_and_memory():
    jade = JADE(problem_of(), popsize=20_000)
    jade.weight_mean, jade.rate_mean = torch.tensor(0.3), torch.tensor(0.8)
    weight, rate = jade._draw_parameters(20_000)
    assert np.median(weight) == pytest.approx(stats.cauchy(0.3, 0.1).isf(0.5 * stats.cauchy(0.3, 0.1).sf(0)), abs=0.01)
    assert np.median(rate) == pytest.approx(0.8, abs=0.005)
    lshade = LSHADE(problem_of(), popsize=20_000, num_evaluations=20_000, memory_size=2)
    lshade.rate_memory, lshade.weight_memory = torch.tensor([TERMINAL, 0.7]), torch.tensor([0.9, 0.2])
    weight, rate = lshade._draw_parameters(20_000)
    assert float((rate == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert np.median(rate[rate > 0]) == pytest.approx(0.7, abs=0.005)
    assert np.median(weight[rate == 0]) > 0.85 and np.median(weight[rate > 0]) < 0.3  # F and CR of one place
    num = SHADE(problem_of(), popsize=50)._num_best(50)
    assert set(num.tolist()) <= set(range(2, 11)) and len(set(num.tolist())) > 5


# Means and weights


@given(num=st.integers(1, 30), seed=SEEDS)
def test_weighted_and_Lehmer_means_equal_the_formulas(num, seed):
    values, weights = uniform(num, seed=seed), uniform(num, seed=seed + 1)
    w, v = weights.tolist(), values.tolist()
    arithmetic = sum(a * b for a, b in zip(w, v, strict=True)) / sum(w)
    lehmer = sum(a * b * b for a, b in zip(w, v, strict=True)) / sum(a * b for a, b in zip(w, v, strict=True))
    assert weighted_mean(values, weights).item() == pytest.approx(arithmetic)
    assert lehmer_mean(values, weights).item() == pytest.approx(lehmer)


@given(num=st.integers(1, 30), seed=SEEDS, scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_success_weights_are_shares_of_the_gain(num, seed, scale):
    utility, trial = scale * normal(num, seed=seed), scale * normal(num, seed=seed + 1)
    gain = np.maximum(trial.numpy() - utility.numpy(), 0)
    weights = success_weights(utility, trial)
    np.testing.assert_allclose(weights, gain / gain.max() if gain.max() > 0 else 0 * gain)


@pytest.mark.parametrize("worst", [-torch.inf, -torch.finfo(torch.float32).max])
def test_beating_a_target_without_a_score_weighs_as_the_largest_gain(worst):
    utility = torch.tensor([worst, 0.0, 0.0, worst, 3.0, worst])
    trial = torch.tensor([5.0, 2.0, 1.0, worst, 3.0, 7.0])
    assert success_weights(utility, trial).tolist() == [1, 1, 0.5, 0, 0, 1]
    assert success_weights(utility[:1], trial[:1]).tolist() == [1]
    assert success_weights(utility[3:4], trial[3:4]).tolist() == [0]


# Donors and archive


@given(popsize=st.integers(4, 20), extra=st.integers(0, 30), seed=SEEDS)
def test_r2_is_of_population_and_archive_but_neither_the_target_nor_r1(popsize, extra, seed):
    r1 = distinct_indices(uniform(popsize, 1, seed=seed))[:, 0]
    for draw in (uniform(popsize, seed=seed + 1), torch.zeros(popsize), torch.ones(popsize)):
        r2 = union_indices(draw, r1, torch.tensor(popsize + extra))
        assert int(r2.min()) >= 0 and int(r2.max()) < popsize + extra
        assert not bool((r2 == torch.arange(popsize)).any() or (r2 == r1).any())


def test_r2_is_equally_likely_everywhere():
    r1 = torch.tensor([2, 0, 4, 1, 0])
    chosen = torch.stack([union_indices(draw, r1, 9) for draw in uniform(5_000, 5, seed=5)])
    for target in range(5):
        counts = np.bincount(chosen[:, target], minlength=9)
        assert counts[target] == counts[r1[target]] == 0
        assert stats.chisquare(np.delete(counts, [target, r1[target]])).pvalue > 1e-4


@given(old=st.integers(0, 10), num=st.integers(0, 10), popsize=st.integers(0, 10), share=st.floats(0, 1), seed=SEEDS)
def test_the_archive_keeps_members_and_beaten_parents_up_to_its_capacity(old, num, popsize, share, seed):
    num = min(num, old)
    rows = torch.arange(1.0, old + popsize + 1)[:, None]
    beaten = uniform(popsize, seed=seed) < share
    draw = uniform(old + popsize, seed=seed + 1)
    for capacity in {0, (old + popsize) // 2, old}:
        archive, left = archived(rows[:old], torch.tensor(num), rows[old:], beaten, draw, capacity)
        allowed = set(rows[:num, 0].tolist()) | set(rows[old:][beaten, 0].tolist())
        members = archive[: int(left), 0].tolist()
        assert len(archive) == capacity and len(members) == min(capacity, len(allowed)) == len(set(members))
        assert set(members) <= allowed


def test_each_of_too_many_stays_in_the_archive_equally_often():
    rows, beaten = torch.arange(9.0)[:, None], torch.tensor([True, False, True, True])
    stays = np.zeros(9)
    for draw in uniform(3_000, 9, seed=9):
        stays[archived(rows[:5], torch.tensor(5), rows[5:], beaten, draw, 5)[0][:, 0].long()] += 1
    assert stays[6] == 0
    assert stats.chisquare(np.delete(stays, 6)).pvalue > 1e-4


# Whole generations


def test_one_generation_of_jade_equals_a_scalar_reference():
    N, d, c = 10, 6, 0.1
    searcher = JADE(problem_of(dtype=torch.float64), popsize=N, pbest_rate=0.3, learning_rate=c)
    searcher.run(4)
    x, f = values_of(searcher).numpy().copy(), scores_of(searcher)[:, 0].numpy().copy()
    members, mu_F, mu_CR = searcher.archive.numpy(), float(searcher.weight_mean), float(searcher.rate_mean)
    stream = torch.Generator()
    stream.set_state(searcher.problem.generator.get_state())
    draw = {"generator": stream, "dtype": torch.float64}
    CR = np.clip(mu_CR + 0.1 * torch.randn(N, **draw).numpy(), 0, 1)
    lowest = stats.cauchy(mu_F, 0.1).cdf(0)
    F = np.minimum(stats.cauchy(mu_F, 0.1).ppf(lowest + (1 - lowest) * torch.rand(N, **draw).numpy()), 1)
    best = np.argsort(f, kind="stable")[(torch.rand(N, **draw).numpy() * 3).astype(int)]
    r1 = distinct_indices(torch.rand(N, 1, **draw))[:, 0]
    r2 = union_indices(torch.rand(N, **draw), r1, N + len(members))
    forced = (torch.rand(N, **draw) * d).long()
    mask = binomial_mask(torch.rand(N, d, **draw), torch.from_numpy(CR)[:, None], forced).numpy()
    union, S_F, S_CR, beaten = np.concatenate([x, members]), [], [], []
    new, new_f = x.copy(), f.copy()
    for i in range(N):
        mutant = x[i] + F[i] * (x[best[i]] - x[i]) + F[i] * (x[r1[i]] - union[r2[i]])
        trial = np.where(mask[i], mutant, x[i])
        if np.square(trial).sum() < f[i]:
            new[i], new_f[i] = trial, np.square(trial).sum()
            S_F.append(F[i])
            S_CR.append(CR[i])
            beaten.append(tuple(x[i]))
    searcher.run(1)
    assert len(S_F) > 1 and len(members) > 1
    np.testing.assert_allclose(values_of(searcher), new, rtol=1e-10)
    np.testing.assert_allclose(scores_of(searcher)[:, 0], new_f, rtol=1e-10)
    assert float(searcher.rate_mean) == pytest.approx((1 - c) * mu_CR + c * np.mean(S_CR))
    assert float(searcher.weight_mean) == pytest.approx((1 - c) * mu_F + c * np.sum(np.square(S_F)) / np.sum(S_F))
    allowed = {tuple(row) for row in members} | set(beaten)
    kept = {tuple(row) for row in searcher.archive.numpy()}
    assert kept <= allowed and len(kept) == min(N, len(allowed))


@pytest.mark.parametrize("name", ["SHADE", "LSHADE"])
def test_the_memory_equals_a_scalar_reference(name):
    searcher = ADAPTIVE[name](problem_of(dtype=torch.float64), memory_size=3, popsize=15)
    searcher.run(1)
    M_F, M_CR, k = [0.5] * 3, [0.5] * 3, 0
    for step in range(12):
        z, f = searcher.ask(), scores_of(searcher)[:, 0].clone()
        if step == 4:
            searcher._trial_rate = torch.zeros_like(searcher._trial_rate)
        F, CR = searcher._trial_weight.tolist(), searcher._trial_rate.tolist()
        scores = sphere(z) if step != 2 else f + 1  # a generation without success
        searcher.tell(z, scores)
        won = [i for i in range(len(f)) if scores[i] < f[i]]
        if won:
            total = sum(float(f[i] - scores[i]) for i in won)
            w = {i: float(f[i] - scores[i]) / total for i in won}
            M_F[k] = sum(w[i] * F[i] ** 2 for i in won) / sum(w[i] * F[i] for i in won)
            if name == "SHADE":
                M_CR[k] = sum(w[i] * CR[i] for i in won)
            elif M_CR[k] == TERMINAL or max(CR[i] for i in won) == 0:
                M_CR[k] = TERMINAL
            else:
                M_CR[k] = sum(w[i] * CR[i] ** 2 for i in won) / sum(w[i] * CR[i] for i in won)
            k = (k + 1) % 3
        np.testing.assert_allclose(searcher.weight_memory, M_F, rtol=1e-9)
        np.testing.assert_allclose(searcher.rate_memory, M_CR, rtol=1e-9)
    assert TERMINAL in M_CR or name == "SHADE"  # it stays where later generations refill the place


@pytest.mark.parametrize("name", ["SHADE", "LSHADE"])
def test_every_place_of_the_memory_moves(name):
    searcher = ADAPTIVE[name](problem_of(rastrigin), popsize=20, memory_size=5)
    searcher.run(15)
    assert bool((searcher.weight_memory != 0.5).all()) and bool((searcher.rate_memory != 0.5).all())


def test_without_success_nothing_is_learnt_or_archived():
    for searcher in (JADE(problem_of(), popsize=8), SHADE(problem_of(), popsize=8)):
        searcher.run(1)
        z = searcher.ask()
        searcher.tell(z, scores_of(searcher)[:, 0].clone())  # all the same: no success, though SHADE moves
        assert len(searcher.archive) == 0
        kind = "mean" if isinstance(searcher, JADE) else "memory"
        for learnt in (getattr(searcher, f"weight_{kind}"), getattr(searcher, f"rate_{kind}")):
            assert bool((learnt == 0.5).all())
        assert torch.equal(values_of(searcher), z) == isinstance(searcher, SHADE)


def test_jde_parameters_survive_only_with_their_trial():
    searcher = JDE(problem_of(), popsize=6, tau1=1.0, tau2=1.0)
    searcher.tell(searcher.ask(), torch.ones(6))
    assert searcher.differential_weight.tolist() == [0.5] * 6
    z = searcher.ask()
    trial_weight, trial_rate = searcher._trial_weight.clone(), searcher._trial_rate.clone()
    searcher.tell(z, torch.tensor([0.0, 2, 1, torch.nan, 0, 5]))
    wins = torch.tensor([True, False, True, False, True, False])
    assert torch.equal(searcher.differential_weight, torch.where(wins, trial_weight, torch.tensor(0.5)))
    assert torch.equal(searcher.crossover_rate, torch.where(wins, trial_rate, torch.tensor(0.9)))


def test_jde_redraws_with_probability_tau_in_its_range():
    searcher = JDE(problem_of(), popsize=20_000, tau1=0.1, tau2=0.3)
    searcher._draw_parameters(20_000)
    for trial, old, tau, law in (
        (searcher._trial_weight, 0.5, 0.1, stats.uniform(0.1, 0.9)),
        (searcher._trial_rate, 0.9, 0.3, stats.uniform(0, 1)),
    ):
        new = trial[trial != torch.tensor(old)].numpy()
        assert stats.binomtest(len(new), 20_000, tau).pvalue > 1e-4
        assert stats.kstest(new, law.cdf).pvalue > 1e-4


# Population size of L-SHADE


@given(popsize=st.integers(4, 500), more=st.integers(0, 10_000), spent=st.floats(0, 1.5))
def test_the_schedule_is_linear_and_ends_at_its_smallest(popsize, more, spent):
    budget = popsize + more
    exact = popsize + (4 - popsize) * min(1.0, round(spent * budget) / budget)
    planned = planned_popsize(round(spent * budget), budget, popsize, 4)
    assert abs(planned - exact) <= 0.5 + 1e-9 and 4 <= planned <= popsize


@pytest.mark.parametrize("rescore_parents", [False, True])
def test_the_population_shrinks_to_the_best_by_schedule(rescore_parents):
    searcher = LSHADE(
        problem_of(both, ["min", "max"]), popsize=30, num_evaluations=600, obj_index=1, rescore_parents=rescore_parents
    )
    spent, sizes = 0, []
    while spent + searcher.next_num_evaluations <= 600:
        spent += searcher.next_num_evaluations
        held, before = searcher.population, searcher.popsize
        searcher.step()
        sizes.append(searcher.popsize)
        exact = (4 - 30) / 600 * spent + 30 if len(sizes) > 1 else 30
        assert searcher.num_evaluations == spent and abs(searcher.popsize - exact) <= 0.5 + 1e-9
        assert torch.equal(scores_of(searcher), both(values_of(searcher)))
        assert len(searcher.archive) <= searcher.archive_capacity == round(2.6 * searcher.popsize)
        assert (searcher.population is held) == (searcher.popsize == before)
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] <= 6 and len(set(sizes)) > 5
    searcher.run(20)
    assert searcher.popsize == searcher.min_popsize == 4


def test_those_that_leave_are_the_worst():
    searcher = LSHADE(problem_of(sense="max"), popsize=10, num_evaluations=20)
    searcher.tell(searcher.ask(), torch.zeros(10))
    z = searcher.ask()
    scores = torch.tensor([3.0, torch.nan, 8, 1, 9, 2, 7, -1, 4, torch.inf])
    searcher.tell(z, scores)
    assert scores_of(searcher)[:, 0].tolist() == [8, 9, 7, torch.inf]
    assert torch.equal(values_of(searcher), z[[2, 4, 6, 9]])
