"""Do all strategies give the outputs of the network itself, whatever they are asked in which pieces?"""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from evohbde.evaluator import NetworkEvaluator
from evohbde.layout import ParameterLayout
from evohbde.objectives import Objective
from evohbde.reductions import GroupMask, HistogramBlocking, Identity, RandomBlocking
from evohbde.strategies import Choice, batched, choice
from evohbde.strategies.folded import Folded
from evohbde.strategies.views import Views, Working
from tests.small_networks import digits
from tests.strategies.odd_networks import NETWORKS, network_of

DATA = digits(150)
STRATEGIES = ("views", "folded", "onednn", "batched", "vmap")
PAIRS = [(name, strategy) for name, (_, able) in NETWORKS.items() for strategy in STRATEGIES if strategy in able]


class Keep(Objective):
    """Keeps the outputs that it judges."""

    name, sense = "keep", "min"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.seen.append(logits.clone())
        return logits.double().square().mean((1, 2))


def outputs_of(network: nn.Module, z: Tensor, strategy: str, *, split: int = 50, **options) -> tuple[Tensor, Choice]:
    """Outputs of candidates that come in calls of `split`, `(N, B, C)`."""
    layout, keep = ParameterLayout(network), Keep()
    reduction = RandomBlocking(layout.flatten(network), 30)
    evaluator = NetworkEvaluator(network, layout, reduction, [keep], DATA, strategy=strategy, **options)
    for some in z.split(split):
        evaluator(some, slice(0, len(DATA)))
    return torch.cat(keep.seen), evaluator.choice


def candidates(network: nn.Module, num: int = 9) -> Tensor:
    reduction = RandomBlocking(ParameterLayout(network).flatten(network), 30)
    return reduction.center + 0.1 * torch.randn(num, 30, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_outputs_are_those_of_a_fresh_network_or_the_strategy_is_refused(name, strategy):
    network = network_of(name)
    layout, z = ParameterLayout(network), candidates(network, 5)
    if strategy not in NETWORKS[name][1]:
        with pytest.raises(ValueError, match=rf"`strategy` '{strategy}' cannot run this network: .*; use 'auto'"):
            outputs_of(network, z, strategy)
        return
    found, taken = outputs_of(network, z, strategy, batch_size=64)
    reduction = RandomBlocking(layout.flatten(network), 30)
    for logits, one in zip(found, z, strict=True):
        fresh = layout.load_(copy.deepcopy(network), reduction.expand(one))
        with torch.no_grad():
            expected = fresh(DATA.x)
        torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))
    assert not torch.equal(found[0], found[1])
    assert taken.name == strategy and taken.deviations.get(strategy, 0.0) <= choice.TOLERANCE


def is_exact_in_any_split(name: str, strategy: str) -> bool:
    return (name, strategy) != ("mlp, narrow", "vmap")  # SiLU of an odd number of numbers, see `SAME_EVERYWHERE`


@pytest.mark.parametrize(("name", "strategy"), [pair for pair in PAIRS if is_exact_in_any_split(*pair)])
@settings(max_examples=4)
@given(batch_size=st.integers(32, 200), split=st.integers(1, 9), order=st.permutations(range(9)))
def test_outputs_are_the_same_bits_in_any_pieces_order_and_company(name, strategy, batch_size, split, order):
    network = network_of(name)
    z = candidates(network)
    together, _ = outputs_of(network, z, strategy)
    apart, _ = outputs_of(network, z[order], strategy, split=split, batch_size=batch_size)
    assert torch.equal(apart, together[order])


def working_of(network: nn.Module) -> tuple[Working, Identity]:
    layout = ParameterLayout(network)
    return Working(network, layout, DATA.x, None), Identity(layout.flatten(network))


def test_auto_takes_what_was_measured_fastest_and_says_so(monkeypatch):
    network = network_of("BatchNorm")
    for fastest in ("folded", "views", "vmap"):
        monkeypatch.setattr(choice, "_known", {})
        monkeypatch.setattr(choice, "_seconds", lambda strategy, *_, best=fastest: 1.0 if strategy.name == best else 2)
        monkeypatch.setattr(choice, "MOST_SAMPLES", 1_000)
        taken = outputs_of(network, candidates(network), "auto")[1]
        assert taken.name == fastest
        assert taken.ratios[fastest] == min(taken.ratios.values())
        assert set(taken.ratios) == {"views", "folded", "vmap"}
        assert set(taken.deviations) == {"folded", "vmap"}


def test_a_small_advantage_is_none(monkeypatch):
    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice, "_seconds", lambda strategy, *_: 1.0 if strategy.name == "views" else 0.98)
    network = network_of("BatchNorm")
    assert outputs_of(network, candidates(network), "auto")[1].name == "views"


def test_a_turn_that_something_else_held_up_decides_nothing(monkeypatch):
    monkeypatch.setattr(choice, "_known", {})
    turns = {"views": iter([9.0, 1.0, 1.0, 1.0] * 2), "folded": iter([9.0, 7.0, 0.5, 8.0])}
    monkeypatch.setattr(choice, "_seconds", lambda strategy, *_: next(turns[strategy.name]))
    network = network_of("BatchNorm")
    taken = outputs_of(network, candidates(network), "auto")[1]
    assert (taken.name, taken.ratios["folded"]) == ("folded", 0.5)


@pytest.mark.parametrize(("batch_size", "fastest"), [(32, "folded"), (160, "views")])
def test_what_is_slow_to_load_pays_where_many_pieces_follow(batch_size, fastest, monkeypatch):
    def seconds(strategy, z, parts, repeats) -> float:
        return {"views": 0.0 + len(parts), "folded": 1.0 + 0.5 * len(parts)}.get(strategy.name, 9.0 * len(parts))

    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice, "_seconds", seconds)
    network = network_of("BatchNorm")
    taken = outputs_of(network, candidates(network), "auto", batch_size=batch_size)[1]
    assert taken.name == fastest
    assert taken.ratios["folded"] == {32: 3.5 / 5, 160: 1.5}[batch_size]


@pytest.mark.parametrize(("num_threads", "seconds"), [(1, 1.0), (2, 100.0)])
def test_one_thread_is_timed_by_its_own_clock_so_that_a_stopped_process_measures_the_same(
    num_threads, seconds, monkeypatch
):
    own, wall = itertools.count(0.0, 1.0), itertools.count(0.0, 100.0)
    clocks = SimpleNamespace(thread_time=lambda: next(own), perf_counter=lambda: next(wall))
    monkeypatch.setattr(choice, "time", clocks)
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)
    working, reduction = working_of(network_of("BatchNorm"))
    assert choice._seconds(Views(working, reduction), reduction.center[None], [DATA.x], 1) == seconds


def test_equal_networks_of_one_process_are_measured_once_but_each_is_proved(monkeypatch):
    monkeypatch.setattr(choice, "_known", {})
    times = []
    monkeypatch.setattr(choice, "_seconds", lambda strategy, *_: times.append(1) or float(strategy.name == "views"))
    network = network_of("BatchNorm")
    outputs_of(network, candidates(network), "auto")
    measured = len(times)
    assert outputs_of(network, candidates(network), "auto")[1].name == "folded"
    assert len(times) == measured > 0
    # What a refold forgets shows in the outputs, so that this network of the same build runs as it is.
    monkeypatch.setattr(Folded, "load", lambda self, z: self.reduction.expand_into(z[0], self.working.theta)[None])
    assert outputs_of(network, candidates(network), "auto")[1].name != "folded"


@torch.inference_mode()
def test_a_fold_follows_the_weights():
    working, reduction = working_of(network_of("BatchNorm, bias"))
    views, folded = Views(working, reduction), next(choice.build("folded", working, reduction))
    assert folded.load(reduction.center[None]).shape == (1, reduction.dim)
    first = folded.run(folded.prepare(DATA.x)).clone()
    folded.load(1.5 * reduction.center[None])
    second = folded.run(folded.prepare(DATA.x))
    assert not torch.allclose(first, second, atol=1e-3)
    assert choice.deviation_of(folded, views, DATA.x[:16]) < 1e-5


@torch.inference_mode()
def test_what_does_not_follow_decisions_is_found_out():
    network = network_of("BatchNorm")
    layout = ParameterLayout(network)
    reduction = GroupMask(layout.flatten(network), torch.arange(layout.size) % 7)
    working = Working(network, layout, DATA.x, None)
    views, stuck = Views(working, reduction), Views(working, reduction)
    stuck.load = lambda z: views.load(reduction.center[None])
    assert choice.deviation_of(views, Views(working, reduction), DATA.x[:16]) == 0
    assert choice.deviation_of(stuck, views, DATA.x[:16]) > 0.01


def test_a_first_candidate_that_is_broken_refuses_no_strategy():
    network = network_of("BatchNorm")
    z = candidates(network)
    z[0] = torch.nan
    found, taken = outputs_of(network, z, "folded")
    assert taken.name == "folded"
    assert bool(found[0].isnan().all()) and bool(found[1:].isfinite().all())


def test_a_probe_that_fails_prints_nothing(capfd):
    network = network_of("functional")
    outputs_of(network, candidates(network), "folded")
    assert capfd.readouterr().err == ""


def test_groups_hold_as_many_candidates_as_fit_and_one_of_large_networks(monkeypatch):
    working, reduction = working_of(network_of("mlp, dropout"))
    sizes = {}
    for name in ("batched", "vmap"):
        for num_bytes in (1 << 21, 1 << 18, 1):
            monkeypatch.setattr(batched, "GROUP_BYTES", num_bytes)
            strategy = next(choice.build(name, working, reduction))
            strategy.fit(150)
            sizes[name, num_bytes] = strategy.group
            assert strategy.group == 1 or strategy.group * 4 * reduction.dim <= num_bytes
    assert sizes["batched", 1 << 21] > 100 and sizes["batched", 1] == sizes["vmap", 1] == 1


def test_the_published_reduction_runs_on_every_strategy():
    network = network_of("mlp, dropout")
    layout = ParameterLayout(network)
    reduction = HistogramBlocking(layout.flatten(network), 50)
    scores = []
    for strategy in NETWORKS["mlp, dropout"][1]:
        evaluator = NetworkEvaluator(network, layout, reduction, [Keep()], DATA, strategy=strategy)
        scores.append(evaluator(reduction.center[None], slice(0, 150)))
    assert all(torch.allclose(one, scores[0], rtol=1e-5) for one in scores)


@pytest.mark.parametrize("name", ["fold", "", "bmm"])
def test_an_unknown_strategy_is_named(name):
    network = network_of("mlp, dropout")
    with pytest.raises(ValueError, match=f"`strategy` must be one of auto, views, .*, got '{name}'"):
        outputs_of(network, candidates(network), name)
