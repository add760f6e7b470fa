"""Does an evaluation survive what a machine does to it, and does it ask the device for no more than it must?"""

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from evohbde.engine import Engine
from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import resolve
from evohbde.racing import Contest
from evohbde.reductions import RandomBlocking
from evohbde.strategies.batched import Batched
from tests.small_networks import digits, mlp
from tests.strategies.odd_networks import network_of

DATA = digits(208)
EVERYTHING = slice(0, 208)


class Cramped(nn.Module):
    """Has memory for so many samples only."""

    def __init__(self, limit: int, error: RuntimeError | None = None) -> None:
        super().__init__()
        self.limit, self.sizes = limit, []
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise self.error
        self.sizes.append(len(x))
        return x


def cramped(limit: int, error: RuntimeError | None = None, *, in_front: bool = False) -> nn.Sequential:
    flatten, hidden, _, relu, head = mlp().eval()
    layers = [flatten, Cramped(limit, error), hidden] if in_front else [flatten, hidden, Cramped(limit, error)]
    return nn.Sequential(*layers, relu, head).eval()


def evaluator_of(network: nn.Module, objectives="cross_entropy", **options) -> NetworkEvaluator:
    layout = ParameterLayout(network)
    reduction = RandomBlocking(layout.flatten(network), 20)
    options.setdefault("strategy", "views")
    return NetworkEvaluator(network, layout, reduction, resolve(objectives), DATA, **options)


def candidates(evaluator: NetworkEvaluator, num: int = 6) -> Tensor:
    noise = torch.randn(num, evaluator.reduction.dim, generator=torch.Generator().manual_seed(2))
    return evaluator.reduction.center + 0.1 * noise


@pytest.mark.parametrize("in_front", [False, True])
@pytest.mark.parametrize(("limit", "batch_size"), [(100, 96), (50, 32), (20, 16)])
@pytest.mark.parametrize("strategy", ["views", "auto"])
def test_out_of_memory_halves_the_batch_and_goes_on(limit, batch_size, in_front, strategy):
    roomy = evaluator_of(cramped(10_000, in_front=in_front))
    tight = evaluator_of(cramped(limit, in_front=in_front), batch_size=200, strategy=strategy)
    z = candidates(roomy)
    assert torch.equal(tight(z, EVERYTHING), roomy(z, EVERYTHING))
    engine = tight.engine
    assert (engine.cache if in_front else engine).batch_size == batch_size
    assert tight.num_samples_seen == pytest.approx(roomy.num_samples_seen)


def test_memory_that_runs_out_later_changes_no_score():
    evaluator = evaluator_of(cramped(10_000), batch_size=200)
    z = candidates(evaluator)
    before = evaluator(z, EVERYTHING)
    evaluator.engine.working.network[2].limit = 40
    assert torch.equal(evaluator(z, EVERYTHING), before)
    assert evaluator.engine.batch_size == 32
    assert evaluator.num_samples_seen == 2 * 6 * 208


@pytest.mark.parametrize("strategy", ["batched", "views"])
def test_the_halves_of_a_piece_do_not_share_memory(strategy, monkeypatch):
    evaluator = evaluator_of(mlp(), strategy=strategy, batch_size=192)
    z = candidates(evaluator)
    expected = evaluator(z, EVERYTHING)
    tight = evaluator_of(mlp(), strategy=strategy, batch_size=192)
    tight.settle(z, EVERYTHING)
    kind = type(tight.engine.strategy)
    original = kind.run

    def run(self, features: Tensor) -> Tensor:
        if len(features) > 64:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return original(self, features)

    monkeypatch.setattr(kind, "run", run)
    assert torch.equal(tight(z, EVERYTHING), expected)


def test_where_16_samples_are_too_many_the_error_comes_out():
    evaluator = evaluator_of(cramped(17), batch_size=200)
    evaluator.settle(candidates(evaluator), EVERYTHING)
    evaluator.engine.working.network[2].limit = 10
    with pytest.raises(torch.cuda.OutOfMemoryError):
        evaluator(candidates(evaluator), EVERYTHING)


def test_other_errors_come_out_as_they_are():
    evaluator = evaluator_of(cramped(100, RuntimeError("shapes do not fit")), batch_size=200)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        evaluator(candidates(evaluator), EVERYTHING)
    assert evaluator.engine.batch_size == 192


@pytest.mark.parametrize(("asked", "taken"), [(1, 1), (15, 15), (16, 16), (31, 16), (33, 32), (100, 96), (4096, 4096)])
def test_batches_start_where_vectors_start(asked, taken):
    evaluator = evaluator_of(cramped(10_000), batch_size=asked)
    evaluator(candidates(evaluator, 1), EVERYTHING)
    assert evaluator.engine.batch_size == taken
    assert max(evaluator.engine.working.network[2].sizes) < taken + 16 or taken < 16


class Syncs(TorchDispatchMode):
    """Counts what makes the host wait for the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "_unique2", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[func.overloadpacket.__name__] += func.overloadpacket.__name__ in self.WAITS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "strategy"), [("mlp, dropout", "views"), ("mlp, dropout", "batched"), ("BatchNorm", "folded")]
)
@pytest.mark.parametrize("objectives", ["f1_macro", ["f1_weighted", "cross_entropy", "density"]])
def test_a_generation_waits_for_the_device_as_often_however_many_candidates_it_has(name, strategy, objectives):
    evaluator = evaluator_of(network_of(name), objectives, strategy=strategy, batch_size=64)
    evaluator(candidates(evaluator, 2), EVERYTHING)
    waits = []
    for num in (3, 30):
        with Syncs() as syncs:
            evaluator(candidates(evaluator, num), EVERYTHING)
        waits.append(+syncs.counts)
    assert waits[0] == waits[1]


def test_all_candidates_are_counted_by_one_kernel(monkeypatch):
    evaluator = evaluator_of(mlp(), "f1_macro", batch_size=64)
    evaluator(candidates(evaluator, 2), EVERYTHING)
    calls = []
    original = torch.bincount
    monkeypatch.setattr(torch, "bincount", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    evaluator(candidates(evaluator, 30), EVERYTHING)
    assert len(calls) == 1


class Placed(nn.Module):
    """Gives a sample other bits at another place of a batch, as some kernels do."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-7 * torch.arange(len(x))[:, None]


def test_where_outputs_depend_on_the_place_in_a_batch_nothing_is_given_up():
    evaluators = [
        evaluator_of(nn.Sequential(*mlp(), *end).eval(), "f1_macro", batch_size=32) for end in ([], [Placed()])
    ]
    z = candidates(evaluators[0])
    contest = Contest(torch.full((6,), 2.0), torch.full((6,), -1))
    for evaluator, share in zip(evaluators, (0.5, 1.0), strict=True):
        evaluator(z, EVERYTHING, contest)
        assert bool(evaluator.is_bound.all()) == (share < 1)
        assert evaluator.num_samples_seen <= share * 6 * 208
    assert evaluators[1].num_samples_seen == 6 * 208


def test_copies_and_pickles_score_alike_by_the_same_strategy():
    evaluator = evaluator_of(network_of("BatchNorm"), strategy="auto")
    z = candidates(evaluator)
    scores = evaluator(z, EVERYTHING)
    for other in (copy.deepcopy(evaluator), pickle.loads(pickle.dumps(evaluator))):
        assert torch.equal(other(z, EVERYTHING), scores)
        assert other.choice == evaluator.choice


def test_settling_counts_nothing_and_is_kept():
    evaluator = evaluator_of(network_of("mlp, dropout"), strategy="auto")
    choice = evaluator.settle(candidates(evaluator), EVERYTHING)
    assert evaluator.num_samples_seen == 0 and evaluator.engine.choice == choice
    evaluator(candidates(evaluator), EVERYTHING)
    assert evaluator.choice is choice


def test_an_engine_runs_nothing_before_a_choice():
    network = mlp().eval()
    layout = ParameterLayout(network)
    reduction = RandomBlocking(layout.flatten(network), 20)
    engine = Engine(network, layout, reduction, DATA, batch_size=64, stage_names=None, cache_bytes=0)
    with torch.inference_mode():
        engine.choose("batched", reduction.center[None], DATA.x.flatten(1))
    assert isinstance(engine.strategy, Batched) and engine.choice.name == "batched"
