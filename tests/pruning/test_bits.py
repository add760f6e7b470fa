"""Do packed masks come back as they were?"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evohbde.pruning.bits import pack, unpack


@given(st.integers(0, 70), st.sampled_from([(), (1,), (3,), (2, 3), (0,)]), st.integers(0, 99))
def test_bytes_are_those_of_numpy_and_give_the_mask_back(size, lead, seed):
    mask = torch.rand(*lead, size, generator=torch.Generator().manual_seed(seed)) < 0.5
    bits = pack(mask)
    assert bits.dtype == torch.uint8 and np.array_equal(bits.numpy(), np.packbits(mask.numpy(), axis=-1))
    assert torch.equal(unpack(bits, size), mask)


def test_eight_weights_take_one_byte():
    mask = torch.ones(215_000 * 8 - 3, dtype=torch.bool)
    assert pack(mask).nbytes == 215_000


@pytest.mark.parametrize("mask", [torch.ones(8), torch.tensor(True)])
def test_only_rows_of_decisions_are_packed(mask):
    with pytest.raises(ValueError, match=r"`mask` to be bool of shape \(\.\.\., D\)"):
        pack(mask)


@pytest.mark.parametrize("bits", [torch.zeros(3, dtype=torch.uint8), torch.zeros(2), torch.zeros(1, 2).long()])
def test_bytes_of_another_size_are_an_error(bits):
    with pytest.raises(ValueError, match=r"`bits` to be uint8 of shape \(\.\.\., 2\) for 16 decisions"):
        unpack(bits, 16)
