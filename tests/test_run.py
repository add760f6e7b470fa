"""Does a run stop where it should, say why, and leave a searcher that can go on?"""

import pickle

import pytest
import torch
from evotorch import Problem
from evotorch.algorithms import CEM, SNES, GeneticAlgorithm
from evotorch.operators import GaussianMutation, OnePointCrossOver
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evohbde.problem_base import BaseProblem
from evohbde.run import run_until
from evohbde.searchers import DE


def sphere(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def plain(sense: str = "min") -> Problem:
    sign = 1 if sense == "min" else -1
    return Problem(
        sense, lambda x: sign * sphere(x), solution_length=4, initial_bounds=(-1, 1), vectorized=True, seed=1
    )


class Counting(BaseProblem):
    """Each candidate costs ten sample forwards."""

    def __init__(self, sense="min") -> None:
        super().__init__(sense, solution_length=4, initial_bounds=(-1, 1), seed=1)
        self.num_scored = 0

    @property
    def num_samples_seen(self) -> float:
        return 10.0 * self.num_scored

    def _evaluate_batch(self, batch) -> None:
        x = batch.access_values(keep_evals=True).as_subclass(Tensor)
        batch.set_evals(torch.stack([sphere(x), -sphere(x)][: len(self.senses)], dim=1))
        self.num_scored += len(batch)


def genetic(problem: Problem) -> GeneticAlgorithm:
    operators = [OnePointCrossOver(problem, tournament_size=2), GaussianMutation(problem, stdev=0.1)]
    return GeneticAlgorithm(problem, operators=operators, popsize=10, re_evaluate=False)


SEARCHERS = {
    "DE": lambda problem: DE(problem, popsize=10),
    "SNES": lambda problem: SNES(problem, stdev_init=1.0, popsize=10),
    "CEM": lambda problem: CEM(problem, stdev_init=1.0, popsize=10, parenthood_ratio=0.5),
    "GA": genetic,
}


@settings(max_examples=40)
@given(popsize=st.integers(4, 20), budget=st.integers(1, 150), rescore=st.booleans(), in_samples=st.booleans())
def test_a_budget_is_spent_as_far_as_whole_steps_go_and_never_exceeded(popsize, budget, rescore, in_samples):
    problem = Counting()
    searcher = DE(problem, popsize=popsize, rescore_parents=rescore)
    name, limit = ("num_samples", 10.0 * budget) if in_samples else ("num_evaluations", budget)
    assert run_until(searcher, **{name: limit}) == name
    assert problem.num_evaluations <= max(budget, popsize)
    assert problem.num_evaluations + popsize * (1 + rescore) > budget


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("budget", [10, 40, 99, 100])
def test_a_budget_holds_for_searchers_of_evotorch_too(name, budget):
    problem = Counting()
    assert run_until(SEARCHERS[name](problem), num_evaluations=budget) == "num_evaluations"
    first = 20 if name == "GA" else 10
    assert problem.num_evaluations == max(budget // 10 * 10, first)


def test_a_plain_problem_and_a_run_that_goes_on_are_counted_from_the_call():
    problem, seen = plain(), []
    problem.after_eval_hook.append(lambda batch: seen.append(len(batch)))
    searcher = SEARCHERS["SNES"](problem)
    run_until(searcher, num_evaluations=30)
    run_until(searcher, num_evaluations=50)
    assert sum(seen) == 80
    assert searcher.step_count == 8


def test_of_two_limits_the_nearer_one_stops():
    assert run_until(SEARCHERS["DE"](Counting()), num_evaluations=100, num_samples=300) == "num_samples"
    assert run_until(SEARCHERS["DE"](Counting()), num_evaluations=30, num_samples=1000) == "num_evaluations"
    assert run_until(SEARCHERS["DE"](Counting()), num_evaluations=30, patience=100, seconds=100) == "num_evaluations"


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("sense", ["min", "max"])
def test_a_target_is_reached_and_not_overrun(name, sense):
    searcher, target = SEARCHERS[name](plain(sense)), 0.3 if sense == "min" else -0.3
    bests = []
    reason = run_until(
        searcher, target=target, num_evaluations=5_000, after_step=lambda: bests.append(searcher.status["best_eval"])
    )
    assert reason == "target"
    reached = [best <= target if sense == "min" else best >= target for best in bests]
    assert reached == [False] * (len(bests) - 1) + [True]


def test_the_target_is_that_of_the_followed_objective():
    searcher = DE(Counting(["min", "max"]), popsize=10, obj_index=1)
    assert run_until(searcher, target=-0.3, num_evaluations=5_000) == "target"
    assert searcher.status["pop_best_eval"] >= -0.3


@pytest.mark.parametrize("sense", ["min", "max"])
def test_patience_ends_after_so_many_steps_without_a_gain(sense):
    class Scripted(DE):
        """Reports what is written here as its best score."""

        script = (9.0, 7.0, 7.0, 8.0, 5.0, 5.0, 6.0, 5.0, 1.0)

        def _step(self) -> None:
            self.problem.evaluate(self.population)
            sign = 1 if sense == "min" else -1
            self.problem._after_eval_status["best_eval"] = sign * self.script[self.step_count]

    searcher = Scripted(plain(sense), popsize=4)
    assert run_until(searcher, patience=3) == "patience"
    assert searcher.step_count == 8


def test_time_runs_out(monkeypatch):
    """By a clock of the test's own, on which a step takes three seconds."""
    searcher = SEARCHERS["DE"](plain())
    monkeypatch.setattr("evohbde.run.time.monotonic", lambda: 100.0 + 3.0 * searcher.step_count)
    assert run_until(searcher, seconds=10) == "seconds"
    assert searcher.step_count == 4


class Ending(DE):
    """Says that it is done after three steps."""

    @property
    def is_terminated(self) -> bool:
        return self.step_count >= 3


def test_a_searcher_that_is_done_is_stopped_which_evotorch_does_not_do():
    searcher = Ending(plain(), popsize=4)
    assert run_until(searcher, num_evaluations=1_000) == "terminated"
    assert searcher.step_count == 3
    ignored = Ending(plain(), popsize=4)
    ignored.run(5)
    assert ignored.step_count == 5


class Interrupting(Problem):
    """Ctrl-C comes in the middle of the fourth evaluation."""

    num_calls = 0

    def _evaluate_batch(self, batch) -> None:
        self.num_calls += 1
        if self.num_calls == 4:
            raise KeyboardInterrupt
        batch.set_evals(sphere(batch.access_values(keep_evals=True)))


@pytest.mark.parametrize("name", SEARCHERS)
def test_an_interrupted_searcher_is_usable(name):
    problem = Interrupting("min", solution_length=4, initial_bounds=(-1, 1), seed=1)
    searcher, ends = SEARCHERS[name](problem), []
    searcher.end_of_run_hook.append(lambda status: ends.append(status["iter"]))
    assert run_until(searcher, num_evaluations=10_000) == "interrupted"
    steps, best = searcher.step_count, problem.status["best_eval"]
    assert ends == [steps] and steps >= 2
    assert searcher.status["best_eval"] == best and searcher.status["best"] is not None
    assert len(problem.before_eval_hook) == 0
    assert run_until(searcher, num_evaluations=1_000) == "num_evaluations"
    assert searcher.step_count > steps
    assert searcher.status["best_eval"] < best


def test_an_interrupted_DE_goes_on_from_the_population_it_had():
    problem = Interrupting("min", solution_length=4, initial_bounds=(-1, 1), seed=1)
    searcher = DE(problem, popsize=10)
    searcher.run(3)
    before = searcher.population.values.clone(), searcher.population.evals.clone()
    assert run_until(searcher, patience=5) == "interrupted"
    assert torch.equal(searcher.population.values, before[0])
    assert torch.equal(searcher.population.evals, before[1])


def test_an_interrupt_before_the_first_step_is_over_ends_quietly():
    problem = Interrupting("min", solution_length=4, initial_bounds=(-1, 1), seed=1)
    problem.num_calls = 3
    searcher = DE(problem, popsize=10)
    searcher.end_of_run_hook.append(lambda status: pytest.fail("no step, no end of run"))
    assert run_until(searcher, num_evaluations=100) == "interrupted"
    assert searcher.step_count == 0


def test_hooks_are_left_as_they_were_whatever_ends_the_run():
    problem, own = plain(), []
    problem.before_eval_hook.append(own.append)
    searcher = DE(problem, popsize=10)
    run_until(searcher, num_evaluations=20)
    assert list(problem.before_eval_hook) == [own.append]

    def fail() -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        run_until(searcher, num_evaluations=20, after_step=fail)
    assert list(problem.before_eval_hook) == [own.append]
    assert len(own) == 3


def test_the_end_of_run_is_announced_once_as_by_evotorch():
    searcher, ends = SEARCHERS["DE"](plain()), []
    searcher.end_of_run_hook.append(ends.append)
    run_until(searcher, num_evaluations=40)
    assert [status["iter"] for status in ends] == [4]
    assert isinstance(ends[0], dict)


def test_a_problem_that_is_copied_during_a_run_takes_nothing_of_the_searcher_with_it():
    problem, copies = Counting(), []
    searcher = DE(problem, popsize=10)
    searcher.log_hook.append(lambda status: None)  # cannot be pickled
    run_until(searcher, num_evaluations=20, after_step=lambda: copies.append(pickle.dumps(problem)))
    twin = pickle.loads(copies[-1])
    assert twin.num_evaluations == 20
    assert run_until(DE(twin, popsize=10), num_evaluations=50) == "num_evaluations"
    assert twin.num_evaluations == 70


@pytest.mark.parametrize("limits", [{}, {"num_evaluations": None}, {"after_step": print}])
def test_a_run_needs_a_limit(limits):
    with pytest.raises(ValueError, match="give at least one limit: num_evaluations, num_samples, target"):
        run_until(SEARCHERS["DE"](plain()), **limits)


@pytest.mark.parametrize("name", ["num_evaluations", "num_samples", "patience", "seconds"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_must_be_positive(name, value):
    searcher = SEARCHERS["DE"](plain())
    with pytest.raises(ValueError, match=f"`{name}` must be positive, got {value}"):
        run_until(searcher, **{name: value})
    assert searcher.step_count == 0


@pytest.mark.parametrize("limit", [{"target": 0.0}, {"patience": 3}])
def test_several_objectives_have_no_best_score_to_stop_at(limit):
    operators = [GaussianMutation(Counting(["min", "max"]), stdev=0.1)]
    searcher = GeneticAlgorithm(Counting(["min", "max"]), operators=operators, popsize=10)
    with pytest.raises(ValueError, match="need a single-objective searcher"):
        run_until(searcher, num_evaluations=1_000, **limit)


class Elsewhere(DE):
    """Scores its candidates where nobody counts, as EvoTorch does with distributed=True."""

    def _step(self) -> None:
        z = self.ask()
        self.tell(z, sphere(z))


@pytest.mark.parametrize(
    ("searcher", "name"),
    [(SEARCHERS["SNES"], "num_samples"), (lambda problem: Elsewhere(problem, popsize=10), "num_evaluations")],
)
def test_what_is_not_counted_cannot_limit_a_run(searcher, name):
    with pytest.raises(ValueError, match=f"`{name}` cannot limit this run, a step counted none"):
        run_until(searcher(plain()), **{name: 100})


def test_a_searcher_that_is_already_done_makes_no_step():
    class Done(DE):
        is_terminated = True

    searcher = Done(plain(), popsize=5)
    assert run_until(searcher, num_evaluations=100) == "terminated"
    assert searcher.step_count == 0
