"""Do parts of a network move as they should, and does everything else stay?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from evohbde.layout import ParameterLayout
from evohbde.parts import bias_names, head_names, norm_names
from evohbde.reductions import Chain, ChannelScaling, Identity, RandomProjection, Reduction, Subspace, channel_groups
from tests.small_networks import cnn

SHAPES = ((4, 2, 3), (4,), (3, 5))
SIZE = 43


def weights(dtype=torch.float64, seed=0, size=SIZE):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


MASKS = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).filter(any)


class TestSubspace:
    @given(MASKS, st.sampled_from(["replace", "offset"]), st.integers(0, 99))
    def test_selected_weights_move_and_the_others_stay(self, selected, mode, seed):
        reduction = Subspace(weights(), torch.tensor(selected), mode)
        z = weights(seed=seed + 1, size=2 * reduction.dim).reshape(2, -1)
        expected = np.tile(weights().numpy(), (2, 1))
        expected[:, selected] = z.numpy() + (expected[:, selected] if mode == "offset" else 0)
        assert np.array_equal(reduction.expand(z).numpy(), expected)

    @given(MASKS, st.integers(0, 99))
    def test_reduce_reads_the_selected_weights(self, selected, seed):
        reduction = Subspace(weights(), torch.tensor(selected))
        theta = weights(seed=seed + 1)
        assert np.array_equal(reduction.reduce(theta).numpy(), theta.numpy()[selected])

    @pytest.mark.parametrize("mode", ["replace", "offset"])
    def test_with_everything_selected_it_is_the_identity(self, mode):
        part, whole = Subspace(weights(), torch.ones(SIZE, dtype=torch.bool), mode), Identity(weights(), mode)
        for name in ("center", "lower", "upper"):
            assert torch.equal(getattr(part, name), getattr(whole, name))
        assert torch.equal(part.expand(weights(seed=1)), whole.expand(weights(seed=1)))

    @pytest.mark.parametrize("names", [norm_names, bias_names, head_names])
    def test_a_named_part_moves_in_the_network_and_nothing_else(self, names):
        model = cnn()
        layout = ParameterLayout(model)
        reduction = Subspace(layout.flatten(model), layout.mask(names(model)), mode="offset")
        network = layout.load_(cnn(), reduction.expand(torch.ones(reduction.dim)))
        for name, old in model.named_parameters():
            assert torch.equal(network.get_parameter(name), old + 1.0 if name in names(model) else old)

    @pytest.mark.parametrize("names", [norm_names, bias_names, head_names])
    def test_it_searches_the_same_values_as_a_layout_of_the_part(self, names):
        model = cnn()
        layout, small = ParameterLayout(model), ParameterLayout(model, names(model))
        reduction = Subspace(layout.flatten(model), layout.mask(names(model)))
        assert torch.equal(reduction.center, small.flatten(model))
        z = torch.randn(small.size, generator=torch.Generator().manual_seed(0))
        one, other = layout.load_(cnn(), reduction.expand(z)), small.load_(cnn(), z)
        assert all(torch.equal(p, other.get_parameter(name)) for name, p in one.named_parameters())

    def test_a_chain_searches_a_reduction_of_the_part(self):
        selected = torch.arange(SIZE) % 2 == 0
        outer = Subspace(weights(), selected)
        chain = Chain(outer, RandomProjection(outer.center, 3))
        theta = chain.expand(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
        assert torch.equal(theta[~selected], weights()[~selected])
        assert bool((theta[selected] != weights()[selected]).all())

    @pytest.mark.parametrize(
        ("selected", "message"),
        [
            (torch.zeros(SIZE, dtype=torch.bool), "`selected` is False everywhere.*widen the names"),
            (torch.ones(7, dtype=torch.bool), r"bool tensor of shape \(43,\), got torch.bool \(7,\): use layout\.mask"),
            (torch.ones(SIZE), "got torch.float32"),
            ("norm", "got 'norm': use layout.mask"),
        ],
    )
    def test_wrong_selections_name_the_remedy(self, selected, message):
        with pytest.raises(ValueError, match=message):
            Subspace(weights(), selected)

    def test_a_wrong_mode_is_an_error(self):
        with pytest.raises(ValueError, match="`mode` must be 'replace'"):
            Subspace(weights(), torch.ones(SIZE, dtype=torch.bool), mode="add")


class TestChannelScaling:
    @given(st.booleans(), st.integers(0, 99))
    def test_rows_are_scaled_and_vectors_shifted_as_by_numpy(self, include_vectors, seed):
        reduction = ChannelScaling(weights(), SHAPES, include_vectors)
        z = weights(seed=seed + 1, size=reduction.dim).numpy()
        conv, bias, linear = np.split(weights().numpy(), [24, 28])
        gains = z[:4], z[4:7]
        shift = z[7:] if include_vectors else 0.0
        assert len(z) == (11 if include_vectors else 7)
        expected = [
            conv.reshape(4, 6) * (1 + gains[0][:, None]),
            bias + shift,
            linear.reshape(3, 5) * (1 + gains[1][:, None]),
        ]
        found = reduction.expand(torch.from_numpy(z)).numpy()
        assert np.allclose(found, np.concatenate([part.ravel() for part in expected]), rtol=1e-14)

    @given(st.booleans(), st.integers(0, 99))
    def test_reduce_is_the_least_squares_solution_of_numpy(self, include_vectors, seed):
        reduction = ChannelScaling(weights(), SHAPES, include_vectors)
        basis = (reduction.expand(torch.eye(reduction.dim, dtype=torch.float64)) - weights()).T.numpy()
        theta = weights(seed=seed + 1)
        expected = np.linalg.lstsq(basis, (theta - weights()).numpy(), rcond=None)[0]
        assert np.allclose(reduction.reduce(theta).numpy(), expected, atol=1e-12)

    def test_gains_scale_the_outputs_of_layers_and_shifts_are_added(self):
        generator = torch.Generator().manual_seed(0)
        conv, linear = nn.Conv2d(2, 4, 3).double(), nn.Linear(5, 3).double()
        for layer, shape, wide in ((conv, (2, 2, 6, 6), (1, 4, 1, 1)), (linear, (2, 5), (1, 3))):
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            layout, before = ParameterLayout(layer), layer(x)
            without_bias = before - layer.bias.detach().reshape(wide)
            reduction = ChannelScaling(layout.flatten(layer), layout.shapes, include_vectors=True)
            gain, shift = torch.randn(2, wide[1], generator=generator, dtype=torch.float64)
            layout.load_(layer, reduction.expand(torch.cat([gain, shift])))
            expected = before + gain.reshape(wide) * without_bias + shift.reshape(wide)
            assert torch.allclose(layer(x), expected, atol=1e-12)

    def test_a_channel_of_zeros_has_no_gain(self):
        theta0 = weights().clone()
        theta0[6:12] = 0
        reduction = ChannelScaling(theta0, SHAPES)
        assert reduction.dim == 6
        theta = reduction.expand(torch.ones(6, dtype=torch.float64))
        assert torch.allclose(theta[:24], 2 * theta0[:24]) and torch.equal(theta[24:28], theta0[24:28])
        assert torch.equal(reduction.reduce(theta), torch.ones(6, dtype=torch.float64))

    def test_weights_whose_squares_vanish_still_have_a_gain(self):
        theta0 = weights(torch.float32) * 1e-30
        reduction = ChannelScaling(theta0, SHAPES)
        z = weights(torch.float32, seed=1, size=7)
        assert torch.allclose(reduction.reduce(reduction.expand(z)), z, atol=1e-5)

    def test_the_first_range_is_a_tenth_of_what_moves(self):
        reduction = ChannelScaling(weights(), SHAPES, include_vectors=True)
        width = 0.1 * weights()[24:28].square().mean().sqrt().item()
        expected = torch.tensor([0.1] * 7 + [width] * 4, dtype=torch.float64)
        assert torch.allclose(reduction.upper, expected) and torch.allclose(reduction.lower, -expected)
        assert not reduction.center.any()

    @pytest.mark.parametrize(
        ("theta0", "shapes", "message"),
        [
            (weights(), ((SIZE,),), "no tensor in `shapes` has a channel.*include_vectors=True"),
            (torch.zeros(SIZE), SHAPES, "no tensor in `shapes` has a channel with weights other than zero"),
            (weights(), SHAPES[:2], r"`shapes` hold 28 weights, `theta0` has 43: pass layout\.shapes"),
        ],
    )
    def test_nothing_to_search_names_the_remedy(self, theta0, shapes, message):
        with pytest.raises(ValueError, match=message):
            ChannelScaling(theta0, shapes)


def test_channels_are_numbered_over_all_matrices_and_vectors_have_none():
    expected = [row for row in range(4) for _ in range(6)] + [-1] * 4 + [4 + row for row in range(3) for _ in range(5)]
    assert channel_groups(SHAPES).tolist() == expected
    assert channel_groups([()]).tolist() == [-1]


@pytest.mark.parametrize(
    "build",
    [
        lambda: Subspace(weights(), torch.arange(SIZE) % 3 == 0),
        lambda: Subspace(weights(), torch.arange(SIZE) % 3 == 0, mode="offset"),
        lambda: ChannelScaling(weights(), SHAPES),
        lambda: ChannelScaling(weights(), SHAPES, include_vectors=True),
    ],
)
def test_gradients_are_those_of_finite_differences_and_states_are_complete(build):
    reduction = build()
    z = weights(seed=1, size=2 * reduction.dim).reshape(2, -1).requires_grad_()
    assert torch.autograd.gradcheck(reduction.expand, z)
    again = Reduction.from_state_dict(reduction.state_dict())
    assert torch.equal(again.expand(z), reduction.expand(z))
