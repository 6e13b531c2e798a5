"""Binary nodes: a uniform number against its threshold, bit by bit, 128 samples per block.

The most significant bits come first, for all blocks of a tile. Each plane decides half of the
lanes that are left, so a lane needs two planes and a block of 128 about eight and a half; after
DENSE planes only the blocks with a lane still undecided are drawn further.
"""

from __future__ import annotations

import numpy as np

from hltm._compile import compiled
from hltm.sampling.kernels.generator import philox_blocks

DENSE = 7  # planes computed for all blocks

_NONE, _ONE, _ALL = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_SHIFT = np.uint64(32)
_PLANE = np.uint64(24)


@compiled()
def draw_bits(  # type: ignore[no-untyped-def]
    parent, t0, t1, wide, by_lane, key0, key1, c0, numbers, c2, c3, count, blocks, words,
    undecided, undecided_words, out,
):  # fmt: skip
    """Set bit i of `out` where u_i >= its threshold: t0 or t1 by the bit of `parent`.

    Args:
        parent: bits of the parent's states; scratch if `by_lane`.
        t0, t1: thresholds 0..2^32.
        wide: None in binary trees, else what holds the threshold of every lane.
        by_lane: whether to use those; t0 is then all of them or-ed, t1 is 0.
        numbers: `(count,)` uint64 numbers of the tile's blocks.
        blocks, words, undecided, undecided_words: scratch.
    """
    for i in range(2 * count):
        undecided[i] = _ALL
        out[i] = _NONE
    for j in range(count):
        blocks[j] = numbers[j]
    rest = (t0 | t1) << _SHIFT  # the threshold bits not yet looked at
    left = count
    plane = 0
    while rest != _NONE and left > 0:  # where the rest of a threshold is 0, u >= threshold already
        philox_blocks(key0, key1, c0 | (np.uint64(plane) << _PLANE), blocks, c2, c3, left, words)
        # a lane's threshold bit is `same`, flipped where the parent's state is 1 if they differ
        bit = np.uint64(31 - plane)
        same = _NONE - ((t0 >> bit) & _ONE)
        differ = (_NONE - ((t1 >> bit) & _ONE)) ^ same
        if wide is not None and by_lane:
            same, differ = _NONE, _ALL
            for k in range(left):
                at = np.uint64(2 * k) if plane < DENSE else undecided_words[k]
                parent[at] = _bits_of(wide.thresholds, at, bit)
                parent[at + _ONE] = _bits_of(wide.thresholds, at + _ONE, bit)
        if plane < DENSE:
            for i in range(2 * count):
                found = (words[i] ^ same ^ (differ & parent[i])) & undecided[i]
                out[i] |= found & words[i]
                undecided[i] &= ~found
            if plane == DENSE - 1:
                left = 0
                for j in range(count):
                    undecided_words[left] = np.uint64(2 * j)
                    blocks[left] = numbers[j]
                    left += (undecided[2 * j] | undecided[2 * j + 1]) != _NONE
        else:
            kept = 0
            for k in range(left):
                at = undecided_words[k]
                for half in range(2):
                    i = at + np.uint64(half)
                    word = words[2 * k + half]
                    found = (word ^ same ^ (differ & parent[i])) & undecided[i]
                    out[i] |= found & word
                    undecided[i] &= ~found
                undecided_words[kept] = at
                blocks[kept] = blocks[k]
                kept += (undecided[at] | undecided[at + _ONE]) != _NONE
            left = kept
        rest = rest << _ONE
        plane += 1
    # a threshold of 2^32 is above every u
    same = (t0 >> _SHIFT) - _ONE
    differ = ((t1 >> _SHIFT) - _ONE) ^ same
    if wide is not None and by_lane:
        same, differ = _ALL, _ALL
        for i in range(2 * count):
            parent[i] = _bits_of(wide.thresholds, np.uint64(i), _SHIFT)
    for i in range(2 * count):
        out[i] = (out[i] | undecided[i]) & (same ^ (differ & parent[i]))


@compiled()
def _bits_of(thresholds, word, bit):  # type: ignore[no-untyped-def]
    """One bit of each of the 64 thresholds of a word's lanes."""
    found = _NONE
    first = word << np.uint64(6)
    for k in range(64):
        lane = np.uint64(k)
        found |= ((thresholds[first + lane] >> bit) & _ONE) << lane
    return found
