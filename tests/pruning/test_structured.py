"""Are networks without some channels really smaller, and otherwise what the full ones are with zeros?"""

import copy
import pickle

import numpy as np
import pytest
import torch
from evotorch.algorithms import SNES
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import zero_one_loss
from torch import nn

from evohbde.data import TensorData
from evohbde.outputs import score
from evohbde.recalibrate import batch_norms
from evohbde.reconstruct import Reconstructor
from evohbde.run import run_until
from evohbde.searchers import MOEAD, NSGA2
from problems.digits import build_cnn
from problems.digits import cnn as digits_cnn
from problems.networks import initialised, resnet20
from tests.small_networks import cnn, digits

pytest.importorskip("torch_pruning", reason="needs torch-pruning: pip install 'evohbde[structured]'")

from evohbde.pruning.channels import find_groups, importance, masked, shrunk
from evohbde.pruning.cost import ParameterShare
from evohbde.pruning.structured import StructuredProblem, StructuredPruning


class Joined(nn.Module):
    """Two branches that are concatenated, a depthwise convolution, and a sum with a projected shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.mix, self.shortcut = nn.Conv2d(10, 5, 1), nn.Conv2d(1, 5, 1)
        self.head = nn.Linear(5 * 16, 10)

    def forward(self, x):
        both = torch.relu(self.norm(torch.cat([self.left(x), self.right(x)], dim=1)))
        out = torch.relu(self.mix(self.depthwise(both)) + self.shortcut(x))
        return self.head(nn.functional.avg_pool2d(out, 2).flatten(1))


def with_statistics(model: nn.Module) -> nn.Module:
    """Give norms values of their own, so that a shift that should have gone would show."""
    generator = torch.Generator().manual_seed(1)
    for layer in batch_norms(model):
        for values in (layer.weight.data, layer.bias.data, layer.running_mean):
            values.copy_(torch.randn(values.shape, generator=generator))
        layer.running_var.copy_(torch.rand(values.shape, generator=generator) + 0.5)
    return model.eval()


IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
COLOUR = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NETWORKS = {
    "cnn with BatchNorm": (with_statistics(cnn()), IMAGES),
    "digits": (initialised(build_cnn, 0), IMAGES),
    "joined": (with_statistics(initialised(Joined, 0)), IMAGES),
    "ResNet-20": (with_statistics(initialised(resnet20, 0)), COLOUR),
}
GROUPS = {name: find_groups(model, x)[0] for name, (model, x) in NETWORKS.items()}


@settings(deadline=None, max_examples=6)
@pytest.mark.parametrize("name", NETWORKS)
@given(seed=st.integers(0, 1000), density=st.floats(0.1, 0.9))
def test_a_shrunk_network_gives_the_outputs_of_the_masked_one(name, seed, density):
    (model, x), groups = NETWORKS[name], GROUPS[name]
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(sum(group.num_channels for group in groups), generator=generator) < density
    for part, group in zip(keep.split([group.num_channels for group in groups]), groups, strict=True):
        part[[int(cut.channels[0]) for cut in group.cuts]] = True
    before = copy.deepcopy(model.state_dict())
    small, full = shrunk(model, groups, keep), masked(model, groups, keep)
    with torch.no_grad():
        expected = full(x)
        torch.testing.assert_close(small(x), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters()) or bool(keep.all())


def test_the_shifted_channels_of_a_padded_shortcut_are_left_alone():
    model, x = NETWORKS["ResNet-20"]
    groups, left_out = find_groups(model, x)
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
    assert [group.name for group in groups] == inner
    assert [group.num_channels for group in groups] == [16] * 3 + [32] * 3 + [64] * 3
    assert set(left_out) == {"conv1", "linear"}
    assert "outputs" in left_out["linear"]


def test_all_channels_of_projected_shortcuts_can_go():
    resnet = pytest.importorskip("torchvision.models.resnet", reason="needs torchvision")
    for block, num_groups in ((resnet.BasicBlock, 4 + 4), (resnet.Bottleneck, 1 + 4 + 2 * 4)):
        model = initialised(lambda block=block: resnet.ResNet(block, [1, 1, 1, 1], num_classes=10), 0)
        pruning = StructuredPruning(model, COLOUR[:2])
        assert len(pruning.groups) == num_groups and set(pruning.left_out) == {"fc"}
        z = torch.full((pruning.dim,), 0.5)
        with torch.no_grad():
            torch.testing.assert_close(pruning.network(z)(COLOUR), pruning.masked(z)(COLOUR))


def test_every_layer_of_a_concatenation_and_a_sum_loses_its_channels():
    model = NETWORKS["joined"][0]
    groups = sorted(GROUPS["joined"], key=lambda group: -group.num_channels)
    assert [group.num_channels for group in groups] == [4 + 6, 5]
    keep = torch.ones(4 + 6 + 5, dtype=torch.bool)
    keep[[0, 5, 9, 11]] = False  # one of left, two of right, one of mix and shortcut
    small = shrunk(model, groups, keep)
    assert small.left.out_channels == 3 and small.right.out_channels == 4
    assert small.norm.num_features == small.depthwise.groups == small.mix.in_channels == 7
    assert small.mix.out_channels == small.shortcut.out_channels == 4 and small.head.in_features == 4 * 16
    assert torch.equal(small.norm.running_mean, model.norm.running_mean[[1, 2, 3, 4, 6, 7, 8]])


def test_no_layer_is_left_without_channels():
    model, x = NETWORKS["joined"]
    z = torch.zeros(15)
    small = StructuredPruning(model, x, "channels").network(z)
    assert small.left.out_channels == small.right.out_channels == small.mix.out_channels == 1
    with pytest.raises(ValueError, match="`keep` leaves nothing of layer '"):
        shrunk(model, GROUPS["joined"], z > 0)


def norm_network(norm: nn.Module) -> nn.Sequential:
    layers = [nn.Conv2d(1, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)]
    return initialised(lambda: nn.Sequential(*copy.deepcopy(layers)), 0)


def test_a_norm_over_the_channels_needs_consent():
    model = norm_network(nn.GroupNorm(1, 8))
    groups, left_out = find_groups(model, IMAGES)
    assert [group.name for group in groups] == ["3"] and "zeros in their place" in left_out["0"]
    groups, left_out = find_groups(model, IMAGES, require_equal=False)
    assert [group.name for group in groups] == ["0", "3"] and set(left_out) == {"6"}


def test_channels_that_a_grouped_convolution_needs_are_left_out():
    model = norm_network(nn.Conv2d(8, 8, 1, groups=2))
    groups, left_out = find_groups(model, IMAGES)
    assert [group.name for group in groups] == ["3"] and {"0", "6"} <= set(left_out)


def test_excluded_layers_and_networks_without_channels():
    groups, left_out = find_groups(cnn(), IMAGES, exclude=()), find_groups(build_cnn(), IMAGES, exclude="conv*")[1]
    assert len(groups[0]) == 1 and left_out["conv1"] == left_out["conv2"] == "excluded"
    with pytest.raises(ValueError, match="no channels of this Sequential can be cut: 1: they are outputs"):
        find_groups(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), IMAGES)
    with pytest.raises(ValueError, match=r"cannot trace this"):
        find_groups(nn.Linear(3, 2), IMAGES)


def test_importance_is_the_norm_of_all_that_goes_with_a_channel():
    model = with_statistics(cnn())
    groups, _ = find_groups(model, IMAGES)
    conv, gain, head = (p.detach().double().numpy() for p in (model.conv.weight, model.norm.weight, model.head.weight))
    squares = (conv**2).sum((1, 2, 3)) + gain**2 + (head**2).reshape(10, 6, 9).sum((0, 2))
    np.testing.assert_allclose(importance(model, groups).numpy(), np.sqrt(squares), rtol=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.16, 0.17, 0.5, 0.9, 7.0, -1.0])
def test_a_ratio_cuts_that_share_and_the_least_important_first(share):
    pruning = StructuredPruning(cnn(), IMAGES)
    kept = pruning.keep(torch.tensor([share]))
    assert int((~kept).sum()) == int(np.floor(min(max(share, 0.0), 0.9) * 6))
    gone, stay = pruning.importance[~kept], pruning.importance[kept]
    assert len(gone) == 0 or gone.max() <= stay.min()
    assert pruning.network(torch.tensor([share])).conv.out_channels == int(kept.sum())


def test_one_bit_per_channel_and_no_group_without_any():
    pruning = StructuredPruning(build_cnn(), IMAGES, "channels")
    assert pruning.dim == 8 + 16 + 32 and pruning.is_binary and bool(pruning.center.all())
    z = torch.zeros(56)
    z[[1, 4, 8 + 3]] = 1.0
    small = pruning.network(z)
    assert torch.equal(small.conv1.bias, pruning._model.conv1.bias[[1, 4]])
    strongest = int(pruning.importance[24:].argmax())
    assert torch.equal(small.hidden.bias, pruning._model.hidden.bias[[strongest]])


def test_the_center_is_the_network_as_given():
    model = with_statistics(cnn())
    for genes in ("ratios", "channels"):
        pruning = StructuredPruning(model, IMAGES, genes)
        assert torch.equal(pruning.network(pruning.center)(IMAGES), model(IMAGES))


def test_a_candidate_is_scored_as_the_small_network_it_is():
    model, data = cnn(), digits(90)
    problem = StructuredProblem(model, data, ["error", "multiply_adds", "parameters"], batch_size=40)
    batch = problem.generate_batch(2)
    batch.set_values(torch.tensor([[0.0], [0.5]]))
    problem.evaluate(batch)
    network = shrunk(model, problem.pruning.groups, problem.pruning.keep(torch.tensor([0.5])))
    for row, one in enumerate([model.eval(), network]):
        predicted = one(data.x).argmax(1)
        assert float(batch.evals[row, 0]) == pytest.approx(zero_one_loss(data.y, predicted), abs=1e-6)
    macs = 6 * 9 * 9 + 54 * 10, 3 * 9 * 9 + 27 * 10
    numbers = 6 * 9 + 6 + 12 + 550, 3 * 9 + 3 + 6 + 280
    torch.testing.assert_close(
        batch.evals[:, 1:], torch.tensor([[1.0, 1.0], [macs[1] / macs[0], numbers[1] / numbers[0]]])
    )
    assert problem.num_samples_seen == pytest.approx(90 * (1 + macs[1] / macs[0]))


def test_statistics_are_estimated_anew_after_the_cut():
    model, data = cnn(), digits(60)
    network = StructuredProblem(model, data, recalibrate=60).make_network(torch.tensor([0.5]))
    features = network.conv(data.x).detach()
    torch.testing.assert_close(network.norm.running_mean, features.mean((0, 2, 3)))
    torch.testing.assert_close(network.norm.running_var, features.var((0, 2, 3)))


@pytest.mark.parametrize("genes", ["ratios", "channels"])
@pytest.mark.parametrize("searcher", [NSGA2, MOEAD])
def test_our_searchers_find_smaller_networks_of_equal_or_better_error(searcher, genes):
    data = digits(120)
    model = initialised(build_cnn, 0)
    pruning = StructuredPruning(model, data.x, genes)
    problem = StructuredProblem(model, data, pruning=pruning, seed=0)
    variation = "binary" if genes == "channels" else None
    search = searcher(problem, popsize=8, variation=variation, include_center=True)
    run_until(search, num_evaluations=32)
    evals = search.population.evals
    full_error = problem.score(problem.center, data, ["error"])["error"]
    # An untrained network has nothing to lose, so that smaller ones of its error must turn up.
    assert bool(((evals[:, 0] <= full_error) & (evals[:, 1] < 1)).any())


def test_searchers_of_evotorch_and_pymoo_run_on_it():
    problem = StructuredProblem(cnn(), digits(60), "cross_entropy", seed=0)
    search = SNES(problem, popsize=6, stdev_init=0.1, center_init=problem.center)
    search.run(2)
    assert problem.num_evaluations == 12 and 0 < float(search.status["best_eval"]) < 10
    pytest.importorskip("pymoo")
    from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2

    from evohbde.pymoo_bridge import PymooSearcher

    problem = StructuredProblem(build_cnn(), digits(60), seed=0)
    search = PymooSearcher(problem, PymooNSGA2(pop_size=6), seed=1)
    search.run(2)
    assert float(search.population.evals[:, 1].min()) < 1


def test_copies_and_pickles_score_alike():
    problem = StructuredProblem(cnn(), digits(60), ["error", "parameters", "latency"], seed=0)
    z = torch.tensor([[0.2], [0.7]])
    scores = []
    for one in (problem, problem.clone(), pickle.loads(pickle.dumps(problem))):
        batch = one.generate_batch(2)
        batch.set_values(z)
        one.evaluate(batch)
        scores.append(batch.evals[:, :2].clone())
        assert bool((batch.evals[:, 2] > 0).all())
    assert torch.equal(scores[0], scores[1]) and torch.equal(scores[0], scores[2])


def test_what_does_not_fit_is_refused_before_the_search():
    model, data = cnn(), digits(30)
    with pytest.raises(ValueError, match="`genes` must be 'ratios'"):
        StructuredPruning(model, IMAGES, "layers")
    with pytest.raises(ValueError, match="`most` must lie strictly between 0 and 1"):
        StructuredPruning(model, IMAGES, most=1.0)
    with pytest.raises(ValueError, match="built from another network"):
        StructuredProblem(model, data, pruning=StructuredPruning(with_statistics(cnn()), IMAGES))
    with pytest.raises(ValueError, match="`recalibrate` must be 0"):
        StructuredProblem(model, data, recalibrate=31)
    with pytest.raises(TypeError, match="'density' judges searched weights"):
        StructuredProblem(model, data, ["error", "density"])
    with pytest.raises(TypeError, match=r"wrap it, TensorData"):
        StructuredProblem(model, data.x)
    with pytest.raises(ValueError, match=r"expected `z` of shape \(1,\)"):
        StructuredPruning(model, IMAGES).keep(torch.zeros(2))


def test_an_objective_of_ones_own_sees_the_small_network():
    model, data = cnn(), TensorData(*(t[:40] for t in (digits().x, digits().y)))
    problem = StructuredProblem(model, data, ParameterShare(model))
    batch = problem.generate_batch(1)
    batch.set_values(torch.tensor([[0.9]]))
    problem.evaluate(batch)
    assert float(batch.evals[0, 0]) == pytest.approx((9 + 1 + 2 + 100) / (6 * 12 + 550))
    assert problem.num_samples_seen == 0


def test_what_is_left_is_fitted_to_the_full_network_as_it_is_with_zeros():
    task = digits_cnn(seed=0)
    pruning = StructuredPruning(task.model, task.train.x, most=0.6)
    z = torch.full((pruning.dim,), 0.5)
    x = task.train.x[:200]
    smaller = pruning.reconstructed(z, x)
    assert sum(p.numel() for p in smaller.parameters()) == sum(p.numel() for p in pruning.network(z).parameters())
    with_zeros = Reconstructor(task.model, x)(pruning.masked(z))
    assert torch.allclose(smaller(task.test.x), with_zeros(task.test.x), atol=1e-4)
    cut, fitted = (score(network, task.test, ["accuracy"])["accuracy"] for network in (pruning.network(z), smaller))
    assert fitted > cut + 0.05
