"""Does the one-call job keep its promises?"""

import copy

import pytest
import torch
from torch import nn

from evohbde import TensorData, engine, fine_tune, score
from evohbde.finetune import _splits
from evohbde.hbde_2024 import HBDE2024
from problems.digits import mlp, shifted_mlp


@pytest.fixture(scope="module")
def shifted():
    return shifted_mlp(seed=1)


def tune(task, preset, num_evaluations=500, **options):
    return fine_tune(
        task.model,
        task.train,
        test=task.test,
        preset=preset,
        num_evaluations=num_evaluations,
        **{"seed": 1, "monitor": False, "compare_with_adam": False, **options},
    )


def test_the_default_repairs_a_shifted_network_and_beats_the_published_method_at_ten_times_its_price(shifted):
    ours = tune(shifted, "default", 500)
    published = tune(shifted, HBDE2024(num_bins=100), 5_000)
    untouched = ours.entry("untouched").f1.value
    assert ours.entry("default").f1.value > untouched + 0.12
    assert ours.entry("default").f1.value > published.entry("hbde-2024").f1.value > untouched + 0.05


@pytest.mark.slow
def test_the_margins_that_the_readme_states_hold_over_five_seeds():
    ours, early, published, adam = [], [], [], []
    for seed in range(5):
        task = shifted_mlp(seed=seed)
        result = tune(task, "default", 5_000, seed=seed, compare_with_adam=True)
        ours.append(result.entry("default").f1.value)
        adam.append(result.entry("Adam, same forwards").f1.value)
        early.append(tune(task, "default", 500, seed=seed).entry("default").f1.value)
        published.append(tune(task, HBDE2024(num_bins=100), 5_000, seed=seed).entry("hbde-2024").f1.value)
    mean = {name: sum(values) / 5 for name, values in locals().items() if isinstance(values, list)}
    assert mean["ours"] >= mean["published"] + 0.03
    assert all(mine > theirs for mine, theirs in zip(ours, published, strict=True))
    assert mean["early"] > mean["published"]
    assert mean["ours"] >= mean["adam"] - 0.015


def test_the_published_method_at_ten_thousand_bins_stands_still_on_a_small_network(shifted):
    result = tune(shifted, "hbde-2024", 1_000)
    assert abs(result.entry("hbde-2024").f1.value - result.entry("untouched").f1.value) < 0.01
    assert "can move" in result.notes[0]


@pytest.mark.parametrize("preset", ["default", "hbde-2024"])
def test_a_seed_gives_the_same_network_again_and_leaves_the_global_generator_alone(shifted, preset):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = tune(shifted, preset, 400, compare_with_adam=True)
    assert torch.equal(torch.rand(3), expected)
    second = tune(shifted, preset, 400, compare_with_adam=True)
    for mine, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert first.entries == second.entries
    other_seed = tune(shifted, preset, 400, seed=2)
    assert not torch.equal(next(first.network.parameters()), next(other_seed.network.parameters()))


@pytest.mark.parametrize("preset", ["default", "hbde-2024"])
def test_the_given_model_is_not_touched(shifted, preset):
    before = copy.deepcopy(shifted.model.state_dict())
    tune(shifted, preset, 200)
    for name, value in shifted.model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(("preset", "limit"), [("default", 130), ("default", 777), ("hbde-2024", 250)])
def test_the_evaluation_budget_is_never_exceeded(shifted, preset, limit):
    result = tune(shifted, preset, limit)
    assert 0.5 * limit < result.num_evaluations <= limit
    assert result.history.rows[-1].num_evaluations <= limit


def test_the_sample_budget_is_never_exceeded_and_every_forward_is_counted(shifted):
    result = tune(shifted, "default", None, num_samples=60_000)
    assert 0.9 * 60_000 < result.num_samples_seen <= 60_000


def test_every_sample_pass_of_the_default_is_counted(shifted, monkeypatch):
    """An independent count: samples that pass through the first layer of any copy of the network."""
    seen = []
    original, choose = nn.Module.__call__, engine.choose

    def counting(module, *inputs, **options):
        if isinstance(module, nn.Linear) and module.in_features == 64:
            seen.append(len(inputs[0]))
        return original(module, *inputs, **options)

    def not_counted(*arguments, **options):
        """Which strategy is fast is found without labels or scores."""
        before = len(seen)
        found = choose("views", *arguments[1:], **options)
        del seen[before:]
        return found

    monkeypatch.setattr(engine, "choose", not_counted)
    monkeypatch.setattr(nn.Module, "__call__", counting)
    result = tune(shifted, "default", None, num_samples=40_000, pretrain_epochs=0)
    reported = len(shifted.test) * 4 + 2 * 2  # judging two networks twice, and the check of the model's outputs
    stray = sum(seen) - result.num_samples_seen - reported
    assert abs(stray) < 0.03 * result.num_samples_seen


def test_a_network_that_cannot_be_improved_is_given_back_unchanged():
    """Clean digits: nothing to repair, and the gate says so."""
    task = mlp(seed=0)
    result = fine_tune(
        task.model, task.train, test=task.test, num_evaluations=600, seed=0, monitor=False, compare_with_adam=False
    )
    assert result.entry("default").f1.value >= result.entry("untouched").f1.value - 0.005


def test_scores_in_the_table_are_those_of_the_network_on_the_test_set(shifted):
    result = tune(shifted, "default", 200)
    assert result.entry("default").scores == score(result.network, shifted.test)
    assert result.num_held_out == len(shifted.test)
    assert "default" in result.table()


def test_reported_samples_are_never_searched_on():
    x = torch.arange(100.0)[:, None]
    data = TensorData(x, torch.arange(100) % 4)
    train, validation, test = _splits(data, None, None, 0, torch.device("cpu"))
    assert validation is None
    assert set(train.x[:, 0].tolist()).isdisjoint(test.x[:, 0].tolist())
    assert len(train) + len(test) == 100
    other = TensorData(x + 1_000, torch.arange(100) % 4)
    train, validation, test = _splits(data, other, None, 0, torch.device("cpu"))
    assert len(train) == 100
    assert set(validation.x[:, 0].tolist()).isdisjoint(test.x[:, 0].tolist())


def test_ctrl_c_in_the_search_returns_what_was_found(shifted):
    rows = []

    def stop(row):
        rows.append(row)
        if len(rows) == 12:
            raise KeyboardInterrupt

    result = tune(shifted, "default", 2_000, on_row=stop, compare_with_adam=True)
    assert result.stop_reason == "interrupted"
    assert result.num_evaluations < 300
    assert [entry.name for entry in result.entries] == ["untouched", "default"]


def test_untrained_models_are_refused_with_the_remedy_and_trained_on_request(shifted):
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    nn.init.zeros_(model[2].weight)
    with pytest.raises(ValueError, match=r"looks untrained.*pretrain_epochs=10"):
        fine_tune(model, shifted.train, test=shifted.test, num_evaluations=200)
    result = fine_tune(
        model, shifted.train, test=shifted.test, num_evaluations=200, pretrain_epochs=40, compare_with_adam=False
    )
    assert "pre-trained with Adam for 40 epochs" in result.notes[0]
    assert result.entry("untouched").scores["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "best"}, "unknown `preset` 'best'; known: default, hbde-2024"),
        ({"num_evaluations": 0}, "`num_evaluations` must be positive"),
        ({"num_samples": -5}, "`num_samples` must be positive"),
        ({"preset": HBDE2024(inject="both")}, "`inject` must be 'none' or 'first'"),
    ],
)
def test_wrong_arguments_are_named(shifted, change, message):
    with pytest.raises(ValueError, match=message):
        fine_tune(shifted.model, shifted.train, test=shifted.test, **change)


def test_data_that_are_not_wrapped_are_refused(shifted):
    with pytest.raises(TypeError, match="wrap it"):
        fine_tune(shifted.model, shifted.train.x)
