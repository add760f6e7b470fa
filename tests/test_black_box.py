"""Is a function from weights and inputs to outputs searched just like the network that it stands for?"""

import pickle
import threading
from copy import deepcopy

import numpy as np
import pytest
import torch
from evotorch.algorithms import SNES
from torch import Tensor
from torch.func import functional_call

from evohbde import (
    BlackBox,
    BlackBoxProblem,
    Distillation,
    GradientSearcher,
    HistogramBlocking,
    Identity,
    NetworkProblem,
    ParameterLayout,
    SuperBatches,
    TensorData,
    run_until,
    score,
)
from evohbde.searchers import CMAES, DE, NSGA2
from tests.small_networks import digits, f1_of_scikit_learn, mlp

NETWORK = mlp().eval()
LAYOUT = ParameterLayout(NETWORK)
THETA0 = LAYOUT.flatten(NETWORK)
WEIGHTS = {name: value.detach() for name, value in NETWORK.named_parameters()}


def of_vector(theta: Tensor, x: Tensor) -> Tensor:
    return functional_call(NETWORK, LAYOUT.views(theta), (x,))


def of_mapping(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    return functional_call(NETWORK, weights, (x,))


def of_arrays(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The same network written down in NumPy."""
    assert all(type(value) is np.ndarray for value in (*weights.values(), x))
    hidden = np.maximum(x.reshape(len(x), -1) @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    return hidden @ weights["head.weight"].T + weights["head.bias"]


ARRAYS = {name: value.numpy() for name, value in WEIGHTS.items()}


def blocks(theta0: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, 30)


def options(objectives="f1_macro") -> dict:
    return {"data": SuperBatches(digits(), 40), "objectives": objectives, "reduction": blocks, "seed": 5}


SEARCHERS = {
    "DE": lambda problem: DE(problem, popsize=6),
    "CMAES": lambda problem: CMAES(problem, popsize=6, stdev_init=0.1),
    "SNES": lambda problem: SNES(problem, popsize=6, stdev_init=0.1, center_init=problem.center),
}


def story(problem, make_searcher, num_steps: int = 5) -> tuple[Tensor, Tensor, float]:
    torch.manual_seed(0)  # EvoTorch's own searchers draw from the global generator too
    searcher = make_searcher(problem)
    searcher.run(num_steps)
    population = searcher.population
    values, evals = (part.as_subclass(Tensor).clone() for part in (population.values, population.evals))
    return values, evals, problem.num_samples_seen


@pytest.mark.parametrize("objectives", ["f1_macro", "cross_entropy", ["error", "cross_entropy"]])
@pytest.mark.parametrize(("predict", "theta0"), [(of_vector, THETA0), (of_mapping, WEIGHTS)])
def test_the_search_is_that_of_the_network_bit_for_bit(predict, theta0, objectives):
    make = SEARCHERS["DE"] if isinstance(objectives, str) else lambda problem: NSGA2(problem, popsize=6)
    boxed = story(BlackBoxProblem(predict, theta0, **options(objectives)), make)
    plain = story(NetworkProblem(NETWORK, strategy="views", **options(objectives)), make)
    assert torch.equal(boxed[0], plain[0]) and torch.equal(boxed[1], plain[1]) and boxed[2] == plain[2]


@pytest.mark.parametrize("name", SEARCHERS)
def test_every_kind_of_searcher_takes_one(name):
    boxed = story(BlackBoxProblem(of_vector, THETA0, **options("cross_entropy")), SEARCHERS[name])
    plain = story(NetworkProblem(NETWORK, strategy="views", **options("cross_entropy")), SEARCHERS[name])
    assert torch.equal(boxed[0], plain[0]) and torch.equal(boxed[1], plain[1])


def test_numpy_scores_are_those_of_scikit_learn():
    problem = BlackBoxProblem(of_arrays, ARRAYS, digits(), reduction=blocks, seed=0)
    batch = problem.generate_batch(4)
    problem.evaluate(batch)
    expected = [f1_of_scikit_learn(mlp(), problem.decode(z), digits()) for z in batch.values]
    assert batch.evals[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert problem.num_samples_seen == 4 * len(digits())


def test_weights_come_back_in_the_form_they_were_given_in():
    problem = BlackBoxProblem(of_arrays, ARRAYS, digits(), reduction=Identity, seed=0)
    found = problem.make_network(problem.center + 1).weights
    assert list(found) == list(ARRAYS)
    assert all(np.array_equal(found[name], ARRAYS[name] + np.float32(1)) for name in ARRAYS)
    vector = BlackBoxProblem(of_vector, THETA0, digits(), reduction=Identity, seed=0)
    assert torch.equal(vector.make_network(vector.center).weights, THETA0)
    single = BlackBox(lambda weights, x: x @ weights, np.eye(3))
    assert single.weights.dtype == np.float64 and np.array_equal(single.weights, np.eye(3))


def test_what_the_function_does_to_its_weights_stays_with_it():
    def spoil(theta: Tensor, x: Tensor) -> Tensor:
        logits = of_vector(theta, x).clone()
        theta.zero_()
        return logits

    boxed = story(BlackBoxProblem(spoil, THETA0, **options()), SEARCHERS["DE"])
    plain = story(NetworkProblem(NETWORK, strategy="views", **options()), SEARCHERS["DE"])
    assert torch.equal(boxed[1], plain[1])


def test_candidates_without_finite_outputs_lose():
    def fragile(theta: Tensor, x: Tensor) -> Tensor:
        return of_vector(theta, x) + (torch.nan if theta[0] > THETA0[0] else 0.0)

    problem = BlackBoxProblem(fragile, THETA0, digits(), "cross_entropy", reduction=Identity, seed=0)
    searcher = DE(problem, popsize=10)
    searcher.run(3)
    assert torch.isfinite(searcher.population.evals).all()
    batch = problem.generate_batch(20)
    problem.evaluate(batch)
    is_broken = batch.values[:, 0] > THETA0[0]
    assert 0 < int(is_broken.sum()) < 20
    assert torch.equal(batch.evals[:, 0] > 1e30, is_broken)
    assert searcher.status["best"].values[0] <= THETA0[0]


def test_it_stops_at_a_budget_and_learns_from_a_teacher():
    problem = BlackBoxProblem(of_vector, THETA0, digits(), Distillation(mlp()), reduction=blocks, seed=0)
    assert run_until(DE(problem, popsize=6), num_samples=3_000) == "num_samples"
    assert 3_000 - 6 * 120 < problem.num_samples_seen <= 3_000


def test_a_box_is_scored_and_distilled_like_a_network():
    box, data = BlackBox(of_arrays, ARRAYS), digits()
    for name, value in score(NETWORK, data).items():
        assert score(box, data)[name] == pytest.approx(value, abs=1e-6)
    assert score(NETWORK, data, [Distillation(box, alpha=1.0)])["distillation"] == pytest.approx(0, abs=1e-5)


class Session:
    """Stands for an inference engine: cannot be copied or pickled."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        with self._lock:
            return of_vector(theta, x)


class Reopening(Session):
    def __getstate__(self) -> dict:
        return {}

    def __setstate__(self, state: dict) -> None:
        self.__init__()


def test_copies_share_what_cannot_be_copied():
    session = Session()
    problem = BlackBoxProblem(session, THETA0, digits(), reduction=blocks, seed=0)
    first, second = (story(one, SEARCHERS["DE"]) for one in (problem.clone(), problem))
    assert torch.equal(first[1], second[1])
    assert deepcopy(problem.make_network(problem.center))._shared.predict is session


def test_a_pickled_search_goes_on_where_the_function_allows_it():
    searcher = DE(BlackBoxProblem(Reopening(), THETA0, **options()), popsize=6)
    searcher.run(2)
    copy = pickle.loads(pickle.dumps(searcher))
    for one in (searcher, copy):
        one.run(3)
    assert torch.equal(searcher.population.evals, copy.population.evals)


@pytest.mark.slow
def test_actors_change_nothing():
    alone, several = (
        story(BlackBoxProblem(Reopening(), THETA0, num_actors=num, **options("cross_entropy")), SEARCHERS["DE"])
        for num in (0, 2)
    )
    assert torch.equal(alone[0], several[0]) and torch.allclose(alone[1], several[1]) and alone[2] == several[2]


def test_onnx_runtime_is_fed_its_weights():
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs ONNX Runtime: pip install 'evohbde[onnx]'")
    parser = pytest.importorskip("onnx.parser", reason="needs ONNX: pip install 'evohbde[onnx]'")
    graph = """<ir_version: 8, opset_import: ["" : 13]>
    mlp (float[n, 64] x, float[16, 64] w0, float[16] c0, float[10, 16] w1, float[10] c1) => (float[n, 10] y) {
        t0 = Transpose(w0)  p0 = MatMul(x, t0)  s0 = Add(p0, c0)  h = Relu(s0)
        t1 = Transpose(w1)  p1 = MatMul(h, t1)  y = Add(p1, c1) }"""
    session = onnxruntime.InferenceSession(parser.parse_model(graph).SerializeToString())

    def run(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        return session.run(["y"], {"x": x, **weights})[0]

    theta0 = dict(zip(("w0", "c0", "w1", "c1"), ARRAYS.values(), strict=True))
    flat = TensorData(digits().x.flatten(1), digits().y)
    boxed = story(BlackBoxProblem(run, theta0, flat, "cross_entropy", reduction=blocks, seed=5), SEARCHERS["DE"])
    plain = NetworkProblem(NETWORK, digits(), "cross_entropy", reduction=blocks, strategy="views", seed=5)
    torch.testing.assert_close(boxed[1], story(plain, SEARCHERS["DE"])[1], rtol=1e-4, atol=1e-5)


def test_there_are_no_gradients():
    problem = BlackBoxProblem(of_vector, THETA0, digits(), "cross_entropy", reduction=blocks, seed=0)
    with pytest.raises(TypeError, match="a black box has no gradients: use a searcher that needs none"):
        GradientSearcher(problem, "adam").step()


def box(predict, theta0=THETA0, **others):
    return BlackBoxProblem(predict, theta0, digits(), seed=0, **others)


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: box(NETWORK.state_dict()), TypeError, "`predict` to be a function of weights and inputs, got Ordered"),
        (lambda: box(of_vector, [1.0, 2.0]), TypeError, "'theta0' to be a tensor or a NumPy array, .* got list"),
        (lambda: box(of_vector, {"w": 3.0}), TypeError, "'w' to be a tensor or a NumPy array, .* got float"),
        (lambda: box(of_vector, {}), ValueError, "`theta0` is an empty mapping"),
        (lambda: box(of_vector, torch.ones(5, dtype=torch.int8)), TypeError, "search floats and round them inside"),
        (lambda: box(lambda w, x: None), ValueError, "must return a tensor or an array, got NoneType"),
        (lambda: box(lambda w, x: torch.zeros(10)), ValueError, r"scores of shape \(2, C\) for 2 samples, got \(10,\)"),
        (lambda: box(lambda w, x: np.zeros((3, 10))), ValueError, r"shape \(2, C\) for 2 samples, got \(3, 10\)"),
        (lambda: box(lambda w, x: torch.zeros(len(x), 4)), ValueError, "has only 4 outputs"),
        (lambda: box(lambda w, x: x @ w), ValueError, r"fails on inputs of shape \(2, 1, 8, 8\)"),
        (lambda: box(Session(), num_actors=2), TypeError, "`predict` cannot be sent to actors: .*`__setstate__`"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_search(build, kind, message):
    with pytest.raises(kind, match=message):
        build()
