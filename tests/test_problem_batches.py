"""Which samples score which candidate, are old scores treated as asked for, and is all of it counted?"""

import copy

import pytest
import torch
from evotorch.algorithms import SNES
from torch import Tensor

from evohbde.data import SuperBatches, TensorData
from evohbde.layout import ParameterLayout
from evohbde.objectives import Function
from evohbde.problem import NetworkProblem
from evohbde.reductions import HistogramBlocking
from evohbde.searchers import DE
from tests.small_networks import cnn, digits, mlp

DATA = digits()
SIZE = 25
NUM_BATCHES = len(DATA) // SIZE
assert len(DATA) % SIZE, "some samples must be left over"


def few_bins(theta0: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, 30)


def problem_of(data, objectives="cross_entropy", **options) -> NetworkProblem:
    return NetworkProblem(mlp(), data, objectives, reduction=few_bins, **{"seed": 1, **options})


def batches_of(**options) -> SuperBatches:
    return SuperBatches(DATA, SIZE, **options)


def scores_of(problem: NetworkProblem, z: Tensor) -> Tensor:
    batch = problem.generate_batch(len(z))
    batch.set_values(z)
    problem.evaluate(batch)
    return batch.evals.as_subclass(Tensor).clone()


def piece(batches: SuperBatches, number: int) -> TensorData:
    start = number % NUM_BATCHES * SIZE
    return TensorData(batches.data.x[start : start + SIZE], batches.data.y[start : start + SIZE])


def scores_on(batches: SuperBatches, number: int, z: Tensor) -> Tensor:
    """What a problem of that super-batch alone says."""
    return scores_of(problem_of(piece(batches, number)), z)


class Seen(Function):
    """Remembers the labels that it was asked about."""

    def __init__(self) -> None:
        super().__init__(self._remember, "max")
        self.labels: list[list[int]] = []

    def _remember(self, logits: Tensor, labels: Tensor) -> float:
        self.labels.append(labels.tolist())
        return 0.0


@pytest.mark.parametrize("order", ["file", "stratified", "shuffled"])
def test_each_call_moves_to_the_next_super_batch_and_round_again(order):
    batches, seen = batches_of(order=order), Seen()
    problem = problem_of(batches, seen)
    z = problem.center.expand(3, -1)
    for _ in range(2 * NUM_BATCHES + 1):
        scores_of(problem, z)
    expected = [piece(batches, call).y.tolist() for call in range(2 * NUM_BATCHES + 1) for _ in range(3)]
    assert seen.labels == expected


def test_in_file_order_the_pieces_are_those_of_the_file_and_the_rest_is_never_used():
    seen = Seen()
    problem = problem_of(batches_of(order="file"), seen)
    for _ in range(NUM_BATCHES):
        scores_of(problem, problem.center[None])
    assert [label for labels in seen.labels for label in labels] == DATA.y[: NUM_BATCHES * SIZE].tolist()


@pytest.mark.parametrize("searcher_of", [lambda p: DE(p, popsize=8), lambda p: SNES(p, stdev_init=0.1, popsize=8)])
def test_a_generation_is_scored_by_one_super_batch(searcher_of):
    batches, seen = batches_of(parents="stale"), Seen()
    searcher_of(problem_of(batches, seen)).run(NUM_BATCHES + 2)
    expected = [piece(batches, call).y.tolist() for call in range(NUM_BATCHES + 2) for _ in range(8)]
    assert seen.labels == expected


@pytest.mark.parametrize(("advance", "popsize"), [(10, 10), (7, 10), (3, 10), (100, 10), (1, 4)])
def test_the_super_batch_may_change_after_so_many_evaluations_also_within_a_population(advance, popsize):
    batches = batches_of(order="file", advance=advance, parents="stale")
    problem = problem_of(batches)
    z = problem.center + 0.1 * torch.randn(popsize, problem.solution_length)
    for generation in range(5):
        scores = scores_of(problem, z)
        for i in range(popsize):
            number = (generation * popsize + i) // advance
            assert torch.equal(scores[i : i + 1], scores_on(batches, number, z[i : i + 1]))


def test_stale_scores_never_get_worse_and_belong_to_the_batch_of_their_birth():
    batches = batches_of(parents="stale")
    searcher = DE(problem_of(batches), popsize=8)
    searcher.run(1)
    for step in range(1, 10):
        old_values, old = searcher.population.values.clone(), searcher.population.evals.clone()
        searcher.run(1)
        new = searcher.population.evals
        assert bool((new <= old).all())
        kept = (searcher.population.values == old_values).all(1)
        assert torch.equal(new[kept], old[kept])
        born = searcher.population.values.as_subclass(Tensor)[~kept]
        if len(born):
            assert torch.equal(new[~kept].as_subclass(Tensor), scores_on(batches, step, born))


def test_refreshed_scores_are_those_of_the_current_batch():
    batches = batches_of(parents="refresh")
    searcher = DE(problem_of(batches), popsize=8)
    assert searcher.rescore_parents
    for step in range(NUM_BATCHES + 2):
        searcher.run(1)
        population = searcher.population
        values, scores = population.values.as_subclass(Tensor), population.evals.as_subclass(Tensor)
        assert torch.equal(scores, scores_on(batches, step, values))


def test_a_fixed_batch_is_the_first_one_for_ever():
    batches = batches_of(parents="fixed")
    searcher = DE(problem_of(batches), popsize=8)
    searcher.run(6)
    population = searcher.population
    assert not searcher.rescore_parents
    assert torch.equal(
        population.evals.as_subclass(Tensor), scores_on(batches, 0, population.values.as_subclass(Tensor))
    )


@pytest.mark.parametrize(
    ("parents", "per_generation"), [("stale", [8, 8, 8, 8]), ("fixed", [8, 8, 8, 8]), ("refresh", [8, 16, 16, 16])]
)
def test_every_evaluation_is_counted(parents, per_generation):
    seen = Seen()
    problem = problem_of(batches_of(parents=parents), seen)
    searcher = DE(problem, popsize=8)
    for generation in range(4):
        searcher.run(1)
        calls = sum(per_generation[: generation + 1])
        assert len(seen.labels) == problem.num_evaluations == searcher.status["num_evaluations"] == calls
        assert problem.num_samples_seen == searcher.status["num_samples_seen"] == calls * SIZE
    assert problem.num_calls == 4


def test_a_copy_counts_on_and_scores_on_the_batch_that_is_due():
    problem = problem_of(batches_of(parents="stale"))
    z = problem.center + 0.1 * torch.randn(4, problem.solution_length)
    for _ in range(2):
        scores_of(problem, z)
    twin = copy.deepcopy(problem)
    assert twin.num_samples_seen == problem.num_samples_seen == 2 * 4 * SIZE
    assert torch.equal(scores_of(problem, z), scores_of(twin, z))
    assert problem.num_samples_seen == twin.num_samples_seen == 3 * 4 * SIZE
    again = copy.deepcopy(twin)
    scores_of(again, z)
    assert again.num_samples_seen == 4 * 4 * SIZE
    assert (again.num_calls, again.num_evaluations) == (4, 16)
    assert twin.num_samples_seen == 3 * 4 * SIZE


@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("data", [DATA, SuperBatches(DATA, SIZE, parents="stale")])
@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_the_part_in_front_of_the_searched_weights_is_passed_once(build, data, cache_bytes):
    model = build()
    options = {"layout": ParameterLayout(model, "head.*"), "objectives": "cross_entropy", "reduction": few_bins}
    cached = NetworkProblem(model, data, cache_bytes=cache_bytes, **options)
    whole = NetworkProblem(model, data, stages=[""], **options)
    z = cached.center + 0.1 * torch.randn(5, cached.solution_length)
    calls, size = 2 * NUM_BATCHES, SIZE if isinstance(data, SuperBatches) else len(DATA)
    for _ in range(calls):
        assert torch.allclose(scores_of(cached, z), scores_of(whole, z), rtol=1e-6)
    assert whole.num_samples_seen == calls * 5 * size
    # multiply-adds of the layers in front of the head, and of the head
    front, head = {mlp: (64 * 16, 16 * 10), cnn: (9 * 9 * 6, 54 * 10)}[build]
    share = front / (front + head)
    passes = NUM_BATCHES * SIZE if isinstance(data, SuperBatches) else len(DATA)
    if cache_bytes == 0:
        passes = calls * size
    expected = share * passes + (1 - share) * calls * 5 * size
    assert cached.num_samples_seen == pytest.approx(expected, rel=1e-6)


def test_scores_do_not_depend_on_whether_the_front_was_passed_before():
    model = cnn()
    layout = ParameterLayout(model, "head.*")
    problem = NetworkProblem(model, batches_of(parents="stale"), "cross_entropy", layout=layout, reduction=few_bins)
    z = problem.center + 0.1 * torch.randn(5, problem.solution_length)
    first = [scores_of(problem, z) for _ in range(NUM_BATCHES)]
    twin = copy.deepcopy(problem)  # with nothing kept
    for scores in first:
        assert torch.equal(scores_of(problem, z), scores)
        assert torch.equal(scores_of(twin, z), scores)


def test_the_stages_may_be_named():
    model = mlp()
    layout = ParameterLayout(model, "head.*")
    named = NetworkProblem(
        model, DATA, layout=layout, reduction=few_bins, stages=["flatten", "hidden", "dropout", "relu", "head"]
    )
    found = NetworkProblem(model, DATA, layout=layout, reduction=few_bins)
    z = named.center[None]
    assert torch.equal(scores_of(named, z), scores_of(found, z))
    assert named.num_samples_seen == found.num_samples_seen
