"""Are intervals what they claim to be?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from evohbde.statistics import bootstrap_difference, bootstrap_score, macro_f1, share_right


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_scores_equal_scikit_learn(pairs):
    labels, predicted = np.array(pairs).T
    assert macro_f1(predicted, labels) == pytest.approx(f1_score(labels, predicted, average="macro", zero_division=0))
    assert share_right(predicted, labels) == pytest.approx(accuracy_score(labels, predicted))


def test_the_interval_of_a_share_is_that_of_the_binomial():
    labels = torch.zeros(400, dtype=torch.int64)
    predicted = (torch.arange(400) % 4 == 0).long()
    found = bootstrap_score(predicted, labels, "accuracy")
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert found.value == 0.75
    assert found.lower == pytest.approx(0.75 - half, abs=0.012)
    assert found.upper == pytest.approx(0.75 + half, abs=0.012)


def test_a_paired_difference_is_tighter_than_its_parts_and_zero_for_equal_networks():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (300,), generator=generator)
    baseline = torch.where(torch.rand(300, generator=generator) < 0.6, labels, (labels + 1) % 3)
    better = baseline.clone()
    better[:12] = labels[:12]
    gain = bootstrap_difference(better, baseline, labels, "accuracy")
    alone = bootstrap_score(better, labels, "accuracy")
    assert gain.upper - gain.lower < (alone.upper - alone.lower) / 2
    same = bootstrap_difference(baseline, baseline, labels)
    assert same == (0.0, 0.0, 0.0)


def test_seeds_repeat_and_one_sample_has_no_spread():
    labels, predicted = torch.tensor([0, 1, 1, 0] * 9), torch.tensor([0, 1, 0, 0] * 9)
    assert bootstrap_score(predicted, labels) == bootstrap_score(predicted, labels)
    assert bootstrap_score(predicted[:1], labels[:1]) == (1.0, 1.0, 1.0)
