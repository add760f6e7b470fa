"""Do packed numbers come back, in as few bits as theory allows?"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy

from evohbde.compress import codes
from evohbde.compress.codes import huffman_decode, huffman_encode, huffman_lengths, pack_indices, unpack_indices


@pytest.fixture(params=[codes.PIECE, 64], autouse=True, scope="module")
def piece(request):
    """Work in one piece, and in many."""
    before, codes.PIECE = codes.PIECE, request.param
    yield
    codes.PIECE = before


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 20), st.integers(0, 300), st.integers(0, 99))
def test_numbers_of_a_fixed_width_come_back_from_the_fewest_bytes(width, count, seed):
    indices = np.random.default_rng(seed).integers(0, 2**width, count)
    packed = pack_indices(indices, width)
    assert len(packed) == -(-count * width // 8)
    assert unpack_indices(packed, width, count).tolist() == indices.tolist()


def test_the_highest_bit_comes_first():
    assert pack_indices(np.array([5, 2, 7]), 3).tolist() == [0b10101011, 0b10000000]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(0, 400), st.floats(0.05, 0.9), st.integers(0, 99))
def test_huffman_symbols_come_back_within_a_bit_of_their_entropy(num_symbols, count, skew, seed):
    indices = np.minimum(np.random.default_rng(seed).geometric(skew, count) - 1, num_symbols - 1)
    _, indices, counts = np.unique(indices, return_inverse=True, return_counts=True)
    lengths = huffman_lengths(counts)
    packed = huffman_encode(indices, lengths)
    assert huffman_decode(packed, lengths, count).tolist() == indices.tolist()
    used = int(lengths[indices].sum())
    assert len(packed) == -(-used // 8)
    bits = count * entropy(counts, base=2) if count else 0.0
    assert bits - 1e-6 <= used <= bits + count


def test_lengths_of_a_known_code():
    # Cormen, Leiserson, Rivest & Stein, Introduction to Algorithms, figure of the Huffman code of a to f.
    assert huffman_lengths(np.array([45, 13, 12, 16, 9, 5])).tolist() == [1, 3, 3, 3, 4, 4]


def test_fibonacci_counts_make_the_deepest_code():
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    lengths = huffman_lengths(np.array(counts))
    assert lengths.max() == 29 and sum(2.0**-length for length in lengths.astype(float)) == 1
    indices = np.arange(30)[::-1].repeat(3)
    assert huffman_decode(huffman_encode(indices, lengths), lengths, 90).tolist() == indices.tolist()


def test_a_code_that_ends_early_is_an_error():
    lengths = huffman_lengths(np.array([3, 2, 1]))
    packed = huffman_encode(np.zeros(16, dtype=np.int64), lengths)
    with pytest.raises(ValueError, match="the code ends after"):
        huffman_decode(packed, lengths, 200)
