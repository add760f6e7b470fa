"""Does a low-rank update do what LoRA's formula says, and are its factors found again?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evohbde.reductions import Chain, Identity, LowRank, RandomBlocking, Reduction

SHAPES = ((6, 3, 3, 3), (6,), (5, 24), (5,))
SIZES = [162, 6, 120, 5]


def weights(dtype=torch.float64, seed=0):
    return torch.randn(sum(SIZES), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def drawn(reduction, seed=1, lead=()):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, reduction.dim, generator=generator, dtype=reduction.center.dtype)


def by_hand(theta0, z, rank, scale, include_vectors, frozen=None):
    """The update of each tensor by NumPy, reading `z` from front to back."""
    theta, rest, out = theta0.numpy(), z.numpy(), []
    for shape, size in zip(SHAPES, SIZES, strict=True):
        weight, theta = theta[:size], theta[size:]
        if len(shape) == 1:
            shift, rest = (rest[:size], rest[size:]) if include_vectors else (0.0, rest)
            out.append(weight + shift)
            continue
        rows, columns = shape[0], size // shape[0]
        r = min(rank, rows, columns)
        b, rest = rest[: rows * r].reshape(rows, r), rest[rows * r :]
        a, others = np.split(rest if frozen is None else frozen, [r * columns])
        rest, frozen = (others, None) if frozen is None else (rest, others)
        out.append(weight + scale * np.einsum("ir,rj->ij", b, a.reshape(r, columns)).ravel())
    assert rest.size == 0
    return np.concatenate(out)


@given(st.integers(1, 8), st.sampled_from([0.5, 1.0, 16.0]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_expand_is_the_formula_of_lora(rank, scale, include_vectors, freeze_a, seed):
    options = {"rank": rank, "scale": scale, "include_vectors": include_vectors, "freeze_a": freeze_a}
    reduction = LowRank(weights(), SHAPES, **options)
    z = drawn(reduction, seed)
    frozen = reduction.start_a.numpy() if freeze_a else None
    expected = by_hand(weights(), z, rank, scale, include_vectors, frozen)
    assert np.allclose(reduction.expand(z).numpy(), expected, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 8), st.sampled_from([0.5, 1.0, 16.0]), st.booleans(), st.integers(0, 99))
def test_reduce_finds_the_nearest_update_of_its_rank(rank, scale, include_vectors, seed):
    reduction = LowRank(weights(), SHAPES, rank, scale, include_vectors=include_vectors)
    theta = weights(seed=seed + 1)
    found = reduction.expand(reduction.reduce(theta))
    expected, start = [], 0
    for shape, size in zip(SHAPES, SIZES, strict=True):
        old, new = (vector[start : start + size].numpy() for vector in (weights(), theta))
        start += size
        if len(shape) == 1:
            expected.append(new if include_vectors else old)
            continue
        u, s, v = np.linalg.svd((new - old).reshape(shape[0], -1), full_matrices=False)
        expected.append(old + (u[:, :rank] * s[:rank] @ v[:rank]).ravel())
    assert np.allclose(found.numpy(), np.concatenate(expected), atol=1e-10)


@given(st.integers(1, 6), st.integers(0, 99))
def test_reduce_with_a_frozen_is_the_least_squares_solution_of_numpy(rank, seed):
    reduction = LowRank(weights(), SHAPES, rank, 2.0, freeze_a=True, include_vectors=True)
    basis = (reduction.expand(torch.eye(reduction.dim, dtype=torch.float64)) - weights()).T.numpy()
    theta = weights(seed=seed + 1)
    expected = np.linalg.lstsq(basis, (theta - weights()).numpy(), rcond=None)[0]
    assert np.allclose(reduction.reduce(theta).numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("freeze_a", [False, True])
def test_the_start_is_the_network_as_given_with_b_zero_and_a_orthonormal(freeze_a):
    reduction = LowRank(weights(), SHAPES, 3, freeze_a=freeze_a)
    assert torch.equal(reduction.expand(reduction.center), weights())
    assert torch.equal(reduction.reduce(weights()), reduction.center)
    b, a = reduction.center[:18], reduction.start_a[:81].reshape(3, 27)
    assert not b.any()
    assert torch.allclose(a @ a.T, torch.eye(3, dtype=torch.float64), atol=1e-12)


def test_a_step_of_b_is_a_step_of_the_weights_of_the_same_length():
    reduction = LowRank(weights(), SHAPES, 3, freeze_a=True)
    z = drawn(reduction)
    assert (reduction.expand(z) - weights()).norm().item() == pytest.approx(z.norm().item(), rel=1e-10)


def test_equal_updates_have_equal_factors_whatever_the_gauge():
    reduction = LowRank(weights(), SHAPES, 2)
    z, generator = drawn(reduction), torch.Generator().manual_seed(3)
    other = z.clone()
    for start, rows, columns in ((0, 6, 27), (66, 5, 24)):
        b = slice(start, start + 2 * rows)
        a = slice(b.stop, b.stop + 2 * columns)
        gauge = torch.randn(2, 2, generator=generator, dtype=torch.float64)
        other[b] = (z[b].reshape(rows, 2) @ gauge).flatten()
        other[a] = torch.linalg.solve(gauge, z[a].reshape(2, columns)).flatten()
    assert a.stop == reduction.dim and not torch.allclose(other, z, atol=0.1)
    first, second = (reduction.expand(one) for one in (z, other))
    assert torch.allclose(first, second, atol=1e-10)
    assert torch.allclose(reduction.reduce(first), reduction.reduce(second), atol=1e-8)


def test_found_factors_have_orthonormal_rows_in_a_on_the_side_of_the_start():
    reduction = LowRank(weights(), SHAPES, 3)
    found = reduction.reduce(weights(seed=5))
    a, start = found[18 : 18 + 81].reshape(3, 27), reduction.center[18 : 18 + 81].reshape(3, 27)
    assert torch.allclose(a @ a.T, torch.eye(3, dtype=torch.float64), atol=1e-10)
    assert bool(((a * start).sum(1) >= 0).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_that_an_update_does_not_use_keep_the_start(dtype):
    reduction = LowRank(weights(dtype), SHAPES, 3)
    z = drawn(reduction)
    z[:18].view(6, 3)[:, 1:] = 0  # an update of rank 1
    found = reduction.reduce(reduction.expand(z))
    b, a, start = found[:18].view(6, 3), found[18:99].view(3, 27), reduction.center[18:99].view(3, 27)
    assert not b[:, 1:].any() and b[:, 0].any()
    assert torch.equal(a[1:], start[1:])
    assert not torch.allclose(a[0], start[0], atol=0.1)


@pytest.mark.parametrize("options", [{}, {"freeze_a": True}, {"include_vectors": True, "scale": 0.3}])
def test_gradients_are_those_of_finite_differences(options):
    shapes = ((2, 3, 2), (2,), (3, 4))
    theta0 = weights()[:26]
    reduction = LowRank(theta0, shapes, 2, **options)
    z = drawn(reduction, lead=(2,)).requires_grad_()
    assert torch.autograd.gradcheck(reduction.expand, z)


def test_at_the_start_the_gradient_reaches_b_alone():
    reduction = LowRank(weights(), SHAPES, 3)
    z = reduction.center.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reduction.expand(z) @ weights(seed=7), z)
    assert bool((gradient[:18] != 0).all())
    assert not gradient[18:99].any()


@pytest.mark.parametrize("freeze_a", [False, True])
@pytest.mark.parametrize(("rank", "scale"), [(1, 1.0), (4, 0.1)])
def test_a_first_population_moves_matrices_as_far_as_that_of_the_full_search(rank, scale, freeze_a):
    reduction = LowRank(weights(), SHAPES, rank, scale, freeze_a=freeze_a)
    full = Identity(weights()[:162])
    lengths = []
    for space, z0 in ((reduction, weights()), (full, weights()[:162])):
        unit = torch.rand(500, space.dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        moved = (space.expand(space.lower + unit * (space.upper - space.lower)) - z0)[:, :162]
        lengths.append(float(moved.square().mean().sqrt()))
    assert lengths[0] == pytest.approx(lengths[1] * (1.0 if freeze_a else (4 / 3) ** 0.5), rel=0.1)


def test_a_seeded_generator_repeats_and_the_global_one_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = LowRank(weights(), SHAPES)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first.center, LowRank(weights(), SHAPES).center)
    other = LowRank(weights(), SHAPES, generator=torch.Generator().manual_seed(9))
    assert not torch.equal(first.center, other.center)


@pytest.mark.parametrize("options", [{}, {"freeze_a": True, "include_vectors": True, "scale": 2.0}])
def test_it_survives_its_state(options):
    reduction = LowRank(weights(), SHAPES, 2, **options)
    again = Reduction.from_state_dict(reduction.state_dict())
    z = drawn(reduction, lead=(3,))
    assert torch.equal(again.expand(z), reduction.expand(z))
    assert again.is_unique is reduction.is_unique is bool(options)
    assert torch.equal(again.reduce(weights(seed=4)), reduction.reduce(weights(seed=4)))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (SHAPES, {"rank": 0}, "`rank` must be an integer of at least 1, got 0"),
        (SHAPES, {"rank": 2.5}, r"`rank` must be an integer of at least 1, got 2\.5"),
        (SHAPES, {"scale": 0.0}, r"`scale` must be a finite number above 0, got 0\.0"),
        (SHAPES, {"scale": float("nan")}, "`scale` must be a finite number above 0, got nan"),
        (SHAPES[:2], {}, r"`shapes` hold 168 weights, `theta0` has 293: pass layout\.shapes"),
        (((293,),), {"include_vectors": True}, "none has a rank: use Subspace"),
    ],
)
def test_wrong_arguments_name_the_remedy(shapes, options, message):
    with pytest.raises(ValueError, match=message):
        LowRank(weights(), shapes, **options)


def test_a_chain_refuses_an_outer_part_whose_values_cannot_be_found_again():
    outer = LowRank(weights(), SHAPES)
    with pytest.raises(ValueError, match=r"`outer` must give its values back, which LowRank does not.*freeze_a=True"):
        Chain(outer, RandomBlocking(outer.center, 5))
