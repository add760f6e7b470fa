"""Are the bins those of NumPy on float64 edges, bit for bit, whatever the weights?"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from evohbde.reductions.binning import PIECE, compact, histogram_bins, histogram_blocks, sorted_bins, summarise

FLOATS = {
    np.float32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    np.float64: st.floats(min_value=-8e307, max_value=8e307),
}


def numpy_edges(weights: np.ndarray, num_edges: int) -> np.ndarray:
    return np.linspace(float(weights.min()), float(weights.max()), num_edges)


def numpy_bins(weights: np.ndarray, num_edges: int) -> np.ndarray:
    """Bins of the definition: edges at or below the weight, the last bin closed on the right."""
    bins = np.digitize(weights.astype(np.float64), numpy_edges(weights, num_edges)) - 1
    return np.minimum(bins, max(num_edges - 2, 0))


def on_and_next_to_edges(low: float, high: float, num_edges: int, kind: type) -> np.ndarray:
    """Values of type `kind` on every edge, one representable number to either side, and halfway: all in [low, high]."""
    edges = np.linspace(float(low), float(high), num_edges)
    near = edges.astype(kind)
    between = (edges[1:] / 2 + edges[:-1] / 2).astype(kind)
    ends = np.array([low, high], dtype=kind)
    with np.errstate(over="ignore"):
        below, above = (np.nextafter(near, kind(sign * np.inf)) for sign in (-1, 1))
    values = np.concatenate([near, below, above, between, ends])
    return np.clip(values, kind(low), kind(high))


def is_coarse(low: float, high: float, num_edges: int) -> bool:
    """Whether edges lie at least two float64 numbers apart, so that equal edges are no matter of rounding."""
    return (high - low) / max(num_edges - 1, 1) >= 2 * np.spacing(max(abs(low), abs(high)))


def assert_equals_numpy(weights: np.ndarray, num_edges: int) -> None:
    low, high = float(weights.min()), float(weights.max())
    edges = numpy_edges(weights, num_edges)
    assume(bool((np.diff(edges) >= 0).all()))
    ours, theirs = histogram_bins(weights, num_edges), numpy_bins(weights, num_edges)
    if is_coarse(low, high, num_edges):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(compact(ours), np.unique(theirs, return_inverse=True)[1])


@settings(max_examples=300)
@given(data=st.data(), kind=st.sampled_from([np.float32, np.float64]), num_edges=st.integers(1, 60))
def test_bins_equal_numpy_on_adversarial_values(data, kind, num_edges):
    low, high = sorted(kind(data.draw(FLOATS[kind])) for _ in range(2))
    assume(kind is np.float32 or low == high or float(high) - float(low) > 1e-300)
    assert_equals_numpy(on_and_next_to_edges(low, high, num_edges, kind), num_edges)


@settings(max_examples=150)
@given(
    weights=st.lists(FLOATS[np.float32], min_size=1, max_size=40),
    num_edges=st.one_of(st.integers(1, 12), st.sampled_from([197, 1_000, 10_000, 65_537])),
)
def test_bins_equal_numpy_on_any_float32_weights(weights, num_edges):
    assert_equals_numpy(np.array(weights, dtype=np.float32), num_edges)


@given(
    start=st.floats(1e-6, 1e6), ulps=st.lists(st.integers(0, 30), min_size=1, max_size=20), num_edges=st.integers(1, 99)
)
def test_blocks_equal_numpy_where_edges_fall_between_neighbouring_numbers(start, ulps, num_edges):
    weights = start + np.array(ulps) * np.spacing(start)
    assert_equals_numpy(weights, num_edges)
    assert_equals_numpy(-weights, num_edges)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bins_equal_numpy_on_all_edges_of_many_real_sized_ranges(kind):
    generator = np.random.default_rng(0)
    for num_edges in (2, 3, 7, 256, 1_000, 10_000):
        for _ in range(8):
            low, high = np.sort(generator.normal(size=2) * 10.0 ** generator.integers(-3, 4)).astype(kind)
            weights = on_and_next_to_edges(low, high, num_edges, kind)
            assert np.array_equal(histogram_bins(weights, num_edges), numpy_bins(weights, num_edges)), (low, high)


@pytest.mark.parametrize(
    ("weights", "num_edges", "bins"),
    [
        (np.array([3.0]), 10_000, [0]),
        (np.full(5, -2.5, dtype=np.float32), 10, [0] * 5),
        (np.array([1.4e-45, 0, 4.2e-45], dtype=np.float32), 3, [0, 0, 1]),  # 1, 0 and 3 smallest numbers
        (np.array([-3.4e38, 0, 3.4e38], dtype=np.float32), 3, [0, 1, 1]),
        (np.array([-8e307, 0, 8e307]), 5, [0, 1, 2]),
        (np.array([0.0, -0.0, 1.0]), 2, [0, 0, 0]),
        (np.array([0.0, -0.0, 1.0]), 1, [0, 0, 0]),
    ],
    ids=["one weight", "constant", "denormal", "widest float32", "widest float64", "two edges", "one edge"],
)
def test_extreme_ranges(weights, num_edges, bins):
    assert compact(histogram_bins(weights, num_edges)).tolist() == bins


def test_a_range_beyond_float64_is_an_error():
    with pytest.raises(ValueError, match="overflows float64: repair or rescale the network"):
        histogram_bins(np.array([-1.7e308, 0, 1.7e308]), 5)


@given(
    weights=st.lists(FLOATS[np.float32], min_size=1, max_size=60),
    num_edges=st.integers(1, 300),
    seed=st.integers(0, 100),
    num_groups=st.integers(1, 8),
)
def test_a_histogram_per_group_equals_histograms_of_slices(weights, num_edges, seed, num_groups):
    weights = np.array(weights, dtype=np.float32)
    groups = np.random.default_rng(seed).integers(0, num_groups, len(weights))
    keys = histogram_bins(weights, num_edges, groups)
    for group in np.unique(groups):
        chosen = groups == group
        assert np.array_equal(keys[chosen] - group * num_edges, histogram_bins(weights[chosen], num_edges))


def test_pieces_leave_no_seam():
    generator = np.random.default_rng(0)
    weights = generator.normal(size=2 * PIECE + 17).astype(np.float32)
    assert np.array_equal(histogram_bins(weights, 999), numpy_bins(weights, 999))
    borders = np.sort(generator.normal(size=40))
    assert np.array_equal(sorted_bins(weights, borders), np.searchsorted(borders, weights, side="right"))


def test_many_edges_and_groups_do_not_overflow():
    weights = np.linspace(0, 1, 100)
    groups = np.arange(100) % 50
    keys = histogram_bins(weights, 2**27, groups)
    assert keys.dtype == np.int64 and keys.min() >= 0
    assert np.array_equal(keys // 2**27, groups)
    assert compact(keys).max() == 99


@given(keys=st.lists(st.integers(0, 2**40), min_size=1, max_size=50), small=st.booleans())
def test_compact_renumbers_without_gaps_and_keeps_order(keys, small):
    keys = np.array(keys) % 70 if small else np.array(keys)
    ids = compact(keys)
    assert ids.dtype == np.int32
    assert np.array_equal(ids, np.unique(keys, return_inverse=True)[1])


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("num_blocks", [1, 37, PIECE])
def test_summaries_equal_those_taken_block_by_block(kind, num_blocks):
    generator = np.random.default_rng(0)
    weights = generator.normal(size=3 * PIECE + 5).astype(kind)
    ids = compact(generator.integers(0, num_blocks, len(weights)).astype(np.int32))
    summary = summarise(weights, ids)
    assert summary.counts.sum() == len(weights) and len(summary.counts) == ids.max() + 1
    for block in generator.integers(0, len(summary.counts), 20):
        members = weights[ids == block]
        assert summary.counts[block] == len(members)
        assert summary.lower[block] == members.min() and summary.upper[block] == members.max()
        assert summary.mean[block] == pytest.approx(members.mean(dtype=np.float64), abs=1e-12)


@given(value=FLOATS[np.float32], count=st.integers(1, 2_000), kind=st.sampled_from([np.float32, np.float64]))
def test_the_mean_of_equal_weights_is_that_weight(value, count, kind):
    value = kind(value) * kind(0.1)  # a float64 that is rounded in sums
    summary = summarise(np.full(count, value), np.zeros(count, dtype=np.int32))
    assert summary.mean[0] == summary.lower[0] == summary.upper[0] == value


def assert_blocks_equal_those_of_a_scan_per_bin(weights: np.ndarray, num_edges: int) -> None:
    """Against the definition: NumPy's bins, then the members of one bin after the other."""
    bins = numpy_bins(weights, num_edges)
    ids, summary = histogram_blocks(weights, num_edges)
    assert ids.dtype == np.int32 and np.array_equal(ids, np.unique(bins, return_inverse=True)[1])
    order = np.argsort(bins, kind="stable")
    members = np.split(weights[order], np.flatnonzero(np.diff(bins[order])) + 1)
    assert summary.counts.tolist() == [len(m) for m in members]
    assert summary.lower.tolist() == [m.min() for m in members]
    assert summary.upper.tolist() == [m.max() for m in members]
    means = [m.mean(dtype=np.float64) for m in members]
    np.testing.assert_allclose(summary.mean, means, rtol=1e-9, atol=1e-9 * np.abs(weights).max())


@settings(max_examples=150)
@given(
    weights=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60),
    num_edges=st.one_of(st.integers(1, 60), st.sampled_from([1_000, 10_000, 40_000, 200_000])),
)
def test_blocks_in_one_go_equal_a_scan_per_bin(weights, num_edges):
    weights = np.array(weights, dtype=np.float32)
    low, high = float(weights.min()), float(weights.max())
    assume(low == high or is_coarse(low, high, num_edges))
    assert_blocks_equal_those_of_a_scan_per_bin(weights, num_edges)


@pytest.mark.parametrize("num_edges", [1, 2, 50, 3_000, 10_000, 40_000])
def test_blocks_of_bells_with_far_weights_equal_a_scan_per_bin(num_edges):
    generator = np.random.default_rng(num_edges)
    bell = generator.normal(size=PIECE + 1_000) * generator.choice([0.01, 0.05], PIECE + 1_000)
    weights = np.concatenate([bell, np.ones(64), on_and_next_to_edges(-0.4, 1.0, 300, np.float32)]).astype(np.float32)
    assert_blocks_equal_those_of_a_scan_per_bin(weights, num_edges)


@pytest.mark.parametrize(("shift", "scale"), [(1e3, 1e-3), (-7.0, 1e-6), (0.0, 1e-35), (0.0, 1e30)])
def test_blocks_far_from_zero_or_of_odd_size_equal_a_scan_per_bin(shift, scale):
    weights = (shift + scale * np.random.default_rng(0).normal(size=5_000)).astype(np.float32)
    assert_blocks_equal_those_of_a_scan_per_bin(weights, 500)
