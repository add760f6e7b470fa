"""Do the scores of many networks equal scikit-learn's, absent classes included?"""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn
from torch import Tensor

from evohbde import metrics
from evohbde.metrics import accuracy, balanced_accuracy, confusion_matrix, f1, predicted_classes
from evohbde.objectives import has_finite_outputs


@st.composite
def predictions(draw) -> tuple[Tensor, Tensor, int]:
    """Predictions `(N, B)` of some networks, labels `(B,)` and C, of which some classes may be absent."""
    num_classes = draw(st.integers(2, 12))
    num_networks, num_samples = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    used, guessed = draw(st.integers(1, num_classes)), draw(st.integers(1, num_classes))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = generator.permutation(num_classes)
    labels = names[generator.integers(0, used, num_samples)]
    predicted = names[generator.integers(0, guessed, (num_networks, num_samples))]
    right = generator.random((num_networks, num_samples)) < draw(st.sampled_from([0, 0.5, 1]))
    return torch.from_numpy(np.where(right, labels, predicted)), torch.from_numpy(labels), num_classes


@given(predictions())
def test_confusion_counts_equal_sklearn(case):
    predicted, labels, num_classes = case
    counts = confusion_matrix(predicted, labels, num_classes)
    assert counts.shape == (len(predicted), num_classes, num_classes) and counts.dtype == torch.int64
    for one, matrix in zip(predicted, counts, strict=True):
        assert np.array_equal(matrix, sklearn.confusion_matrix(labels, one, labels=range(num_classes)))


@pytest.mark.parametrize("average", ["macro", "weighted", "micro"])
@given(case=predictions())
def test_f1_equals_sklearn(average, case):
    predicted, labels, num_classes = case
    scores = f1(confusion_matrix(predicted, labels, num_classes), average)
    assert scores.dtype == torch.float64
    expected = [sklearn.f1_score(labels, one, average=average, zero_division=0) for one in predicted]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


@given(predictions())
def test_f1_over_all_classes_equals_sklearn_with_labels(case):
    predicted, labels, num_classes = case
    scores = f1(confusion_matrix(predicted, labels, num_classes), classes="all")
    expected = [
        sklearn.f1_score(labels, one, average="macro", labels=range(num_classes), zero_division=0) for one in predicted
    ]
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
@given(predictions())
def test_accuracies_equal_sklearn(case):
    predicted, labels, num_classes = case
    counts = confusion_matrix(predicted, labels, num_classes)
    expected = [sklearn.accuracy_score(labels, one) for one in predicted]
    np.testing.assert_allclose(accuracy(counts), expected, rtol=0, atol=1e-12)
    expected = [sklearn.balanced_accuracy_score(labels, one) for one in predicted]
    np.testing.assert_allclose(balanced_accuracy(counts), expected, rtol=0, atol=1e-12)


@given(predictions())
def test_many_networks_at_once_equal_one_by_one(case):
    predicted, labels, num_classes = case
    for score in (f1, accuracy, balanced_accuracy, lambda counts: f1(counts, "weighted")):
        at_once = score(confusion_matrix(predicted, labels, num_classes))
        one_by_one = [score(confusion_matrix(one[None], labels, num_classes)) for one in predicted]
        assert torch.equal(at_once, torch.cat(one_by_one))


@pytest.mark.parametrize(
    ("labels", "predicted", "average", "classes", "expected"),
    [
        ([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0], "macro", "present", (1 / 2 + 4 / 5 + 2 / 3) / 3),  # .655556
        ([0, 0, 1], [0, 2, 1], "macro", "present", 5 / 9),  # a stray prediction of class 2 counts as a class
        ([0, 0, 1], [0, 2, 1], "macro", "all", 5 / 9),
        ([0, 0, 1], [0, 2, 1], "weighted", "present", 7 / 9),
        ([0, 0, 1], [0, 2, 1], "micro", "present", 2 / 3),
        ([0, 0, 1], [0, 1, 1], "macro", "present", 2 / 3),  # class 2 is nowhere: left out ...
        ([0, 0, 1], [0, 1, 1], "macro", "all", 4 / 9),  # ... or counted as 0
        ([2, 2], [0, 1], "macro", "present", 0),
    ],
)
def test_golden_values(labels, predicted, average, classes, expected):
    counts = confusion_matrix(torch.tensor([predicted]), torch.tensor(labels), 3)
    assert f1(counts, average, classes).item() == pytest.approx(expected, abs=1e-15)


def test_balanced_accuracy_leaves_absent_classes_out():
    counts = confusion_matrix(torch.tensor([[0, 2, 1]]), torch.tensor([0, 0, 1]), 3)
    assert balanced_accuracy(counts).item() == 0.75


def test_no_samples_score_zero():
    counts = confusion_matrix(torch.empty(2, 0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 3)
    for scores in (f1(counts), f1(counts, classes="all"), accuracy(counts), balanced_accuracy(counts)):
        assert scores.tolist() == [0, 0]


@pytest.mark.parametrize("many", [1, 1_000], ids=["many samples", "few samples"])
@given(
    logits=st.integers(1, 40).flatmap(
        lambda num_classes: arrays(
            np.float32, (3, 7, num_classes), elements=st.sampled_from([-2.0, -1.0, 0.0, 0.5, 3.0])
        )
    )
)
def test_the_predicted_class_is_the_first_of_the_largest(many, logits):
    with mock.patch.object(metrics, "MANY_SAMPLES", many):
        assert predicted_classes(torch.from_numpy(logits)).numpy().tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_one_output_that_is_not_finite_is_found(fault):
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    logits[1, 2, 3] = fault
    assert has_finite_outputs(logits).tolist() == [True, False, True]
