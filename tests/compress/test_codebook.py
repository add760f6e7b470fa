"""Do weights share the means of their blocks, and do codebooks found by search hold on samples it has not seen?"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from evohbde.compress.codebook import BlockMerging, CodebookSize, SharedValues, share_weights
from evohbde.compress.codebook_front import codebook_front
from evohbde.compress.compact import load_compact, save_compact
from evohbde.layout import ParameterLayout
from evohbde.outputs import score
from evohbde.parts import prunable_names
from evohbde.recovery import repair
from evohbde.reductions import HistogramBlocking, KMeansBlocking, QuantileBlocking, merge_blocks
from evohbde.testing import check_reduction
from problems.digits import build_cnn
from problems.networks import initialised
from tests.small_networks import cnn, digits, mlp


def weights(num: int = 300, seed: int = 0, zeros: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(num, generator=generator)
    return torch.where(torch.rand(num, generator=generator) < zeros, 0.0, theta)


BLOCKINGS = {
    "histogram": lambda theta: HistogramBlocking(theta, 40),
    "quantiles": lambda theta: QuantileBlocking(theta, 20),
    "k-means": lambda theta: KMeansBlocking(theta, 20),
}


@pytest.mark.parametrize("zeros", [0.0, 0.5])
@pytest.mark.parametrize("blocking", BLOCKINGS.values(), ids=BLOCKINGS)
def test_merging_keeps_the_contract_of_reductions(blocking, zeros):
    check_reduction(BlockMerging(weights(zeros=zeros), blocking))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 99), st.floats(0.0, 1.0), st.sampled_from([0.0, 0.4]))
def test_joined_blocks_have_the_mean_of_their_weights(seed, share, zeros):
    theta = weights(seed=seed, zeros=zeros)
    merging = BlockMerging(theta, BLOCKINGS["histogram"])
    z = (torch.rand(merging.dim, generator=torch.Generator().manual_seed(seed)) < share).float()
    found = merging.expand(z).numpy()
    kept = theta.numpy() != 0
    # The oracle: blocks of NumPy's own histogram of the weights that are not zero, joined from left to right.
    values = theta.numpy()[kept]
    edges = np.linspace(float(values.min()), float(values.max()), 40)
    bins = np.unique(np.clip(np.searchsorted(edges, values.astype(float), "right") - 1, 0, 38), return_inverse=True)[1]
    joined = np.concatenate([[0], np.cumsum(z.numpy() > 0.5)]).astype(int)[bins]
    means = np.bincount(joined, values.astype(float)) / np.bincount(joined)
    np.testing.assert_allclose(found[kept], means[joined], rtol=1e-5, atol=1e-7)
    assert not found[~kept].any()
    assert float(CodebookSize()(torch.from_numpy(found))) == len(np.unique(found[kept]))


def test_a_merge_is_that_of_merge_blocks():
    theta = weights()
    merging, blocking = BlockMerging(theta, BLOCKINGS["histogram"]), HistogramBlocking(theta, 40)
    z = torch.ones(merging.dim)
    z[[3, 4, 7]] = 0
    into = torch.cat([torch.zeros(1), z]).cumsum(0).long()
    merged = merge_blocks(blocking, into)
    torch.testing.assert_close(merging.expand(z), merged.expand(merged.center))


def test_shared_values_move_together_and_zeros_stay():
    theta = share(weights(zeros=0.3))
    reduction = SharedValues(theta)
    check_reduction(reduction)
    assert reduction.dim == len(theta[theta != 0].unique())
    z = torch.randn(reduction.dim, generator=torch.Generator().manual_seed(0))
    moved = reduction.expand(z)
    assert not moved[theta == 0].any()
    for number, value in enumerate(theta[theta != 0].unique()):
        assert torch.equal(moved[theta == value], (value + z[number]).expand(int((theta == value).sum())))
    with pytest.raises(ValueError, match="all weights are zero"):
        SharedValues(torch.zeros(5))


def share(theta: torch.Tensor) -> torch.Tensor:
    merging = BlockMerging(theta, BLOCKINGS["k-means"])
    return merging.expand(merging.center)


@pytest.mark.parametrize("coding", ["codebook", "huffman"])
def test_a_codebook_network_comes_back_from_few_bits(tmp_path, coding):
    model = initialised(build_cnn, 0)
    network = share_weights(model, lambda theta: KMeansBlocking(theta, 16))
    num_bytes = save_compact(network, tmp_path / "file", coding=coding)
    loaded, x = load_compact(tmp_path / "file", initialised(build_cnn, 1)), digits(20).x
    assert torch.equal(loaded(x), network(x))
    layout = ParameterLayout(network, prunable_names(network))
    counts = layout.flatten(network).unique(return_counts=True)[1].numpy()
    num_others = sum(p.numel() for p in network.parameters()) - layout.size
    fixed = 4 * (num_others + 16)  # biases and the values themselves
    least = layout.size * entropy(counts, base=2) / 8 + fixed
    most = layout.size * (4 if coding == "codebook" else entropy(counts, base=2) + 1) / 8 + fixed + 1_500
    assert least <= num_bytes <= most  # the header, with names and a checksum, stays below 1,500 bytes


def test_weights_that_are_not_matrices_and_zeros_are_left_alone():
    model = cnn().eval()
    with torch.no_grad():
        model.head.weight[::2] = 0
    network = share_weights(model)
    assert torch.equal(network.norm.weight, model.norm.weight) and torch.equal(network.head.bias, model.head.bias)
    assert torch.equal(network.head.weight == 0, model.head.weight == 0)
    assert not torch.equal(network.conv.weight, model.conv.weight)
    only = share_weights(model, include="head.*")
    assert torch.equal(only.conv.weight, model.conv.weight) and not torch.equal(only.head.weight, model.head.weight)


def samples():
    everything = digits(900)
    return [everything.subset(torch.arange(start, start + 300)) for start in (0, 300, 600)]


def test_repair_moves_values_and_keeps_them_shared():
    train, validation, test = samples()
    network = share_weights(mlp(), lambda theta: KMeansBlocking(theta, 8))
    found = repair(network, train, validation, parts=("codebook",), num_samples=60_000)
    assert found.kept == ["codebook"]
    before, after = (score(one, test, ["cross_entropy"])["cross_entropy"] for one in (network, found.network))
    assert after < before - 0.05
    layout = ParameterLayout(network, prunable_names(network))
    old, new = layout.flatten(network), layout.flatten(found.network)
    assert all(len(new[old == value].unique()) == 1 for value in old.unique())


@pytest.fixture(scope="module")
def front():
    train, validation, _ = samples()
    seen: list[int] = []
    found = codebook_front(
        mlp(), train, validation=validation, num_evaluations=600, popsize=30, after_step=seen.append, seed=0
    )
    return found, seen


def test_a_front_beats_plain_schemes_on_samples_that_nothing_was_decided_on(front):
    found, _ = front
    scored = found.with_scores(samples()[2], "test")
    few = [point for point in scored if 2 <= scored.num_values(point) <= 12]
    wins = 0
    for point in few:
        rivals = [one for one in scored.baselines if scored.num_values(one) <= scored.num_values(point)]
        wins += point.scores["test"]["cross_entropy"] <= min(one.scores["test"]["cross_entropy"] for one in rivals)
    assert len(few) >= 3 and wins > len(few) / 2, (wins, len(few))


def test_points_are_the_networks_that_their_scores_say(front):
    found, seen = front
    validation = samples()[1]
    assert seen[-1] == found.num_evaluations <= 600
    for point in found:
        network = found.network(point)
        theta = ParameterLayout(network, prunable_names(network)).flatten(network)
        assert len(theta[theta != 0].unique()) == found.num_values(point) == point.scores["validation"]["codebook_size"]
        expected = score(network, validation, ["cross_entropy"])["cross_entropy"]
        assert point.scores["validation"]["cross_entropy"] == pytest.approx(expected, rel=1e-5)
    sizes = [found.num_values(point) for point in found]
    assert sizes == sorted(sizes, reverse=True)


def test_the_network_as_given_is_the_reference(front):
    found, _ = front
    model, x = mlp().eval(), digits(20).x
    assert torch.equal(found.network(found.unpruned)(x), model(x))
    chosen = found.select(max_loss=0.05)
    accuracies = [one.scores["validation"]["accuracy"] for one in (found.unpruned, chosen)]
    assert accuracies[1] >= accuracies[0] - 0.05 - 1e-9
    lines = found.table(4).splitlines()
    assert lines[2].startswith("| as given |  | ") and len(lines) <= 2 + 1 + 4


def test_the_same_seed_finds_the_same_front(front):
    found, _ = front
    train, validation, _ = samples()
    again = codebook_front(mlp(), train, validation=validation, num_evaluations=600, popsize=30, seed=0)
    assert [one.bits.tolist() for one in again] == [one.bits.tolist() for one in found]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: codebook_front(mlp(), digits(), popsize=5), "`popsize` must be at least 6"),
        (lambda: BlockMerging(weights(), lambda theta: HistogramBlocking(theta, 1)), "makes 1 block"),
    ],
)
def test_a_mistake_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
