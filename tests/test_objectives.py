"""Does each objective judge what its name says, and does `resolve` understand what users pass?"""

import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional

from evohbde import objectives as o


@pytest.fixture
def outputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(4, 50, 5)` of four networks and labels `(50,)`."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (50,), generator=generator)
    logits = torch.randn(4, 50, 5, generator=generator) + 2 * functional.one_hot(labels, 5)
    return logits, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("scale", [1, 100])
def test_cross_entropy_equals_torch(outputs, smoothing, scale):
    logits, labels = outputs
    losses = o.CrossEntropy(smoothing)(logits * scale, labels)
    expected = [functional.cross_entropy(one * scale, labels, label_smoothing=smoothing) for one in logits]
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_half_precision_outputs_is_taken_in_float32(outputs):
    logits, labels = outputs
    losses = o.CrossEntropy()(logits.half(), labels)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, o.CrossEntropy()(logits, labels), rtol=0, atol=1e-3)


def test_scores_of_predictions_agree_with_their_definitions(outputs):
    logits, labels = outputs
    predicted = logits.argmax(-1)
    accuracy = (predicted == labels).double().mean(1)
    torch.testing.assert_close(o.Accuracy()(logits, labels), accuracy)
    torch.testing.assert_close(o.Error()(logits, labels), 1 - accuracy)
    for average in ("macro", "weighted", "micro"):
        expected = [f1_score(labels, one, average=average) for one in predicted]
        assert o.F1(average)(logits, labels).tolist() == pytest.approx(expected, abs=1e-12)
    recall = [(predicted[:, labels == c] == c).double().mean(1) for c in range(5)]
    torch.testing.assert_close(o.BalancedAccuracy()(logits, labels), torch.stack(recall).mean(0))


def test_f1_passes_its_class_set_on():
    logits = 9.0 * functional.one_hot(torch.tensor([[0, 1, 1]]), 4)
    labels = torch.tensor([0, 0, 1])
    assert o.F1()(logits, labels).item() == pytest.approx(2 / 3)
    assert o.F1(classes="all")(logits, labels).item() == pytest.approx(1 / 3)


def test_smooth_f1_breaks_ties_by_confidence_and_nothing_more(outputs):
    logits, labels = outputs
    sure = 50.0 * functional.one_hot(labels, 5)[None]
    both = torch.cat([sure, 0.001 * sure])
    assert o.F1()(both, labels).tolist() == [1, 1]
    first, second = o.SmoothF1()(both, labels).tolist()
    assert 1 - 1e-6 < first <= 1 and second < first
    expected = o.F1()(logits, labels) - 0.25 * o.CrossEntropy()(logits, labels)
    torch.testing.assert_close(o.SmoothF1(weight=0.25)(logits, labels), expected)


def test_density_is_the_share_of_weights_that_are_not_zero():
    assert o.Density()(torch.tensor([0.0, -0.0, 1e-30, -2.0])).item() == 0.5
    assert o.Density()(torch.zeros(7)).item() == 0
    assert o.Density()(torch.ones(7)).shape == ()


def test_a_function_is_called_once_per_network(outputs):
    logits, labels = outputs
    calls = []

    def top_2(one, truth):
        calls.append((tuple(one.shape), tuple(truth.shape)))
        return (one.topk(2).indices == truth[:, None]).any(1).float().mean()

    objective = o.Function(top_2, sense="max")
    scores = objective(logits, labels)
    assert calls == [((50, 5), (50,))] * 4
    assert objective.name == "top_2" and objective.sense == "max"
    assert scores.shape == (4,) and scores.dtype == torch.float64
    assert (scores >= o.Accuracy()(logits, labels) - 1e-7).all()


@pytest.mark.parametrize("result", [0.25, torch.tensor(0.25), torch.tensor([0.25])])
def test_a_function_may_return_any_kind_of_number(outputs, result):
    assert o.Function(lambda one, truth: result, "min", "quarter")(*outputs).tolist() == [0.25] * 4


def test_a_function_that_returns_one_number_per_sample_is_refused(outputs):
    objective = o.Function(lambda one, truth: one.amax(1), "max", "top")
    with pytest.raises(ValueError, match=r"objective 'top' must return one number, got shape \(50,\): reduce it"):
        objective(*outputs)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_network_with_outputs_that_are_not_finite_is_told_apart(outputs, bad):
    logits, labels = outputs
    logits = logits.clone()
    logits[2, 7, 3] = bad
    assert o.has_finite_outputs(logits).tolist() == [True, True, False, True]
    clean, marred = o.F1()(outputs[0], labels), o.F1()(logits, labels)
    assert torch.equal(clean[[0, 1, 3]], marred[[0, 1, 3]]), "one bad network must not spoil the others"


@pytest.mark.parametrize("name", o.BY_NAME)
def test_every_name_gives_an_objective_of_that_name(name):
    (objective,) = o.resolve(name)
    assert objective.name == name and objective.sense in ("max", "min")
    assert repr(objective) == f"{type(objective).__name__}({name!r}, sense={objective.sense!r})"


def test_resolve_takes_one_or_several_names_and_instances():
    own = o.F1("weighted")
    assert [x.name for x in o.resolve(["f1_macro", own, o.Density()])] == ["f1_macro", "f1_weighted", "density"]
    assert o.resolve(own) == [own] and o.resolve((own,)) == [own]


class Margin(o.Objective):
    name, sense = "margin", "max"

    def __call__(self, logits, labels):
        best = logits.topk(2).values
        return (best[..., 0] - best[..., 1]).mean(1)


def test_an_objective_of_ones_own_needs_no_registration(outputs):
    (margin,) = o.resolve(Margin())
    assert margin(*outputs).shape == (4,)


@pytest.mark.parametrize(
    ("given", "kind", "remedy"),
    [
        ("f1", ValueError, "unknown objective 'f1'; known: f1_macro, .*or pass your own Objective"),
        (["accuracy", "F1_macro"], ValueError, "unknown objective 'F1_macro'; known: f1_macro"),
        ([], ValueError, "name at least one, e.g. 'f1_macro'"),
        (functional.cross_entropy, TypeError, r"wrap a function: Function\(f, sense='max'\)"),
        ([nn.CrossEntropyLoss()], TypeError, r"wrap a function: Function\(f, sense='max'\)"),
        (o.F1, TypeError, "expected an objective's name or instance"),
        (None, TypeError, "expected an objective's name or instance"),
    ],
)
def test_what_is_no_objective_is_refused(given, kind, remedy):
    with pytest.raises(kind, match=remedy):
        o.resolve(given)


@pytest.mark.parametrize(
    ("build", "remedy"),
    [
        (lambda: o.F1("binary"), "`average` must be 'macro', 'weighted' or 'micro', got 'binary'"),
        (lambda: o.F1(classes="some"), "`classes` must be 'present' or 'all', got 'some'"),
        (lambda: o.CrossEntropy(1.0), r"`label_smoothing` must lie in \[0, 1\), got 1.0"),
        (lambda: o.Function(len, "maximise"), "`sense` must be 'max' or 'min', got 'maximise'"),
    ],
)
def test_bad_options_are_refused(build, remedy):
    with pytest.raises(ValueError, match=remedy):
        build()
