"""Are the tests those of SciPy, of the papers and of other packages, and careful where runs are few?"""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evohbde.comparison import evidence

FEW = st.lists(st.integers(0, 4), min_size=1, max_size=9)


def random_scores(num_seeds=11, num_methods=4, *, gap=0.3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_seeds, num_methods)) * 0.1 - gap * np.arange(num_methods)


@given(FEW, FEW)
def test_a12_counts_pairs_and_is_the_scaled_u_statistic(first, second):
    by_hand = np.mean([(x > y) + 0.5 * (x == y) for x, y in product(first, second)])
    found = evidence.a12(np.array(first), np.array(second))
    assert found == pytest.approx(by_hand)
    u = stats.mannwhitneyu(first, second).statistic
    assert found == pytest.approx(u / (len(first) * len(second)))
    assert evidence.a12(np.array(second), np.array(first)) == pytest.approx(1 - found)


def test_holm_gives_the_numbers_of_a_worked_example():
    assert evidence.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evidence.holm([]).tolist() == []


@settings(max_examples=8)  # theirs takes a twentieth of a second
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_equals_statsmodels(p_values):
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    expected = multitest.multipletests(p_values, method="holm")[1]
    assert evidence.holm(p_values) == pytest.approx(expected)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_the_signed_rank_test_is_exact_also_with_ties_and_zeros(differences):
    found = evidence.signed_rank(np.array(differences, dtype=float), np.zeros(len(differences)))
    kept = np.array([one for one in differences if one])
    if len(kept) == 0:
        assert found == 1.0
        return
    ranks = stats.rankdata(np.abs(kept))
    sums = np.array([ranks @ np.array(signs) for signs in product((0, 1), repeat=len(kept))])
    observed = ranks[kept > 0].sum()
    tail = min((sums <= observed + 1e-9).mean(), (sums >= observed - 1e-9).mean())
    assert found == pytest.approx(min(1.0, 2 * tail))
    assert found >= evidence.smallest_p(len(kept)) - 1e-12


def test_friedman_is_scipys_and_needs_three_methods():
    scores = random_scores()
    assert evidence.friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert evidence.friedman(scores[:, :2]) is None
    assert evidence.friedman(scores[:1]) is None
    assert evidence.friedman(np.ones((5, 3))) == 1.0


def test_mean_ranks_put_the_largest_score_first_and_share_ties():
    assert evidence.mean_ranks(np.array([[3.0, 2.0, 1.0], [3.0, 3.0, 1.0]])).tolist() == [1.25, 1.75, 3.0]


def test_pairs_equal_the_post_hoc_tests_of_scikit_posthocs():
    posthocs = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is not installed")
    scores = random_scores(gap=0.05)
    expected = posthocs.posthoc_wilcoxon(list(scores.T), p_adjust="holm").to_numpy()
    for pair in evidence.compare_pairs(scores):
        assert pair.p_holm == pytest.approx(expected[pair.first, pair.second])


def test_a_family_against_a_control_is_corrected_for_its_own_size_only():
    scores = random_scores()
    pairs = evidence.compare_pairs(scores, [(0, 1), (0, 2), (0, 3)])
    assert [pair.p_holm for pair in pairs] == pytest.approx([3 * 2**-10] * 3)
    assert all(pair.is_shown and pair.num_ahead == 11 for pair in pairs)


def test_cliques_hold_only_methods_none_of_which_differ():
    apart = np.hstack([random_scores(num_methods=2, gap=0.0), random_scores(num_methods=2, gap=0.0, seed=1) - 5])
    assert [sorted(group) for group in evidence.cliques(apart)] == [[0, 1], [2, 3]]
    assert evidence.cliques(random_scores(gap=5.0)) == []
    assert [sorted(group) for group in evidence.cliques(np.ones((6, 3)))] == [[0, 1, 2]]


def test_the_median_has_an_interval_that_is_a_point_where_nothing_varies():
    assert evidence.median_interval(np.array([2.0])) == (2.0, 2.0, 2.0)
    assert evidence.median_interval(np.full(7, 3.0)) == (3.0, 3.0, 3.0)
    values = np.random.default_rng(0).normal(size=11)
    found = evidence.median_interval(values)
    assert values.min() <= found.lower < found.value == np.median(values) < found.upper <= values.max()
    assert found == evidence.median_interval(values)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (np.array([[1.0, 0.0]] * 5) + np.arange(5)[:, None], "5 seeds cannot show a difference among 1 comparison"),
        (np.array([[1.0, 0.0]]), "1 seed cannot show"),
        (np.ones((11, 2)), "no difference that these runs can show"),
        (random_scores(num_methods=2, gap=2.0), "A is ahead of B on 11 of 11 seeds, p = 0.00098, A12 = 1.00"),
        (-random_scores(num_methods=2, gap=2.0), "B is ahead of A on 11 of 11 seeds, p = 0.00098, A12 = 1.00"),
    ],
)
def test_words_claim_no_more_than_the_runs(scores, words):
    (pair,) = evidence.compare_pairs(scores)
    assert words in evidence.in_words(pair, "A", "B", 1)
