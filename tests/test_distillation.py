"""Does a student follow its teacher on the very samples that score it, whatever runs it?"""

import pickle
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn
from torch.nn import functional

from evohbde import (
    Distillation,
    GradientSearcher,
    HistogramBlocking,
    Identity,
    NetworkProblem,
    SuperBatches,
    TensorData,
    score,
)
from evohbde.searchers import DE
from tests.small_networks import cnn, digits, mlp


def logits_of(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bound(teacher: torch.Tensor, labels: torch.Tensor, *options: float) -> Distillation:
    """An objective whose teacher says just this."""
    return Distillation(lambda x: teacher, *options).for_data(TensorData(torch.zeros(len(labels), 1), labels))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
def test_it_is_the_published_formula_by_pytorch_and_by_scipy(temperature, alpha):
    students, teacher = logits_of(0, 3, 40, 5), logits_of(1, 40, 5)
    labels = torch.arange(40) % 5
    losses = bound(teacher, labels, temperature, alpha)(students, labels)
    for student, loss in zip(students, losses, strict=True):
        pair = functional.log_softmax(student / temperature, -1), functional.softmax(teacher / temperature, -1)
        soft = temperature**2 * functional.kl_div(*pair, reduction="batchmean")
        torch.testing.assert_close(loss, alpha * soft + (1 - alpha) * functional.cross_entropy(student, labels))
        s, t = (values.double().numpy() for values in (student, teacher))
        divergence = rel_entr(softmax(t / temperature, 1), softmax(s / temperature, 1)).sum(1).mean()
        hard = -log_softmax(s, 1)[np.arange(40), labels.numpy()].mean()
        assert float(loss) == pytest.approx(alpha * temperature**2 * divergence + (1 - alpha) * hard, rel=1e-5)


@given(seed=st.integers(0, 10_000), temperature=st.floats(0.3, 30.0), shift=st.floats(-5.0, 5.0))
def test_it_is_least_where_the_student_says_what_the_teacher_says(seed, temperature, shift):
    teacher, labels = logits_of(seed, 8, 4), torch.arange(8) % 4
    objective = bound(teacher, labels, temperature, 1.0)
    same, other = objective(torch.stack([teacher + shift, logits_of(seed + 1, 8, 4)]), labels).tolist()
    assert abs(same) < 1e-4 and other > same


def test_without_a_share_the_teacher_is_not_followed():
    teacher, labels = logits_of(0, 9, 3), torch.arange(9) % 3
    students = logits_of(1, 2, 9, 3)
    expected = torch.stack([functional.cross_entropy(student, labels) for student in students])
    torch.testing.assert_close(bound(teacher, labels, 7.0, 0.0)(students, labels), expected)


def expected_loss(network: nn.Module, teacher: nn.Module, data: TensorData) -> float:
    with torch.no_grad():
        student, wanted = network.eval()(data.x), deepcopy(teacher).eval()(data.x)
    soft = functional.kl_div((student / 4).log_softmax(-1), (wanted / 4).softmax(-1), reduction="batchmean")
    return float(0.9 * 16 * soft + 0.1 * functional.cross_entropy(student, data.y))


@pytest.mark.parametrize("strategy", ["views", "batched", "vmap"])
@pytest.mark.parametrize("order", ["stratified", "shuffled", "file"])
def test_each_super_batch_meets_what_the_teacher_says_of_its_own_samples(strategy, order):
    teacher, batches = cnn(), SuperBatches(digits(), 40, order=order, seed=3)
    problem = NetworkProblem(mlp(), batches, Distillation(teacher), reduction=Identity, strategy=strategy, seed=0)
    for step in range(4):
        batch = problem.generate_batch(3)
        problem.evaluate(batch)
        piece = TensorData(batches.data.x[batches.span(step)], batches.data.y[batches.span(step)])
        wanted = [expected_loss(problem.make_network(z), teacher, piece) for z in batch.values]
        assert batch.evals[:, 0].tolist() == pytest.approx(wanted, rel=1e-4)


def test_a_folded_student_in_small_pieces_scores_the_same():
    data, teacher = digits(), mlp()
    problem = NetworkProblem(
        cnn(), data, Distillation(teacher), reduction=Identity, strategy="folded", batch_size=32, seed=0
    )
    batch = problem.generate_batch(2)
    problem.evaluate(batch)
    wanted = [expected_loss(problem.make_network(z), teacher, data) for z in batch.values]
    assert batch.evals[:, 0].tolist() == pytest.approx(wanted, rel=1e-4)


def test_the_teacher_sees_each_sample_once_and_is_left_as_it_was():
    seen = []

    def teacher(x):
        seen.append(len(x))
        return torch.zeros(len(x), 10)

    problem = NetworkProblem(mlp(), SuperBatches(digits(), 40), Distillation(teacher), seed=0)
    DE(problem, popsize=5).run(4)
    assert sum(seen) == 120
    data, loss = digits(50), Distillation(teacher)
    problem = NetworkProblem(mlp(), data, loss, reduction=Identity, seed=0)
    GradientSearcher(problem, loss=loss).run(2)
    assert sum(seen) == 120 + 50
    network = mlp()
    before = deepcopy(network.state_dict())
    NetworkProblem(cnn(), digits(), Distillation(network), seed=0)
    assert network.training and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_racing_changes_nothing():
    evals = []
    for racing in (True, False):
        problem = NetworkProblem(mlp(), digits(), Distillation(cnn()), batch_size=32, racing=racing, seed=0)
        searcher = DE(problem, popsize=6)
        searcher.run(4)
        evals.append((searcher.population.evals.clone(), problem.num_samples_seen))
    assert torch.equal(evals[0][0], evals[1][0]) and evals[0][1] == evals[1][1]


@pytest.mark.parametrize("batch_size", [120, 50])
def test_a_gradient_searcher_descends_it_as_plain_pytorch_does(batch_size):
    data, teacher = digits(), cnn()
    problem = NetworkProblem(mlp(), data, "accuracy", reduction=Identity, seed=0)
    searcher = GradientSearcher(problem, "adam", lr=0.01, batch_size=batch_size, loss=Distillation(teacher))
    order = torch.arange(120)
    if batch_size < 120:
        generator = torch.Generator()
        generator.set_state(problem.generator.get_state())
        torch.randint(2**62, (), generator=generator)  # the seed of what optimizers and layers draw
        order = torch.randperm(120, generator=generator)
    searcher.step()

    network = mlp().eval()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    wanted = deepcopy(teacher).eval()(data.x).detach()
    for index in order.split(batch_size):
        optimizer.zero_grad()
        logits = network(data.x[index])
        pair = (logits / 4).log_softmax(-1), (wanted[index] / 4).softmax(-1)
        loss = 0.9 * 16 * functional.kl_div(*pair, reduction="batchmean")
        (loss + 0.1 * functional.cross_entropy(logits, data.y[index])).backward()
        optimizer.step()
    found = nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.testing.assert_close(searcher.center, found, rtol=1e-3, atol=1e-5)


def test_other_samples_ask_the_teacher_anew():
    network, teacher, test = mlp(), cnn(), digits(200)
    found = score(network, test, [Distillation(teacher)])
    assert found == {"distillation": pytest.approx(expected_loss(mlp(), teacher, test), rel=1e-4)}


def test_a_copy_in_the_middle_goes_on_bit_for_bit():
    problem = NetworkProblem(
        mlp(),
        SuperBatches(digits(), 40, parents="refresh"),
        Distillation(cnn()),
        reduction=HistogramBlocking(nn.utils.parameters_to_vector(mlp().parameters()).detach(), 30),
        seed=0,
    )
    searcher = DE(problem, popsize=6)
    searcher.run(2)
    copy = pickle.loads(pickle.dumps(searcher))
    for one in (searcher, copy):
        one.run(3)
    assert torch.equal(searcher.population.values, copy.population.values)
    assert torch.equal(searcher.population.evals, copy.population.evals)


@pytest.mark.parametrize(
    ("build", "kind", "message"),
    [
        (lambda: Distillation(torch.zeros(3, 4)), TypeError, "`teacher` to be a network or a function, got Tensor"),
        (lambda: Distillation(mlp(), 0.0), ValueError, "`temperature` must be a finite number above 0, got 0.0"),
        (lambda: Distillation(mlp(), float("inf")), ValueError, "`temperature` must be a finite"),
        (lambda: Distillation(mlp(), alpha=1.5), ValueError, r"`alpha` must lie in \[0, 1\], got 1.5"),
        (lambda: bound(torch.zeros(3), torch.arange(3)), ValueError, r"class scores of shape \(3, C\), got \(3,\)"),
        (lambda: bound(torch.full((3, 2), torch.nan), torch.zeros(3)), ValueError, "hold NaN or infinite values"),
        (lambda: Distillation(mlp())(torch.zeros(1, 2, 10), torch.zeros(2)), ValueError, r"call `for_data\(data\)`"),
        (
            lambda: bound(torch.zeros(3, 7), torch.arange(3))(torch.zeros(1, 3, 10), torch.arange(3)),
            ValueError,
            r"class scores of shape \(3, 7\) for these samples, the network \(3, 10\): both need the same samples",
        ),
    ],
)
def test_what_does_not_fit_is_refused(build, kind, message):
    with pytest.raises(kind, match=message):
        build()


def test_smaller_networks_are_taught_too():
    pytest.importorskip("torch_pruning", reason="needs torch-pruning: pip install 'evohbde[structured]'")
    from evohbde import StructuredProblem

    data, teacher = digits(), mlp()
    problem = StructuredProblem(cnn(), data, [Distillation(teacher), "multiply_adds"], seed=0)
    batch = problem.generate_batch(2)
    problem.evaluate(batch)
    wanted = [expected_loss(problem.make_network(z), teacher, data) for z in batch.values]
    assert batch.evals[:, 0].tolist() == pytest.approx(wanted, rel=1e-4)
