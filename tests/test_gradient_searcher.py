"""Does a gradient optimizer search the same problem by the same accounts, and go on after a copy?"""

import copy
import pickle
import random
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from evohbde import GradientSearcher
from evohbde.data import SuperBatches, TensorData
from evohbde.gradient import train
from evohbde.objectives import Divergence, Function
from evohbde.problem import NetworkProblem, ReducedProblem
from evohbde.reductions import HistogramBlocking, Identity, RandomProjection
from evohbde.run import run_until
from tests.optimizer_formulas import gradient_by_hand, softmax_regression
from tests.small_networks import cnn, digits, f1_of_scikit_learn, mlp

DATA = digits(60)


def problem_of(build=mlp, data=DATA, objectives="f1_macro", **options) -> NetworkProblem:
    return NetworkProblem(build(), data, objectives, **{"reduction": Identity, "seed": 4, **options})


def state_of(searcher: GradientSearcher) -> Tensor:
    population = searcher.population
    return torch.cat([population.values.as_subclass(Tensor), population.evals.as_subclass(Tensor)], dim=1)


def jacobian_by_hand(reduction) -> np.ndarray:
    """d theta / d z of reductions that are affine: one column per unit step, `(D, d)`."""
    if isinstance(reduction, RandomProjection):
        return reduction.entries.numpy()
    return (reduction.block.numpy()[:, None] == np.arange(reduction.dim)).astype(float)


@pytest.mark.parametrize(
    "reduction",
    [
        lambda theta: HistogramBlocking(theta, 5),
        lambda theta: HistogramBlocking(theta, 5, mode="offset"),
        lambda theta: RandomProjection(theta, 4),
        lambda theta: Identity(theta, "offset"),
    ],
)
@pytest.mark.parametrize("pull", [0.0, 0.3])
def test_a_reduced_step_is_the_chain_rule(reduction, pull):
    model, data = softmax_regression()
    problem = NetworkProblem(model, data, "accuracy", reduction=reduction, pull=pull, seed=0)
    found, gradient = problem.reduction, gradient_by_hand(data)
    start = problem.center + 0.2
    searcher = GradientSearcher(problem, "GD", lr=0.5, loss=functional.cross_entropy, center_init=start)
    jacobian = np.eye(12) if isinstance(found, Identity) else jacobian_by_hand(found)
    z, center = start.numpy().copy(), problem.center.numpy()
    origin = problem.decode(problem.center).numpy()
    for _ in range(3):
        searcher.run(1)
        theta = origin + jacobian @ (z - center)
        z = z - 0.5 * (jacobian.T @ gradient(theta) + 2 * pull * (z - center))
        np.testing.assert_allclose(searcher.center.numpy(), z, rtol=1e-9, atol=1e-12)


def test_the_status_tells_point_loss_rate_and_score():
    model, problem = mlp(), problem_of()
    searcher = GradientSearcher(problem, "GD", lr=0.1, schedule=lambda step: 0.5**step)
    before = searcher.center
    searcher.run(2)
    status = searcher.status
    assert torch.equal(status["center"], searcher.population.values[0]) and not torch.equal(searcher.center, before)
    assert status["pop_best_eval"] == pytest.approx(f1_of_scikit_learn(model, searcher.center, DATA), abs=1e-6)
    assert status["lr"] == pytest.approx(0.1 / 4)
    twin = GradientSearcher(problem_of(), "GD", lr=0.1)
    twin.run(1)
    with torch.no_grad():
        loss = functional.cross_entropy(twin.problem.make_network(twin.center)(DATA.x), DATA.y)
    assert status["loss"] == pytest.approx(float(loss), rel=1e-5), "the loss met on the way, before the step was taken"
    assert 0 < status["num_evaluations"] == problem.num_evaluations == 2


def test_it_agrees_with_training_where_evaluation_mode_is_all_there_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    searcher = GradientSearcher(NetworkProblem(model, DATA, reduction=Identity, seed=1), "GD", lr=0.5)
    searcher.run(5)
    trained = train(model, DATA, num_samples=3 * 5 * len(DATA), optimizer="GD", lr=0.5)
    torch.testing.assert_close(searcher.center, nn.utils.parameters_to_vector(trained.parameters()).detach())


def test_batch_norm_statistics_stay_and_dropout_is_off():
    model, problem = cnn(), problem_of(cnn, objectives="cross_entropy")
    buffers = [buffer.clone() for buffer in model.buffers()]
    searcher = GradientSearcher(problem, "adam", lr=0.01, batch_size=1)
    searcher.run(3)
    network = problem.make_network(searcher.center)
    assert all(torch.equal(one, other) for one, other in zip(buffers, network.buffers(), strict=True))
    with torch.no_grad():
        loss = functional.cross_entropy(network(DATA.x), DATA.y)
    assert searcher.status["pop_best_eval"] == pytest.approx(float(loss), rel=1e-5)


def test_the_model_and_what_is_not_searched_are_left_alone():
    model = mlp()
    model.zero_grad()
    model.hidden.requires_grad_(False)
    given = copy.deepcopy(model.state_dict())
    problem = NetworkProblem(model, DATA, reduction=Identity, seed=0)
    searcher = GradientSearcher(problem, lr=0.1)
    searcher.run(2)
    network = problem.make_network(searcher.center)
    assert torch.equal(network.hidden.weight, given["hidden.weight"])
    assert not torch.equal(network.head.weight, given["head.weight"])
    assert all(torch.equal(value, given[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def watched_loss(seen: list[Tensor]):
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append(labels)
        return functional.cross_entropy(logits, labels)

    return loss


def test_an_epoch_visits_every_sample_once_in_a_new_order():
    data, seen = TensorData(DATA.x[:10], torch.arange(10)), []
    searcher = GradientSearcher(problem_of(data=data), "mini-batch SGD", batch_size=4, loss=watched_loss(seen))
    searcher.run(2)
    assert [len(labels) for labels in seen] == [4, 4, 2, 4, 4, 2]
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(10))
    assert not torch.equal(first, second)


def test_a_full_batch_is_in_the_order_of_the_data_and_may_be_distilled():
    reference = cnn().eval()(DATA.x).detach()
    searcher = GradientSearcher(problem_of(cnn), "GD", lr=0.1, loss=Divergence(reference))
    searcher.run(1)
    assert searcher.status["loss"] == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=25)
@given(batch_size=st.integers(1, 30), steps=st.one_of(st.none(), st.integers(1, 7)), budget=st.integers(1, 900))
def test_a_budget_of_samples_is_spent_as_far_as_whole_steps_go(batch_size, steps, budget):
    data = TensorData(DATA.x[:20], DATA.y[:20])
    problem = NetworkProblem(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), data, reduction=Identity, seed=0)
    searcher = GradientSearcher(problem, batch_size=batch_size, steps_per_generation=steps)
    assert run_until(searcher, num_samples=budget) == "num_samples"
    sizes = [min(batch_size, 20 - start) for start in range(0, 20, batch_size)]
    steps, position, spent = steps or len(sizes), 0, []
    while sum(spent) <= budget or len(spent) < 2:
        taken = [sizes[(position + i) % len(sizes)] for i in range(steps)]
        position += steps
        spent.append(3 * sum(taken) + 20)
    assert problem.num_samples_seen == max(spent[0], sum(spent[:-1]) if sum(spent) > budget else sum(spent))
    assert problem.num_samples_seen == problem.status["num_samples_seen"] <= max(budget, spent[0])


def test_a_budget_of_evaluations_is_kept_exactly():
    searcher = GradientSearcher(problem_of())
    assert run_until(searcher, num_evaluations=5) == "num_evaluations"
    assert searcher.problem.num_evaluations == searcher.step_count == 5


def test_what_lbfgs_computes_is_counted():
    seen: list[Tensor] = []
    searcher = GradientSearcher(
        problem_of(objectives="cross_entropy"), "lbfgs", lr=1.0, batch_size=60, loss=watched_loss(seen)
    )
    searcher.run(3)
    assert len(seen) > 10
    assert searcher.problem.num_samples_seen == 3 * 60 * len(seen) + 3 * 60
    assert searcher.status["best_eval"] < 0.1


RECIPES = {
    "Adam": {"optimizer": "adam", "lr": 0.01},
    "SGD": {"optimizer": "sgd", "lr": 0.01},
    "Ftrl": {"optimizer": "ftrl", "lr": 0.1},
    "Nesterov, cosine": {
        "optimizer": "nesterov",
        "lr": 0.1,
        "schedule": "cosine_annealing_lr",
        "schedule_options": {"T_max": 30},
    },
    "Adam, one cycle": {
        "optimizer": "adam",
        "schedule": "one_cycle_lr",
        "schedule_options": {"max_lr": 0.05, "total_steps": 60},
    },
    "momentum, plateau": {
        "optimizer": "momentum",
        "lr": 0.1,
        "schedule": "reduce_lr_on_plateau",
        "schedule_options": {"patience": 1},
    },
    "LBFGS": {"optimizer": "lbfgs", "lr": 0.5, "batch_size": 60, "options": {"max_iter": 4}},
    "Lion": {"optimizer": "lion"},
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda searcher: pickle.loads(pickle.dumps(searcher))])
@pytest.mark.parametrize("reduction", [Identity, lambda theta: HistogramBlocking(theta, 14)])
def test_a_copy_made_mid_run_continues_bit_for_bit(name, copied, reduction):
    if name == "Lion":
        pytest.importorskip("pytorch_optimizer")
    problem = problem_of(data=SuperBatches(DATA, 20), objectives="cross_entropy", reduction=reduction)
    searcher = GradientSearcher(problem, steps_per_generation=4, **{"batch_size": 16, **RECIPES[name]})
    searcher.run(2)
    twin = copied(searcher)
    kept = state_of(twin)
    searcher.run(3)
    assert torch.equal(state_of(twin), kept), "a copy shares nothing with the original"
    twin.run(3)
    assert torch.equal(state_of(searcher), state_of(twin))
    assert searcher.status["lr"] == twin.status["lr"] and searcher.status["loss"] == twin.status["loss"]
    assert searcher.problem.num_samples_seen == twin.problem.num_samples_seen


class Noisy(nn.Module):
    """Draws from the global generator in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.dropout(x.flatten(1), 0.5, training=torch.is_grad_enabled()))


def noisy() -> Noisy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Noisy()


@pytest.mark.parametrize("build", [mlp, noisy])
def test_a_seed_gives_the_same_search_and_global_generators_are_left_alone(build):
    runs, problems = [], [problem_of(build, objectives="cross_entropy", seed=seed) for seed in (4, 4, 5)]
    for step, problem in enumerate(problems):
        torch.manual_seed(step)
        state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        searcher = GradientSearcher(problem, batch_size=16)
        searcher.run(2)
        assert torch.equal(torch.get_rng_state(), state[0])
        assert (random.getstate(), np.random.get_state()[1].tolist()) == state[1:]  # noqa: NPY002
        runs.append(state_of(searcher))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_layer_wise_optimizers_see_the_layers_in_the_full_space_only():
    class Seeing(torch.optim.SGD):
        def __init__(self, params, lr):
            self.shapes = [tuple(parameter.shape) for parameter in params]
            super().__init__(params, lr)

    def shapes_of(reduction) -> list[tuple]:
        return GradientSearcher(problem_of(reduction=reduction), Seeing)._optimizer.shapes

    assert shapes_of(Identity) == [tuple(parameter.shape) for parameter in mlp().parameters()]
    assert shapes_of(lambda theta: RandomProjection(theta, 7)) == [(7,)]


def test_several_objectives_are_reported_and_the_loss_is_another_thing():
    problem = problem_of(objectives=("f1_macro", "density"))
    searcher = GradientSearcher(problem, lr=0.01)
    searcher.run(2)
    expected = f1_of_scikit_learn(mlp(), searcher.center, DATA)
    assert searcher.status["obj0_pop_best_eval"] == pytest.approx(expected, abs=1e-6)


def test_an_objective_to_be_maximised_is_climbed():
    def margin(logits: Tensor, labels: Tensor) -> Tensor:
        return -functional.cross_entropy(logits, labels)

    up, down = problem_of(), problem_of()
    for problem, loss in ((up, Function(margin, sense="max")), (down, "cross_entropy")):
        searcher = GradientSearcher(problem, "GD", lr=0.2, loss=loss)
        searcher.run(3)
        problem.found = searcher.center
    torch.testing.assert_close(up.found, down.found, rtol=1e-4, atol=1e-5)


def infinite_at(call: int):
    calls = iter(range(1, 100))

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits, labels) * (torch.inf if next(calls) >= call else 1)

    return loss


@pytest.mark.parametrize("reduction", [Identity, lambda theta: HistogramBlocking(theta, 14)])
@pytest.mark.parametrize(("lr", "failing", "loss"), [(0.1, 1, infinite_at), (0.1, 3, infinite_at), (1e37, 2, None)])
def test_a_loss_that_explodes_stops_the_run_at_a_point_of_finite_loss(reduction, lr, failing, loss):
    problem = problem_of(objectives="cross_entropy", reduction=reduction)
    searcher = GradientSearcher(problem, "GD", lr=lr, loss=loss(failing) if loss else "cross_entropy")
    points = [searcher.center]
    searcher.after_step_hook.append(lambda: points.append(searcher.center))
    with pytest.raises(
        FloatingPointError, match=f"in step {failing} with `lr`={re.escape(str(lr))}: start a new searcher with a low"
    ):
        searcher.run(5)
    assert len(points) == failing
    assert torch.equal(searcher.center, points[max(0, failing - 2)]), "where the last good step began"
    again = GradientSearcher(problem, "GD", lr=0.1, center_init=searcher.center)
    again.run(1)
    assert np.isfinite(again.status["loss"])


@pytest.mark.parametrize(
    ("options", "error", "remedy"),
    [
        ({"optimizer": "adamm"}, ValueError, "unknown optimizer 'adamm'"),
        ({"lr": -1.0}, ValueError, "`lr` must be a finite number >= 0, got -1.0"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1 sample, got 0"),
        ({"steps_per_generation": 0}, ValueError, "`steps_per_generation` must be at least 1, got 0"),
        ({"schedule": "cosine"}, ValueError, "unknown `schedule` 'cosine'"),
        ({"options": {"beta": 1}}, ValueError, "Adam cannot be made with"),
        ({"loss": "hinge"}, ValueError, "unknown objective 'hinge'"),
        ({"loss": "density"}, TypeError, "`loss` 'density' judges weights, not outputs"),
        ({"loss": 3}, TypeError, "expected an objective's name or instance, got 3"),
        ({"center_init": torch.zeros(3)}, ValueError, r"expected `center_init` of 1210 values, got shape \(3,\)"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(options, error, remedy):
    problem = problem_of()
    with pytest.raises(error, match=remedy):
        GradientSearcher(problem, **options)
    assert problem.num_samples_seen == 0


@pytest.mark.parametrize(
    ("loss", "name"), [("f1_macro", "f1_macro"), (lambda logits, labels: logits.detach().mean(), "<lambda>")]
)
def test_a_loss_without_a_gradient_is_refused_by_name(loss, name):
    searcher = GradientSearcher(problem_of(), loss=loss)
    with pytest.raises(ValueError, match=f"`loss` '{name}' must give one number that has a gradient.*'cross_entropy'"):
        searcher.step()


def test_a_problem_without_a_network_is_refused():
    inner = problem_of()
    outer = ReducedProblem(inner, RandomProjection(inner.center, 5))
    with pytest.raises(TypeError, match="expected `problem` to be a NetworkProblem, got ReducedProblem"):
        GradientSearcher(outer)


@pytest.mark.slow
def test_actors_change_nothing():
    import ray

    ray.shutdown()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        runs = []
        for num_actors in (0, 2):
            problem = problem_of(data=SuperBatches(DATA, 20), num_actors=num_actors)
            searcher = GradientSearcher(problem, batch_size=16)
            assert run_until(searcher, num_samples=1_000) == "num_samples"
            runs.append((state_of(searcher), problem.num_samples_seen, searcher.status["best_eval"]))
            problem.kill_actors()
    finally:
        ray.shutdown()
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]
