"""Are arguments that make no blocks refused, in words that name them?"""

import numpy as np
import pytest
import torch

from evohbde.reductions import (
    Blocking,
    HistogramBlocking,
    Identity,
    KMeansBlocking,
    QuantileBlocking,
    RandomBlocking,
    RandomProjection,
    Reduction,
)
from tests.reductions.test_blocking import HAND, bell


@pytest.mark.parametrize("build", [HistogramBlocking, QuantileBlocking, KMeansBlocking, RandomBlocking, Identity])
@pytest.mark.parametrize(
    ("theta0", "kind", "message"),
    [
        (torch.tensor([1, torch.nan, torch.inf, -torch.inf]), ValueError, "has 3 NaN or infinite weights: repair"),
        (torch.ones(2, 3), ValueError, r"of shape \(D,\) with D >= 1, got \(2, 3\)"),
        (torch.ones(0), ValueError, r"with D >= 1, got \(0,\)"),
        (torch.arange(4), TypeError, r"floating-point weights, got torch\.int64"),
        ([0.1, 0.2], TypeError, r"a torch\.Tensor of shape \(D,\), got list"),
    ],
    ids=["not finite", "matrix", "empty", "integers", "list"],
)
def test_bad_weights_are_refused(build, theta0, kind, message):
    with pytest.raises(kind, match=message):
        build(theta0)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "10"])
@pytest.mark.parametrize("build", [HistogramBlocking, QuantileBlocking, KMeansBlocking, RandomBlocking])
def test_bad_numbers_of_blocks_are_refused(build, value):
    argument = "num_bins" if build is HistogramBlocking else "num_blocks"
    is_integer = type(value) is int
    remedy = "must be (at least 1|between 1 and 100)" if is_integer else "to be an integer"
    with pytest.raises(ValueError if is_integer else TypeError, match=f"`{argument}`.*{remedy}"):
        build(bell(100), value)


@pytest.mark.parametrize("build", [QuantileBlocking, KMeansBlocking, RandomBlocking])
def test_more_blocks_than_weights_are_refused(build):
    with pytest.raises(ValueError, match="`num_blocks` must be between 1 and 100, the number of weights, got 101"):
        build(bell(100), 101)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "add"}, r"`mode` must be 'replace' .* or 'offset' .*, got 'add'"),
        ({"rule": "open"}, r"`rule` must be 'closed' .* or 'authors', got 'open'"),
        ({"rule": "authors", "num_bins": 1}, "use rule='closed'"),
        ({"rule": "authors", "groups": torch.zeros(100, dtype=torch.int32)}, "no groups.*use rule='closed'"),
        (
            {"groups": torch.zeros(99, dtype=torch.int32)},
            r"one integer per weight, shape \(100,\), got torch.int32 \(99,\)",
        ),
        ({"groups": torch.zeros(100)}, r"one integer per weight.*got torch\.float32"),
        ({"groups": torch.ones(100) > 0}, r"one integer per weight.*got torch\.bool"),
        ({"groups": torch.full((100,), -1)}, "numbered from 0, got -1"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HistogramBlocking(bell(100), **arguments)


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (None, TypeError, "`ids` to be a NumPy array of integers, .* got NoneType"),
        (np.zeros(5), TypeError, "`ids` to be a NumPy array of integers, .* got float64 numbers"),
        (np.zeros(4, dtype=int), ValueError, r"`ids` of shape \(5,\), .* got shape \(4,\)"),
        (np.array([0, 1, -1, 0, 0]), ValueError, "0 or more .* smallest number of -1"),
    ],
)
def test_blocks_by_hand_that_do_not_fit_are_refused(ids, error, message):
    with pytest.raises(error, match=message):
        Blocking(HAND[:5], ids, "replace")


@pytest.mark.parametrize(
    ("seed", "error"), [(None, TypeError), (True, TypeError), (-1, ValueError), (2**32, ValueError)]
)
def test_a_seed_that_is_none_is_refused_for_it_would_draw_from_numpys_own_generator(seed, error):
    with pytest.raises(error, match=r"`seed` .* got"):
        KMeansBlocking(HAND, 3, seed=seed)


@pytest.mark.parametrize("kind", [RandomBlocking, RandomProjection])
def test_a_number_is_no_generator(kind):
    with pytest.raises(TypeError, match=r"`generator` to be a torch\.Generator or None, got int"):
        kind(HAND, 3, generator=1)


def test_authors_rule_needs_weights_that_differ():
    with pytest.raises(ValueError, match=r"weights that differ.*use rule='closed'"):
        HistogramBlocking(torch.ones(5), 10, rule="authors")


@pytest.mark.parametrize("build", [HistogramBlocking, Identity])
def test_vectors_of_the_wrong_length_are_refused(build):
    reduction = build(bell(100))
    for call in (reduction.expand, lambda z: reduction.expand_into(z, torch.empty(100))):
        for z in (torch.zeros(reduction.dim + 1), torch.zeros(1), torch.tensor(0.0)):
            with pytest.raises(ValueError, match=rf"expected `z` of shape \(\.\.\., {reduction.dim}\)"):
                call(z)
    with pytest.raises(ValueError, match=r"expected `theta` of shape \(\.\.\., 100\)"):
        reduction.reduce(torch.zeros(3, 99))


@pytest.mark.parametrize("state", [{}, {"class": "os.system"}, {"class": "HistogramBlocking", "dim": 3}])
def test_an_unknown_or_partial_state_is_refused(state):
    with pytest.raises(ValueError, match=r"unknown reduction|lacks full_dim, mode"):
        Reduction.from_state_dict(state)
