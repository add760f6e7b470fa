"""Does a front keep what is best at its size, on the samples that decide, and choose as asked?"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from sklearn.metrics import accuracy_score

from evohbde.layout import ParameterLayout
from evohbde.objectives import resolve
from evohbde.parts import prunable_names
from evohbde.pruning.archive import Archive, Pruned, as_pruned, hypervolume, union
from evohbde.pruning.bits import unpack
from evohbde.pruning.front import Front, thinned, unpruned_point
from evohbde.pruning.scoring import MaskScorer, check_objectives, reference_loss
from evohbde.reductions.thresholds import ThresholdPruning
from tests.small_networks import cnn, digits


def scorer(objectives=("error", "density")):
    model = cnn()
    return MaskScorer(model, ParameterLayout(model, prunable_names(model)), 10, objectives)


def made_up(error_and_kept, split="validation"):
    """A front with scores written down by hand; the unpruned network has an error of 0.1."""
    points = [
        Pruned("here", torch.zeros(0, dtype=torch.uint8), kept, {split: scores_of(error, kept)})
        for error, kept in error_and_kept
    ]
    unpruned = Pruned("unpruned", torch.zeros(0, dtype=torch.uint8), 1.0, {split: scores_of(0.1, 1.0)})
    return Front(scorer(), tuple(points), unpruned, split=split)


def scores_of(error, kept):
    return {"error": error, "density": kept, "accuracy": 1 - error, "f1_macro": 1 - error, "cross_entropy": error}


def of_thresholds(task_scorer, fractions):
    thresholds = ThresholdPruning(task_scorer.theta0, task_scorer.layout.tensor_index)
    masks = [thresholds.mask(thresholds.uniform(fraction)) for fraction in fractions]
    return [as_pruned(f"{fraction}", mask, task_scorer.theta0) for fraction, mask in zip(fractions, masks, strict=True)]


@given(st.lists(st.tuples(st.floats(0, 1.2), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_hypervolume_is_pymoos(pairs):
    expected = HV(ref_point=np.array([1.0, 1.0]))(np.array(pairs))
    losses, kept = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    assert hypervolume(losses, kept, 1.0) == pytest.approx(float(expected), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20), st.integers(1, 5))
def test_an_archive_holds_the_first_of_what_nothing_dominates_however_it_comes(pairs, size):
    class Bits:
        theta0 = torch.ones(7)

        def mask(self, z):
            return torch.arange(7) < z[0]

    scores = torch.tensor(pairs, dtype=torch.float32)
    archive = Archive(resolve(("error", "density")), 10)
    for start in range(0, len(pairs), size):
        archive.add(str(start), Bits(), scores[start : start + size, 1:], scores[start : start + size])
    expected = [
        pair
        for place, pair in enumerate(pairs)
        if not any(a <= pair[0] and b <= pair[1] and (a, b) != pair for a, b in pairs) and pair not in pairs[:place]
    ]
    assert sorted(map(tuple, archive.losses.int().tolist())) == sorted(expected)
    assert [round(7 * point.kept) for point in archive.points] == archive.losses[:, 1].int().tolist()
    assert archive.num_seen == len(pairs)
    assert archive.range == (min(a for a, _ in pairs), max(a for a, _ in pairs))


def test_a_candidate_that_failed_is_left_out():
    archive = Archive(resolve(("error", "density")), 10)
    thresholds = ThresholdPruning(torch.ones(4), torch.zeros(4, dtype=torch.int64))
    worst = torch.finfo(torch.float32).max
    archive.add("", thresholds, torch.tensor([[0.0], [0.5]]), torch.tensor([[worst, 0.1], [0.4, 0.5]]))
    assert [point.kept for point in archive.points] == [0.5]


def test_a_union_has_each_network_once_and_none_that_another_archive_beats():
    thresholds = ThresholdPruning(torch.ones(4), torch.zeros(4, dtype=torch.int64))
    archives = [Archive(resolve(("error", "density")), 10) for _ in range(2)]
    z = torch.tensor([[0.0], [0.5]])
    archives[0].add("first", thresholds, z, torch.tensor([[0.1, 1.0], [0.4, 0.5]]))
    archives[1].add("second", thresholds, z, torch.tensor([[0.1, 1.0], [0.3, 0.5]]))
    found = union(archives)
    assert [(point.origin, point.kept) for point in found] == [("first", 1.0), ("second", 0.5)]


def test_a_score_to_be_maximised_is_followed_upwards():
    archive = Archive(resolve(("accuracy", "density")), 10)
    thresholds = ThresholdPruning(torch.ones(4), torch.zeros(4, dtype=torch.int64))
    archive.add("", thresholds, torch.tensor([[0.0], [0.0]]), torch.tensor([[0.9, 1.0], [0.5, 1.0]]))
    assert [point.scores["selection"]["accuracy"] for point in archive.points] == [pytest.approx(0.9)]
    assert archive.losses[0, 0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("name", "expected"), [("error", 1.0), ("f1_macro", 1.0), ("accuracy", 1.0), ("cross_entropy", float(np.log(10)))]
)
def test_volumes_are_counted_up_to_a_network_that_knows_nothing(name, expected):
    assert reference_loss(resolve(name)[0], 10) == pytest.approx(expected)


@pytest.mark.parametrize(("objectives", "message"), [("density", "put 'error'"), (["error"], "add 'density'")])
def test_objectives_that_cannot_make_a_front_are_refused(objectives, message):
    with pytest.raises(ValueError, match=message):
        check_objectives(objectives)


def test_scores_are_those_of_the_network_with_zeros():
    task_scorer, data = scorer(), digits(300)
    mask = torch.rand(len(task_scorer.theta0), generator=torch.Generator().manual_seed(0)) < 0.7
    network = cnn().eval()
    with torch.no_grad():
        network.conv.weight.mul_(mask[:54].view_as(network.conv.weight))
        network.head.weight.mul_(mask[54:].view_as(network.head.weight))
        predicted = network(data.x).argmax(1)
    found = task_scorer.score(mask, data)
    assert found["accuracy"] == pytest.approx(accuracy_score(data.y, predicted))
    assert found["error"] == pytest.approx(1 - found["accuracy"])
    assert found["density"] == pytest.approx(float(mask.double().mean()))
    pruned = task_scorer.network(mask)
    assert torch.equal(pruned(data.x), network(data.x))
    assert not pruned.training


def test_weights_that_were_zero_count_as_pruned():
    theta0 = torch.tensor([0.0, 1.0, 2.0, 3.0])
    point = as_pruned("", torch.tensor([True, True, False, True]), theta0)
    assert point.kept == 0.5
    assert unpack(point.bits, 4).tolist() == [False, True, False, True]


def test_rescoring_drops_and_counts_exactly_what_falls_behind():
    task_scorer = scorer()
    points = of_thresholds(task_scorer, (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8))
    front = Front(task_scorer, tuple(points), unpruned_point(task_scorer))
    data = digits(80)
    errors = [task_scorer.score(front.mask(point), data)["error"] for point in front.points]
    kept = [point.kept for point in front.points]
    pairs = list(zip(errors, kept, strict=True))
    stays = [not any(e <= pair[0] and k <= pair[1] and (e, k) != pair for e, k in pairs) for pair in pairs]
    rescored = front.rescore(data)
    assert 0 < rescored.num_dropped == stays.count(False)
    assert [point.kept for point in rescored] == [k for k, stay in zip(kept, stays, strict=True) if stay]
    assert rescored.split == "validation" and len(front) == len(points)
    reported = rescored.with_scores(digits(200), "test")
    assert len(reported) == len(rescored) and reported.split == "validation"
    assert reported.points[0].scores["test"] == task_scorer.score(front.mask(reported.points[0]), digits(200))


def test_the_lightest_network_within_the_loss_is_selected():
    front = made_up([(0.1, 1.0), (0.11, 0.8), (0.105, 0.7), (0.12, 0.5), (0.3, 0.2)])
    assert front.select(max_loss=0.005).kept == 0.7
    assert front.select(max_loss=0.02).kept == 0.5
    assert front.select(max_loss=0.0).kept == 1.0
    assert front.select(max_loss=1.0).kept == 0.2
    with pytest.raises(ValueError, match=r"loses at most -0.01 of accuracy: the best has 0.9000, the unpruned 0.9000"):
        front.select(max_loss=-0.01)


def test_the_best_network_of_a_size_is_selected():
    front = made_up([(0.1, 1.0), (0.11, 0.8), (0.105, 0.7), (0.3, 0.2)])
    assert front.select(density=0.9).kept == 0.7
    assert front.select(density=0.2).kept == 0.2
    with pytest.raises(ValueError, match=r"keeps at most 0.1 of the weights: the lightest keeps 0.2000"):
        front.select(density=0.1)


def test_the_knee_is_farthest_from_the_line_between_the_ends():
    pairs = [(0.1, 1.0), (0.11, 0.7), (0.13, 0.5), (0.3, 0.35), (0.8, 0.2)]
    loss, kept = np.array(pairs).T
    loss, kept = (loss - loss.min()) / np.ptp(loss), (kept - kept.min()) / np.ptp(kept)
    distance = (1 - loss - kept) / np.sqrt(2)  # the ends lie on loss + kept = 1
    assert made_up(pairs).select(knee=True).kept == pairs[int(distance.argmax())][1]


def test_a_front_of_one_network_is_a_front():
    front = made_up([(0.1, 1.0)])
    assert front.select(knee=True) is front.points[0]
    assert front.select(max_loss=0.0) is front.points[0]
    assert front.hypervolume() == 0.0
    assert front.table().count("\n") == 3


def test_a_front_without_networks_is_refused():
    with pytest.raises(ValueError, match="needs at least one network"):
        made_up([])


@pytest.mark.parametrize("how", [{}, {"max_loss": 0.1, "knee": True}, {"density": 0.5, "max_loss": 0.1}])
def test_a_network_is_chosen_in_one_way(how):
    with pytest.raises(ValueError, match="exactly one of"):
        made_up([(0.1, 1.0)]).select(**how)


def test_an_unknown_score_and_unknown_samples_are_named():
    front = made_up([(0.1, 1.0)])
    with pytest.raises(ValueError, match=r"no score 'recall'; there are: error"):
        front.select(max_loss=0.1, measure="recall")
    with pytest.raises(ValueError, match=r"no scores on 'test' samples, only on validation: call rescore"):
        front.hypervolume("test")


def test_thinning_keeps_both_ends_and_the_order():
    points = made_up([(0.1, 1 - i / 100) for i in range(90)]).points
    some = thinned(points, 10)
    assert len(some) == 10
    assert (some[0], some[-1]) == (points[0], points[-1])
    steps = np.diff([point.kept for point in some])
    assert (steps < 0).all() and np.ptp(steps) < 0.03
    assert thinned(points, 200) == list(points)


def test_a_network_of_the_front_has_its_zeros_and_nothing_else_changed():
    task_scorer = scorer()
    (point,) = of_thresholds(task_scorer, (0.5,))
    front = Front(task_scorer, (point,), unpruned_point(task_scorer))
    network, original = front.network(point), cnn()
    before = original.state_dict()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"conv.weight", "head.weight"}
    assert int((network.head.weight == 0).sum()) == 270


def test_a_plot_has_the_front_the_baselines_and_the_choice(tmp_path):
    pytest.importorskip("matplotlib")
    front = made_up([(0.1, 1.0), (0.12, 0.5), (0.3, 0.2)])
    baseline = replace(front.points[1], origin="global magnitude")
    figure = replace(front, baselines=(baseline, baseline)).plot(tmp_path / "front.png", chosen=front.points[1])
    axes = figure.axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == ["this front", "global magnitude", "unpruned", "chosen"]
    assert axes.lines[0].get_xydata().tolist() == [[20.0, 0.3], [50.0, 0.12], [100.0, 0.1]]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
