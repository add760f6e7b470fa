"""Does the first population have the densities and the preferences that it should?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evohbde.pruning.initialise import importance_guided, keep_probability

NUM = 2_000


def ranks(num=NUM, seed=0):
    return torch.randperm(num, generator=torch.Generator().manual_seed(seed)) / (num - 1)


def masks(popsize=21, temperature=0.1, seed=0, **options):
    return importance_guided(ranks(), popsize, torch.Generator().manual_seed(seed), temperature=temperature, **options)


def within_noise(found: int, num: int, share: float) -> bool:
    low, high = binom.interval(1 - 1e-6, num, share)
    return low <= found <= high


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_densities_are_spread_evenly_from_nothing_to_everything(temperature):
    found = masks(temperature=temperature)
    assert found.dtype == torch.bool and not found[0].any() and found[-1].all()
    for row, mask in enumerate(found):
        wanted = row / 20
        # Bits of unequal probabilities vary less than those of equal ones.
        assert abs(float(mask.float().mean()) - wanted) <= 3 * (wanted * (1 - wanted) / NUM) ** 0.5 + 0.1 / NUM


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60),
    st.floats(0.02, 0.98),
    st.sampled_from([1e-3, 0.1, 1.0, float("inf")]),
)
def test_probabilities_have_the_wanted_mean_and_rise_with_importance(given_ranks, density, temperature):
    scaled = torch.tensor(given_ranks, dtype=torch.float64) / temperature
    probability = keep_probability(scaled, density)
    assert float(probability.mean()) == pytest.approx(density, abs=0.1 / len(scaled) + 1e-9)
    order = scaled.argsort()
    assert (probability[order].diff() >= 0).all()


def test_important_weights_are_kept_more_often():
    found = masks()[1:-1].double()
    for mask in found:
        assert np.corrcoef(mask.numpy(), ranks().numpy())[0, 1] > 0.1
    upper, lower = (found[:, chosen].mean(1) for chosen in (ranks() > 0.5, ranks() < 0.5))
    assert (upper > lower).all()


def test_probabilities_follow_the_sigmoid_of_the_ranks():
    scaled = ranks().double() / 0.1
    probability = keep_probability(scaled, 0.3)
    logit = (probability / (1 - probability)).log()
    assert float((logit - scaled).std()) < 1e-9


def test_cold_draws_keep_the_most_important():
    found = masks(temperature=1e-6)
    for row, mask in enumerate(found):
        kept = row * NUM // 20
        top = torch.zeros(NUM, dtype=torch.bool).index_fill_(0, ranks().argsort(descending=True)[:kept], True)
        assert int((mask ^ top).sum()) <= 1


def test_hot_draws_are_blind_to_importance():
    found = masks(popsize=41, temperature=float("inf"))
    for chosen in (ranks() > 0.9, ranks() < 0.1):
        num = int(chosen.sum())
        for row, mask in enumerate(found):
            assert within_noise(int(mask[chosen].sum()), num, row / 40)


def test_the_generator_decides_everything():
    assert torch.equal(masks(seed=3), masks(seed=3)) and not torch.equal(masks(seed=3), masks(seed=4))


def test_two_masks_are_the_two_ends():
    assert masks(popsize=2).sum(1).tolist() == [0, NUM]


@pytest.mark.parametrize(
    ("values", "popsize", "temperature", "message"),
    [
        (torch.tensor([0.0, 1.5]), 5, 0.1, r"`ranks` of shape \(d,\) with values in \[0, 1\]"),
        (torch.tensor([0.0, torch.nan]), 5, 0.1, "`ranks`"),
        (torch.zeros(2, 2), 5, 0.1, r"got shape \(2, 2\)"),
        (torch.zeros(3), 1, 0.1, "`popsize` must be at least 2.*got 1"),
        (torch.zeros(3), 5, 0.0, "`temperature` must be above 0, got 0.0"),
    ],
)
def test_wrong_arguments_name_what_was_expected(values, popsize, temperature, message):
    with pytest.raises(ValueError, match=message):
        importance_guided(values, popsize, temperature=temperature)
