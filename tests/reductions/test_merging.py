"""Do merged blocks lose nothing, and are they what blocking anew would give?"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evohbde.reductions import Blocking, HistogramBlocking, Reduction, merge_blocks, merge_plan
from evohbde.reductions.merging import LOST
from evohbde.testing import check_reduction

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=30)


def weights(size=500, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)) ** 3


def test_the_published_example():
    sizes = torch.tensor([1, 3, 1, 1, 2, 1])
    assert merge_plan(sizes, rule="authors").tolist() == [0, 0, 1, 1, 2, LOST]
    assert merge_plan(sizes).tolist() == [0, 0, 1, 1, 2, 2]


@given(SIZES, st.integers(1, 4))
def test_the_corrected_plan_loses_nothing_and_leaves_no_small_pair(sizes, least):
    plan = merge_plan(torch.tensor(sizes), least).tolist()
    assert plan[0] == 0
    assert all(0 <= after - before <= 1 for before, after in pairwise(plan))
    alone = [size for size, new in zip(sizes, plan, strict=True) if plan.count(new) == 1]
    assert all(size >= least for size in alone) or len(sizes) == 1
    assert all(plan.count(new) <= 3 for new in plan)


@given(SIZES)
def test_the_published_plan_differs_only_in_a_last_block_that_is_reached_alone(sizes):
    closed, authors = merge_plan(torch.tensor(sizes)).tolist(), merge_plan(torch.tensor(sizes), rule="authors").tolist()
    assert closed[:-1] == authors[:-1]
    assert authors[-1] in (closed[-1], LOST)


@pytest.mark.parametrize("mode", ["replace", "offset"])
@pytest.mark.parametrize("seed", range(4))
def test_a_merge_equals_blocking_anew(mode, seed):
    theta0 = weights(seed=seed)
    blocks = HistogramBlocking(theta0, 120, mode=mode)
    plan = merge_plan(blocks.counts)
    merged = merge_blocks(blocks, plan)
    anew = Blocking(theta0, plan[blocks.block.long()].to(torch.int32).numpy(), mode)
    assert torch.equal(merged.block, anew.block)
    assert torch.equal(merged.counts, anew.counts)
    assert int(merged.counts.sum()) == theta0.numel()
    for name in ("center", "lower", "upper"):
        assert torch.allclose(getattr(merged, name), getattr(anew, name), atol=1e-6), name
    check_reduction(merged, atol=1e-4)
    z = torch.randn(3, merged.dim, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(merged.expand(z), anew.expand(z))


def test_lost_blocks_become_one_as_published():
    blocks = HistogramBlocking(weights(), 60)
    plan = torch.arange(blocks.dim)
    plan[-1] = LOST
    merged = merge_blocks(blocks, plan)
    lost = blocks.block == blocks.dim - 1
    assert torch.equal(merged.expand(merged.center)[lost], torch.ones(int(lost.sum())))
    assert torch.equal(merged.expand(merged.center)[~lost], blocks.expand(blocks.center)[~lost])


def test_what_is_merged_stays_as_it_was_and_the_result_survives_its_state():
    blocks = HistogramBlocking(weights(), 60)
    before = blocks.block.clone()
    merged = merge_blocks(blocks, torch.zeros(blocks.dim))
    assert merged.dim == 1
    assert merged.center.item() == pytest.approx(weights().mean().item(), abs=1e-6)
    assert torch.equal(blocks.block, before)
    again = Reduction.from_state_dict(merged.state_dict())
    assert torch.equal(again.expand(merged.center), merged.expand(merged.center))


@pytest.mark.parametrize(
    ("into", "message"),
    [(torch.zeros(3), "one number per block"), (None, "without gaps"), (LOST, "without gaps")],
)
def test_wrong_plans_are_refused(into, message):
    blocks = HistogramBlocking(weights(), 60)
    if into is None:
        into = torch.arange(blocks.dim) * 2
    elif isinstance(into, int):
        into = torch.full((blocks.dim,), into)
    with pytest.raises(ValueError, match=message):
        merge_blocks(blocks, into)


def test_unknown_rules_and_sizes_are_refused():
    with pytest.raises(ValueError, match="`rule` must be"):
        merge_plan(torch.ones(3), rule="open")
    with pytest.raises(ValueError, match="`least` must be"):
        merge_plan(torch.ones(3), least=0)
