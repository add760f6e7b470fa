"""Do pymoo's algorithms find through the bridge, in both directions, what they find without it?"""

import sys
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.logging import PandasLogger, StdOutLogger
from torch import Tensor

pytest.importorskip("pymoo", reason="pymoo is not installed")

from pymoo.core.callback import Callback
from pymoo.optimize import minimize

import evohbde
from evohbde.data import SuperBatches, TensorData
from evohbde.problem import NetworkProblem
from evohbde.pymoo_bridge import PymooSearcher, as_pymoo
from evohbde.reductions import HistogramBlocking
from evohbde.run import run_until
from tests.pymoo_algorithms import (
    DIM,
    MULTI,
    ONE_BY_ONE,
    SINGLE,
    Functions,
    Theirs,
    hills,
    make_algorithm,
    senses_of,
    two_goals,
)
from tests.small_networks import digits, f1_of_scikit_learn, mlp

GENERATIONS = ("n_gen", 6)


def finished(name: str, problem: Problem, **options) -> PymooSearcher:
    searcher = PymooSearcher(problem, make_algorithm(name), **{"seed": 3, "termination": GENERATIONS, **options})
    assert run_until(searcher, num_evaluations=100_000) == "terminated"
    return searcher


def network_problem(objectives="f1_macro", **options) -> NetworkProblem:
    data = options.pop("data", digits(60))
    return NetworkProblem(options.pop("model", mlp()), data, objectives, reduction=few_bins, **options)


def few_bins(theta0: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, 14)


@pytest.mark.parametrize("name", SINGLE + MULTI)
def test_it_equals_pymoos_own_loop_bit_for_bit(name):
    problem = Functions(senses_of(name))
    searcher = finished(name, problem)
    own = minimize(Theirs(problem.function), make_algorithm(name), GENERATIONS, seed=3)
    assert len(own.pop) > 1
    for key in ("X", "F"):
        np.testing.assert_array_equal(searcher.algorithm.pop.get(key), own.pop.get(key))
    np.testing.assert_array_equal(searcher.population.values.numpy(), own.pop.get("X"))
    np.testing.assert_array_equal(searcher.population.evals.numpy(), own.pop.get("F"))
    np.testing.assert_array_equal(searcher.pareto_front.evals.numpy(), own.opt.get("F"))
    assert searcher.algorithm.evaluator.n_eval == own.algorithm.evaluator.n_eval == sum(map(len, problem.batches))


@pytest.mark.parametrize("name", SINGLE + MULTI)
def test_maximising_mirrors_minimising(name):
    low, high = (finished(name, Functions(senses_of(name, sense))) for sense in ("min", "max"))
    assert torch.equal(low.population.values, high.population.values)
    assert torch.equal(low.population.evals, -high.population.evals)
    best = "best" if name in SINGLE else "obj0_pop_best"
    assert torch.equal(low.status[best].evals, -high.status[best].evals)


@pytest.mark.parametrize("name", SINGLE + MULTI)
@pytest.mark.parametrize("bounded", [True, False])
def test_float32_values_are_written_back_as_scored_and_stay_inside(name, bounded):
    problem = Functions(senses_of(name), dtype=torch.float32, bounded=bounded)
    searcher = finished(name, problem, bounds=None if bounded else (-0.2, torch.full((DIM,), 0.1)))
    lower, upper = (-1.0, 1.0) if bounded else (torch.tensor(-0.2), torch.tensor(0.1))
    scored = torch.cat(problem.batches)
    assert bool(((scored >= lower) & (scored <= upper)).all())
    population = searcher.population
    assert torch.equal(problem.score(population.values.as_subclass(Tensor)), population.evals)
    X = searcher.algorithm.pop.get("X")
    np.testing.assert_array_equal(X, X.astype(np.float32))


@pytest.mark.parametrize("name", sorted({*SINGLE, *MULTI} - set(ONE_BY_ONE)))
def test_a_generation_is_one_evaluate_call(name):
    problem = Functions(senses_of(name))
    searcher = PymooSearcher(problem, make_algorithm(name), termination=("n_gen", 100) if name == "RVEA" else None)
    for step in range(1, 5):
        searcher.step()
        assert len(problem.batches) == step
    # CMA-ES and ES draw a first sample of another size.
    assert {len(batch) for batch in problem.batches[1:]} == {8 if "CMAES" in name else 16 if name == "ES" else 14}


def test_senses_are_kept_per_objective():
    both, mixed = (finished("NSGA2", Functions(senses)) for senses in (["min", "min"], ["min", "max"]))
    assert torch.equal(both.population.evals * torch.tensor([1.0, -1.0]), mixed.population.evals)
    front, everyone = mixed.pareto_front, mixed.population
    assert 1 < len(front) <= len(everyone)
    assert mixed.status["pareto_size"] == len(front)
    for first, second in front.evals.tolist():
        evals = everyone.evals
        assert not bool(((evals[:, 0] < first) & (evals[:, 1] > second)).any())


def test_status_and_loggers_work(capsys):
    problem = Functions("max")
    searcher = PymooSearcher(problem, make_algorithm("GA"))
    assert searcher.population is None and searcher.pareto_front is None and not searcher.is_terminated
    StdOutLogger(searcher)
    frame_logger = PandasLogger(searcher)
    bests = []
    searcher.after_step_hook.append(lambda: bests.append(searcher.status["pop_best_eval"]))
    searcher.run(4)
    frame = frame_logger.to_dataframe()
    assert isinstance(frame, pd.DataFrame) and {"mean_eval", "median_eval", "best_eval"} <= set(frame.columns)
    assert frame["pop_best_eval"].tolist() == bests == sorted(bests)
    assert searcher.status["best_eval"] == float(problem.score(torch.cat(problem.batches)).max())
    assert searcher.status["mean_eval"] == float(searcher.population.evals.mean())
    assert capsys.readouterr().out.count("iter : ") == 4


@pytest.mark.parametrize("name", ["DE", "NelderMead", "NSGA2", "RVEA"])
def test_nothing_happens_after_the_end(name):
    problem = Functions(senses_of(name))
    searcher = finished(name, problem)
    before, calls = searcher.population.evals.clone(), len(problem.batches)
    searcher.run(3)
    assert torch.equal(searcher.population.evals, before)
    assert len(problem.batches) == calls


def test_it_stops_when_no_new_candidates_are_found():
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM

    children_like_parents = {"crossover": SBX(prob=0.0), "mutation": PM(prob=0.0)}
    searcher = PymooSearcher(Functions("min"), GA(pop_size=4, **children_like_parents))
    assert run_until(searcher, num_evaluations=1000) == "terminated"
    assert (searcher.step_count, searcher.status["iter"], len(searcher.population)) == (2, 2, 4)


def test_defaults_of_the_algorithm_do_not_end_the_search():
    searcher = PymooSearcher(Functions("min", initial_bounds=(0.3, 0.3)), make_algorithm("DE"), bounds=(0.29, 0.31))
    assert run_until(searcher, num_evaluations=14 * 150) == "num_evaluations"


def test_an_interrupted_generation_is_lost_and_the_search_goes_on():
    class Interrupted(Functions):
        def _evaluate_batch(self, batch):
            super()._evaluate_batch(batch)
            if len(self.batches) == 3:
                raise KeyboardInterrupt

    searcher = PymooSearcher(Interrupted("min"), make_algorithm("DE"))
    assert run_until(searcher, num_evaluations=140) == "interrupted"
    before = searcher.status["mean_eval"]
    assert run_until(searcher, num_evaluations=140) == "num_evaluations"
    assert searcher.status["mean_eval"] < before


def test_failed_scores_lose_and_evaluation_data_stays_with_its_solution():
    class Failing(Functions):
        def _evaluate_batch(self, batch: SolutionBatch) -> None:
            x = batch.access_values(keep_evals=True).as_subclass(Tensor)
            scores = torch.where(x[:, :1] > 0, torch.nan, self.score(x))
            batch.set_evals(scores, x[:, 1:3])

    problem = Failing("max", eval_data_length=2, store_solution_stats=False)
    searcher = PymooSearcher(problem, make_algorithm("GA"))
    searcher.step()
    first = searcher.population
    assert torch.equal(first.evals[:, 0].isinf(), first.values[:, 0] > 0)
    searcher.run(5)
    population = searcher.population
    assert not bool((population.values[:, 0] > 0).any())
    assert torch.equal(population.evals[:, 1:], population.values[:, 1:3])


@pytest.mark.parametrize("name", ["PSO", "CMAES", "NSGA3", "SMSEMOA"])
def test_networks_are_searched(name):
    model = mlp()
    multi = name in MULTI
    problem = network_problem(("f1_macro", "density") if multi else "f1_macro", seed=4)
    searcher = PymooSearcher(problem, make_algorithm(name))
    searcher.step()
    first = searcher.status["obj0_pop_best_eval" if multi else "best_eval"]
    assert run_until(searcher, num_evaluations=100) == "num_evaluations"
    best = searcher.status["obj0_pop_best" if multi else "best"]
    assert float(best.evals[0]) >= first
    assert float(best.evals[0]) == pytest.approx(f1_of_scikit_learn(model, problem.decode(best), digits(60)), abs=1e-6)
    assert 80 <= searcher.status["num_evaluations"] <= 120


@pytest.mark.parametrize("name", ["DE", "PSO", "CMAES", "NSGA2"])
@pytest.mark.parametrize("sense", ["min", "max"])
def test_as_pymoo_equals_the_function_itself(name, sense):
    problem = Functions(senses_of(name, sense))
    found = minimize(as_pymoo(problem), make_algorithm(name), GENERATIONS, seed=3, save_history=True)
    direct = minimize(Theirs(problem.function), make_algorithm(name), GENERATIONS, seed=3)
    np.testing.assert_array_equal(found.X, direct.X)
    np.testing.assert_array_equal(found.F, direct.F)
    assert len(problem.batches) == len(found.history) == 6
    assert all(entry.problem.source is problem for entry in found.history)


def test_as_pymoo_takes_a_network_problem():
    data = digits(60)
    model, data = mlp().double(), TensorData(data.x.double(), data.y)
    problem = network_problem(model=model, data=data)
    found = minimize(as_pymoo(problem), make_algorithm("DE"), ("n_gen", 3), seed=3)
    theta = problem.decode(torch.as_tensor(found.X))
    assert -found.F[0] == pytest.approx(f1_of_scikit_learn(model, theta, data), abs=1e-6)


def test_it_is_reached_from_the_package():
    assert evohbde.PymooSearcher is PymooSearcher
    assert evohbde.as_pymoo is as_pymoo
    assert {"PymooSearcher", "as_pymoo"} <= set(dir(evohbde))


def test_without_pymoo_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymoo.core.algorithm", None)
    monkeypatch.delitem(sys.modules, "evohbde.pymoo_bridge")
    for ask in (lambda: import_module("evohbde.pymoo_bridge"), lambda: evohbde.PymooSearcher):
        with pytest.raises(ImportError, match=r"needs pymoo: pip install 'evohbde\[pymoo\]'"):
            ask()


def unbounded(**options) -> Problem:
    return Problem("min", hills, solution_length=DIM, vectorized=True, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no finite ones: give"),
        ({"bounds": (0, float("inf"))}, "finite `bounds`"),
        ({"bounds": (None, 1)}, "finite `bounds`"),
        ({"bounds": (1, 0)}, "above its upper"),
        ({"bounds": (torch.zeros(3), torch.ones(3))}, r"vectors of 5 values, got shape \(3,\)"),
    ],
)
def test_bounds_must_be_there(options, message):
    for make in (lambda: as_pymoo(unbounded(), **options), lambda: PymooSearcher(unbounded(), make_de(), **options)):
        with pytest.raises(ValueError, match=message):
            make()


def make_de():
    return make_algorithm("DE")


def test_bounds_are_strict_then_initial():
    both = as_pymoo(unbounded(bounds=(-2, 2), initial_bounds=(-1, 1)))
    half_open = as_pymoo(unbounded(bounds=(-2, float("inf")), initial_bounds=(-1, 1)))
    assert (both.xl.tolist(), both.xu.tolist()) == ([-2.0] * DIM, [2.0] * DIM)
    assert (half_open.xl.tolist(), half_open.xu.tolist()) == ([-1.0] * DIM, [1.0] * DIM)


def test_wrong_arguments_are_named():
    problem = Functions("min")
    with pytest.raises(TypeError, match=r"`problem` to be an evotorch\.Problem, got Theirs"):
        as_pymoo(Theirs(two_goals))
    with pytest.raises(TypeError, match="got the class DE"):
        PymooSearcher(problem, type(make_de()))
    with pytest.raises(TypeError, match="got str"):
        PymooSearcher(problem, "DE")
    with pytest.raises(ValueError, match="already been set up"):
        PymooSearcher(problem, make_de().setup(Theirs(hills)))
    with pytest.raises(Exception, match="n_gen or n_eval"):
        PymooSearcher(Functions(["min", "min"]), make_algorithm("RVEA"))


def test_what_is_slow_or_stale_is_warned_of():
    from pymoo.algorithms.soo.nonconvex.ga import GA

    long = Problem("min", lambda x: x.sum(1), solution_length=200_000, initial_bounds=(0, 1), vectorized=True)
    with pytest.warns(UserWarning, match="give GA eliminate_duplicates=False"):
        PymooSearcher(long, GA(pop_size=50))
    with pytest.warns(UserWarning, match='parents="fixed"'):
        PymooSearcher(network_problem(data=SuperBatches(digits(60), 20)), make_de())


@pytest.mark.filterwarnings("error:looking for duplicates", "error:the problem scores")
def test_what_is_meant_is_not_warned_of():
    from pymoo.algorithms.soo.nonconvex.ga import GA

    long = Problem("min", lambda x: x.sum(1), solution_length=200_000, initial_bounds=(0, 1), vectorized=True)
    PymooSearcher(long, GA(pop_size=50, eliminate_duplicates=False))
    PymooSearcher(network_problem(data=SuperBatches(digits(60), 20, parents="stale")), make_de())


def test_the_callbacks_are_kept_and_the_given_objects_stay_as_they_were():
    from pymoo.algorithms.soo.nonconvex.ga import GA
    from pymoo.core.evaluator import Evaluator

    class Count(Callback):
        def notify(self, algorithm):
            self.data.setdefault("n_gen", []).append(algorithm.n_gen)

    scored: list[int] = []
    algorithm = GA(pop_size=6, callback=Count(), evaluator=Evaluator(callback=lambda pop: scored.append(len(pop))))
    searcher = PymooSearcher(Functions("min"), algorithm)
    searcher.run(3)
    assert searcher.algorithm.callback.data["n_gen"] == [1, 2, 3]
    assert scored == [6, 6, 6]
    assert algorithm.problem is None and algorithm.callback.data == {} and algorithm.evaluator.n_eval == 0


def test_rows_scored_before_are_not_scored_again():
    from pymoo.algorithms.soo.nonconvex.ga import GA

    start = PymooSearcher(Functions("min"), make_algorithm("GA"))
    start.step()
    problem = Functions("min")
    PymooSearcher(problem, GA(pop_size=14, sampling=start.algorithm.pop)).step()
    assert problem.batches == []
