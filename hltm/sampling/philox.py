"""Philox 4x32-10, and the address of every random number.

A random number is a pure function of its address, never of the order in which numbers are asked
for. The generator is the counter-based Philox of Salmon, Moraes, Dror and Shaw (2011), "Parallel
random numbers: as easy as 1, 2, 3": a key and a counter of four 32-bit words give four 32-bit words.

    key      the seed's low 32 bits, the seed's high 32 bits
    word 0   plane (8 bits)  | view (24 bits)
    word 1   block (32 bits)
    word 2   node (24 bits)  | stream (8 bits)
    word 3   member (32 bits)

The plane numbers several calls for one node and the same samples. u is the uniform 32-bit number that
decides a state by comparison with the thresholds of `Tables.thresholds`.

- A binary node uses planes 0..31, one per bit of u: bit j of word w of the call (block, plane b) is bit
  31-b of u of sample 128·block + 32·w + j. So most bits need not be computed: a comparison with a
  threshold is decided by the first bit that differs.
- A node with more states uses plane 255: word w of the call (block k) is u of sample 4k + w.
- Real numbers (tables, initial weights) use plane 254.
- Augmentations of pictures use plane 253: the call (block i, node) has four words for sample i.
- The decisions whether a view redraws a node are drawn like states of binary nodes, in the stream with
  its highest bit set. The decisions whether a view misses a leaf are plane 255 of that stream. Whether it
  flips a leaf, and to which state, is plane 255 of the stream with both of its highest bits set. Where rows
  differ in how many leaves they miss, a row's rate is plane 255 of the root in the stream with its second
  highest bit set.

This layout is DRAW_FORMAT; data sets written under one format are only read under the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm._integers import as_integer

DRAW_FORMAT = 1

MULTIPLIER = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF

WORD_PLANE = 255  # one 32-bit number per sample
REAL_PLANE = 254  # pairs of words make real numbers
PICTURE_PLANE = 253  # four words per sample
MAX_VIEWS = 1 << 24
MAX_MEMBERS = 1 << 32
MAX_ROWS = 1 << 34  # word planes have 2^32 blocks of four samples


class Stream(IntEnum):
    """What a random number is for; different streams never use the same number."""

    TABLES = 0
    DATA = 1
    INIT = 2
    BATCHES = 3
    PREDICTOR = 4
    EVALUATION = 5
    CEILING = 6
    NULL = 7
    NEGATIVES = 8
    POSTERIOR = 9
    PERMUTATION = 10
    NOISE = 11
    EMBEDDING = 20


DECISIONS = 0x80  # set in a stream: decisions whether a view redraws nodes or misses leaves
RATES = 0x40  # set in a stream: at which rate a row of a view misses leaves
FLIPS = 0xC0  # set in a stream: whether a view flips leaves, and to which state


def check_seed(seed: int) -> int:
    """The seed, if it is an integer of 64 bits.

    Raises:
        TypeError: not an integer.
        ValueError: outside 0..2^64-1.
    """
    found = as_integer("seed", seed)
    if not 0 <= found < 1 << 64:
        raise ValueError(f"seed must be in 0..2^64-1, got {seed}")
    return found


def check_members(members: int | None) -> int:
    """The number of member addresses 0..S-1 that `members` stands for: 1 for None.

    Raises:
        TypeError: neither an integer nor None.
        ValueError: below 1 or above 2^32.
    """
    if members is None:
        return 1
    found = as_integer("members", members, 1)
    if found > MAX_MEMBERS:
        raise ValueError(f"members must be at most 2^32, got {members}")
    return found


def philox(
    counter: tuple[Tensor | int, Tensor | int, Tensor | int, Tensor | int], seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox 4x32-10 on int64 tensors that hold 32-bit words.

    Args:
        counter: four words, each an int or an int64 tensor; they broadcast.
        seed: the 64-bit key.

    Returns:
        Four int64 tensors of 32-bit words.

    Example:
        >>> zero = torch.zeros(1, dtype=torch.int64)
        >>> [f"{int(word):08x}" for word in philox((zero, 0, 0, 0), seed=0)]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    device = next((word.device for word in counter if isinstance(word, Tensor)), None)
    words = torch.broadcast_tensors(*(torch.as_tensor(word, device=device) for word in counter))
    if words[0].device.type == "cpu":  # a third of torch's time, which starts each operation slowly
        found = _rounds([np.atleast_1d(word.numpy()) for word in words], seed)
        a, b, c, d = (torch.from_numpy(word).view(words[0].shape) for word in found)
        return a, b, c, d
    return _rounds(words, seed)


def _rounds(counter: Sequence[Any], seed: int) -> tuple[Any, Any, Any, Any]:
    """The ten rounds of `philox` on arrays of one shape, of numpy or of torch."""
    c0, c1, c2, c3 = counter
    key0, key1 = seed & MASK, seed >> 32
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIER[0])
        high1, low1 = _multiply(c2, MULTIPLIER[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + WEYL[0]) & MASK, (key1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def words_at(
    rows: Tensor,
    *,
    seed: int,
    stream: int,
    members: Sequence[int],
    nodes: Sequence[int] | np.ndarray,
    view: int = 0,
) -> Tensor:
    """`(S, G, B)` int64: the 32-bit numbers of plane 255 at any samples, in any order.

    Args:
        rows: `(B,)` int64 numbers of samples; the result lies on their device.
        members: `S` addresses.
        nodes: `G` numbers of nodes.

    Example:
        >>> address = {"seed": 1, "stream": 1, "members": [0], "nodes": [3]}
        >>> a = words_at(torch.tensor([7, 2, 7]), **address)
        >>> b = words_at(torch.arange(8), **address)
        >>> a.equal(b[..., [7, 2, 7]])
        True
    """
    # each call serves the four samples 4k .. 4k + 3; equal calls are made once
    block, place = torch.unique(rows >> 2, return_inverse=True)
    node = torch.as_tensor(nodes, dtype=torch.int64, device=rows.device)[:, None] << 8 | stream
    member = torch.tensor(list(members), dtype=torch.int64, device=rows.device)[:, None, None]
    words = torch.stack(philox((WORD_PLANE << 24 | view, block, node, member), seed), dim=-1)
    return words.flatten(2)[..., place << 2 | rows & 3]


def four_words_at(
    rows: Tensor,
    *,
    seed: int,
    stream: int,
    members: Sequence[int],
    nodes: Tensor,
    view: int = 0,
) -> Tensor:
    """`(4, S, B, G)` int64: the four 32-bit words of plane 253 at any samples and nodes.

    Args:
        rows: `(B,)` int64 numbers of samples, below 2^32; the result lies on their device.
        members: `S` addresses.
        nodes: `(G,)` int64 numbers of nodes, on the same device.

    Example:
        >>> nodes, address = torch.arange(2), {"seed": 1, "stream": 1, "members": [0]}
        >>> a = four_words_at(torch.tensor([7, 2]), nodes=nodes, **address)
        >>> b = four_words_at(torch.arange(8), nodes=nodes, **address)
        >>> a.equal(b[:, :, [7, 2]])
        True
    """
    member = torch.tensor(list(members), dtype=torch.int64, device=rows.device)[:, None, None]
    plane, node = PICTURE_PLANE << 24 | view, nodes << 8 | stream
    return torch.stack(philox((plane, rows[:, None], node, member), seed))


def _multiply(word: Any, constant: int) -> tuple[Any, Any]:
    """High and low 32 bits of a product of 32-bit words, all of whose 64 bits int64 holds, sign included."""
    product = word * constant
    return (product >> 32) & MASK, product & MASK


def uniform(
    count: int,
    *,
    seed: int,
    stream: Stream,
    members: Sequence[int],
    node: int,
    view: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`(S, count)` float64 numbers in [0, 1), 53 random bits each, one row per member address.

    Number i of a row is a function of (seed, stream, member, node, view, i) alone.
    """
    member = torch.tensor(list(members), dtype=torch.int64, device=device)[:, None]
    block = torch.arange((count + 1) // 2, dtype=torch.int64, device=device)[None]
    words = philox((REAL_PLANE << 24 | view, block, node << 8 | stream, member), seed)
    pairs = torch.stack([(words[i] << 21) | (words[i + 1] >> 11) for i in (0, 2)], dim=-1)
    return pairs.flatten(1)[:, :count].to(torch.float64) * 2.0**-53
