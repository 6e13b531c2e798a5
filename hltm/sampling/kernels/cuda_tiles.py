"""Tiles of samples through the whole tree and all views, by the threads of a GPU: what `cuda` launches.

A block of threads draws a tile, a few blocks of 128 samples of one member, through the whole tree and
all views. The nodes of a group, whose parents all lie in earlier groups, are shared among its threads:

    a binary node  a thread takes 128 samples, and makes planes until each of them is decided
    a wide node    a thread takes the four samples of one call of the generator, see `guide`

Only what a view redraws is drawn: a thread stops at the plane that decides the last redrawn sample.
All arithmetic is of integers; words of 32 bits are cast back to 32 bits after every operation, because
numba computes in 64 (and numba's simulator, in which the tests run this file, with numpy's scalars).
"""

# mypy: disable-error-code="attr-defined"
from __future__ import annotations

import numpy as np
from numba import cuda

from hltm.sampling.kernels.request import BLOCK, NEVER, SOMETIMES
from hltm.sampling.philox import DECISIONS, MULTIPLIER, ROUNDS, WEYL, WORD_PLANE

WORDS = BLOCK // 32  # of 32 bits, for the samples of a block
CALLS = BLOCK // 4  # of the generator, for the samples of a block at a wide node
DATA, VIEW, REDRAWN = 0, 1, 2  # the parts of `bits` and of `wide`
# the columns of `plan`, which has a row for every node
PARENT, STATES, THRESHOLDS, CASE, LIMIT, NEEDED, HELD, RANK, CELLS, BITS = range(10)

_M0, _M1 = np.uint64(MULTIPLIER[0]), np.uint64(MULTIPLIER[1])
_W0, _W1 = np.uint64(WEYL[0]), np.uint64(WEYL[1])
_WORD, _HIGH = np.uint64(0xFFFFFFFF), np.uint64(32)
_ALL = 0xFFFFFFFF


@cuda.jit(device=True)
def _philox(c0, c1, c2, c3, key0, key1):  # type: ignore[no-untyped-def]
    """Four words of Philox 4x32-10 from a counter and a key of uint32 words."""
    for _ in range(ROUNDS):
        a = _M0 * np.uint64(c0)
        b = _M1 * np.uint64(c2)
        c0 = np.uint32(np.uint32(b >> _HIGH) ^ c1 ^ key0)
        c2 = np.uint32(np.uint32(a >> _HIGH) ^ c3 ^ key1)
        c1 = np.uint32(b & _WORD)
        c3 = np.uint32(a & _WORD)
        key0 = np.uint32((np.uint64(key0) + _W0) & _WORD)
        key1 = np.uint32((np.uint64(key1) + _W1) & _WORD)
    return c0, c1, c2, c3


@cuda.jit(device=True)
def _bits_of(lanes, thresholds, at, wide, now, parent, first, bit):  # type: ignore[no-untyped-def]
    """One bit of the thresholds of some of 32 samples: thresholds[at + state of the parent]."""
    found = np.uint32(0)
    while lanes != 0:
        k = cuda.ffs(lanes) - 1
        threshold = thresholds[at + np.int64(wide[now, parent, first + k])]
        found = np.uint32(found | np.uint32(((threshold >> bit) & 1) << k))
        lanes = np.uint32(lanes & np.uint32(lanes - np.uint32(1)))
    return found


@cuda.jit(device=True)
def _decide(  # type: ignore[no-untyped-def]
    left, found, above, t0, t1, by_lane, thresholds, at, wide, now, parent, first, key0, key1, view,
    c1, c2, c3,
):  # fmt: skip
    """Set the bits of `found` where u >= its threshold, for the samples of a block that `left` marks.

    The comparison goes bit by bit, as in `planes`: t0 or t1 is the threshold of a sample by its bit of
    `above`, or, if `by_lane`, thresholds[at + state of the parent] is. `left` ends with the samples
    whose u equals its threshold in all bits that were compared.
    """
    some = np.uint32(0)
    for w in range(WORDS):
        found[w] = np.uint32(0)
        some = np.uint32(some | left[w])
    rest = np.int64(_ALL) if by_lane else (t0 | t1) & _ALL
    plane = 0
    # where the remaining bits of a threshold are all 0, an undecided u is >= it whatever its bits
    while rest != 0 and some != 0:
        c0 = np.uint32(np.int64(plane) << 24 | view)
        words = _philox(c0, c1, c2, c3, key0, key1)
        bit = 31 - plane
        same = np.uint32(_ALL * ((t0 >> bit) & 1))
        differ = np.uint32(same ^ np.uint32(_ALL * ((t1 >> bit) & 1)))
        some = np.uint32(0)
        for w in range(WORDS):
            if by_lane:
                same = _bits_of(left[w], thresholds, at, wide, now, parent, first + 32 * w, bit)
            wanted = np.uint32(same ^ np.uint32(differ & above[w]))
            decided = np.uint32(np.uint32(words[w] ^ wanted) & left[w])
            found[w] = np.uint32(found[w] | np.uint32(decided & words[w]))
            left[w] = np.uint32(left[w] ^ decided)
            some = np.uint32(some | left[w])
        rest = (rest << 1) & _ALL
        plane += 1
    # a threshold of 2^32, whose bit 32 was not compared, is above every u
    same = np.uint32(_ALL * ((t0 >> 32) & 1))
    differ = np.uint32(same ^ np.uint32(_ALL * ((t1 >> 32) & 1)))
    for w in range(WORDS):
        found[w] = np.uint32(found[w] | left[w])
        if by_lane:
            same = _bits_of(found[w], thresholds, at, wide, now, parent, first + 32 * w, 32)
        never = np.uint32(same ^ np.uint32(differ & above[w]))
        found[w] = np.uint32(found[w] & np.uint32(never ^ np.uint32(_ALL)))


@cuda.jit(device=True)
def _draw_decisions(  # type: ignore[no-untyped-def]
    plan, v, j, thresholds, key0, key1, view, block, c2, c3, bits, wide
):
    """Mark in which of the samples of block j a node's own decision is to be drawn again."""
    left = cuda.local.array(WORDS, np.uint32)
    found = cuda.local.array(WORDS, np.uint32)
    above = cuda.local.array(WORDS, np.uint32)
    for w in range(WORDS):
        left[w] = np.uint32(_ALL)
        above[w] = np.uint32(0)
    limit = plan[v, LIMIT]
    _decide(
        left, found, above, limit, limit, False, thresholds, 0, wide, VIEW, 0, 0, key0, key1, view,
        block, c2, c3,
    )  # fmt: skip
    for w in range(WORDS):
        bits[REDRAWN, v, WORDS * j + w] = found[w]


@cuda.jit(device=True)
def _draw_binary(  # type: ignore[no-untyped-def]
    plan, v, j, now, redrawn, thresholds, key0, key1, view, block, c2, c3, bits, wide
):
    """States of a binary node for the samples of block j; where not redrawn, those of the data."""
    left = cuda.local.array(WORDS, np.uint32)
    found = cuda.local.array(WORDS, np.uint32)
    above = cuda.local.array(WORDS, np.uint32)
    marks = cuda.local.array(WORDS, np.uint32)
    parent = plan[v, PARENT]
    at = plan[v, THRESHOLDS]
    t0 = thresholds[at]
    t1 = t0
    by_lane = parent >= 0 and plan[parent, STATES] > 2
    if parent >= 0 and not by_lane:
        t1 = thresholds[at + 1]
    for w in range(WORDS):
        i = WORDS * j + w
        above[w] = np.uint32(0)
        if parent >= 0 and not by_lane:
            above[w] = bits[now, parent, i]
        marks[w] = np.uint32(_ALL)
        if redrawn:
            marks[w] = _mark(plan, bits, v, i)
        left[w] = marks[w]
    _decide(
        left, found, above, t0, t1, by_lane, thresholds, at, wide, now, parent, BLOCK * j, key0, key1,
        view, block, c2, c3,
    )  # fmt: skip
    for w in range(WORDS):
        i = WORDS * j + w
        kept = np.uint32(0)
        if redrawn:
            kept = np.uint32(bits[DATA, v, i] & np.uint32(marks[w] ^ np.uint32(_ALL)))
        bits[now, v, i] = np.uint32(found[w] | kept)


@cuda.jit(device=True)
def _mark(plan, bits, v, i):  # type: ignore[no-untyped-def]
    """In which of 32 samples a node is redrawn: by its own decision, or with its parent."""
    found = bits[REDRAWN, v, i]
    parent = plan[v, PARENT]
    if parent >= 0 and plan[parent, CASE] == SOMETIMES:
        found = np.uint32(found | bits[REDRAWN, parent, i])
        bits[REDRAWN, v, i] = found  # any thread that comes again finds the same
    return found


@cuda.jit(device=True)
def _draw_wide(  # type: ignore[no-untyped-def]
    plan, v, j, call, now, redrawn, thresholds, rank, cells, key0, key1, view, block, c2, c3, bits,
    wide,
):  # fmt: skip
    """States of a node of more than two states for the four samples of one call of the generator."""
    parent = plan[v, PARENT]
    marks = np.uint32(15)
    first = BLOCK * j + 4 * call
    if redrawn:
        word = _mark(plan, bits, v, first >> 5)
        marks = np.uint32(np.uint32(word >> np.uint32(first & 31)) & np.uint32(15))
    u0, u1, u2, u3 = np.uint32(0), np.uint32(0), np.uint32(0), np.uint32(0)
    if marks != 0:
        c0 = np.uint32(np.int64(WORD_PLANE) << 24 | view)
        c1 = np.uint32((np.int64(block) * CALLS + call) & _ALL)
        u0, u1, u2, u3 = _philox(c0, c1, c2, c3, key0, key1)
    width = plan[v, BITS]
    shift = 32 - width
    steps = plan[v, STATES] - 1
    for k in range(4):
        lane = first + k
        if (marks >> k) & 1 == 0:
            wide[now, v, lane] = wide[DATA, v, lane]
            continue
        u = np.int64(u0 if k == 0 else u1 if k == 1 else u2 if k == 2 else u3)
        row = np.int64(0)
        if parent >= 0:
            row = _state(plan, parent, lane, bits[now], wide[now])
        r = np.int64(rank[plan[v, RANK] + row])
        cell = np.int64(cells[plan[v, CELLS] + (r << width) + (u >> shift)])
        state = cell & ((1 << (width - 1)) - 1)
        if (u & ((1 << shift) - 1)) > (cell >> width):
            state += 1
        if (cell >> (width - 1)) & 1:  # several thresholds lie in this cell
            start = plan[v, THRESHOLDS] + r * steps
            low, high = start, start + steps
            while low < high:
                middle = (low + high) >> 1
                if thresholds[middle] <= u:
                    low = middle + 1
                else:
                    high = middle
            state = low - start
        wide[now, v, lane] = state


@cuda.jit(device=True)
def _state(plan, v, lane, bits, wide):  # type: ignore[no-untyped-def]
    """The state of a node in one sample of a tile."""
    if plan[v, STATES] == 2:
        return np.int64(bits[v, lane >> 5] >> np.uint32(lane & 31)) & 1
    return np.int64(wide[v, lane])


@cuda.jit(device=True)
def _read(plan, v, i, given, start, bits, wide):  # type: ignore[no-untyped-def]
    """Take the given states of a node in the 32 samples of word i of a tile that begins at `start`."""
    word = np.uint32(0)
    for k in range(32):
        at = start + 32 * i + k
        state = np.int64(0)  # of samples that were not asked for
        if at >= 0 and at < given.shape[1]:
            state = np.int64(given[v, at])
        if plan[v, STATES] == 2:
            word = np.uint32(word | np.uint32((state & 1) << k))
        else:
            wide[DATA, v, 32 * i + k] = state
    if plan[v, STATES] == 2:
        bits[DATA, v, i] = word


@cuda.jit(device=True)
def _written(plan, v, i, per, bits, wide):  # type: ignore[no-untyped-def]
    """The states of a node in `per` consecutive samples, two or four, as one word of the result."""
    first = per * i
    word = np.int64(0)
    for k in range(per):
        word |= _state(plan, v, first + k, bits, wide) << (k * (32 // per))
    return np.uint32(word)


@cuda.jit
def draw_tiles(  # type: ignore[no-untyped-def]
    key0, key1, stream, members, views, numbers, tile_blocks, offset, plan, order, groups, thresholds,
    rank, cells, given, has_base, draw_base, first, per, out, bits_of_tiles, wide_of_tiles,
):  # fmt: skip
    """Draw all tiles; every block of threads takes one after the other, with scratch of its own.

    Args:
        key0, key1, stream: uint32, uint32 and int64.
        members, views, numbers: int64; `numbers` are those of the blocks of samples.
        tile_blocks, offset: blocks of a tile; the place of the first sample asked for in the first block.
        plan: `(V, 10)` int64, what is known of every node.
        order, groups: int64; group g has the nodes order[groups[g]] .. order[groups[g + 1] - 1].
        thresholds, rank, cells: as in `Guide`: int64, uint32, uint32.
        given: `(S, V, B)` int32 states to start from, if `has_base`; `draw_base` draws what is not held.
        first, per: the lowest node to write; how many states make a word of the result.
        out: `(P, S, V - first, W)` uint32, whole blocks of samples.
        bits_of_tiles, wide_of_tiles: `(G, 3, V, 4 T)` uint32 and `(G, 2, V, 128 T)` uint16.
    """
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x
    worker, workers = cuda.blockIdx.x, bits_of_tiles.shape[0]
    if worker >= workers:
        return
    bits, wide = bits_of_tiles[worker], wide_of_tiles[worker]
    nodes = plan.shape[0]
    blocks = numbers.shape[0]
    tiles = (blocks + tile_blocks - 1) // tile_blocks
    for task in range(worker, members.shape[0] * tiles, workers):
        s = task // tiles
        tile = task % tiles * tile_blocks
        count = blocks - tile if blocks - tile < tile_blocks else tile_blocks
        of = s if thresholds.shape[0] > 1 else 0  # one set of tables may serve all members
        c3 = np.uint32(members[s])
        if has_base:
            for item in range(thread, nodes * WORDS * count, threads):
                _read(
                    plan, item // (WORDS * count), item % (WORDS * count), given[s],
                    BLOCK * tile - offset, bits, wide,
                )  # fmt: skip
        cuda.syncthreads()
        for step in range(-1, views.shape[0]):  # step -1 draws the data themselves
            view = np.int64(0) if step < 0 else views[step]
            now = VIEW if view > 0 else DATA
            if view > 0:
                # 1. a node's own decisions, for all nodes at once
                for item in range(thread, nodes * count, threads):
                    v, j = item // count, item % count
                    if plan[v, CASE] == SOMETIMES:
                        c2 = np.uint32(np.int64(v) << 8 | stream | DECISIONS)
                        block = np.uint32(numbers[tile + j])
                        _draw_decisions(
                            plan, v, j, thresholds[of], key0, key1, view, block, c2, c3, bits, wide
                        )
                cuda.syncthreads()
            if view > 0 or (step < 0 and draw_base):
                # 2. states, group by group
                for g in range(groups.shape[0] - 1):
                    low = groups[g]
                    parts = count if plan[order[low], STATES] == 2 else CALLS * count
                    for item in range(thread, (groups[g + 1] - low) * parts, threads):
                        v = order[low + item // parts]
                        if step < 0 and (plan[v, HELD] == 1 or plan[v, NEEDED] == 0):
                            continue
                        redrawn = step >= 0 and plan[v, CASE] == SOMETIMES
                        kept = step >= 0 and (plan[v, CASE] == NEVER or plan[v, HELD] == 1)
                        part = item % parts
                        j = part if parts == count else part // CALLS
                        c2 = np.uint32(np.int64(v) << 8 | stream)
                        block = np.uint32(numbers[tile + j])
                        if parts == count:
                            if kept:
                                for i in range(WORDS * j, WORDS * j + WORDS):
                                    bits[now, v, i] = bits[DATA, v, i]
                                    if redrawn:  # a held node's mark is for the nodes below
                                        _mark(plan, bits, v, i)
                            else:
                                _draw_binary(
                                    plan, v, j, now, redrawn, thresholds[of], key0, key1, view, block,
                                    c2, c3, bits, wide,
                                )  # fmt: skip
                        elif kept:
                            lane = BLOCK * j + 4 * (part % CALLS)
                            for k in range(lane, lane + 4):
                                wide[now, v, k] = wide[DATA, v, k]
                            if redrawn:
                                _mark(plan, bits, v, lane >> 5)
                        else:
                            _draw_wide(
                                plan, v, j, part % CALLS, now, redrawn, thresholds[of], rank[of],
                                cells[of], key0, key1, view, block, c2, c3, bits, wide,
                            )  # fmt: skip
                    cuda.syncthreads()
            if step >= 0:
                # 3. the result, consecutive words by consecutive threads
                words = BLOCK * count // per
                for item in range(thread, (nodes - first) * words, threads):
                    v, i = item // words, item % words
                    place = BLOCK * tile // per + i
                    out[step, s, v, place] = _written(plan, v + first, i, per, bits[now], wide[now])
                cuda.syncthreads()
