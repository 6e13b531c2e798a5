"""Binary nodes: a uniform number against its threshold, bit by bit, for the 128 samples of a block.

A state is 1 where u >= t, with u a uniform 32-bit number and t the threshold of the parent's state.
At the highest bit where u and t differ, u >= t exactly if u has the 1. One call of the generator makes
one bit, a *plane*, of u for a whole block. Every plane decides half of the samples that are left, so a
sample needs two planes on average and a block about eight and a half. The first planes are made for all
blocks, eight blocks side by side, and compared in registers (`first_planes`). The blocks that still have
an undecided sample wait until many nodes have some, so that eight of them can be made side by side again
(`start_bits`, `finish_bits`).

Samples are lanes: bit k of word i of a node is sample 64 i + k of the tile, two words to a block.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from hltm._compile import compiled
from hltm.sampling.kernels.bits import collect_word
from hltm.sampling.kernels.generator import (
    LANES,
    VECTOR,
    load_lanes,
    load_pairs,
    philox_lanes,
    philox_rounds,
    spread,
    store_pairs,
)

FIRST = 8  # planes made for all blocks
PLANES = 32

_NONE, _ONE, _TWO, _THREE, _FOUR = (np.uint64(number) for number in range(5))
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_SHIFT = np.uint64(32)
_PLANE = np.uint64(24)


class Pending(NamedTuple):
    """Blocks with undecided lanes, and the draws they are of: of one state, or decision, of a tile.

    Attributes:
        block, node: `(E,)` uint64 counter words 1 and 2 of a block's calls.
        rest: `(4 E,)` uint64, four numbers a block: where its two words begin among the words of all
            nodes; the number of its draw; and for each of the two words, a 1 for every lane whose bits have
            all equalled its threshold's.
        draws: `(4 D,)` uint64, four numbers a draw, of which two are its thresholds, and the third is
            how far the words of the parent's states lie before those of the draw.
    """

    block: np.ndarray
    node: np.ndarray
    rest: np.ndarray
    draws: np.ndarray


@compiled()
def start_bits(  # type: ignore[no-untyped-def]
    bits, at, above, t0, t1, key0, key1, c0, numbers, c2, c3, count, undecided, pending, left, draw
):
    """Set bit i of `bits[at:]` where u_i >= its threshold, t0 or t1 by bit i of `bits[above:]`.

    Args:
        bits: words of all nodes.
        t0, t1: thresholds 0..2^32; if they are equal, the bits above are not used.
        key0, key1, c0, c2, c3: key and counter words of the generator, see `philox_blocks`; c0 is that
            of plane 0.
        numbers: `(count,)` uint64 numbers of the tile's blocks, padded to LANES.
        undecided: `(2 LANES,)` uint64 scratch.
        pending: takes the blocks that are not decided from place `left` on, as those of draw `draw`.

    Returns:
        How many blocks are pending. Their lanes that are not decided are 0.
    """
    draw, left = np.uint64(draw), np.uint64(left)  # numba takes signed indices for ones from the end
    pending.draws[_FOUR * draw] = t0
    pending.draws[_FOUR * draw + _ONE] = t1
    pending.draws[_FOUR * draw + _TWO] = at - above
    # where the remaining bits of a threshold are all 0, an undecided u is >= it whatever its bits
    rest = (t0 | t1) << _SHIFT
    planes = 0
    while planes < FIRST and rest != _NONE:
        rest = rest << _ONE
        planes += 1
    for j in range(0, count, LANES):
        first_planes(
            key0, key1, c0, numbers, c2, c3, j, planes, t0, t1, bits, above + 2 * j, at + 2 * j,
            _ALL if rest == _NONE else _NONE, undecided,
        )  # fmt: skip
        for k in range(min(LANES, count - j) if rest != _NONE else 0):
            block, first = np.uint64(j + k), undecided[np.uint64(2 * k)]
            second = undecided[np.uint64(2 * k + 1)]
            pending.block[left] = numbers[block]
            pending.node[left] = c2
            pending.rest[_FOUR * left] = np.uint64(at) + _TWO * block
            pending.rest[_FOUR * left + _ONE] = draw
            pending.rest[_FOUR * left + _TWO] = first
            pending.rest[_FOUR * left + _THREE] = second
            left += np.uint64((first | second) != _NONE)
    return np.int64(left)


@compiled()
def finish_bits(bits, pending, left, key0, key1, c0, c3, words):  # type: ignore[no-untyped-def]
    """Set the bits of the lanes of all pending blocks, 0 .. left - 1.

    Args:
        key0, key1, c0, c3: as in `start_bits`.
        words: `(2 LANES,)` uint64 scratch.
    """
    block, node, rest, draws = pending
    for plane in range(FIRST, PLANES):
        if left == 0:
            break
        word0 = c0 | np.uint64(plane) << _PLANE
        bit = np.uint64(PLANES - 1 - plane)
        kept = _NONE
        for low in range(0, left, LANES):
            philox_lanes(key0, key1, word0, block, node, c3, low, words, 0)
            for lane in range(min(LANES, left - low)):
                k, w = np.uint64(low + lane), np.uint64(2 * lane)
                at, draw = rest[_FOUR * k], _FOUR * rest[_FOUR * k + _ONE]
                # a lane's threshold bit is `same`, flipped where the parent's state is 1 if they differ
                same = _NONE - ((draws[draw] >> bit) & _ONE)
                differ = (_NONE - ((draws[draw + _ONE] >> bit) & _ONE)) ^ same
                above = at - draws[draw + _TWO]
                # decided here: the lanes where the bit of u differs from that of the threshold
                lanes0, word = rest[_FOUR * k + _TWO], words[w]
                found = (word ^ same ^ (differ & bits[above])) & lanes0
                bits[at] |= found & word
                lanes0 ^= found
                lanes1, word = rest[_FOUR * k + _THREE], words[w + _ONE]
                found = (word ^ same ^ (differ & bits[above + _ONE])) & lanes1
                bits[at + _ONE] |= found & word
                lanes1 ^= found
                block[kept] = block[k]
                node[kept] = node[k]
                rest[_FOUR * kept] = at
                rest[_FOUR * kept + _ONE] = rest[_FOUR * k + _ONE]
                rest[_FOUR * kept + _TWO] = lanes0
                rest[_FOUR * kept + _THREE] = lanes1
                kept += np.uint64((lanes0 | lanes1) != _NONE)
        left = np.int64(kept)
    for k in range(left):  # u equals its threshold
        k = _FOUR * np.uint64(k)
        bits[rest[k]] |= rest[k + _TWO]
        bits[rest[k] + _ONE] |= rest[k + _THREE]


@compiled()
def draw_by_lane(  # type: ignore[no-untyped-def]
    bits, at, thresholds, key0, key1, c0, numbers, c2, c3, count, undecided, words
):
    """Set bit i of `bits[at:]` where u_i >= `thresholds[i]`, 0..2^32; else as `start_bits`.

    Args:
        thresholds: one for every lane of the tile.
        undecided, words: `(2 LANES,)` uint64 scratch.
    """
    for j in range(0, count, LANES):
        here = at + 2 * j
        some = _ALL
        for plane in range(PLANES):
            if some == _NONE:
                break
            some = _NONE
            word0 = c0 | np.uint64(plane) << _PLANE
            philox_lanes(key0, key1, word0, numbers, c2, c3, j, words, 0)
            for i in range(2 * min(LANES, count - j)):
                same = collect_word(thresholds, 64 * (2 * j + i), PLANES - 1 - plane)
                lanes = undecided[i] if plane > 0 else _ALL
                found = (words[i] ^ same) & lanes
                bits[here + i] = found & words[i] | (bits[here + i] if plane > 0 else _NONE)
                undecided[i] = lanes ^ found
                some |= undecided[i]
        for i in range(2 * min(LANES, count - j)):
            above = collect_word(thresholds, 64 * (2 * j + i), PLANES)
            bits[here + i] = (bits[here + i] | undecided[i]) & ~above


def _first_planes(
    typing: Any, key0: Any, key1: Any, c0: Any, numbers: Any, c2: Any, c3: Any, block: Any,
    planes: Any, t0: Any, t1: Any, bits: Any, above: Any, at: Any, last: Any, undecided: Any,
) -> Any:  # fmt: skip
    """The first planes of LANES blocks against their thresholds.

    Sets the words `bits[at ...]`, two a block, to u >= threshold, and `undecided` to the lanes where all
    planes equal the threshold's bits; these are 0 in `bits`, or if `last` is all ones, 1 and decided.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (key0, key1, c0, numbers_, c2, c3, block, planes, t0, t1, bits_, above, at, last, undecided_) = (
            arguments
        )
        integer = ir.IntType(64)
        c1 = load_lanes(context, builder, numbers, numbers_, block)
        parents = load_pairs(context, builder, bits, bits_, above)

        def chosen(high: Any, low: Any, parent: Any) -> Any:
            """For every lane, `low` or `high`, which are no bits or all, by its parent's state."""
            differ = builder.and_(spread(builder, builder.xor(high, low)), parent)
            return builder.xor(spread(builder, low), differ)

        none, every = VECTOR([0] * LANES), VECTOR([(1 << 64) - 1] * LANES)
        found = [cgutils.alloca_once_value(builder, none) for _ in parents]
        equal = [cgutils.alloca_once_value(builder, every) for _ in parents]
        with cgutils.for_range(builder, planes) as loop:
            # the lowest first: whichever plane differs last is then the highest that does
            plane = builder.sub(builder.sub(planes, planes.type(1)), loop.index)
            word0 = builder.or_(c0, builder.shl(plane, integer(24)))
            words = philox_rounds(builder, (key0, key1), (word0, c1, c2, c3))
            bit = builder.sub(integer(PLANES - 1), plane)
            low, high = (
                builder.neg(builder.and_(builder.lshr(t, bit), integer(1))) for t in (t0, t1)
            )
            for i, (word, parent) in enumerate(zip(words, parents, strict=True)):
                differs = builder.xor(word, chosen(high, low, parent))
                before = builder.and_(builder.load(found[i]), builder.not_(differs))
                builder.store(builder.or_(before, builder.and_(word, differs)), found[i])
                builder.store(builder.and_(builder.load(equal[i]), builder.not_(differs)), equal[i])
        # a threshold of 2^32, whose bit 32 was not compared, is above every u
        low, high = (builder.sub(builder.lshr(t, integer(32)), integer(1)) for t in (t0, t1))
        results, rest = [], []
        for i, parent in enumerate(parents):
            possible = chosen(high, low, parent)
            same = builder.and_(builder.load(equal[i]), possible)
            ending = spread(builder, last)
            ones = builder.and_(builder.load(found[i]), possible)
            results.append(builder.or_(ones, builder.and_(same, ending)))
            rest.append(builder.and_(same, builder.not_(ending)))
        store_pairs(context, builder, bits, bits_, at, results)
        store_pairs(context, builder, undecided, undecided_, integer(0), rest)
        return context.get_dummy_value()

    word, place = types.uint64, types.intp
    given = (
        word, word, word, numbers, word, word, place, place, word, word, bits, place, place, word,
        undecided,
    )  # fmt: skip
    return types.void(*given), generate


first_planes: Any = intrinsic(_first_planes)
