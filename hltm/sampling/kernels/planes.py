"""Binary nodes: a uniform number against its threshold, bit by bit, for the 128 samples of a block.

A state is 1 where u >= t, with u a uniform 32-bit number and t the threshold of the parent's state.
At the highest bit where u and t differ, u >= t exactly if u has the 1. One call of the generator makes
one bit, a *plane*, of u for a whole block. Every plane decides half of the samples that are left, so a
sample needs two planes on average and a block about eight and a half. The first planes are made for all
blocks, eight side by side (`start_bits`). The blocks that still have an undecided sample wait until many
nodes have some, so that eight of them can again be made side by side (`finish_bits`).

Samples are lanes, 64 to a word and two words to a block. Of eight blocks the first words lie side by side
and then the second ones: word i of a node's samples in order is the one at `word_place(i)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hltm._compile import inner
from hltm.sampling.kernels.bits import collect_word
from hltm.sampling.kernels.generator import (
    LANES,
    exclusive_or,
    load_lanes,
    philox_lanes,
    philox_rounds,
    spread,
    store_lanes,
)

FIRST = 9  # planes made for all blocks
AT_ONCE = 3  # of them made side by side
LAST = 2  # planes made side by side for the blocks that are left
PLANES = 32
FIELDS = np.uint64(8)  # numbers of a draw in `Pending.draws`
# the lanes that each number of LANES bits marks, in order
CHOSEN = np.array(
    [
        [*(k for k in range(LANES) if m >> k & 1), *(0 for k in range(LANES) if not m >> k & 1)]
        for m in range(1 << LANES)
    ],
    dtype=np.uint8,
)

_NONE, _ONE, _TWO, _THREE, _FOUR, _FIVE = (np.uint64(number) for number in range(6))
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_SHIFT = np.uint64(32)
_PLANE = np.uint64(24)
_SECOND = np.uint64(LANES)  # how far the second word of a block lies behind the first


class Pending(NamedTuple):
    """Blocks with undecided lanes, and the draws they are of: of one state, or decision, of a tile.

    Attributes:
        block, node: `(E,)` uint64 counter words 1 and 2 of a block's calls.
        at: `(E,)` uint64 where its first word lies among the words of all nodes.
        draw: `(E,)` uint64 the place of its draw in `draws`.
        draws: `(4 D,)` uint64, four numbers a draw: two thresholds, and how far before its words lie those
            of the parent's states, and its words in `equal`.
        equal: `(D * words,)` uint64, a 1 for every lane whose bits have all equalled its threshold's.
    """

    block: np.ndarray
    node: np.ndarray
    at: np.ndarray
    draw: np.ndarray
    draws: np.ndarray
    equal: np.ndarray


@inner()
def word_place(i):  # type: ignore[no-untyped-def]
    """Where word i of a node's samples lies among the node's words."""
    return (i & ~15) | (i & 1) << 3 | (i >> 1) & 7


@inner()
def start_bits(  # type: ignore[no-untyped-def]
    bits, at, above, t0, t1, key0, key1, c0, numbers, c2, c3, count, pending, left, draw
):
    """Set bit i of `bits[at:]` where u_i >= its threshold, t0 or t1 by bit i of `bits[above:]`.

    Args:
        bits: words of all nodes.
        t0, t1: thresholds 0..2^32; if they are equal, the bits above are not used.
        key0, key1, c0, c2, c3: key and counter words of the generator, see `philox_blocks`; c0 is that
            of plane 0.
        numbers: `(count,)` uint64 numbers of the tile's blocks, padded to LANES.
        pending: takes the blocks that are not decided from place `left` on, as those of draw `draw`.

    Returns:
        How many blocks are pending. Their lanes that are not decided are 0.
    """
    words = 2 * len(numbers)
    own, parents = bits[at : at + words], bits[above : above + words]
    equal = pending.equal[draw * words : (draw + 1) * words]
    for i in range(words):
        own[i] = _NONE
        equal[i] = _ALL
    # where the remaining bits of a threshold are all 0, an undecided u is >= it whatever its bits
    rest = (t0 | t1) << _SHIFT
    planes = 0
    while planes < FIRST and rest != _NONE:
        rest = rest << _ONE
        planes += 1
    for plane in range((planes - 1) // AT_ONCE * AT_ONCE, -1, -AT_ONCE):
        for j in range(0, count, LANES):
            compare(
                key0, key1, c0, numbers, c2, c3, j, np.uint64(plane), t0, t1, parents, own, equal,
            )  # fmt: skip
    # a threshold of 2^32, whose bit 32 was not compared, is above every u
    if (t0 | t1) >> _SHIFT != _NONE or rest == _NONE:
        low, differ = _threshold_bits(t0, t1, _SHIFT)
        for i in range(words):
            possible = ~(low ^ (differ & parents[i]))
            equal[i] &= possible
            own[i] = (own[i] & possible) | (equal[i] if rest == _NONE else _NONE)
    if rest == _NONE:
        return left
    place = FIELDS * np.uint64(draw)
    pending.draws[place], pending.draws[place + _ONE] = t0 << _ONE, t1 << _ONE
    pending.draws[place + _TWO] = np.uint64(at - above)
    pending.draws[place + _THREE] = np.uint64(at - draw * words)
    pending.draws[place + _FOUR], pending.draws[place + _FIVE] = c2, np.uint64(at)
    for j in range(0, count, LANES):
        blocks = (_ONE << np.uint64(min(LANES, count - j))) - _ONE
        left = list_undecided(
            equal, 2 * j, blocks, CHOSEN, np.uint64(at), place, pending.at, pending.draw, left
        )
    return left


@inner()
def finish_bits(bits, pending, left, key0, key1, c0, numbers, c3, words):  # type: ignore[no-untyped-def]
    """Set the bits of the lanes of all pending blocks, 0 .. left - 1.

    Args:
        key0, key1, c0, numbers, c3: as in `start_bits`.
        words: `(2 LAST LANES,)` uint64 scratch.
    """
    block, node, place, draw, draws, equal = pending
    for j in range(left):
        k = np.uint64(j)
        at, d = place[k], draw[k]
        word = at - draws[d + _FIVE]  # see `word_place`
        block[k] = numbers[(word >> _FOUR) << _THREE | word & np.uint64(LANES - 1)]
        node[k] = draws[d + _FOUR]
    for plane in range(FIRST, PLANES, LAST):
        if left == 0:
            break
        kept = _NONE
        for j in range(0, left, LANES):
            make_planes(key0, key1, c0, block, node, c3, j, np.uint64(plane), words)
            for lane in range(min(LANES, left - j)):
                k = np.uint64(j + lane)
                at, d = place[k], draw[k]
                above, own = at - draws[d + _TWO], at - draws[d + _THREE]
                some = _NONE
                for half in (_NONE, _SECOND):
                    parents, lanes, found = bits[above + half], equal[own + half], _NONE
                    same = lanes
                    for i in range(LAST - 1, -1, -1):  # the lowest first
                        low, differ = _threshold_bits(
                            draws[d], draws[d + _ONE], np.uint64(PLANES - plane - i)
                        )
                        word = words[np.uint64(2 * LANES * i + lane) + half]
                        differs = word ^ low ^ (differ & parents)
                        found = (found & ~differs) | (word & differs)
                        same &= ~differs
                    bits[at + half] |= found & lanes
                    equal[own + half] = same
                    some |= same
                block[kept], node[kept], place[kept], draw[kept] = block[k], node[k], at, d
                kept += np.uint64(some != _NONE)
        left = np.int64(kept)
    for j in range(left):  # u equals its threshold
        k = np.uint64(j)
        own = place[k] - draws[draw[k] + _THREE]
        bits[place[k]] |= equal[own]
        bits[place[k] + _SECOND] |= equal[own + _SECOND]


@inner()
def _threshold_bits(t0, t1, bit):  # type: ignore[no-untyped-def]
    """A bit of t0 for all lanes of a word, and whether that of t1 differs."""
    low = _NONE - ((t0 >> bit) & _ONE)
    return low, (_NONE - ((t1 >> bit) & _ONE)) ^ low


@inner()
def draw_by_lane(  # type: ignore[no-untyped-def]
    bits, at, thresholds, key0, key1, c0, numbers, c2, c3, count, equal, words
):
    """Set bit i of `bits[at:]` where u_i >= `thresholds[i]`, 0..2^32; else as `start_bits`.

    Args:
        thresholds: one for every lane of the tile.
        equal, words: `(2 LANES,)` uint64 scratch.
    """
    for j in range(0, count, LANES):
        here = at + 2 * j
        size = 2 * min(LANES, count - j)
        some = _ALL
        for plane in range(PLANES):
            if some == _NONE:
                break
            some = _NONE
            word0 = c0 | np.uint64(plane) << _PLANE
            philox_lanes(key0, key1, word0, numbers, c2, c3, j, words, 0)
            for i in range(size):
                same = collect_word(thresholds, 64 * (2 * j + i), PLANES - 1 - plane)
                lanes = equal[i] if plane > 0 else _ALL
                found = (words[i] ^ same) & lanes
                before = bits[here + word_place(i)] if plane > 0 else _NONE
                bits[here + word_place(i)] = found & words[i] | before
                equal[i] = lanes ^ found
                some |= equal[i]
        for i in range(size):
            above = collect_word(thresholds, 64 * (2 * j + i), PLANES)
            place = here + word_place(i)
            bits[place] = (bits[place] | equal[i]) & ~above


def _compare(
    typing: Any, key0: Any, key1: Any, c0: Any, numbers: Any, c2: Any, c3: Any, block: Any,
    plane: Any, t0: Any, t1: Any, parents: Any, own: Any, equal: Any,
) -> Any:  # fmt: skip
    """AT_ONCE planes, from `plane` on, of blocks block .. block + LANES - 1 against their thresholds.

    Where they differ, sets the lanes of `own` to the bit of u, and those of `equal` to 0. The threshold
    of a lane is t0 or t1, by its bit of `parents`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c0, numbers_, c2, c3, block, plane, t0, t1, parents_, own_, equal_ = arguments[2:]
        number = plane.type
        c1 = load_lanes(context, builder, numbers, numbers_, block)
        counters = [(_plane_word(builder, c0, plane, i), c1, c2, c3) for i in range(AT_ONCE)]
        made = philox_rounds(builder, arguments[:2], counters)
        for half in (0, 1):
            at = builder.add(builder.add(block, block), block.type(half * LANES))
            parent = load_lanes(context, builder, parents, parents_, at)
            found = load_lanes(context, builder, own, own_, at)
            left = load_lanes(context, builder, equal, equal_, at)
            # the lowest first: whichever plane differs last is then the highest that does
            for i in reversed(range(AT_ONCE)):
                word, top = made[i][half], builder.add(plane, number(PLANES + i))
                # the bit of a threshold in all lanes
                low, high = (builder.ashr(builder.shl(t, top), number(63)) for t in (t0, t1))
                flipped = builder.and_(spread(builder, builder.xor(low, high)), parent)
                differs = exclusive_or(builder, word, flipped, low)
                same = builder.not_(differs)
                found = builder.and_(found, same)
                found = builder.or_(found, builder.and_(word, differs))
                left = builder.and_(left, same)
            store_lanes(context, builder, own, own_, at, found)
            store_lanes(context, builder, equal, equal_, at, left)
        return context.get_dummy_value()

    word = types.uint64
    given = (
        word,
        word,
        word,
        numbers,
        word,
        word,
        types.intp,
        word,
        word,
        word,
        parents,
        own,
        equal,
    )
    return types.void(*given), generate


def _make_planes(
    typing: Any, key0: Any, key1: Any, c0: Any, blocks: Any, nodes: Any, c3: Any, at: Any,
    plane: Any, words: Any,
) -> Any:  # fmt: skip
    """LAST planes, from `plane` on, of LANES pending blocks: for each plane first words, then second ones."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        c0, blocks_, nodes_, c3, at, plane, words_ = arguments[2:]
        c1, c2 = (
            load_lanes(context, builder, kind, array, at)
            for kind, array in ((blocks, blocks_), (nodes, nodes_))
        )
        counters = [(_plane_word(builder, c0, plane, i), c1, c2, c3) for i in range(LAST)]
        made = philox_rounds(builder, arguments[:2], counters)
        for i, vector in enumerate(vector for pair in made for vector in pair):
            store_lanes(context, builder, words, words_, at.type(i * LANES), vector)
        return context.get_dummy_value()

    word = types.uint64
    given = (word, word, word, blocks, nodes, word, types.intp, word, words)
    return types.void(*given), generate


def _list_undecided(
    typing: Any, equal: Any, word: Any, blocks: Any, chosen: Any, at: Any, draw: Any, places: Any,
    draws: Any, left: Any,
) -> Any:  # fmt: skip
    """Add the blocks with a lane in equal[word ..] to those pending; returns how many are pending then.

    `blocks` has a bit for each block that there is. All LANES places are written, and those beyond the
    last one found are written again.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        equal_, word, blocks, chosen_, at, draw, places_, draws_, left = arguments
        lanes = builder.or_(*(
            load_lanes(context, builder, equal, equal_, builder.add(word, word.type(i)))
            for i in (0, LANES)
        ))  # fmt: skip
        some = builder.icmp_unsigned("!=", lanes, ir.Constant(lanes.type, None))
        marks = builder.zext(builder.bitcast(some, ir.IntType(LANES)), blocks.type)
        marks = builder.and_(marks, blocks)
        table = context.make_array(chosen)(context, builder, chosen_).data
        row = builder.gep(table, [builder.mul(marks, marks.type(LANES))])
        row = builder.bitcast(row, ir.VectorType(ir.IntType(8), LANES).as_pointer())
        found = builder.zext(builder.load(row, align=1), lanes.type)
        found = builder.add(found, spread(builder, builder.add(at, word)))
        store_lanes(context, builder, places, places_, left, found)
        store_lanes(context, builder, draws, draws_, left, spread(builder, draw))
        return builder.add(left, builder.ctpop(marks))

    word_ = types.uint64
    given = (equal, types.intp, word_, chosen, word_, word_, places, draws, types.intp)
    return types.intp(*given), generate


def _plane_word(builder: Any, c0: Any, plane: Any, i: int) -> Any:
    """Counter word 0 of the plane that is i after `plane`."""
    own = builder.add(plane, plane.type(i))
    return builder.or_(c0, builder.shl(own, plane.type(24)))


compare: Any = intrinsic(_compare)
make_planes: Any = intrinsic(_make_planes)
list_undecided: Any = intrinsic(_list_undecided)
