"""Do random subspaces and chains keep the law of a reduction, and what they promise beside it?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evohbde.reductions import Chain, HistogramBlocking, RandomBlocking, RandomProjection, Reduction
from evohbde.testing import check_reduction


def weights(size=400, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def matrix(reduction):
    """The linear map itself, column by column."""
    return (reduction.expand(torch.eye(reduction.dim)) - reduction.theta0).T


CASES = {
    "dense": lambda: RandomProjection(weights(), 30),
    "sparse": lambda: RandomProjection(weights(), 30, num_nonzeros=3),
    "chain": lambda: Chain(HistogramBlocking(weights(), 100, mode="offset"), RandomBlocking(torch.zeros(84), 12)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_contract_of_reductions_holds(name):
    if name == "chain":
        outer = HistogramBlocking(weights(), 100, mode="offset")
        check_reduction(Chain(outer, RandomBlocking(outer.center, 12)), atol=1e-4)
    else:
        check_reduction(CASES[name](), atol=1e-4)


@given(st.integers(2, 60), st.integers(1, 4), st.integers(0, 1000))
def test_reduce_is_the_least_squares_solution_of_numpy(dim, nonzeros, seed):
    generator = torch.Generator().manual_seed(seed)
    reduction = RandomProjection(weights().double(), dim, min(nonzeros, dim), generator=generator)
    theta = torch.randn(400, generator=generator, dtype=torch.float64)
    basis = (reduction.expand(torch.eye(dim, dtype=torch.float64)) - reduction.theta0).T.numpy()
    expected = np.linalg.lstsq(basis, (theta - reduction.theta0).numpy(), rcond=None)[0]
    assert np.allclose(reduction.reduce(theta).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("nonzeros", [None, 1, 5])
def test_columns_have_length_one_and_are_orthogonal_in_expectation(nonzeros):
    reduction = RandomProjection(weights(20_000), 40, nonzeros, generator=torch.Generator().manual_seed(1))
    gram = matrix(reduction).T @ matrix(reduction)
    assert torch.allclose(gram.diagonal(), torch.ones(40), atol=0.25)
    assert gram.diagonal().mean().item() == pytest.approx(1, abs=0.03)
    assert (gram - torch.diag(gram.diagonal())).abs().max() < 6 / 20_000**0.5 + 0.01


def test_a_seeded_generator_repeats_and_the_global_one_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = RandomProjection(weights(), 10, 2)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(matrix(first), matrix(RandomProjection(weights(), 10, 2)))
    other = RandomProjection(weights(), 10, 2, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(matrix(first), matrix(other))


def test_a_chain_is_the_composition_and_survives_its_state():
    outer = HistogramBlocking(weights(), 100)
    chain = Chain(outer, RandomProjection(outer.center, 8))
    z = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(chain.expand(z), outer.expand(chain.inner.expand(z)))
    assert torch.equal(chain.expand(chain.center), outer.expand(outer.center))
    again = Reduction.from_state_dict(chain.state_dict())
    assert torch.equal(again.expand(z), chain.expand(z))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "`dim` must be between 1 and 400"),
        ({"dim": 401}, "`dim` must be between 1 and 400"),
        ({"dim": 5, "num_nonzeros": 6}, "`num_nonzeros` must be between 1 and `dim` = 5"),
    ],
)
def test_wrong_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomProjection(weights(), **arguments)


def test_a_dense_projection_that_does_not_fit_names_the_sparse_one():
    with pytest.raises(ValueError, match="pass num_nonzeros=3"):
        RandomProjection(torch.zeros(1_000_000).add_(0.1), 1_000)


def test_a_chain_of_parts_that_do_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"build it from outer\.center"):
        Chain(HistogramBlocking(weights(), 100), RandomBlocking(weights(7), 3))
