"""Philox against its published vectors, and the fast one against the plain one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hltm._compile import compiled
from hltm.sampling.kernels.generator import philox_blocks
from hltm.sampling.philox import Stream, check_seed, philox, uniform

ONES = 0xFFFFFFFF
# the known-answer file of Random123, philox4x32 with 10 rounds
PUBLISHED = [
    ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
word = st.integers(0, ONES)


@compiled()
def fill(key0, key1, c0, blocks, c2, c3, count, words):
    philox_blocks(key0, key1, c0, blocks, c2, c3, count, words)


def fast(counter, key, blocks):
    """Words `(len(blocks), 4)` by the compiled generator."""
    padded = -(-len(blocks) // 8) * 8
    numbers = np.zeros(padded, dtype=np.uint64)
    numbers[: len(blocks)] = blocks
    words = np.empty(2 * padded, dtype=np.uint64)
    c0, _, c2, c3 = (np.uint64(c) for c in counter)
    fill(np.uint64(key[0]), np.uint64(key[1]), c0, numbers, c2, c3, len(blocks), words)
    return words.view(np.uint32).reshape(-1, 4)[: len(blocks)]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_both_generators_give_the_published_words(counter, key, expected):
    tensors = [torch.tensor([c]) for c in counter]
    slow = [int(w) for w in philox(tuple(tensors), seed=key[0] | key[1] << 32)]
    assert " ".join(f"{w:08x}" for w in slow) == expected
    assert " ".join(f"{w:08x}" for w in fast(counter, key, [counter[1]])[0]) == expected


@settings(max_examples=25)
@given(st.tuples(word, word, word), st.tuples(word, word), st.lists(word, min_size=1, max_size=21))
def test_the_fast_generator_equals_the_plain_one(counter, key, blocks):
    c0, c2, c3 = counter
    slow = philox((c0, torch.tensor(blocks), c2, c3), seed=key[0] | key[1] << 32)
    found = fast((c0, 0, c2, c3), key, blocks)
    np.testing.assert_array_equal(found, torch.stack(slow, dim=-1).numpy())


def test_real_numbers_are_prefixes_of_each_other():
    address = {"seed": 3, "stream": Stream.INIT, "members": [0, 5], "node": 2}
    long = uniform(101, **address)
    assert long.dtype == torch.float64
    assert long.shape == (2, 101)
    assert 0 <= long.min() < long.max() < 1
    assert torch.equal(uniform(10, **address), long[:, :10])
    assert torch.equal(uniform(101, **{**address, "members": [5]})[0], long[1])


def test_real_numbers_are_uniform():
    numbers = uniform(20_000, seed=1, stream=Stream.INIT, members=[0], node=0)[0]
    counts = torch.histc(numbers, 20, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 43.8  # chi-square of 19, p = 1e-3


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_has_64_bits(seed):
    with pytest.raises(ValueError, match=rf"seed must be in 0..2\^64-1, got {seed}"):
        check_seed(seed)


@pytest.mark.parametrize("seed", [1.0, "7", None, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="seed must be an integer"):
        check_seed(seed)
