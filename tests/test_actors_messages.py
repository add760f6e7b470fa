"""What do actors get, and on which device do they run it?

Cards are pretended: Ray counts what it is told, and hands numbers out.
"""

import os
from types import SimpleNamespace

import pytest
import ray
import torch
from evotorch import SolutionBatch
from ray import cloudpickle
from torch import Tensor, nn

import evohbde.actors
from evohbde.actors import on_own_card
from evohbde.problem import NetworkProblem
from evohbde.problem_base import BaseProblem
from evohbde.reductions import RandomBlocking
from tests.small_networks import digits, mlp

OVERHEAD = 2_000
"""Bytes of a message beside the numbers in it."""


def wide_problem(dim: int) -> NetworkProblem:
    """150,000 weights in few blocks."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2_000), nn.ReLU(), nn.Linear(2_000, 10))
    return NetworkProblem(model, digits(40), "cross_entropy", reduction=lambda theta: RandomBlocking(theta, dim))


@pytest.mark.parametrize("dim", [10, 300])
@pytest.mark.parametrize("popsize", [2, 7, 40])
@pytest.mark.parametrize("num_pieces", [1, 2, 5])
def test_a_generation_travels_as_reduced_values_and_never_as_weights(dim, popsize, num_pieces):
    problem = wide_problem(dim)
    batch = problem.generate_batch(popsize)
    pieces = batch.split(min(num_pieces, popsize))
    sent = sum(len(cloudpickle.dumps(piece)) for piece in pieces)
    counters = len(cloudpickle.dumps(problem._make_sync_data_for_actors()))
    values = 4 * popsize * (dim + 1)  # and a score each
    assert values <= sent <= values + OVERHEAD * len(pieces)
    assert sent + counters < 4 * problem.layout.size, "less than one network"


def test_what_a_piece_holds_is_what_the_batch_holds_there():
    problem = wide_problem(10)
    batch = problem.generate_batch(7)
    pieces = batch.split(3)
    for i in range(len(pieces)):
        begin, end = pieces.indices_of(i)
        piece = cloudpickle.loads(cloudpickle.dumps(pieces[i]))
        assert torch.equal(piece.values.as_subclass(Tensor), batch.values.as_subclass(Tensor)[begin:end])


@pytest.mark.parametrize(
    ("received", "expected"),
    [([(20.0, 5.0), (20.0, 4.0)], 29.0), ([(0.0, 5.0), (20.0, 0.0)], 25.0), ([(0.0, 3.0)], 3.0)],
)
def test_activations_that_each_actor_computes_for_itself_count_once(received, expected):
    problem = NetworkProblem(mlp(), digits(40))
    problem._use_sync_data_from_actors(received)
    assert problem.num_samples_seen == expected


class Recorded(SimpleNamespace):
    """Remembers where it was sent."""

    def to(self, device: torch.device) -> "Recorded":
        self.device = device
        return self


def pretended_evaluator(batch_size: int | None = None) -> SimpleNamespace:
    here = torch.device("cpu")
    return SimpleNamespace(
        model=Recorded(), layout=None, reduction=Recorded(device=here), objectives=[SimpleNamespace(name="nothing")],
        data=Recorded(device=here, x=torch.zeros(3, 4)), batch_size=batch_size, stage_names=None, cache_bytes=1,
        strategy="auto", precision="float32",
    )  # fmt: skip


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made = {}

    def make(model, layout, reduction, objectives, data, **options):
        made.update(model=model.device, reduction=reduction.device, data=data.device, **options)
        return made

    monkeypatch.setattr(evohbde.actors, "NetworkEvaluator", make)
    return made


def actor_of(num_gpus_per_actor: float | str | None, index: int) -> BaseProblem:
    problem = BaseProblem("min", solution_length=2, initial_bounds=(-1, 1), num_actors=0)
    problem._num_gpus_per_actor, problem._actor_index = num_gpus_per_actor, index
    return problem


@pytest.mark.parametrize(
    ("num_gpus_per_actor", "index", "device"),
    [(1, 0, "cuda"), (0.5, 1, "cuda"), ("all", 0, "cuda:0"), ("all", 1, "cuda:1")],
)
def test_an_actor_with_a_card_takes_network_blocks_and_data_there(two_cards, num_gpus_per_actor, index, device):
    evaluator = pretended_evaluator()
    home = evaluator.reduction
    on_own_card(evaluator, actor_of(num_gpus_per_actor, index))
    assert {two_cards[what] for what in ("model", "reduction", "data")} == {torch.device(device)}
    assert two_cards["batch_size"] is None, "the default of the card, not of the CPU"
    on_own_card(pretended_evaluator(batch_size=200), actor_of(num_gpus_per_actor, index))
    assert two_cards["batch_size"] == 200
    assert home.device == torch.device("cpu"), "the problem's own blocks stay where its candidates are"


@pytest.mark.parametrize("num_gpus_per_actor", [None, 0, 0.0])
def test_an_actor_without_a_card_stays_on_the_cpu(two_cards, num_gpus_per_actor):
    evaluator = pretended_evaluator()
    assert on_own_card(evaluator, actor_of(num_gpus_per_actor, 0)) is evaluator


def test_the_main_process_takes_no_card_of_its_actors(two_cards):
    evaluator = pretended_evaluator()
    problem = actor_of(1, 0)
    problem._actor_index = None
    assert on_own_card(evaluator, problem) is evaluator


class Assigned(BaseProblem):
    """Scores each candidate by the number of the card that Ray gave to the actor."""

    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        batch.set_evals(torch.full((len(batch),), float(os.environ["CUDA_VISIBLE_DEVICES"])))


@pytest.mark.slow
@pytest.mark.parametrize(("num_actors", "share", "cards"), [(2, 1, {0.0, 1.0}), (2, 0.5, {0.0})])
def test_ray_gives_each_actor_its_own_card_or_its_share_of_one(num_actors, share, cards):
    ray.shutdown()
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        problem = Assigned(
            "min", solution_length=2, initial_bounds=(-1, 1), num_actors=num_actors, num_gpus_per_actor=share, seed=1
        )
        batch = problem.generate_batch(6)
        problem.evaluate(batch)
        assert set(batch.evals[:, 0].tolist()) == cards
        problem.kill_actors()
    finally:
        ray.shutdown()


class OnCard(NetworkProblem):
    def where(self) -> str:
        return self._evaluator.data.device.type


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_actors_on_one_card_score_as_the_cpu_does():
    options = {"reduction": lambda theta: RandomBlocking(theta, 30), "seed": 3, "pull": 0.1}
    alone = OnCard(mlp(), digits(100), "cross_entropy", **options)
    ray.shutdown()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        problem = OnCard(mlp(), digits(100), "cross_entropy", num_actors=2, num_gpus_per_actor=0.5, **options)
        one, other = alone.generate_batch(9), SolutionBatch(problem, popsize=9, empty=True)
        other.set_values(one.values)
        alone.evaluate(one)
        problem.evaluate(other)
        torch.testing.assert_close(other.evals.as_subclass(Tensor), one.evals.as_subclass(Tensor), rtol=1e-4, atol=1e-4)
        assert problem.all_remote_problems().where() == ["cuda", "cuda"]
        assert problem.num_samples_seen == alone.num_samples_seen
        problem.kill_actors()
    finally:
        ray.shutdown()
