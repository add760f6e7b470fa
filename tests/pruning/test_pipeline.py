"""Does one call give a front that holds on samples that no search saw, and keep it on disk?"""

import csv
import json
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

import evohbde
from evohbde.data import TensorData
from evohbde.distillation import Distillation
from evohbde.objectives import Function
from evohbde.pruning.allocated import AllocatedPruning
from evohbde.pruning.baselines import uniform_magnitude_masks
from evohbde.pruning.bits import unpack
from evohbde.pruning.hierarchical import HierarchicalPruning2026
from evohbde.pruning.pipeline import prune
from evohbde.rundir import load_network
from tests.small_networks import cnn, digits, mlp

PRESETS = {"default": AllocatedPruning(), "hierarchical-2026": HierarchicalPruning2026(light_loss=0.2)}


def data():
    """Train, validation and test, all of the digits, apart."""
    everything = digits(600)
    return [everything.subset(torch.arange(start, start + 200)) for start in (0, 200, 400)]


def two_classes(size):
    return TensorData(torch.rand(20, size), torch.arange(20) % 2)


def pruned(preset="default", **options):
    train, validation, test = data()
    options = {"num_evaluations": 150, "validation": validation, "test": test, **options}
    return prune(cnn(), train, preset=PRESETS.get(preset, preset), **options)


@pytest.fixture(scope="module", params=list(PRESETS))
def result(request):
    return pruned(request.param)


def test_the_front_is_scored_on_the_validation_samples(result):
    _, validation, test = data()
    for point in result:
        network = result.network(point)
        for split, samples in (("validation", validation), ("test", test)):
            with torch.no_grad():
                logits = network(samples.x)
            scores = point.scores[split]
            assert scores["accuracy"] == pytest.approx(accuracy_score(samples.y, logits.argmax(1)))
            assert scores["cross_entropy"] == pytest.approx(log_loss(samples.y, logits.double().softmax(1)), rel=1e-4)
        share = sum(int((p != 0).sum()) for p in (network.conv.weight, network.head.weight)) / 594
        assert point.kept == pytest.approx(share)
        assert scores["density"] == pytest.approx(share)


def test_no_network_of_the_front_beats_another(result):
    pairs = [(point.scores["validation"]["error"], point.kept) for point in result]
    for pair in pairs:
        assert not any(a <= pair[0] and b <= pair[1] and (a, b) != pair for a, b in pairs)
    assert result.num_dropped > 0
    assert [kept for _, kept in pairs] == sorted((kept for _, kept in pairs), reverse=True)


def test_the_budget_holds_and_says_what_it_was_spent_on(result):
    assert 100 <= result.num_evaluations <= 150
    rows = result.history.rows
    assert all(one.num_evaluations <= other.num_evaluations for one, other in pairwise(rows))
    scored = len(result) + result.num_dropped
    assert result.num_samples_seen >= rows[-1].num_samples_seen + scored * 200
    assert any(f"{scored} networks were scored on 200 validation samples" in note for note in result.notes)


def test_the_network_given_is_not_changed():
    model = cnn()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prune(model, digits(), num_evaluations=40)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_the_search_beats_uniform_pruning_where_it_hurts(result):
    kept = min(point.kept for point in result if point.scores["validation"]["error"] < 0.5)
    best = result.select(density=kept + 0.1)
    mask = uniform_magnitude_masks(result.scorer.theta0, result.scorer.layout.tensor_index, [1 - best.kept])[0]
    uniform = result.scorer.score(mask, result.test)
    assert best.scores["test"]["accuracy"] > uniform["accuracy"]


def test_equal_seeds_give_equal_fronts_and_other_seeds_others():
    fronts = [[point.bits for point in pruned(seed=seed, num_evaluations=80)] for seed in (1, 1, 2)]
    assert all(torch.equal(one, other) for one, other in zip(*fronts[:2], strict=True))
    assert len(fronts[0]) != len(fronts[2]) or not all(map(torch.equal, fronts[0], fronts[2]))


def test_without_validation_data_a_fifth_of_the_training_data_is_kept_back():
    found = prune(cnn(), digits(200), num_evaluations=40)
    assert len(found.validation) == 40 and len(found.train) == 160
    together = torch.cat([found.validation.x, found.train.x]).flatten(1)
    assert len(together.unique(dim=0)) == len(digits(200).x.flatten(1).unique(dim=0))
    assert found.test is None


@pytest.mark.parametrize("preset", list(PRESETS))
def test_ctrl_c_keeps_what_was_found(preset):
    rows = []

    def stop(row):
        rows.append(row)
        if len(rows) == 2:
            raise KeyboardInterrupt

    found = pruned(preset, on_row=stop)
    assert found.stop_reason == "interrupted"
    assert found.num_evaluations < 150
    assert len(rows) == 2 and len(found) > 1
    assert "validation" in found.points[0].scores


def test_other_objectives_shape_the_front():
    found = pruned(objectives=("cross_entropy", "density"), num_evaluations=80)
    losses = [point.scores["validation"]["cross_entropy"] for point in found]
    assert all(one < other for one, other in pairwise(losses))
    assert found.arguments["objectives"] == ["cross_entropy", "density"]


def test_a_constant_objective_is_said_to_decide_nothing():
    constant = Function(lambda logits, labels: 0.5, sense="min", name="constant")
    found = pruned(HierarchicalPruning2026(), objectives=(constant, "density"), num_evaluations=60)
    assert any("all of them had the same constant, 0.5" in note for note in found.notes)
    assert len(found) == 1


def test_tensors_can_be_left_out():
    found = pruned(include="head.*", num_evaluations=60)
    assert found.scorer.layout.names == ("head.weight",)
    assert all(torch.equal(found.network(point).conv.weight, cnn().conv.weight) for point in found)


MISTAKES = {
    "no data": (lambda: prune(cnn(), (digits().x, digits().y)), TypeError, "wrap it, TensorData"),
    "unknown preset": (lambda: pruned("best"), ValueError, "'best'; known: default, hierarchical-2026"),
    "no budget": (lambda: pruned(num_evaluations=0), ValueError, "`num_evaluations` must be positive, got 0"),
    "nothing to prune": (lambda: prune(nn.Flatten(), two_classes(2)), ValueError, "can be pruned"),
    "no such tensor": (lambda: pruned(include="layer9.*"), ValueError, "no prunable tensor; there are: conv.weight"),
    "a teacher": (
        lambda: pruned(objectives=[Distillation(cnn()), "density"]),
        ValueError,
        r"'distillation', has no worst value.*put 'error'",
    ),
    "no size": (lambda: pruned(objectives="error"), ValueError, "asks for fewer weights: add 'density'"),
    "other data": (lambda: prune(mlp(), two_classes(3)), ValueError, "the model fails"),
    "levels": (lambda: AllocatedPruning(levels=(0.5, 0.3)), ValueError, "`levels` must rise"),
    "limit": (lambda: AllocatedPruning(most=1.5), ValueError, r"`most` must lie in \(0, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_before_any_search(mistake):
    action, kind, message = MISTAKES[mistake]
    with pytest.raises(kind, match=message):
        action()


def test_a_saved_run_has_the_network_the_front_and_the_masks(result, tmp_path):
    pytest.importorskip("matplotlib")
    directory = result.save(tmp_path / "run")
    assert {path.name for path in directory.iterdir()} == {
        "run.json", "history.csv", "network.safetensors", "report.html", "front.csv", "masks.safetensors", "front.png",
        "hypervolume.png",
    }  # fmt: skip
    chosen = result.choose()
    loaded = load_network(cnn(), directory)
    assert torch.equal(loaded(result.test.x), result.network(chosen)(result.test.x))
    record = json.loads((directory / "run.json").read_text())
    assert [entry["name"] for entry in record["entries"]] == [
        "unpruned", result.preset.name, "global magnitude", "uniform magnitude"
    ]  # fmt: skip
    assert record["entries"][1]["scores"]["accuracy"] == pytest.approx(chosen.scores["test"]["accuracy"])
    assert f"{chosen.kept:.1%} are kept" in record["lead"]
    assert record["lead"] in (directory / "report.html").read_text().replace("&#x27;", "'")


def test_masks_and_scores_of_the_front_come_back(result, tmp_path):
    directory = result.save(tmp_path / "run")
    with open(directory / "front.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result) + 1 + len(result.baselines)
    with safe_open(directory / "masks.safetensors", "pt") as file:
        bits, tensors = file.get_tensor("bits"), file.metadata()["tensors"]
    assert tensors == "conv.weight 54\nhead.weight 540"
    for row, point in zip(rows, result, strict=False):
        assert torch.equal(unpack(bits[int(row["row"])], 594), result.mask(point))
        assert float(row["validation_accuracy"]) == point.scores["validation"]["accuracy"]
        assert float(row["kept"]) == point.kept


def test_a_network_that_qualifies_is_chosen_and_else_the_most_accurate(result):
    before = result.unpruned.scores["validation"]["accuracy"]
    assert result.choose().scores["validation"]["accuracy"] >= before - 0.01 - 1e-9


def test_a_run_directory_is_checked_before_the_search(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        pruned(out=tmp_path / "file", on_row=lambda row: pytest.fail("searched first"))
    found = pruned(out=tmp_path / "run", num_evaluations=40)
    assert (tmp_path / "run" / "front.csv").is_file()
    assert evohbde.prune is prune and isinstance(found, evohbde.Front)
