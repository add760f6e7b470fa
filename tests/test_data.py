"""Which samples come when: are data checked, orders stratified, and super-batches circular?"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evohbde.data import SuperBatches, TensorData, stratified_order


def numbered(num: int, num_classes: int = 3) -> TensorData:
    """Samples whose only feature is their number; labels in turn."""
    return TensorData(torch.arange(num, dtype=torch.float32)[:, None], torch.arange(num) % num_classes)


def numbers(data: TensorData) -> list[int]:
    return data.x[:, 0].int().tolist()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(torch.tensor)


# TensorData


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32])
def test_whole_labels_of_any_type_become_int64(dtype):
    data = TensorData(torch.zeros(4, 3, 8, 8), torch.tensor([0, 2, 1, 4]).to(dtype))
    assert data.y.dtype == torch.int64 and data.y.tolist() == [0, 2, 1, 4]
    assert data.num_classes == 5 and len(data) == 4 and data.device == torch.device("cpu")
    assert repr(data) == "TensorData(4 samples of shape (3, 8, 8), 5 classes)"


def test_images_of_bytes_and_plain_lists_are_taken_as_they_are():
    assert TensorData(torch.zeros(2, 4, dtype=torch.uint8), torch.tensor([0, 1])).x.dtype == torch.uint8
    assert TensorData([[0.5], [1.5]], [1, 0]).x.tolist() == [[0.5], [1.5]]


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0), "the data are empty: `x` has no samples"),
        (torch.tensor(1.0), torch.zeros(1), "the data are empty"),
        (torch.zeros(3, 2), torch.zeros(4), r"expected `y` of shape \(3,\), one label per sample of `x`, got \(4,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 5), r"expected `y` of shape \(3,\).*got \(3, 5\)"),
        (torch.zeros(2, 2), torch.tensor([0.0, 0.5]), "got fractions: evohbde searches classifiers"),
        (torch.zeros(2, 2), torch.tensor([0.0, torch.nan]), "got fractions"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), "numbered from 0 in `y`, got -1"),
        (torch.zeros(2, 2), torch.tensor([0, float("inf")]), "numbered from 0 in `y`, got 0.0 to inf"),
        (torch.zeros(2, 2), torch.tensor([0, 2**31]), "numbered from 0 in `y`, got 0 to 2147483648"),
        (torch.tensor([[0.0], [torch.nan]]), torch.tensor([0, 1]), "NaN or infinite values: clean the data first"),
        (torch.tensor([[torch.inf], [0.0]]), torch.tensor([0, 1]), "clean the data first"),
    ],
)
def test_bad_data_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        TensorData(x, y)


def test_a_data_set_of_pairs_is_read_once():
    class Pairs:  # shaped like torchvision's: indexed, of known length, labels as plain numbers
        reads = 0

        def __len__(self):
            return 5

        def __getitem__(self, index):
            if index >= 5:
                raise IndexError
            Pairs.reads += 1
            return torch.full((3, 2, 2), float(index)), index % 2

    data = TensorData.from_dataset(Pairs())
    assert Pairs.reads == 5 and data.x.shape == (5, 3, 2, 2)
    assert data.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] and data.y.tolist() == [0, 1, 0, 1, 0]
    assert torch.equal(TensorData.from_dataset(torch.utils.data.TensorDataset(data.x, data.y)).x, data.x)
    with pytest.raises(ValueError, match="the data set is empty"):
        TensorData.from_dataset([])


def test_copies_share_the_data():
    data = numbered(4)
    assert copy.deepcopy(data) is data and data.to("cpu") is data
    batches = SuperBatches(data, 2)
    assert copy.deepcopy(batches).data is batches.data


def test_subset_keeps_inputs_and_labels_together():
    part = numbered(9).subset(torch.tensor([7, 2]))
    assert numbers(part) == [7, 2] and part.y.tolist() == [1, 2]


# Stratified order and split


def largest_deviation(labels: Tensor, size: int) -> Tensor:
    """Largest distance, over all windows, of a class's count from its proportion: `(C,)`."""
    hot = torch.nn.functional.one_hot(labels).double()
    sums = torch.cat([torch.zeros(1, hot.shape[1], dtype=torch.float64), hot.cumsum(0)])
    return (sums[size:] - sums[:-size] - size * hot.mean(0)).abs().amax(0)


@given(labels=LABELS, seed=st.integers(0, 99), share=st.floats(0, 1))
def test_every_window_holds_the_classes_in_proportion(labels, seed, share):
    order = stratified_order(labels, generator(seed))
    assert order.sort().values.tolist() == list(range(len(labels)))
    present = labels.bincount()
    proportion = present / len(labels)
    # A stretch of positions holds each class within one of its due; the window's edge adds the errors of the others.
    bound = 1 + ((present > 0).sum() - 2).clamp(min=0) * proportion
    assert (largest_deviation(labels[order], 1 + round(share * (len(labels) - 1))) <= bound + 1e-9).all()


@pytest.mark.parametrize("size", [10, 37, 100, 1_000])
def test_windows_of_balanced_classes_are_balanced_within_two(size):
    labels = torch.arange(10).repeat_interleave(200)  # sorted by class, as image archives are
    order = stratified_order(labels, generator())
    assert largest_deviation(labels[order], size).max() <= 2


def test_the_stratified_order_follows_its_generator_and_mixes_within_classes():
    labels = torch.zeros(50, dtype=torch.int64)
    assert torch.equal(stratified_order(labels, generator(1)), stratified_order(labels, generator(1)))
    assert not torch.equal(stratified_order(labels, generator(1)), stratified_order(labels, generator(2)))
    assert stratified_order(labels, generator(1)).tolist() != list(range(50))


@given(labels=LABELS, share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_a_split_is_complete_disjoint_and_stratified(labels, share, seed):
    if len(labels) < 2:
        return
    data = TensorData(torch.arange(len(labels))[:, None], labels)
    most, rest = data.split(share, seed)
    assert sorted(numbers(most) + numbers(rest)) == list(range(len(labels)))
    assert len(rest) == min(max(1, round(share * len(labels))), len(labels) - 1)
    assert torch.equal(labels[most.x[:, 0]], most.y) and torch.equal(labels[rest.x[:, 0]], rest.y)
    present = labels.bincount()
    due = present * len(rest) / len(labels)
    bound = 1 + (len(present.nonzero()) - 2) * present / len(labels)
    assert ((rest.y.bincount(minlength=len(present)) - due).abs() <= bound.clamp(min=1) + 1e-5).all()


def test_a_split_follows_its_seed_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    first, second, other = (numbers(numbered(60).split(0.25, seed)[1]) for seed in (0, 0, 1))
    assert first == second != other
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5])
def test_a_share_outside_zero_and_one_is_refused(share):
    with pytest.raises(ValueError, match=f"strictly between 0 and 1, got {share}"):
        numbered(9).split(share)


def test_a_single_sample_cannot_be_split():
    with pytest.raises(ValueError, match="cannot split a single sample"):
        numbered(1).split(0.5)


# SuperBatches


@given(num=st.integers(1, 60), size=st.integers(1, 70), popsize=st.integers(1, 12), calls=st.integers(1, 40))
def test_published_sampler_moves_on_after_a_number_of_evaluations(num, size, popsize, calls):
    batches = SuperBatches(numbered(num), size, order="file", advance=popsize, parents="stale")
    size = min(size, num)
    for call in range(calls):
        steps = batches.steps(num_calls=call, num_evaluations=call * popsize, popsize=popsize)
        assert steps.tolist() == [call % (num // size)] * popsize
        piece = numbers(batches.data.subset(torch.arange(num)[batches.span(int(steps[0]))]))
        start = call % (num // size) * size
        assert piece == list(range(start, start + size)), "file order; the last n mod size are never used"


@given(every=st.integers(1, 9), popsize=st.integers(1, 12), calls=st.integers(1, 9))
def test_batches_may_change_within_a_generation(every, popsize, calls):
    batches = SuperBatches(numbered(20), 3, order="file", advance=every)
    steps = [batches.steps(call, call * popsize, popsize) for call in range(calls)]
    assert torch.cat(steps).tolist() == [e // every % 6 for e in range(calls * popsize)]


def test_one_batch_per_generation_whatever_the_number_of_evaluations():
    batches = SuperBatches(numbered(20), 6)
    assert len(batches) == 3
    assert [batches.steps(call, 17 * call, 4).tolist() for call in range(4)] == [[0] * 4, [1] * 4, [2] * 4, [0] * 4]
    assert [batches.span(step) for step in (0, 2, 3)] == [slice(0, 6), slice(12, 18), slice(0, 6)]


@pytest.mark.parametrize("order", ["stratified", "file", "shuffled"])
def test_an_order_keeps_every_sample_and_its_label(order):
    data = numbered(30)
    batches = SuperBatches(data, 7, order=order)
    assert sorted(numbers(batches.data)) == list(range(30))
    assert torch.equal(batches.data.y, batches.data.x[:, 0].long() % 3)
    assert (numbers(batches.data) == list(range(30))) == (order == "file")
    if order != "file":
        again, other = (SuperBatches(data, 7, order=order, seed=seed) for seed in (0, 1))
        assert numbers(again.data) == numbers(batches.data) != numbers(other.data)


def test_stratified_batches_hold_every_class():
    labels = torch.arange(10).repeat_interleave(100)
    batches = SuperBatches(TensorData(labels[:, None], labels), 50)
    for step in range(len(batches)):
        assert (batches.data.y[batches.span(step)].bincount(minlength=10) >= 3).all()


def test_a_size_beyond_the_data_means_all_of_them_every_time():
    batches = SuperBatches(numbered(5), 1_000)
    assert len(batches) == 1 and batches.size == 5 and batches.span(7) == slice(0, 5)
    assert not batches.rescore_parents, "the samples never change, so old scores stay comparable"


@pytest.mark.parametrize(
    ("parents", "num", "rescore"), [("refresh", 3, True), ("stale", 3, False), ("fixed", 1, False)]
)
def test_policies(parents, num, rescore):
    batches = SuperBatches(numbered(9), 3, parents=parents)
    assert len(batches) == num and batches.rescore_parents is rescore
    assert {int(step) for call in range(5) for step in batches.steps(call, 10 * call, 2)} == set(range(num))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "`size` must be at least 1 sample, got 0"),
        ({"order": "random"}, "`order` must be one of stratified, file, shuffled, got 'random'"),
        ({"parents": "keep"}, "`parents` must be one of refresh, stale, fixed, got 'keep'"),
        ({"advance": 0}, "'generation' or a number of evaluations >= 1, got 0"),
        ({"advance": "call"}, "'generation' or a number of evaluations >= 1, got 'call'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SuperBatches(numbered(9), **options)


def test_data_have_to_be_wrapped():
    with pytest.raises(TypeError, match=r"got list: wrap it, TensorData\(x, y\)"):
        SuperBatches([(torch.zeros(1), 0)])
