"""Can numbers that are not finite do harm? Not to the best one, not to the searcher, not to a finished network."""

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from evotorch import Problem, SolutionBatch
from evotorch.algorithms import CEM, PGPE, SNES, XNES
from evotorch.algorithms import CMAES as EvoTorchCMAES
from sklearn.metrics import f1_score
from torch import Tensor, nn

from evohbde.data import TensorData
from evohbde.finetune import fine_tune
from evohbde.hbde_2024 import HBDE2024
from evohbde.outputs import predict
from evohbde.problem import NetworkProblem
from evohbde.problem_base import BaseProblem
from evohbde.pruning.pipeline import prune
from evohbde.reductions import HistogramBlocking, Identity
from evohbde.run import FAILED_CALLS, FAILED_CANDIDATES, run_until
from evohbde.searchers import CMAES, DE, JADE, NSGA2, SHADE, IteratedLocalSearch, RandomSearch
from evohbde.staged import Staged
from tests.small_networks import digits, mlp
from tests.test_actors import searchers_for

LARGEST = torch.finfo(torch.float32).max


class Faulty(BaseProblem):
    """Squared distances to two goals, spoilt where `fault` says: for all candidates, or those of a positive value."""

    def __init__(self, senses: list[str], fault: str) -> None:
        super().__init__(senses, solution_length=4, initial_bounds=(-1, 1), seed=3)
        self.fault = fault
        self.center, self.stdev = torch.zeros(4), torch.ones(4)

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        z = batch.access_values(keep_evals=True).as_subclass(Tensor)
        signs = [1.0 if sense == "min" else -1.0 for sense in self.senses]
        goals = (0.4, -0.3)[: len(signs)]
        scores = torch.stack([s * (z - goal).square().sum(1) for s, goal in zip(signs, goals, strict=True)], 1)
        if self.fault == "equal":
            scores[:] = 1.0
        else:
            rows = torch.ones(len(z), dtype=torch.bool) if self.fault == "all" else z[:, 0] > 0
            column = 0 if self.fault == "some" else slice(None)
            scores[rows, column] = (
                torch.tensor([math.nan, math.inf, -math.inf])
                .repeat(len(z))[: len(z)][rows]
                .reshape((-1,) if self.fault == "some" else (-1, 1))
            )
        batch.set_evals(scores)


def best_of(problem: Problem) -> list[Tensor]:
    best = problem.status.get("best")
    found = [] if best is None else best if isinstance(best, list) else [best]
    return [one.values.as_subclass(Tensor) for one in found]


def run_all_searchers(senses: list[str], fault: str) -> dict[str, tuple[str, list[Tensor], Tensor]]:
    results = {}
    for name, make in searchers_for(len(senses)).items():
        problem = Faulty(senses, fault)
        searcher = make(problem)
        reason = run_until(searcher, num_evaluations=60)
        results[name] = reason, best_of(problem), searcher.population.values.as_subclass(Tensor)
    return results


@pytest.mark.parametrize(
    "senses",
    [["max"], ["min", "max"], pytest.param(["min"], marks=pytest.mark.slow)],
    ids=lambda senses: "-".join(senses),
)
def test_no_searcher_takes_a_failed_candidate_for_the_best(senses):
    for name, (reason, best, population) in run_all_searchers(senses, "some").items():
        assert reason in ("num_evaluations", "terminated"), name
        assert len(best) == len(senses) and all(float(values[0]) <= 0 for values in best), name
        assert bool(population.isfinite().all()), name


@pytest.mark.slow
@pytest.mark.parametrize("senses", [["min"], ["max"], ["min", "max"]], ids=lambda senses: "-".join(senses))
@pytest.mark.parametrize("fault", ["all", "equal"])
def test_every_searcher_goes_on_where_all_candidates_fail_or_are_equal(senses, fault):
    for name, (reason, best, population) in run_all_searchers(senses, fault).items():
        assert reason in ("num_evaluations", "terminated"), name
        assert len(best) == (0 if fault == "all" else len(senses)), name
        assert bool(population.isfinite().all()), name


def overflowing() -> Problem:
    """A plain problem of EvoTorch, which leaves NaN as it is, and cannot look for the best of nothing."""
    return plain(itertools.repeat(math.nan))


def plain(scores: Iterator[float]) -> Problem:
    return Problem(
        "min",
        lambda x: x[:, 0] * 0 + next(scores),
        solution_length=3,
        initial_bounds=(-1, 1),
        vectorized=True,
        seed=1,
        store_solution_stats=False,
    )


@pytest.mark.parametrize(
    "problem", [overflowing, lambda: Faulty(["max"], "all"), lambda: Faulty(["min", "max"], "all")]
)
@pytest.mark.parametrize("popsize", [1, 7, 40])
def test_a_run_without_any_score_stops_and_says_so(problem, popsize):
    problem = problem()
    searcher = RandomSearch(problem, popsize=popsize, obj_index=0)
    assert run_until(searcher, num_evaluations=10_000) == "failed"
    assert searcher.step_count == max(FAILED_CALLS, math.ceil(FAILED_CANDIDATES / popsize))
    assert len(problem.before_eval_hook) == len(problem.after_eval_hook) == 0


def test_one_finite_score_makes_a_run_begin_to_count_failures_anew():
    searcher = RandomSearch(plain(iter([math.nan] * 9 + [1.0] + [math.nan] * 12)), popsize=10)
    assert run_until(searcher, num_evaluations=10_000) == "failed"
    assert searcher.step_count == 20


def test_a_finished_budget_is_told_rather_than_a_failure():
    searcher = RandomSearch(overflowing(), popsize=10)
    assert run_until(searcher, num_evaluations=100) == "num_evaluations"


def network_problem(objective: str = "cross_entropy") -> NetworkProblem:
    return NetworkProblem(
        mlp(), digits(60), objective, reduction=lambda theta: HistogramBlocking(theta, 20), seed=1, strategy="views"
    )


def with_stdev(stdev: float) -> dict:
    around = {"popsize": 10, "stdev_init": stdev}
    return {
        "CMAES": lambda p: CMAES(p, **around),
        "EvoTorch's CMAES": lambda p: EvoTorchCMAES(p, center_init=p.center, **around),
        "SNES": lambda p: SNES(p, center_init=p.center, **around),
        "XNES": lambda p: XNES(p, center_init=p.center, **around),
        "CEM": lambda p: CEM(p, center_init=p.center, parenthood_ratio=0.5, **around),
        "PGPE": lambda p: PGPE(p, center_init=p.center, center_learning_rate=0.2, stdev_learning_rate=0.1, **around),
        "DE": lambda p: DE(p, **around),
        "JADE": lambda p: JADE(p, **around),
        "SHADE": lambda p: SHADE(p, **around),
        "RandomSearch": lambda p: RandomSearch(p, **around),
        "NSGA2": lambda p: NSGA2(p, **around),
        "IteratedLocalSearch": lambda p: IteratedLocalSearch(p, popsize=10, kick_stdev=stdev),
        "DE, differential weight": lambda p: DE(p, popsize=10, differential_weight=stdev),
        "SNES, learning rates": lambda p: SNES(
            p, popsize=10, stdev_init=0.1, center_init=p.center, center_learning_rate=stdev, stdev_learning_rate=stdev
        ),
    }


@pytest.mark.parametrize("stdev", [1e-45, 1e-30, 1e30, 3e38])
def test_a_step_size_out_of_range_ends_in_a_reason_and_never_in_a_broken_best(stdev):
    for name, make in with_stdev(stdev).items():
        problem = network_problem()
        reason = run_until(make(problem), num_evaluations=150)
        assert reason in ("num_evaluations", "failed"), name
        for values in best_of(problem):
            assert bool(predict(problem.make_network(values), digits(60)).isfinite().all()), name


def test_a_distribution_that_overflows_is_stopped():
    searcher = SNES(network_problem(), popsize=10, stdev_init=3e38, center_init=torch.zeros(19))
    assert run_until(searcher, num_evaluations=2_000) == "failed"


def test_exploding_blocks_fail_alone():
    problem = network_problem("f1_macro")
    z = problem.center.repeat(6, 1)
    z[1::2] = 1e38
    batch = SolutionBatch(problem, popsize=6, empty=True)
    batch.set_values(z)
    problem.evaluate(batch)
    scores = batch.evals[:, 0]
    assert bool((scores[1::2] == -LARGEST).all())
    assert scores[::2].tolist() == [problem.status["best_eval"]] * 3
    assert problem.status["worst_eval"] == problem.status["best_eval"], "what failed enters no statistics"


@pytest.mark.parametrize("labels", [[3], [3, 3, 3], [0, 9, 9, 0]])
def test_classes_without_samples_count_as_in_scikit_learn(labels):
    data = digits(len(labels))
    data = TensorData(data.x, torch.tensor(labels))
    problem = NetworkProblem(mlp(), data, ["f1_macro", "cross_entropy", "balanced_accuracy"], reduction=Identity)
    batch = SolutionBatch(problem, popsize=4, empty=True)
    batch.set_values(problem.center + torch.linspace(0, 0.5, 4)[:, None])
    problem.evaluate(batch)
    assert bool((batch.evals.abs() < LARGEST).all())
    for z, score in zip(batch.values, batch.evals[:, 0].tolist(), strict=True):
        predicted = predict(problem.make_network(z), data).argmax(1)
        expected = f1_score(data.y.numpy(), predicted.numpy(), average="macro", zero_division=0)
        assert score == pytest.approx(expected, abs=1e-6)


class Guard(nn.Module):
    """Lets through what is not larger than what the network gives as it is; the rest breaks."""

    def __init__(self, limit: float, value: float) -> None:
        super().__init__()
        self.limit, self.value = limit, value

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.abs() <= self.limit, x, self.value)


def fragile(value: float, headroom: float = 1.0) -> nn.Module:
    """A network that breaks as soon as its outputs grow."""
    network = mlp()
    return nn.Sequential(network, Guard(headroom * float(predict(network, digits(200)).abs().max()), value))


TUNED = {
    "default, in blocks": {"num_evaluations": 130},
    "default, by stages": {"num_samples": 2_000},
    "default, diverging": {"num_evaluations": 130, "preset": Staged(learning_rate=1e30)},
    "hbde-2024": {"num_evaluations": 100, "preset": HBDE2024(num_bins=50, popsize=20)},
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", TUNED)
def test_fine_tuning_never_ends_with_a_broken_network(name, value):
    data = digits(200)
    result = fine_tune(fragile(value), data, pretrain_epochs=0, compare_with_adam=False, **TUNED[name])
    assert bool(predict(result.network, data).isfinite().all())
    assert result.entries[-1].scores["cross_entropy"] < 5
    if "diverging" in name:
        assert any("has diverged" in note for note in result.notes)


def test_hbde_leaves_the_network_where_every_candidate_fails():
    network, data = fragile(math.nan), digits(200)
    with torch.no_grad():
        network[0].head.weight.mul_(1e-20)  # within the guard only as long as nothing else moves
        network[0].head.bias.zero_()
        network[1].limit = float(predict(network, data).abs().max())
    result = fine_tune(
        network, data, preset=HBDE2024(num_bins=5, popsize=10), num_evaluations=30, pretrain_epochs=0,
        compare_with_adam=False,
    )  # fmt: skip
    assert torch.equal(predict(result.network, data), predict(network, data))
    assert any("no candidate gave finite outputs" in note for note in result.notes)


@pytest.mark.parametrize("preset", ["default", "hierarchical-2026"])
def test_a_front_holds_no_broken_network(preset):
    data = digits(200)
    result = prune(fragile(math.nan, headroom=0.9), data.subset(_calm(0.9)), num_evaluations=120, preset=preset)
    for point in result.points:
        assert all(math.isfinite(score) for score in point.scores["validation"].values())


def _calm(headroom: float) -> Tensor:
    """Samples whose outputs stay within the guard, so that the network itself works on them."""
    outputs = predict(mlp(), digits(200)).abs()
    return (outputs.amax(1) <= headroom * outputs.max()).nonzero()[:, 0]


@pytest.mark.parametrize("call", [fine_tune, prune, lambda model, data, **_: NetworkProblem(model, data)])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_network_that_is_broken_as_it_is_given_is_refused_at_once(call, value):
    network = mlp()
    with torch.no_grad():
        network.head.bias[0] = value
    with pytest.raises(ValueError, match="gives NaN or infinite outputs as it is"):
        call(network, digits(60), num_evaluations=10)
