"""Decisions and numbers of views' leaves by the compiled generator: a hundred times as fast as by torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hltm._compile import compiled
from hltm.sampling.kernels.generator import LANES, philox_blocks
from hltm.sampling.philox import MASK, WORD_PLANE

_WORD = np.uint64(MASK)


def missing(
    rows: np.ndarray,
    limits: np.ndarray,
    nodes: np.ndarray,
    *,
    seed: int,
    stream: int,
    members: Sequence[int],
    view: int,
) -> np.ndarray:
    """`(S, G, B)` bool: whether each node's number of plane 255 is at least its limit, at any samples.

    It equals `words_at(rows, ...) >= limits[:, None]`.

    Args:
        rows: `(B,)` int64 numbers of samples.
        limits: `(G,)` int64, 0..2^32.
        nodes: `(G,)` numbers of nodes.
        seed, stream, members, view: the rest of the address.
    """
    found = np.empty((len(members), len(nodes), len(rows)), dtype=bool)
    if found.size:
        address = _address(rows, nodes, seed, stream, members, view)
        _decide(*address, limits.astype(np.uint64), found)  # type: ignore[call-arg]
    return found


def words(
    rows: np.ndarray,
    nodes: np.ndarray,
    *,
    seed: int,
    stream: int,
    members: Sequence[int],
    view: int,
) -> np.ndarray:
    """`(S, G, B)` uint32, what `words_at` gives; arguments as for `missing`."""
    found = np.empty((len(members), len(nodes), len(rows)), dtype=np.uint32)
    if found.size:
        address = _address(rows, nodes, seed, stream, members, view)
        _collect(*address, found)  # type: ignore[call-arg]
    return found


def _address(
    rows: np.ndarray, nodes: np.ndarray, seed: int, stream: int, members: Sequence[int], view: int
) -> tuple[Any, ...]:
    """The arguments that `_decide` and `_collect` share; each call of the generator is made once."""
    # a call serves the four samples 4k .. 4k + 3; those of consecutive samples need no search
    if (np.diff(rows) == 1).all():
        blocks = np.arange(rows[0] >> 2, (rows[-1] >> 2) + 1)
        chosen = rows - (blocks[0] << 2)
    else:
        blocks, place = np.unique(rows >> 2, return_inverse=True)
        chosen = place << 2 | rows & 3
    calls = np.zeros(-(-len(blocks) // LANES) * LANES, dtype=np.uint64)
    calls[: len(blocks)] = blocks
    return (
        np.uint64(seed & MASK), np.uint64(seed >> 32), np.uint64(WORD_PLANE << 24 | view), calls,
        (nodes.astype(np.uint64) << np.uint64(8)) | np.uint64(stream),
        np.array(members, dtype=np.uint64), chosen,
    )  # fmt: skip


@compiled()
def _decide(key0, key1, plane, calls, nodes, members, chosen, limits, found):  # type: ignore[no-untyped-def]
    """Fill `found`; number c of a node is word c % 4 of call c // 4, two words to an integer."""
    words = np.empty(2 * len(calls), dtype=np.uint64)
    for s in range(len(members)):
        for g in range(len(nodes)):
            philox_blocks(key0, key1, plane, calls, nodes[g], members[s], len(calls), words)
            for i in range(len(chosen)):
                c = chosen[i]
                u = (words[c >> 1] >> np.uint64(32 * (c & 1))) & _WORD
                found[s, g, i] = u >= limits[g]


@compiled()
def _collect(key0, key1, plane, calls, nodes, members, chosen, found):  # type: ignore[no-untyped-def]
    """Fill `found` with the numbers themselves."""
    words = np.empty(2 * len(calls), dtype=np.uint64)
    for s in range(len(members)):
        for g in range(len(nodes)):
            philox_blocks(key0, key1, plane, calls, nodes[g], members[s], len(calls), words)
            for i in range(len(chosen)):
                c = chosen[i]
                found[s, g, i] = (words[c >> 1] >> np.uint64(32 * (c & 1))) & _WORD
