"""Do the measurements of speed measure what they say?"""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from benchmarks import gpu, growth, racing, speed
from benchmarks.speed_blocking import is_exact, measure_blocking, members_of, published_unblock
from benchmarks.speed_networks import case, digits_case, ways
from benchmarks.timing import Row, Spread, cells, in_turn, ratio, spread
from evohbde import HistogramBlocking, TensorData
from problems.networks import initialised


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def perceptron():
    return digits_case(96, 5)


def test_works_take_turns_and_the_first_turn_is_not_kept():
    order: list[str] = []
    times = in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert {name: len(seconds) for name, seconds in times.items()} == {"a": 3, "b": 3}


def test_ratios_are_taken_within_a_turn():
    times = {"a": np.array([2.0, 20.0, 4.0]), "b": np.array([1.0, 10.0, 1.0])}
    assert ratio(times, "a", "b") == spread(np.array([2.0, 2.0, 4.0])) == Spread(2.0, 2.0, 3.0)
    assert ratio(times, "a", "b", 0.5).middle == 1.0


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [(0.8, "<= 0.8", "met"), (0.81, "<= 0.8", "**missed**"), (251.0, ">= 250", "met"), (9.0, ">= 50", "**missed**")],
)
def test_a_target_is_met_or_missed(value, target, verdict):
    assert cells(Row("what", value, value, value, "x", target))[-1] == verdict
    assert cells(Row("what", value, value, value, "x"))[-1] == ""


def test_processes_are_pooled_by_the_median_of_their_medians():
    rows = [
        Row("candidate (views)", 0.9, 0.8, 1.0, "forwards", "<= 0.8"),
        Row("candidate (folded)", 0.7, 0.65, 0.72, "forwards", "<= 0.8"),
        Row("candidate (folded)", 0.75, 0.7, 0.79, "forwards", "<= 0.8"),
    ]
    found = speed.pooled(tuple(rows))
    assert found == Row("candidate (views) / candidate (folded)", 0.75, 0.65, 1.0, "forwards", "<= 0.8")
    assert found.is_met


def test_the_published_loop_writes_the_same_weights_as_our_look_up():
    weights = torch.randn(5_000, generator=torch.Generator().manual_seed(0))
    blocks = HistogramBlocking(weights, 50)
    z = torch.randn(blocks.dim, generator=torch.Generator().manual_seed(1))
    theirs = published_unblock(members_of(blocks), z.numpy(), len(weights))
    assert np.array_equal(theirs.astype(np.float32), blocks.expand(z).numpy())


def test_exactness_is_not_taken_for_granted():
    weights = torch.randn(30_000, generator=torch.Generator().manual_seed(0))
    blocks = HistogramBlocking(weights, 10_000)
    assert is_exact(blocks, weights)
    blocks.block[17] += 1
    assert not is_exact(blocks, weights)


def test_all_ways_of_the_speed_benchmark_score_the_same_candidates():
    of = perceptron()
    found = ways(of)
    theta = found.ours.reduction.expand(found.z)
    expected = []
    for one in theta:
        nn.utils.vector_to_parameters(one, of.network.parameters())
        expected.append(of.network(of.data.x).argmax(-1))
    scores = found.works["ours"]()
    truth = of.data.y.numpy()
    for score, predicted in zip(scores[:, 0].tolist(), expected, strict=True):
        assert score == pytest.approx(f1_score(truth, predicted.numpy(), average="macro"), abs=1e-12)
    for name in ("plain", "functional_call", "vmap", "SupervisedNE"):
        found.works[name]()


def test_the_speed_benchmark_gives_a_row_for_every_target():
    rows, times = measure_blocking(1, 20_000)
    assert sum(row.target != "" for row in rows) == len(rows) == 8
    assert all(len(seconds) == 1 for seconds in times.values())
    assert next(row for row in rows if "digitize" in row.what).is_met
    metrics = speed.measure_metrics(1, 5, 60)[0]
    assert metrics[-1].is_met


def small_race(popsize=6):
    generator = torch.Generator().manual_seed(0)
    network = initialised(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), 0)
    x = torch.randn(300, 1, 8, 8, generator=generator)
    with torch.no_grad():
        y = network(x).argmax(-1)
    y[::7] = (y[::7] + 1) % 3
    return racing.useful(network, TensorData(x, y), popsize, stdev=0.05)


def test_racing_saves_samples_and_changes_no_bit():
    rows = racing.race("small", small_race(), num_generations=3)
    assert len(rows) == 4 and all(row["is_same"] for row in rows)
    assert rows[0]["samples raced"] == rows[0]["samples in full"]
    assert 0 < racing.saved(rows, "samples") < 1


def test_a_difference_of_two_searches_is_seen():
    search = small_race()
    one, other = search(True), search(True)
    one.step()
    other.step()
    assert racing.is_same(one, other)
    one.step()
    assert not racing.is_same(one, other)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_its_power(power):
    sizes = [10, 100, 1_000]
    assert growth.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power, abs=1e-9)


def test_every_curve_of_growth_runs_at_small_sizes():
    for curve in growth.curves(is_quick=True):
        assert sorted(set(curve.sizes)) == list(curve.sizes) and len(curve.sizes) == 3
        curve.make(curve.sizes[0])()


def test_arithmetic_of_a_network_is_that_of_its_layers():
    network = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    flops, moved = gpu.flops_and_bytes(network, torch.zeros(3, 8))
    assert flops == 2 * (8 * 4 + 4 * 2)
    assert moved == 2 * 4 * (4 + 4 + 2)


def test_the_accelerator_benchmark_runs_on_a_processor(monkeypatch):
    monkeypatch.setattr(gpu, "cases", lambda is_quick: {"small": case(perceptron().network, (64,), 64, 32, 3)})
    rows = gpu.measure("cpu", is_quick=True)
    assert len(rows) == 1 and rows[0][0].startswith("small (") and rows[0][1] == "float32"
    assert float(rows[0][2]) > 0 and len(rows[0]) == 6
