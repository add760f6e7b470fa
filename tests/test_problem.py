"""Are networks scored as they would be alone, and is nothing else changed?"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from evohbde import evaluator
from evohbde.data import SuperBatches, TensorData
from evohbde.layout import ParameterLayout
from evohbde.objectives import CrossEntropy, Function
from evohbde.outputs import score
from evohbde.problem import NetworkProblem
from evohbde.reductions import HistogramBlocking, Identity, RandomBlocking
from evohbde.strategies import batched
from tests.small_networks import cnn, digits, f1_of_scikit_learn, mlp

DATA = digits()


def few_bins(theta0: Tensor) -> HistogramBlocking:
    return HistogramBlocking(theta0, 30)


def problem_of(model: nn.Module | None = None, data=DATA, objectives="f1_macro", **options) -> NetworkProblem:
    options.setdefault("reduction", few_bins)
    options.setdefault("seed", 1)
    return NetworkProblem(model or mlp(), data, objectives, **options)


def scores_of(problem: NetworkProblem, z: Tensor) -> Tensor:
    batch = problem.generate_batch(len(z))
    batch.set_values(z)
    problem.evaluate(batch)
    return batch.evals.as_subclass(Tensor).clone()


def candidates(problem: NetworkProblem, num: int = 12) -> Tensor:
    """Spread far enough that the scores differ."""
    noise = torch.randn(num, problem.solution_length, generator=torch.Generator().manual_seed(2))
    return problem.center + 0.1 * noise


@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("reduction", [few_bins, Identity, lambda theta0: RandomBlocking(theta0, 20)])
def test_scores_equal_scikit_learn_on_each_network_alone(build, reduction):
    model = build()
    problem = problem_of(model, reduction=reduction, batch_size=50)
    z = candidates(problem)
    expected = [f1_of_scikit_learn(model, problem.decode(one), DATA) for one in z]
    assert len(set(expected)) > 3
    assert scores_of(problem, z)[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_default_reduction_is_the_published_blocking():
    problem = NetworkProblem(mlp(), DATA)
    published = HistogramBlocking(ParameterLayout(mlp()).flatten(mlp()))
    assert problem.solution_length == published.dim
    assert torch.equal(problem.initial_lower_bounds.as_subclass(Tensor), published.lower)
    assert torch.equal(problem.initial_upper_bounds.as_subclass(Tensor), published.upper)


def test_several_objectives_have_their_own_senses_and_columns():
    model = mlp()
    problem = problem_of(model, objectives=("f1_macro", "density", CrossEntropy()), reduction=Identity)
    assert problem.senses == ["max", "min", "min"]
    assert problem.objective_names == ("f1_macro", "density", "cross_entropy")
    z = candidates(problem)
    z[3, ::2] = 0
    scores = scores_of(problem, z)
    single = scores_of(problem_of(model, reduction=Identity), z)
    assert torch.equal(scores[:, :1], single)
    assert scores[:, 1].tolist() == pytest.approx([0.5 if i == 3 else 1.0 for i in range(len(z))], abs=1e-3)
    for one, loss in zip(z, scores[:, 2].tolist(), strict=True):
        network = problem.make_network(one)
        assert loss == pytest.approx(nn.functional.cross_entropy(network(DATA.x), DATA.y).item(), rel=1e-5)


@pytest.mark.parametrize("build", [mlp, cnn])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_that_is_given_stays_as_it_is(build, training):
    model = build().train(training)
    kept = copy.deepcopy(model)
    places = [parameter.data_ptr() for parameter in model.parameters()]
    problem = problem_of(model)
    scores_of(problem, candidates(problem))
    problem.make_network(candidates(problem)[0])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), kept.state_dict().values(), strict=True))
    assert [module.training for module in model.modules()] == [module.training for module in kept.modules()]
    assert [parameter.data_ptr() for parameter in model.parameters()] == places
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_changing_the_model_later_does_not_change_the_problem():
    model = mlp()
    problem = problem_of(model)
    before = scores_of(problem, candidates(problem))
    nn.init.zeros_(model.hidden.weight)
    assert torch.equal(scores_of(problem, candidates(problem)), before)


def test_BatchNorm_keeps_its_statistics():
    problem = problem_of(cnn())
    kept = {name: buffer.clone() for name, buffer in cnn().named_buffers()}
    scores_of(problem, candidates(problem))
    networks = [problem._evaluator.engine.working.network, problem.make_network(candidates(problem)[0])]
    for network in networks:
        assert all(torch.equal(buffer, kept[name]) for name, buffer in network.named_buffers())
        assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("build", [mlp, cnn])
def test_scores_do_not_depend_on_order_neighbours_or_pieces(build, monkeypatch):
    problem = problem_of(build(), objectives=("f1_macro", "cross_entropy"))
    z = candidates(problem, 20)
    together = scores_of(problem, z)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    assert torch.equal(scores_of(problem, z[order]), together[order])
    assert torch.equal(torch.cat([scores_of(problem, one[None]) for one in z]), together)
    for limit in ("HOT_BYTES", "LOGIT_BYTES"):
        monkeypatch.setattr(evaluator, limit, 3 * 120 * 10 * 4)
        assert torch.equal(scores_of(problem, z), together)


@pytest.mark.parametrize("pieces", [{"subbatch_size": 7}, {"num_subbatches": 3}, {}])
@pytest.mark.parametrize(("strategy", "group"), [("views", 1), ("batched", 1), ("batched", 3), ("vmap", 3)])
def test_never_more_candidates_are_expanded_at_once_than_a_group_has_room_for(pieces, strategy, group, monkeypatch):
    calls = {"expand": [], "expand_into": []}
    for name in calls:
        original = getattr(RandomBlocking, name)

        def spy(self, z: Tensor, *rest: Tensor, name=name, original=original) -> Tensor:
            calls[name].append(tuple(z.shape))
            return original(self, z, *rest)

        monkeypatch.setattr(RandomBlocking, name, spy)
    # Outputs of 120 samples of the widest layer, or all weights, of so many candidates.
    numbers = {"views": 0, "batched": 120 * 16, "vmap": 120 * 64}[strategy]
    monkeypatch.setattr(batched, "GROUP_BYTES", group * 4 * numbers + 3)
    problem = problem_of(reduction=lambda theta0: RandomBlocking(theta0, 30), strategy=strategy, **pieces)
    z = candidates(problem, 20)
    scores_of(problem, z[:1])  # the proof of the strategy expands the network as given
    calls["expand"].clear(), calls["expand_into"].clear()
    scores_of(problem, z)
    assert calls["expand"] == []
    if strategy == "views":
        assert calls["expand_into"] == [(30,)] * 20
    else:
        sizes = [group] * (20 // group) + [20 % group] * (20 % group > 0)
        assert calls["expand_into"] == [(size, 30) for size in sizes]


@pytest.mark.parametrize("kind", ["solution", "vector", "row", "list", "float64"])
def test_a_candidate_may_come_in_any_form(kind):
    problem = problem_of()
    batch = problem.generate_batch(3)
    z = batch.values[1].as_subclass(Tensor).clone()
    given = {"solution": batch[1], "vector": z, "row": z[None], "list": z.tolist(), "float64": z.double()}[kind]
    theta = problem.decode(given)
    assert type(theta) is Tensor and theta.shape == (problem.layout.size,)
    assert torch.allclose(theta.float(), problem.reduction.expand(z))
    network = problem.make_network(given)
    assert torch.allclose(problem.layout.flatten(network), problem.reduction.expand(z))
    assert all(type(parameter) is nn.Parameter for parameter in network.parameters())
    assert problem.score(given, DATA) == score(network, DATA)
    assert problem.score(given, DATA)["f1_macro"] == pytest.approx(scores_of(problem, z[None]).item(), abs=1e-6)


@pytest.mark.parametrize("shape", [(31,), (2, 30), (29,), ()])
def test_anything_but_one_candidate_is_refused(shape):
    problem = problem_of(reduction=lambda theta0: RandomBlocking(theta0, 30))
    for method in (problem.decode, problem.make_network):
        with pytest.raises(ValueError, match="expected one candidate of 30 values, got shape"):
            method(torch.zeros(shape))


def test_a_made_network_is_independent_of_the_problem():
    problem = problem_of()
    z = candidates(problem)
    before = scores_of(problem, z)
    network = problem.make_network(z[0])
    nn.init.zeros_(network.head.weight)
    assert torch.equal(scores_of(problem, z), before)
    assert not torch.equal(problem.make_network(z[0]).head.weight, network.head.weight)


def test_a_network_is_scored_by_any_objectives_on_any_data():
    problem, model = problem_of(), mlp()
    nn.init.zeros_(model.head.weight)
    found = problem.score(model, DATA, ["f1_macro", "density", "error"])
    assert list(found) == ["f1_macro", "density", "error"]
    theta = problem.layout.flatten(model)
    assert found["f1_macro"] == pytest.approx(f1_of_scikit_learn(model, theta, DATA))
    assert found["density"] == pytest.approx(float((theta != 0).double().mean()))
    assert model.training
    half = DATA.subset(torch.arange(60))
    assert problem.score(model, half)["accuracy"] == pytest.approx(
        float((model.eval()(half.x).argmax(1) == half.y).double().mean())
    )


def test_scoring_puts_back_the_mode_of_each_module():
    model = cnn().train()
    model.norm.eval()
    before = [module.training for module in model.modules()]
    assert score(model, DATA) == score(model.eval(), DATA)
    model.train()
    model.norm.eval()
    score(model, DATA)
    assert [module.training for module in model.modules()] == before


def test_your_own_metric_sees_plain_tensors_of_one_network_at_a_time():
    seen = []

    def confidence(logits: Tensor, labels: Tensor) -> Tensor:
        seen.append((type(logits), type(labels), tuple(logits.shape)))
        logits[0] = 0.0  # writing is allowed: nothing read-only leaks
        return logits[1:].softmax(-1).amax()

    problem = problem_of(objectives=Function(confidence, sense="min"))
    scores_of(problem, candidates(problem, 4))
    assert seen == [(Tensor, Tensor, (120, 10))] * 4
    assert problem.objective_names == ("confidence",)


def test_a_network_with_outputs_that_are_not_finite_is_the_worst():
    problem = problem_of(objectives=("f1_macro", "cross_entropy"), reduction=Identity)
    z = candidates(problem)
    z[4] = math.inf
    z[7, -1] = math.nan
    scores = scores_of(problem, z)
    largest = torch.finfo(torch.float32).max
    assert scores[4].tolist() == scores[7].tolist() == [-largest, largest]
    rest = [i for i in range(len(z)) if i not in (4, 7)]
    assert bool((scores[rest].abs() < 100).all())


def test_frozen_parameters_are_not_searched():
    model = cnn()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.startswith("conv"))
    problem = problem_of(model)
    assert not any(name.startswith("conv") for name in problem.layout.names)
    assert problem.layout.size == sum(p.numel() for p in model.parameters() if p.requires_grad)
    network = problem.make_network(candidates(problem)[0])
    assert torch.equal(network.conv.weight, model.conv.weight)
    assert not torch.equal(network.head.weight, model.head.weight)
    assert [p.requires_grad for p in network.parameters()] == [p.requires_grad for p in model.parameters()]


def test_double_precision_is_kept():
    data = TensorData(DATA.x.double(), DATA.y)
    problem = problem_of(mlp().double(), data=data, objectives="cross_entropy")
    assert problem.dtype == problem.eval_dtype == torch.float64
    z = candidates(problem).double()
    single = scores_of(problem_of(objectives="cross_entropy"), z.float())
    assert torch.allclose(scores_of(problem, z).float(), single, atol=1e-5)


class Fails(nn.Module):
    def __init__(self, output) -> None:
        super().__init__()
        self.linear, self.output = nn.Linear(64, 10), output

    def forward(self, x: Tensor):
        return self.output(self.linear(x.flatten(1)))


def frozen() -> nn.Module:
    return mlp().requires_grad_(False)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": nn.Linear(64, 10)}, ValueError, r"model fails on inputs of shape \(2, 1, 8, 8\)"),
        ({"model": Fails(lambda out: out[:, :, None])}, ValueError, r"scores of shape \(2, C\), got \(2, 10, 1\)"),
        ({"model": Fails(lambda out: out[:1])}, ValueError, r"scores of shape \(2, C\), got \(1, 10\)"),
        ({"model": Fails(lambda out: out[:, :7])}, ValueError, r"labels reach 9 but the model has only 7 outputs"),
        ({"model": Fails(lambda out: (out, out))}, ValueError, r"scores of shape \(2, C\), got tuple"),
        ({"model": frozen()}, ValueError, r"all 4 matching parameters are frozen"),
        ({"model": "resnet18"}, TypeError, r"expected `model` to be a torch\.nn\.Module, got str"),
        ({"data": (DATA.x, DATA.y)}, TypeError, r"TensorData or SuperBatches, got tuple: wrap it, TensorData\(x, y\)"),
        ({"objectives": "f1"}, ValueError, r"unknown objective 'f1'; known: f1_macro"),
        ({"objectives": []}, ValueError, r"`objectives` is empty"),
        ({"objectives": [len]}, TypeError, r"expected an objective's name or instance"),
        ({"reduction": Identity(torch.ones(7))}, ValueError, r"built for 7 weights, the layout has 1210"),
        ({"reduction": lambda theta0: theta0}, TypeError, r"a Reduction or a function that makes one, got Tensor"),
        ({"layout": ParameterLayout(cnn())}, ValueError, r"the model does not fit this layout: expected 'conv"),
        ({"batch_size": 0}, ValueError, r"`batch_size` must be at least 1 sample, got 0"),
        ({"stages": ["head"]}, ValueError, r"does not reproduce the model's outputs"),
        (
            {"num_actors": 2, "data": SuperBatches(DATA, 20, advance=100)},
            ValueError,
            r"needs num_actors=0: use SuperBatches\(advance='generation'\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        problem_of(**arguments).evaluate(problem_of(**arguments).generate_batch(2))


def test_empty_data_are_refused():
    with pytest.raises(ValueError, match="the data are empty"):
        problem_of(data=TensorData(DATA.x[:0], DATA.y[:0]))
