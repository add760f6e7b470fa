"""Does differential evolution select, resume and report as it says?"""

import copy
import pickle

import numpy as np
import pytest
import torch
from evotorch import Problem
from evotorch.logging import PandasLogger, StdOutLogger
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evohbde.searchers.de import CROSSOVERS, DE, MUTATIONS, binomial_mask, distinct_indices

STRATEGIES = [f"{mutation}/{crossover}" for mutation in MUTATIONS for crossover in CROSSOVERS]


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def negative_sphere(x: Tensor) -> Tensor:
    return -sphere(x)


def both(x: Tensor) -> Tensor:
    return torch.stack([x.sum(-1), negative_sphere(x)], dim=1)


def problem_of(function=sphere, sense="min", length=6, **options) -> Problem:
    if "bounds" not in options:
        options.setdefault("initial_bounds", (-1, 1))
    options.setdefault("seed", 3)
    return Problem(sense, function, solution_length=length, vectorized=True, **options)


def values_of(searcher: DE) -> Tensor:
    return searcher.population.values.as_subclass(Tensor)


def scores_of(searcher: DE) -> Tensor:
    return searcher.population.evals.as_subclass(Tensor)


def state_of(searcher: DE) -> Tensor:
    return torch.cat([values_of(searcher), scores_of(searcher)], dim=1)


def test_one_generation_equals_a_scalar_reference():
    searcher = DE(problem_of(dtype=torch.float64), popsize=8, differential_weight=0.7, crossover_rate=0.4)
    searcher.run(2)
    old, old_scores = values_of(searcher).numpy().copy(), scores_of(searcher).numpy().copy()
    stream = torch.Generator()
    stream.set_state(searcher.problem.generator.get_state())
    draw = {"generator": stream, "dtype": torch.float64}
    r = distinct_indices(torch.rand(8, 3, **draw))
    forced = (torch.rand(8, **draw) * 6).long()
    mask = binomial_mask(torch.rand(8, 6, **draw), 0.4, forced)
    new, new_scores = old.copy(), old_scores.copy()
    for i in range(8):
        mutant = old[r[i, 0]] + 0.7 * (old[r[i, 1]] - old[r[i, 2]])  # all from the old population: deferred
        trial = np.where(mask[i], mutant, old[i])
        if np.square(trial).sum() <= old_scores[i]:
            new[i], new_scores[i] = trial, np.square(trial).sum()
    searcher.run(1)
    assert not np.array_equal(new, old)
    np.testing.assert_allclose(values_of(searcher), new, rtol=1e-12)
    np.testing.assert_allclose(scores_of(searcher), new_scores, rtol=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_scores_belong_to_their_values_and_never_get_worse(strategy):
    searcher = DE(problem_of(), popsize=20, strategy=strategy)
    searcher.run(1)
    start = scores_of(searcher).clone()
    for _ in range(20):
        before = scores_of(searcher).clone()
        searcher.run(1)
        assert bool((scores_of(searcher) <= before).all())
        assert torch.equal(scores_of(searcher)[:, 0], sphere(values_of(searcher)))
    assert scores_of(searcher).median() < start.median()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_minimising_f_and_maximising_minus_f_are_the_same_search(strategy):
    down = DE(problem_of(), popsize=12, strategy=strategy)
    up = DE(problem_of(negative_sphere, "max"), popsize=12, strategy=strategy)
    down.run(15)
    up.run(15)
    assert torch.equal(values_of(down), values_of(up))
    assert torch.equal(scores_of(down), -scores_of(up))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("weight", [0.5, (0.1, 1.0)])
def test_dimensions_that_all_individuals_share_never_change(strategy, weight):
    lower = torch.tensor([0.3, -1.0, -0.1, -1.0, 7.7, -1.0])
    upper = torch.tensor([0.3, 1.0, -0.1, 1.0, 7.7, 1.0])
    problem = problem_of(initial_bounds=(lower, upper))
    searcher = DE(problem, popsize=12, strategy=strategy, differential_weight=weight, dither="dimension")
    searcher.run(30)
    frozen = lower == upper
    assert torch.equal(values_of(searcher)[:, frozen], lower[frozen].expand(12, -1))
    assert not torch.equal(values_of(searcher)[:, ~frozen], lower[~frozen].expand(12, -1))


@pytest.mark.parametrize("accept_equal", [True, False])
def test_ties_move_or_keep_the_parent(accept_equal):
    searcher = DE(problem_of(), popsize=6, accept_equal=accept_equal)
    searcher.tell(searcher.ask(), torch.tensor([0.0, 0, 0, 1, 1, 1]))
    parents, trials = values_of(searcher).clone(), searcher.ask()
    searcher.tell(trials, torch.tensor([0.0, 1, -1, 1, 2, 0]))
    moved = torch.tensor([accept_equal, False, True, accept_equal, False, True])
    assert torch.equal(values_of(searcher), torch.where(moved[:, None], trials, parents))
    assert scores_of(searcher)[:, 0].tolist() == [0, 0, -1, 1, 1, 0]


@pytest.mark.parametrize("sense", ["min", "max"])
@pytest.mark.parametrize("accept_equal", [True, False])
def test_a_NaN_score_never_wins_and_a_NaN_parent_is_replaced(sense, accept_equal):
    sign = 1 if sense == "min" else -1
    searcher = DE(problem_of(sense=sense), popsize=5, accept_equal=accept_equal)
    searcher.tell(searcher.ask(), sign * torch.tensor([1.0, torch.nan, 1.0, 1.0, torch.nan]))
    parents, trials = values_of(searcher).clone(), searcher.ask()
    searcher.tell(trials, sign * torch.tensor([torch.nan, 5.0, 0.0, torch.inf, 9.0]))
    moved = torch.tensor([False, True, True, False, True])
    assert torch.equal(values_of(searcher), torch.where(moved[:, None], trials, parents))
    assert torch.equal(scores_of(searcher)[:, 0], sign * torch.tensor([1.0, 5.0, 0.0, 1.0, 9.0]))


def test_the_followed_objective_decides_alone_and_all_objectives_are_kept():
    single = DE(problem_of(negative_sphere, "max"), popsize=12, strategy="best/1/bin")
    several = DE(problem_of(both, ["min", "max"]), popsize=12, strategy="best/1/bin", obj_index=1)
    single.run(10)
    several.run(10)
    assert torch.equal(values_of(single), values_of(several))
    assert torch.equal(scores_of(several), both(values_of(several)))
    assert several.status["pop_best_eval"] == single.status["pop_best_eval"]


@pytest.mark.parametrize("strategy", ["rand/1/bin", "order/1/exp"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda searcher: pickle.loads(pickle.dumps(searcher))])
def test_a_copy_made_mid_run_continues_bit_for_bit(strategy, copied):
    options = {"strategy": strategy, "differential_weight": (0.2, 0.9), "bounds": "resample"}
    searcher = DE(problem_of(), popsize=10, **options)
    searcher.run(5)
    twin = copied(searcher)
    searcher.run(5)
    assert not torch.equal(state_of(searcher), state_of(twin))
    twin.run(5)
    assert torch.equal(state_of(searcher), state_of(twin))
    assert twin.step_count == searcher.step_count == 10
    assert twin.problem is not searcher.problem


def test_a_seed_gives_the_same_search_and_another_seed_another():
    runs = []
    for seed in (3, 3, 4):
        searcher = DE(problem_of(seed=seed), popsize=10)
        searcher.run(5)
        runs.append(state_of(searcher))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_ask_and_tell_are_run_by_hand():
    by_run, by_hand = DE(problem_of(), popsize=10), DE(problem_of(), popsize=10)
    by_run.run(6)
    for _ in range(6):
        z = by_hand.ask()
        by_hand.tell(z, sphere(z))
    assert torch.equal(state_of(by_run), state_of(by_hand))


def test_what_ask_gives_may_be_repaired_before_it_is_told():
    searcher = DE(problem_of(), popsize=5)
    untouched = values_of(searcher).clone()
    z = searcher.ask()
    z.clamp_(min=0)
    assert torch.equal(values_of(searcher), untouched)
    searcher.tell(z, sphere(z))
    assert torch.equal(values_of(searcher), z)


@pytest.mark.parametrize("scores", [torch.zeros(5, 2), torch.zeros(4), torch.zeros(5, 1, 1)])
def test_scores_that_do_not_fit_are_refused(scores):
    searcher = DE(problem_of(), popsize=5)
    with pytest.raises(ValueError, match=r"expected the candidates that `ask` gave and scores of shape \(n, 1\)"):
        searcher.tell(searcher.ask(), scores)


class Drifting(Problem):
    """The sphere plus the number of the call, so that old scores are always too good."""

    def __init__(self) -> None:
        super().__init__("min", solution_length=4, initial_bounds=(-1, 1), seed=1)
        self.num_calls = 0

    def _evaluate_batch(self, batch) -> None:
        batch.set_evals(sphere(batch.access_values(keep_evals=True)) + self.num_calls)
        self.num_calls += 1


def test_parents_are_scored_again_where_asked_for():
    stale, fresh = DE(Drifting(), popsize=8), DE(Drifting(), popsize=8, rescore_parents=True)
    for step in range(6):
        assert fresh.next_num_evaluations == (16 if step else 8)
        stale.run(1)
        fresh.run(1)
        assert torch.equal(scores_of(fresh)[:, 0], sphere(values_of(fresh)) + step)
    assert float(scores_of(stale).max()) < 4
    assert stale.next_num_evaluations == 8


BOUNDED = {"lower": torch.tensor([-1.0, 0.0, -2.0, 0.5]), "upper": torch.tensor([1.0, 0.1, 3.0, 0.5])}


@settings(max_examples=25)
@given(
    bounds=st.sampled_from([None, "clip", "reflect", "resample", "midpoint"]),
    weight=st.floats(0.1, 5),
    stdev=st.sampled_from([None, 0.0, 10.0]),
    seed=st.integers(0, 1000),
)
def test_bounds_hold_for_every_candidate(bounds, weight, stdev, seed):
    lower, upper = BOUNDED["lower"], BOUNDED["upper"]
    problem = problem_of(length=4, bounds=(lower, upper), seed=seed)
    center = None if stdev is None else torch.full((4,), 0.05)
    searcher = DE(problem, popsize=8, bounds=bounds, differential_weight=weight, center_init=center, stdev_init=stdev)
    for _ in range(5):
        z = searcher.ask()
        assert bool(((z >= lower) & (z <= upper)).all())
        searcher.tell(z, -sphere(z))


def test_no_bounds_means_that_trials_leave_the_initial_range():
    searcher = DE(problem_of(negative_sphere), popsize=10)
    searcher.run(10)
    assert float(values_of(searcher).abs().max()) > 1
    kept = DE(problem_of(negative_sphere), popsize=10, bounds="clip")
    kept.run(10)
    assert float(values_of(kept).abs().max()) == 1


def test_the_searcher_reports_what_evotorch_reports(capsys):
    searcher = DE(problem_of(), popsize=10)
    seen = []
    searcher.before_step_hook.append(lambda: seen.append("before"))
    searcher.after_step_hook.append(lambda: {"extra": len(seen)})
    searcher.end_of_run_hook.append(lambda status: seen.append(status["iter"]))
    StdOutLogger(searcher)
    table = PandasLogger(searcher)
    searcher.run(4)
    own = {"iter", "extra", "pop_best", "pop_best_eval", "mean_eval", "median_eval"}
    assert set(searcher.status) == own | {"best", "best_eval", "worst", "worst_eval"}
    assert searcher.status["pop_best_eval"] == pytest.approx(float(scores_of(searcher).min()))
    assert searcher.status["mean_eval"] == pytest.approx(float(scores_of(searcher).mean()))
    assert seen == ["before"] * 4 + [4]
    frame = table.to_dataframe()
    assert frame.index.tolist() == [1, 2, 3, 4] and frame["extra"].tolist() == [1, 2, 3, 4]
    assert bool((frame["pop_best_eval"].diff().dropna() <= 0).all())
    assert capsys.readouterr().out.count("pop_best_eval") == 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bounds", ["none", "reflect", "resample"])
def test_other_precisions_than_float32(dtype, bounds):
    problem = problem_of(dtype=dtype, eval_dtype=torch.float32 if dtype == torch.bfloat16 else dtype)
    searcher = DE(problem, popsize=40, bounds=bounds, differential_weight=(0.3, 0.7))
    searcher.run(1)
    first = scores_of(searcher).min().item()
    searcher.run(200)
    assert searcher.population.values.dtype == searcher.ask().dtype == dtype
    assert scores_of(searcher).min().item() < (1e-9 if dtype == torch.float64 else first / 2)
