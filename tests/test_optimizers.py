"""Does every optimizer's name stand for its textbook formula, and train a network?"""

import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from evohbde.data import TensorData
from evohbde.gradient_searcher import GradientSearcher
from evohbde.optimizers import NAMED, make_schedule, needs_closure, resolve_optimizer
from evohbde.problem import NetworkProblem
from evohbde.reductions import Identity
from problems.digits import build_mlp, splits
from problems.networks import initialised
from tests.optimizer_formulas import FORMULAS, NUM_STEPS, gradient_by_hand, softmax_regression


def test_the_formulas_are_those_of_the_names():
    assert list(FORMULAS) == list(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_a_named_optimizer_follows_its_formula(name):
    model, data = softmax_regression()
    problem = NetworkProblem(model, data, "accuracy", reduction=Identity, seed=0)
    searcher = GradientSearcher(problem, name, lr=0.3, batch_size=len(data), loss=functional.cross_entropy)
    searcher.run(NUM_STEPS)
    w0 = model.weight.detach().numpy().ravel()
    expected = FORMULAS[name](w0, gradient_by_hand(data), 0.3)
    assert np.abs(expected - w0).max() > 0.001
    # PyTorch keeps the product of NAdam's momenta in float32.
    np.testing.assert_allclose(searcher.center.numpy(), expected, rtol=1e-6 if name == "NAdam" else 1e-9, atol=1e-12)


LEARNING_RATES = {"GD": 0.7, "SGD": 0.08, "mini-batch SGD": 0.3, "momentum": 0.05, "Nesterov": 0.05}
LEARNING_RATES |= {"Adagrad": 0.1, "Adadelta": 4.0, "RMSprop": 3e-3, "Adam": 0.01, "NAdam": 0.01}
LEARNING_RATES |= {"Adamax": 0.02, "Ftrl": 0.2, "AdamW": 0.01}


@pytest.fixture(scope="module")
def clean_digits() -> tuple[TensorData, TensorData]:
    """900 digits to learn and 897 held out, flat."""
    parts = splits(0)
    learnt = [torch.cat([getattr(part, name) for part in parts[:2]]) for name in ("x", "y")]
    return TensorData(learnt[0].flatten(1), learnt[1]), TensorData(parts.test.x.flatten(1), parts.test.y)


@pytest.mark.parametrize("name", LEARNING_RATES)
def test_a_named_optimizer_trains_the_digits_from_a_random_start(name, clean_digits):
    learnt, held_out = clean_digits
    problem = NetworkProblem(initialised(build_mlp, 0), learnt, "accuracy", reduction=Identity, seed=0)
    per_epoch, batch_size = {"GD": (1, None), "SGD": (900, None)}.get(name, (29, 32))
    epochs = {"GD": 250, "SGD": 3}.get(name, 25)
    total = epochs * per_epoch
    searcher = GradientSearcher(
        problem,
        name,
        lr=LEARNING_RATES[name],
        batch_size=batch_size,
        schedule=lambda step: 1 - step / (1.01 * total),
        steps_per_generation=total,
    )
    assert problem.score(searcher.center, learnt)["accuracy"] < 0.25
    searcher.run(1)
    assert searcher.status["pop_best_eval"] >= 0.95
    assert problem.score(searcher.center, held_out)["accuracy"] >= 0.91
    assert problem.num_samples_seen == 900 * (3 * epochs + 1)


@pytest.mark.parametrize(("name", "expected"), [("GD", 50), ("SGD", 1), ("mini-batch SGD", 50), ("Adam", 50)])
def test_a_name_says_how_many_samples_a_step_takes_unless_told(name, expected):
    choice = resolve_optimizer(name)
    assert choice.samples_per_step(None, 50) == expected
    assert choice.samples_per_step(None, 500) == {"GD": 500, "SGD": 1}.get(name, 128)
    assert choice.samples_per_step(7, 50) == 7
    with pytest.raises(ValueError, match="`batch_size` must be at least 1 sample, got 0"):
        choice.samples_per_step(0, 50)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("gd", "GD"),
        ("Mini_Batch_SGD", "mini-batch SGD"),
        ("minibatch sgd", "mini-batch SGD"),
        ("NESTEROV", "Nesterov"),
        ("adam", "Adam"),
        ("FTRL", "Ftrl"),
    ],
)
def test_spelling_makes_no_difference(spelling, name):
    assert resolve_optimizer(spelling) is NAMED[name]


def test_other_names_are_classes_of_torch_and_classes_stand_for_themselves():
    assert resolve_optimizer("rprop").kind is torch.optim.Rprop
    assert resolve_optimizer("LBFGS").kind is torch.optim.LBFGS
    assert resolve_optimizer(torch.optim.ASGD).kind is torch.optim.ASGD


def test_further_names_come_from_pytorch_optimizer():
    pytest.importorskip("pytorch_optimizer")
    w, m = torch.tensor([1.0, -2.0], dtype=torch.float64), np.zeros(2)
    weights, expected = nn.Parameter(w.clone()), w.numpy().copy()
    optimizer = resolve_optimizer("lion").build([weights], 0.1)
    for g in ([0.5, -1.0], [-3.0, 0.2], [0.1, 0.1]):
        weights.grad, g = torch.tensor(g, dtype=torch.float64), np.array(g)
        optimizer.step()
        expected -= 0.1 * np.sign(0.9 * m + 0.1 * g)  # Chen et al. (2023), algorithm 2
        m = 0.99 * m + 0.01 * g
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-12)


def test_without_pytorch_optimizer_an_unknown_name_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(
        ValueError, match=r"unknown optimizer 'lion'; known: GD, .* pip install 'evohbde\[optimizers\]'"
    ):
        resolve_optimizer("lion")
    assert resolve_optimizer("adam") is NAMED["Adam"]


def test_an_unknown_name_is_refused():
    pytest.importorskip("pytorch_optimizer")
    with pytest.raises(ValueError, match=r"unknown optimizer 'adamm'.* or any class of pytorch_optimizer$"):
        resolve_optimizer("adamm")
    with pytest.raises(TypeError, match="expected `optimizer` to be a name or a class"):
        resolve_optimizer(nn.Linear)


@pytest.mark.parametrize(
    ("name", "lr", "options", "remedy"),
    [
        ("adam", -1.0, {}, "`lr` must be a finite number >= 0, got -1.0"),
        ("adam", float("nan"), {}, "`lr` must be a finite number >= 0, got nan"),
        ("adam", 0.1, {"beta": 0.9}, "Adam cannot be made with .*'beta'; see `options`"),
        ("adam", 0.1, {"betas": (2.0, 0.9)}, "Adam cannot be made with .*2.0"),
        ("ftrl", 0.1, {"l1": -1.0}, "`l1` must be a finite number >= 0, got -1.0"),
        ("ftrl", 0.1, {"learning_rate_power": 0.5}, "`learning_rate_power` must not be positive, got 0.5"),
        ("ftrl", 0.0, {}, "`lr` must be above 0, got 0.0"),
    ],
)
def test_options_that_do_not_fit_are_refused(name, lr, options, remedy):
    with pytest.raises(ValueError, match=remedy):
        resolve_optimizer(name).build([nn.Parameter(torch.zeros(2))], lr, options)


def test_options_win_over_those_of_the_name():
    optimizer = resolve_optimizer("nesterov").build([nn.Parameter(torch.zeros(2))], 0.1, {"momentum": 0.5})
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.5, True)


def test_only_lbfgs_needs_a_closure():
    needy = {name for name in (*NAMED, "LBFGS", "Rprop") if needs_closure(built(name))}
    assert needy == {"LBFGS"}


def built(name: str, lr: float = 0.1) -> torch.optim.Optimizer:
    return resolve_optimizer(name).build([nn.Parameter(torch.zeros(2))], lr)


def rates_of(schedule, options=None, num: int = 6) -> list[float]:
    optimizer = built("adam")
    found, rates = make_schedule(schedule, optimizer, options), []
    for _ in range(num):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        found.step()
    return rates


def test_schedules_come_by_name_or_as_a_factor():
    cosine = [0.05 * (1 + np.cos(np.pi * t / 6)) for t in range(6)]
    for name in ("CosineAnnealingLR", "cosine_annealing_lr"):
        assert rates_of(name, {"T_max": 6}) == pytest.approx(cosine)
    assert rates_of("step_lr", {"step_size": 2}) == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert rates_of(lambda step: 1 / (1 + step)) == pytest.approx([0.1 / t for t in range(1, 7)])
    assert make_schedule(None, built("adam")) is None


@pytest.mark.parametrize(
    ("schedule", "options", "remedy"),
    [
        ("cosine", {}, "unknown `schedule` 'cosine'; torch.optim.lr_scheduler has: .*CosineAnnealingLR.* pass a fun"),
        ("step_lr", {}, "StepLR cannot be made with {}: .*step_size.*; see `schedule_options`"),
        ("step_lr", {"step_size": 2, "rate": 3}, "StepLR cannot be made with .*'rate'"),
    ],
)
def test_a_schedule_that_does_not_exist_is_refused(schedule, options, remedy):
    with pytest.raises(ValueError, match=remedy):
        make_schedule(schedule, built("adam"), options)
