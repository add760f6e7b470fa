"""Do crossover and mutation follow their formulas, rates and bounds?"""

import numpy as np
import pytest
import torch
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm
from scipy.stats import kstest

from evohbde.searchers.variation import BinaryVariation, Box, Parents, RealVariation, polynomial_step, sbx

SHAPE = (200, 5)


class Given:
    """A random state that says what it was told."""

    def __init__(self, *numbers: np.ndarray) -> None:
        self.numbers = list(numbers)

    def random(self, shape) -> np.ndarray:
        return np.broadcast_to(self.numbers.pop(0), shape)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def box_of(is_strict=True) -> Box:
    return Box(torch.full((5,), -1.0, dtype=torch.float64), torch.linspace(0.5, 2.0, 5).double(), is_strict)


def inside(box: Box, seed: int, shape=SHAPE) -> torch.Tensor:
    return box.lower + (box.upper - box.lower) * uniform(*shape, seed=seed)


def parents_of(population, box=None, num_children=2, seed=0) -> Parents:
    """Individual 2k mates with 2k + 1."""
    return Parents(
        index=torch.arange(len(population)).view(-1, 2).T,
        population=population,
        scores=torch.zeros(len(population), 2),
        num_children=num_children,
        box=box,
        generator=torch.Generator().manual_seed(seed),
        survived=None,
        generation=0,
        places=torch.arange(num_children * (len(population) // 2)).view(num_children, -1),
    )


def within_noise(found: float, expected: float, num: int) -> bool:
    return abs(found - expected) < 4 * (expected * (1 - expected) / num) ** 0.5


@pytest.mark.parametrize("eta", [2.0, 15.0])
def test_bounded_crossover_equals_that_of_pymoo_for_the_same_uniform_numbers(eta):
    box, u = box_of(), uniform(*SHAPE, seed=3)
    first, second = inside(box, 1), inside(box, 2)
    first[0], second[1] = box.lower, box.upper
    low, high = sbx(first, second, u, eta, box)
    pairs, rows = np.stack([first.numpy(), second.numpy()]), np.ones((SHAPE[0], 1))
    told = Given(np.zeros(SHAPE), u.numpy().ravel(), np.ones(u.numel()))
    theirs = cross_sbx(pairs, box.lower.numpy(), box.upper.numpy(), eta * rows, rows, 0 * rows, random_state=told)
    np.testing.assert_allclose(low, theirs.min(0), atol=1e-12)
    np.testing.assert_allclose(high, theirs.max(0), atol=1e-12)


def test_unbounded_crossover_keeps_the_centre_and_spreads_as_in_the_paper():
    first, second, eta = torch.zeros(4000, dtype=torch.float64), torch.ones(4000, dtype=torch.float64), 3.0
    low, high = sbx(first, second, uniform(4000), eta, box_of(is_strict=False))
    assert torch.allclose(low + high, torch.ones_like(low))

    def distribution(beta):
        return np.where(beta <= 1, 0.5 * beta ** (eta + 1), 1 - 0.5 * np.maximum(beta, 1) ** -(eta + 1))

    assert kstest((high - low).numpy(), distribution).pvalue > 0.01
    assert low.min() < -0.2


@pytest.mark.parametrize("eta", [2.0, 20.0])
def test_bounded_mutation_equals_that_of_pymoo_for_the_same_uniform_numbers(eta):
    box, u = box_of(), uniform(*SHAPE, seed=3)
    values, width = inside(box, 1), box.upper - box.lower
    values[0], values[1] = box.lower, box.upper
    found = values + width * polynomial_step(u, eta, (values - box.lower) / width, (box.upper - values) / width)
    told = Given(np.zeros(SHAPE), u.numpy().ravel())
    rows, bounds = np.ones(SHAPE[0]), (box.lower.numpy(), box.upper.numpy())
    theirs = mut_pm(values.numpy(), *bounds, eta * rows, rows, at_least_once=False, random_state=told)
    np.testing.assert_allclose(found, theirs, atol=1e-12)


def test_unbounded_mutation_has_the_polynomial_density():
    eta = 5.0
    step = polynomial_step(uniform(4000), eta).numpy()

    def distribution(x):
        tail = 0.5 * (1 - np.abs(x)) ** (eta + 1)
        return np.where(x < 0, tail, 1 - tail)

    assert kstest(step, distribution).pvalue > 0.01


def test_real_children_stay_inside_strict_bounds_and_only_those():
    for is_strict in (True, False):
        box = box_of(is_strict)
        edges = torch.where(uniform(2000, 5, seed=5) < 0.5, box.lower, box.upper)
        variation = RealVariation(mutation_rate=0.5, crossover_eta=2, mutation_eta=5)
        for num_children in (1, 2):
            children = variation(parents_of(edges, box, num_children))
            assert children.shape == (num_children, 1000, 5)
            is_inside = (children >= box.lower).all() and (children <= box.upper).all()
            assert is_inside == is_strict


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lower_precision_stays_inside_and_finite(dtype):
    box = Box(torch.tensor(-0.3, dtype=dtype), torch.tensor(0.7, dtype=dtype), True)
    population = (box.lower.float() + uniform(400, 6)).to(dtype).clamp(box.lower, box.upper)
    population[:100], population[100:150] = box.lower, population[151]
    children = RealVariation(mutation_rate=0.5)(parents_of(population, box))
    assert children.dtype == dtype and children.isfinite().all()
    assert (children >= box.lower).all() and (children <= box.upper).all()


def test_rates_say_how_many_genes_change():
    box, population = box_of(), inside(box_of(), 1, (4000, 5))
    pairs = parents_of(population).values
    crossed = RealVariation(crossover_rate=0.6, gene_rate=0.3, mutation_rate=0)(parents_of(population, box))
    changed = crossed[0] != pairs[0]
    assert torch.equal(changed, crossed[1] != pairs[1])
    assert within_noise(float(changed.double().mean()), 0.6 * 0.3, 2000)
    is_near_first = ((crossed[0] - pairs[0]).abs() < (crossed[0] - pairs[1]).abs())[changed]
    assert within_noise(float(is_near_first.double().mean()), 0.5, len(is_near_first))
    mutated = RealVariation(crossover_rate=0)(parents_of(population, box))
    assert within_noise(float((mutated != pairs).double().mean()), 1 / 5, pairs.numel())
    copied = RealVariation(crossover_rate=0, mutation_rate=0)(parents_of(population, box))
    assert torch.equal(copied, pairs)


def test_a_gene_with_equal_bounds_or_equal_parents_is_not_crossed():
    lower, upper = torch.tensor([0.0, 0.5]).double(), torch.tensor([1.0, 0.5]).double()
    population = lower + (upper - lower) * uniform(100, 2)
    children = RealVariation(crossover_rate=1, gene_rate=1, mutation_rate=1)(
        parents_of(population, Box(lower, upper, True))
    )
    assert (children[:, :, 1] == 0.5).all()
    equal = torch.full((100, 5), 0.25).double()
    children = RealVariation(mutation_rate=0)(parents_of(equal, box_of()))
    assert (children == 0.25).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
@pytest.mark.parametrize("crossover", ["uniform", "one-point"])
def test_bits_come_from_either_parent_where_nothing_flips(dtype, crossover):
    population = torch.tensor([0, 1]).repeat(2000)[:, None].expand(-1, 8).to(dtype)
    children = BinaryVariation(crossover=crossover, mutation_rate=0)(parents_of(population))
    assert children.dtype == dtype
    assert (children[0].bool() ^ children[1].bool()).all()
    first = children[0].bool()
    is_crossed = first.any(1)
    if crossover == "uniform":
        assert within_noise(float(first.double().mean()), 0.9 / 2, 2000)
        return
    assert within_noise(float(is_crossed.double().mean()), 0.9, 2000)
    cuts = 8 - first[is_crossed].sum(1)
    assert (first[is_crossed] == (torch.arange(8) >= cuts[:, None])).all()
    counts = cuts.bincount(minlength=9)
    assert counts[0] == counts[8] == 0
    assert all(within_noise(float(count) / len(cuts), 1 / 7, len(cuts)) for count in counts[1:8])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_bits_flip_at_the_rate(dtype):
    population = (uniform(4000, 10) < 0.5).to(dtype)
    parents = parents_of(population)
    flips = BinaryVariation(crossover_rate=0)(parents) != parents.values
    assert within_noise(float(flips.double().mean()), 1 / 10, flips.numel())
    all_flipped = BinaryVariation(crossover_rate=0, mutation_rate=1)(parents_of(population))
    assert torch.equal(all_flipped, 1 - parents.values if dtype != torch.bool else ~parents.values)


def test_one_bit_alone_can_be_crossed():
    population = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    assert BinaryVariation(crossover="one-point", mutation_rate=0)(parents_of(population)).shape == (2, 50, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RealVariation(crossover_rate=1.1), r"`crossover_rate` must lie in \[0, 1\]"),
        (lambda: RealVariation(gene_rate=-0.1), r"`gene_rate` must lie in \[0, 1\]"),
        (lambda: RealVariation(mutation_eta=-1), r"`crossover_eta` and `mutation_eta` must be >= 0"),
        (lambda: BinaryVariation(mutation_rate=2), r"`mutation_rate` must lie in \[0, 1\]"),
        (lambda: BinaryVariation(crossover="two-point"), r"`crossover` must be 'uniform' or 'one-point'"),
        (lambda: RealVariation()(parents_of(torch.zeros(4, 2))), r"needs a problem with `bounds`"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
