"""Do the block schemes tie the weights they say they tie, and does expanding undo reducing?"""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evohbde.reductions import (
    Blocking,
    HistogramBlocking,
    Identity,
    KMeansBlocking,
    QuantileBlocking,
    RandomBlocking,
)

# Each scheme with `size` edges or blocks, as far as there are weights.
KINDS: dict[str, Callable[[Tensor, int, str], Blocking]] = {
    "histogram": lambda theta0, size, mode: HistogramBlocking(theta0, size, mode),
    "groups": lambda theta0, size, mode: HistogramBlocking(theta0, size, mode, groups=torch.arange(len(theta0)) % 3),
    "quantile": lambda theta0, size, mode: QuantileBlocking(theta0, min(size, len(theta0)), mode),
    "k-means": lambda theta0, size, mode: KMeansBlocking(theta0, min(size, len(theta0)), mode),
    "random": lambda theta0, size, mode: RandomBlocking(theta0, min(size, len(theta0)), mode),
}
ORDERED = ["histogram", "quantile", "k-means"]
MODES = ["replace", "offset"]

WEIGHTS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60).map(torch.tensor)

HAND = torch.tensor([0, 0.1, 0.24, 0.25, 0.26, 0.5, 0.74, 0.75, 1], dtype=torch.float64)


def bell(size: int = 5_000, seed: int = 0) -> Tensor:
    """Weights as networks have them: a bell with long tails."""
    values = np.random.default_rng(seed).standard_t(4, size) * 0.05
    return torch.from_numpy(values.astype(np.float32))


def squared_error(reduction: Blocking, theta0: Tensor) -> float:
    return float((reduction.expand(reduction.center) - theta0).double().square().sum())


# Golden values (the published example and its closed variant)


def test_hand_example_closed():
    reduction = HistogramBlocking(HAND, num_bins=5)
    assert reduction.block.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3] and reduction.block.dtype == torch.int32
    assert reduction.counts.tolist() == [3, 2, 2, 2]
    assert reduction.center.tolist() == pytest.approx([0.34 / 3, 0.255, 0.62, 0.875], abs=1e-12)
    assert reduction.lower.tolist() == [0, 0.25, 0.5, 0.75] and reduction.upper.tolist() == [0.24, 0.26, 0.74, 1]
    assert (reduction.dim, reduction.num_blocks, reduction.full_dim, reduction.num_free) == (4, 4, 9, 4)


def test_hand_example_of_the_authors():
    reduction = HistogramBlocking(HAND, num_bins=5, rule="authors")
    assert reduction.block.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 4], "the maximum lies in no block"
    assert reduction.counts.tolist() == [3, 2, 2, 1] and reduction.dim == 4 and reduction.num_free == 3
    assert reduction.center.tolist() == pytest.approx([0.34 / 3, 0.255, 0.62, 0.75], abs=1e-12)
    assert reduction.lower.tolist() == [0, 0.25, 0.5, 0.75] and reduction.upper.tolist() == [0.24, 0.26, 0.74, 0.75]


@pytest.mark.parametrize(("rule", "last"), [("closed", 1.25), ("authors", 1.0)])
def test_hand_example_shifted(rule, last):
    reduction = HistogramBlocking(2 * HAND - 0.5, num_bins=5, rule=rule)
    expanded = reduction.expand(reduction.center)
    assert float(expanded[8]) == last
    assert float(expanded[7]) == (1.25 if rule == "closed" else 1.0)


@given(theta0=WEIGHTS, num_bins=st.integers(2, 200))
def test_authors_blocks_are_numpys_digitize_without_the_maximum(theta0, num_bins):
    if theta0.min() == theta0.max():
        return
    values = theta0.double().numpy()
    ids = np.digitize(values, np.linspace(values.min(), values.max(), num_bins))
    ids[values == values.max()] = num_bins  # where edges fall on one number, more would share its bin
    used = np.unique(ids[ids < num_bins])
    reduction = HistogramBlocking(theta0, num_bins, rule="authors")
    assert reduction.dim == len(used)
    assert reduction.block.tolist() == np.searchsorted(used, ids).tolist()
    assert torch.equal(reduction.block == reduction.dim, theta0 == theta0.max())
    expanded = reduction.expand(reduction.center)
    assert (expanded[theta0 == theta0.max()] == 1).all()


def test_authors_maximum_stays_as_it_is_in_offset_mode():
    reduction = HistogramBlocking(HAND * 3, num_bins=5, mode="offset", rule="authors")
    assert reduction.expand(torch.full((4,), 0.5, dtype=torch.float64))[8] == 3
    assert torch.equal(reduction.expand(reduction.center), HAND * 3)


# Laws


@pytest.mark.parametrize("kind", KINDS)
@given(theta0=WEIGHTS, size=st.integers(1, 80), seed=st.integers(0, 9))
def test_reduce_undoes_expand(kind, theta0, size, seed):
    for mode in MODES:
        reduction = KINDS[kind](theta0, size, mode)
        z = torch.randn(2, reduction.dim, generator=torch.Generator().manual_seed(seed))
        back = reduction.reduce(reduction.expand(z))
        if mode == "replace":
            assert torch.equal(back, z)
        else:
            torch.testing.assert_close(back, z, rtol=0, atol=2e-4)  # float32 around weights of up to 1,000
        theta = reduction.expand(back)
        torch.testing.assert_close(reduction.expand(reduction.reduce(theta)), theta, rtol=0, atol=5e-4)


@pytest.mark.parametrize("kind", KINDS)
@given(theta0=WEIGHTS, size=st.integers(1, 80))
def test_every_weight_lies_in_exactly_one_block_that_is_not_empty(kind, theta0, size):
    reduction = KINDS[kind](theta0, size, "replace")
    block = reduction.block.long()
    assert reduction.block.dtype == torch.int32 and reduction.counts.dtype == torch.int64
    assert block.min() == 0 and block.max() == reduction.dim - 1
    assert torch.equal(torch.bincount(block, minlength=reduction.dim), reduction.counts)
    assert (reduction.counts > 0).all() and reduction.counts.sum() == reduction.full_dim == len(theta0)
    assert (reduction.lower[block] <= theta0).all() and (theta0 <= reduction.upper[block]).all()
    assert (reduction.lower <= reduction.center).all() and (reduction.center <= reduction.upper).all()
    torch.testing.assert_close(reduction.center, reduction.reduce(theta0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ORDERED)
@given(theta0=WEIGHTS, size=st.integers(1, 80))
def test_blocks_are_ordered_by_value_and_do_not_overlap(kind, theta0, size):
    reduction = KINDS[kind](theta0, size, "replace")
    assert (reduction.upper[:-1] < reduction.lower[1:]).all()
    assert reduction.num_free == int((reduction.upper > reduction.lower).sum())


@given(theta0=WEIGHTS, num_bins=st.integers(2, 300))
def test_block_means_are_within_a_bin_width_of_the_weights(theta0, num_bins):
    reduction = HistogramBlocking(theta0, num_bins)
    width = float(theta0.double().max() - theta0.double().min()) / (num_bins - 1)
    error = (reduction.expand(reduction.center).double() - theta0.double()).abs().max()
    assert error <= width * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("kind", KINDS)
@given(theta0=WEIGHTS, size=st.integers(1, 80))
def test_offset_blocks_are_those_of_replace_and_zero_is_the_network(kind, theta0, size):
    offset, replace = KINDS[kind](theta0, size, "offset"), KINDS[kind](theta0, size, "replace")
    assert not offset.center.any() and torch.equal(offset.expand(offset.center), theta0)
    assert torch.equal(offset.block, replace.block) and torch.equal(offset.counts, replace.counts)
    torch.testing.assert_close(offset.lower, replace.lower - replace.center, rtol=0, atol=1e-3)
    torch.testing.assert_close(offset.upper, replace.upper - replace.center, rtol=0, atol=1e-3)
    assert (offset.lower <= 0).all() and (offset.upper >= 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", ["closed", "authors"])
def test_expand_into_and_gradients(mode, rule):
    theta0 = bell(700)
    reduction = HistogramBlocking(theta0, 30, mode, rule)
    z = torch.randn(3, reduction.dim)
    assert torch.equal(reduction.expand_into(z[1], torch.empty(700)), reduction.expand(z)[1])
    assert torch.equal(reduction.expand_into(z, torch.empty(3, 700)), reduction.expand(z))
    z.requires_grad_()
    pull = torch.randn(3, 700)
    (reduction.expand(z) * pull).sum().backward()
    torch.testing.assert_close(z.grad / reduction.counts, HistogramBlocking(theta0, 30, "replace", rule).reduce(pull))


@pytest.mark.parametrize("mode", MODES)
def test_identity_searches_every_weight(mode):
    theta0 = bell(300)
    reduction = Identity(theta0, mode)
    assert reduction.dim == reduction.full_dim == 300
    assert torch.equal(reduction.expand(reduction.center), theta0)
    width = 0.1 * theta0.square().mean().sqrt()
    torch.testing.assert_close(reduction.upper - reduction.center, width.expand(300), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(reduction.center - reduction.lower, width.expand(300), rtol=1e-3, atol=1e-7)
    assert (Identity(torch.zeros(3)).upper > 0).all(), "a network of zeros still has a range"


# What each scheme promises


@given(theta0=WEIGHTS, num_bins=st.integers(1, 50), data=st.data())
def test_a_histogram_per_tensor_is_a_histogram_per_slice(theta0, num_bins, data):
    groups = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=len(theta0), max_size=len(theta0))))
    whole = HistogramBlocking(
        theta0, num_bins, groups=groups.to(data.draw(st.sampled_from([torch.int32, torch.uint8])))
    )
    start = 0
    for group in groups.unique():
        chosen = groups == group
        part = HistogramBlocking(theta0[chosen], num_bins)
        assert torch.equal(whole.block[chosen], part.block + start)
        assert torch.equal(whole.center[start : start + part.dim], part.center)
        start += part.dim
    assert start == whole.dim


@given(size=st.integers(1, 400), share=st.floats(0, 1))
def test_quantile_blocks_have_nearly_equal_sizes(size, share):
    num_blocks = 1 + round(share * (size - 1))
    counts = QuantileBlocking(torch.randperm(size).double().sqrt(), num_blocks).counts
    assert len(counts) == num_blocks and counts.max() - counts.min() <= 1


def test_quantile_blocks_keep_equal_weights_together():
    theta0 = torch.tensor([2.0, 1, 2, 2, 2, 3, 2, 2])
    reduction = QuantileBlocking(theta0, 8)
    assert reduction.dim == 3 and reduction.block.tolist() == [1, 0, 1, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_bins", [20, 100, 500])
def test_kmeans_loses_less_than_a_histogram_of_as_many_blocks(num_bins, seed):
    theta0 = bell(seed=seed)
    histogram = HistogramBlocking(theta0, num_bins)
    kmeans = KMeansBlocking(theta0, histogram.dim)
    assert 0.95 * histogram.dim <= kmeans.dim <= histogram.dim
    assert squared_error(kmeans, theta0) <= squared_error(histogram, theta0)


def test_kmeans_finds_separated_clusters_and_follows_its_seed():
    theta0 = torch.cat([torch.randn(50) * 0.01 + place for place in (-1.0, 0.0, 5.0)])
    assert KMeansBlocking(theta0, 3).block.tolist() == [0] * 50 + [1] * 50 + [2] * 50
    heavy = torch.tensor([0.0] + [2.0] * 1_000 + [3.0] * 1_000)
    assert KMeansBlocking(heavy, 2).block.tolist() == [0] * 1_001 + [1] * 1_000, "values count as often as they occur"
    first, second = (KMeansBlocking(bell(), 64, seed=3) for _ in range(2))
    assert torch.equal(first.block, second.block)
    assert KMeansBlocking(torch.full((9,), 2.0), 4).dim == 1


@given(size=st.integers(1, 300), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_random_blocks_have_sizes_that_differ_by_at_most_one(size, share, seed):
    num_blocks = 1 + round(share * (size - 1))
    generator = torch.Generator().manual_seed(seed)
    counts = RandomBlocking(torch.ones(size), num_blocks, generator=generator).counts
    assert len(counts) == num_blocks and counts.max() - counts.min() <= 1


def test_random_blocks_follow_their_generator():
    def draw(seed: int | None) -> Tensor:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return RandomBlocking(bell(), 10, generator=generator).block

    assert torch.equal(draw(5), draw(5)) and torch.equal(draw(None), draw(0))
    assert (draw(5) != draw(6)).float().mean() == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_no_scheme_touches_the_global_generators(kind):
    theta0 = bell()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    KINDS[kind](theta0, 50, "replace")
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@given(st.lists(st.integers(0, 2**40), min_size=5, max_size=5))
def test_blocks_by_hand_are_numpys_groups_in_the_order_of_their_numbers(numbers):
    blocks = Blocking(HAND[:5], np.array(numbers), "replace")
    known, groups = np.unique(numbers, return_inverse=True)
    means = np.bincount(groups, HAND[:5].numpy()) / np.bincount(groups)
    assert blocks.dim == len(known)
    np.testing.assert_allclose(blocks.expand(blocks.center).numpy(), means[groups], rtol=1e-12)


# Cost

PRICE = """
import re, time
import numpy as np, torch
from evohbde.reductions import HistogramBlocking
def memory(key): return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024
torch.set_num_threads(1)
theta0 = torch.randn(11_200_000, generator=torch.Generator().manual_seed(0)) * 0.02
HistogramBlocking(theta0[:100_000])
before, start = memory("VmRSS"), time.process_time()
reduction = HistogramBlocking(theta0)
fit = time.process_time() - start
reduction.expand_into(reduction.center, torch.empty_like(theta0))
above, start = memory("VmHWM") - before, time.process_time()
np.digitize(theta0.numpy(), np.linspace(float(theta0.min()), float(theta0.max()), 10_000))
print(above, fit, time.process_time() - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_blocking_eleven_million_weights_takes_little_memory_and_less_than_digitize():
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", PRICE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    mebibytes, fit, digitize = map(float, result.stdout.split())
    assert mebibytes < 300
    assert fit < 2 * digitize
