"""Do released CIFAR networks have the blocks they should, and do they survive being tied to them?

Needs the weights and images of `data/` (see `problems.cifar.find_data_dir`); without them the tests are skipped.
"""

from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from evohbde.data import TensorData, stratified_order
from evohbde.layout import ParameterLayout
from evohbde.outputs import predict, score
from evohbde.reductions import HistogramBlocking, KMeansBlocking, Reduction
from problems import cifar
from problems.networks import resnet20, resnet56

BUILD = {"resnet20": resnet20, "resnet56": resnet56}

# ResNet-56 counted independently, with other code: blocks by the authors' rule, by the closed one, singletons of the
# latter, and the fewest that hold 99 % of the weights.
COUNTED = {
    10_000: (2_981, 2_982, 674, 978),
    1_000: (471, 472, 81, 99),
    300: (172, 173, 29, 30),
    256: (152, 153, 28, 26),
    197: (124, 125, 27, 20),
    100: (69, 69, 8, 10),
    50: (37, 37, 3, 5),
    20: (16, 16, 1, 2),
    10: (8, 8, 1, 2),
}


@cache
def released(name: str) -> nn.Module:
    try:
        return cifar.released_network(BUILD[name], f"{name}-cifar10")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@cache
def images(num: int = 500) -> TensorData:
    """Some JPEG test images, the same ones always, the classes evenly mixed."""
    pytest.importorskip("PIL", reason="images are decoded with Pillow")
    try:
        found = cifar.load_image_archive(cifar.find_data_dir() / "cifar10-test.tar.xz")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    index = stratified_order(found.labels, torch.Generator().manual_seed(0))[:num]
    return TensorData(cifar.normalise(found.images[index]), found.labels[index])


@cache
def macro_f1(name: str) -> float:
    return score(released(name), images(), ["f1_macro"])["f1_macro"]


def weights(name: str) -> torch.Tensor:
    return ParameterLayout(released(name)).flatten(released(name))


def tied(name: str, reduction: Reduction) -> nn.Module:
    """The network with every weight at the mean of its block."""
    model = BUILD[name]()
    model.load_state_dict(released(name).state_dict())
    return ParameterLayout(model).load_(model, reduction.expand(reduction.center)).eval()


def test_resnet56_has_the_known_range():
    theta0 = weights("resnet56")
    assert len(theta0) == 853_018
    assert float(theta0.min()) == pytest.approx(-2.2955563, abs=1e-7)
    assert float(theta0.max()) == pytest.approx(1.6940024, abs=1e-7)
    layout = ParameterLayout(released("resnet56"))
    tensors = layout.tensor_index[[int(theta0.argmin()), int(theta0.argmax())]]
    assert [layout.names[i] for i in tensors] == ["conv1.weight", "bn1.bias"]


@pytest.mark.parametrize("num_bins", COUNTED)
def test_resnet56_has_the_counted_blocks(num_bins):
    theta0 = weights("resnet56")
    closed, authors = HistogramBlocking(theta0, num_bins), HistogramBlocking(theta0, num_bins, rule="authors")
    largest_first = closed.counts.sort(descending=True).values.cumsum(0)
    holding_most = int((largest_first < 0.99 * len(theta0)).sum()) + 1
    singletons = int((closed.counts == 1).sum())
    assert (authors.dim, closed.dim, singletons, holding_most) == COUNTED[num_bins]
    # The rules differ in the maximum alone.
    differs = authors.block != closed.block
    assert differs.nonzero().flatten().tolist() in ([int(theta0.argmax())], [])
    assert authors.block[theta0.argmax()] == authors.dim and int(authors.counts.sum()) == len(theta0) - 1


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("num_bins", [256, 10_000])
def test_blocks_of_real_weights_are_numpys(name, num_bins):
    theta0 = weights(name).double().numpy()
    bins = np.digitize(theta0, np.linspace(theta0.min(), theta0.max(), num_bins))
    for rule, ids in (("authors", bins), ("closed", np.minimum(bins, num_bins - 1))):
        reduction = HistogramBlocking(weights(name), num_bins, rule=rule)
        assert np.array_equal(reduction.block, np.unique(ids, return_inverse=True)[1])


def test_the_authors_rule_sets_the_largest_weight_to_one():
    theta0 = weights("resnet56")
    reduction = HistogramBlocking(theta0, 10_000, rule="authors")
    expanded = reduction.expand(reduction.center)
    assert expanded[theta0.argmax()] == 1
    error = (expanded - theta0).abs()
    error[theta0.argmax()] = 0
    assert error.max() <= (1.6940024 + 2.2955563) / 9_999 * (1 + 1e-5)


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("num_bins", [1_000, 10_000])
def test_histogram_blocks_keep_what_a_network_knows(name, num_bins):
    reduction = HistogramBlocking(weights(name), num_bins)
    change = score(tied(name, reduction), images(), ["f1_macro"])["f1_macro"] - macro_f1(name)
    assert abs(change) <= 0.01
    assert macro_f1(name) > 0.75, "the images and the weights belong together"


def test_a_hundred_kmeans_blocks_keep_what_resnet20_knows():
    reduction = KMeansBlocking(weights("resnet20"), 100)
    assert reduction.dim == 100
    assert score(tied("resnet20", reduction), images(), ["f1_macro"])["f1_macro"] >= macro_f1("resnet20") - 0.01


def test_kmeans_places_few_blocks_ten_times_better_than_equal_bins():
    theta0 = weights("resnet20")
    coarse = HistogramBlocking(theta0, 100)
    assert 90 <= coarse.dim <= 100
    errors = [
        float((r.expand(r.center) - theta0).square().mean()) for r in (coarse, KMeansBlocking(theta0, coarse.dim))
    ]
    assert errors[1] < 0.1 * errors[0]


@torch.inference_mode()
def test_views_of_a_flat_buffer_and_a_loaded_state_give_the_same_outputs():
    reduction = HistogramBlocking(weights("resnet20"), 1_000)
    few = images().subset(torch.arange(64))
    loaded = tied("resnet20", reduction)
    expected = predict(loaded, few)

    bound = resnet20()
    bound.load_state_dict(released("resnet20").state_dict())
    buffer = ParameterLayout(bound).bind_(bound.eval())
    reduction.expand_into(reduction.center, buffer)
    assert torch.equal(buffer, ParameterLayout(loaded).flatten(loaded))
    torch.testing.assert_close(predict(bound, few), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(predict(bound, few).argmax(1), expected.argmax(1))

    functional = torch.func.functional_call(loaded, ParameterLayout(loaded).views(buffer), (few.x,))
    torch.testing.assert_close(functional, expected, rtol=1e-4, atol=1e-4)
