"""Binary nodes: a uniform number against its threshold, bit by bit, for the 128 samples of a block.

A state is 1 where u >= t, with u a uniform 32-bit number and t the threshold of the parent's state.
Compare from the most significant bit: at the first bit where u and t differ, u >= t exactly if u has
the 1. One call of the generator makes one bit, a *plane*, of u for a whole block. Every plane decides
half of the samples that are left, so a sample needs two planes on average and a block about eight and
a half. The first DENSE planes are computed for all blocks of a tile, further planes only for the
blocks that still have an undecided sample.

Samples are lanes: bit k of word i is sample 64 i + k of the tile, two words to a block.
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
        wide: None in binary trees; otherwise `wide.thresholds` has a threshold for every lane.
        by_lane: whether to use those (the parent has more than two states); t0 is then the bitwise or
            of all of them, and t1 is 0.
        key0, key1, c0, c2, c3: key and counter words of the generator, see `philox_blocks`; c0 is that
            of plane 0.
        numbers: `(count,)` uint64 numbers of the tile's blocks.
        blocks, words, undecided, undecided_words: scratch. `undecided` has a 1 for every lane whose
            bits have all equalled its threshold's; `undecided_words` lists the first words of blocks
            that have such lanes.
    """
    for i in range(2 * count):
        undecided[i] = _ALL
        out[i] = _NONE
    for j in range(count):
        blocks[j] = numbers[j]
    rest = (t0 | t1) << _SHIFT  # the threshold bits that are not compared yet, highest first
    left = count
    plane = 0
    # where the remaining bits of a threshold are all 0, an undecided u is >= it whatever its bits
    while rest != _NONE and left > 0:
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
                # decided here: the lanes where the bit of u differs from that of the threshold
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
    # Lanes still undecided have u = threshold, so u >= threshold. But a threshold of 2^32, whose bit 32
    # was not compared, is above every u: its lanes are cleared.
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
