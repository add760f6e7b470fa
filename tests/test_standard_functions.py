"""Are the standard functions what others call so, and is a search on them counted to the last evaluation?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from benchmarks.bbob import running_time
from benchmarks.conformance import verdict
from benchmarks.functions import CLASSIC, Task, run, shifted, sphere

DIM = 6


@pytest.mark.parametrize("name", CLASSIC)
def test_the_classic_functions_equal_those_of_pymoo(name):
    get_problem = pytest.importorskip("pymoo.problems").get_problem
    function, box = CLASSIC[name]
    x = np.random.default_rng(1).uniform(-box, box, (50, DIM))
    theirs = {"sphere": lambda x: get_problem("sphere", n_var=DIM).evaluate(x + 0.5)}  # pymoo's lies around 0.5
    evaluate = theirs.get(name, lambda x: get_problem(name, n_var=DIM).evaluate(x))
    np.testing.assert_allclose(function(x), evaluate(x)[:, 0], rtol=1e-10)


@pytest.mark.parametrize("name", CLASSIC)
def test_the_best_score_is_0_and_moves_with_the_shift(name):
    function, box = CLASSIC[name]
    optimum = np.full((1, DIM), 1.0 if name == "rosenbrock" else 0.0)
    shift = np.random.default_rng(2026).uniform(-0.8 * box, 0.8 * box, DIM)
    assert function(optimum) == pytest.approx(0, abs=1e-14)
    assert shifted(function, box, DIM)(optimum + shift) == pytest.approx(0, abs=1e-12)
    assert (np.abs(shift) <= 0.8 * box).all() and shifted(function, box, DIM)(optimum) > 1e-3


@given(
    sizes=st.lists(st.integers(1, 9), min_size=20, max_size=20),
    budget=st.integers(1, 60),
    targets=st.sets(st.floats(0.01, 2), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_a_task_sees_exactly_the_first_candidates_of_the_budget(sizes, budget, targets, seed):
    batches = [np.random.default_rng(seed).uniform(-1, 1, (size, DIM)) for size in sizes]
    in_order = sphere(np.concatenate(batches))[:budget]

    def search(task, seed):
        for batch in batches:
            np.testing.assert_array_equal(task(batch), sphere(batch))

    task = run(search, Task(sphere, 1.0, DIM, budget, targets), seed)
    first = {target: int((in_order <= target).argmax()) + 1 for target in targets if (in_order <= target).any()}
    assert task.hits == first
    if not targets or len(first) < len(targets):  # otherwise the last hit ends the search
        assert task.num_evaluations == min(budget, sum(sizes))
        assert task.best == in_order.min()


def test_expected_running_time_counts_failed_runs_in_full():
    assert running_time([100, "", 300], [150, 1_000, 400]) == (700.0, 2)
    assert running_time(["", ""], [50, 60]) == (np.inf, 0)


@given(shift=st.floats(-3, 3), seed=st.integers(0, 2**31))
def test_a_verdict_follows_the_rank_sum_test_and_turns_with_the_sides(shift, seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 11))
    found = verdict(a, b + shift)
    is_sure = mannwhitneyu(a, b + shift).pvalue < 0.05
    assert is_sure == (found != "no difference")
    assert verdict(b + shift, a) == {"ahead": "behind", "behind": "ahead"}.get(found, found)
    if is_sure:
        assert (found == "ahead") == (mannwhitneyu(a, b + shift, alternative="less").pvalue < 0.05)


def test_samples_that_are_all_equal_show_no_difference():
    assert verdict([0.0] * 11, [0.0] * 11) == "no difference"
