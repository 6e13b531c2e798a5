"""A tile of samples through the whole tree and all views: the compiled work of a CPU thread.

The states of binary nodes are bits, 64 to a word; those of wide nodes, of more than two states, are
one number each. For a binary tree `wide` is None, so numba compiles none of the code for wide nodes.
A lane is the place of a sample in the tile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hltm._compile import compiled, inner
from hltm.sampling.kernels.bits import collect_word, spread_word
from hltm.sampling.kernels.guide import draw_wide
from hltm.sampling.kernels.planes import (
    FIELDS,
    Pending,
    draw_by_lane,
    finish_bits,
    start_bits,
    word_place,
)
from hltm.sampling.kernels.request import BLOCK, NEVER, SOMETIMES
from hltm.sampling.philox import DECISIONS, WORD_PLANE

_NONE, _ONE = np.uint64(0), np.uint64(1)
# of a type: for a plain 0, numba compiles what is called with it once more
_NOTHING: Any = np.int64(0)
_DECISIONS = np.uint64(DECISIONS)
_WORDS = np.uint64(WORD_PLANE << 24)
_NODE = np.uint64(8)


class Scratch(NamedTuple):
    """A thread's own memory for tiles of some blocks.

    Attributes:
        numbers: the numbers of the tile's blocks, padded to LANES.
        calls, words: counters and output words of calls of the generator; 2 LANES words at least.
        pending: see `hltm.sampling.kernels.planes`.
        bits: `(3, V, words)` uint64 states of binary nodes, of the data and of the view, and whether
            the view redrew a node.
    """

    numbers: np.ndarray
    calls: np.ndarray
    words: np.ndarray
    pending: Pending
    bits: np.ndarray


class Wide(NamedTuple):
    """A thread's memory for nodes of more than two states: their guide, and scratch.

    Attributes:
        rank, rank_start, cells, start, bits: see `hltm.sampling.kernels.guide.Guide`.
        states: `(2, V, lanes)` of the data and of the view.
        row: `(lanes,)` the row of its table that a lane uses, its parent's state.
        thresholds: `(lanes,)` uint64, those of a binary node whose parent has more states.
    """

    rank: np.ndarray
    rank_start: np.ndarray
    cells: np.ndarray
    start: np.ndarray
    bits: np.ndarray
    states: np.ndarray
    row: np.ndarray
    thresholds: np.ndarray


@compiled(_nrt=False)  # no memory is allocated; references to parts of arrays need not be counted
def draw_tiles(  # type: ignore[no-untyped-def]
    key0, key1, stream, members, views, block_numbers, samples, size, offset, parent, cardinality,
    thresholds, threshold_start, redraw_case, redraw_limits, base_needed, given, draw_base, held, first,
    out, packed, scratch, wide, low, high,
):  # fmt: skip
    """Draw tasks low..high-1; a task is one tile of one member, all nodes and all views.

    A tile is `size` of the blocks; the other arguments are as in `DrawRequest` and `Tables`, or, where
    nodes are wide, thresholds as in `Guide`.
    """
    nodes = parent.shape[0]
    blocks = len(block_numbers)
    tiles = (blocks + size - 1) // size
    numbers, calls, words, pending, bits = scratch
    flat = bits.reshape(-1)
    width = bits.shape[2]
    # pending blocks and draws, so that those of one more node have room
    most, most_draws = len(pending.block) - width, len(pending.draws) // np.int64(FIELDS) - 2
    for task in range(low, high):
        s = task // tiles
        tile = task % tiles * size
        count = min(size, blocks - tile)
        for j in range(count):
            numbers[j] = block_numbers[tile + j]
        of = s if thresholds.shape[0] > 1 else 0  # one set of tables may serve all members
        start = tile * BLOCK - offset  # the tile's first sample, counted from the first asked for
        # the lanes that were asked for
        shown, end = max(0, -start), min(BLOCK * count, samples - start)
        for v in range(nodes if given.shape[0] > 0 else 0):
            if cardinality[v] == 2:
                _collect(given[s, v], start, count, bits[0, v])
            elif wide is not None:
                shown_given = given[s, v, start + shown :]
                shown_base = wide.states[0, v, shown:]
                for i in range(end - shown):
                    shown_base[i] = shown_given[i]
        for step in range(-1, len(views)):  # step -1 draws the data themselves
            view = _NONE if step < 0 else views[step]
            now = 1 if view > _NONE else 0
            drawing = view > _NONE or (step < 0 and draw_base)
            # finished nodes; pending blocks, and the draws they are of
            done = left = draws = _NOTHING
            for v in range(nodes + 1 if drawing else 0):
                full = left > most or draws > most_draws
                if v == nodes or full or (v > 0 and parent[v] >= done):
                    finish_bits(flat, pending, left, key0, key1, view, numbers, members[s], words)
                    for w in range(done, v if step >= 0 else 0):
                        _keep_states(bits, parent, redraw_case, cardinality, held, w, count, wide)
                    done, left, draws = v, _NOTHING, _NOTHING
                if v == nodes:
                    break
                two = cardinality[v] == 2
                if step < 0 and (held[v] or not base_needed[v]):
                    continue
                if step >= 0 and redraw_case[v] == NEVER:
                    continue
                c2 = np.uint64(v) << _NODE | stream
                by_lane = v > 0 and cardinality[parent[v]] > 2
                if wide is not None and (by_lane or not two):
                    row = wide.states[now, parent[v]] if by_lane else wide.row
                    if not two:
                        for i in range(0 if by_lane else 2 * count):
                            above_bits = bits[now, parent[v], word_place(i)] if v > 0 else _NONE
                            spread_word(row, 64 * i, above_bits)
                        draw_wide(
                            row, wide.rank[of, wide.rank_start[v] :],
                            wide.cells[of, wide.start[v] :], wide.bits[v], thresholds[of],
                            threshold_start[v], cardinality[v] - 1, key0, key1, _WORDS | view,
                            numbers, c2, members[s], count, calls, words, wide.states[now, v],
                        )  # fmt: skip
                    else:
                        for i in range(BLOCK * count):
                            wide.thresholds[i] = thresholds[
                                of, threshold_start[v] + np.int64(row[i])
                            ]
                        draw_by_lane(
                            flat, (now * nodes + v) * width, wide.thresholds, key0, key1, view,
                            numbers, c2, members[s], count, calls, words,
                        )  # fmt: skip
                # First the states, then the decision which of them are new: one call in a loop, as
                # two calls would inline `start_bits` twice and compile longer.
                states = two and not by_lane
                decision = step >= 0 and redraw_case[v] == SOMETIMES
                for own in range(0 if states else 1, 2 if decision else 1):  # 1: the decision
                    at = ((2 if own else now) * nodes + v) * width
                    above = at
                    t0 = t1 = redraw_limits[v]
                    if own == 0:
                        t0 = t1 = thresholds[of, threshold_start[v]]
                        if v > 0:
                            above = (now * nodes + parent[v]) * width
                            t1 = thresholds[of, threshold_start[v] + 1]
                    left = start_bits(
                        flat, at, above, t0, t1, key0, key1, view, numbers,
                        c2 | _DECISIONS if own else c2, members[s], count, pending, left, draws,
                    )  # fmt: skip
                    draws += 1
            for v in range(first, nodes if step >= 0 else 0):
                if packed.shape[0] > 0:
                    part = packed[step, s, v - first, 2 * tile :]
                    for i in range(2 * count):
                        part[i] = bits[now, v, word_place(i)]
                elif cardinality[v] == 2:
                    _spread(bits[now, v], start, count, out[step, s, v - first])
                elif wide is not None:
                    shown_out = out[step, s, v - first, start + shown :]
                    shown_states = wide.states[now, v, shown:]
                    for i in range(end - shown):
                        shown_out[i] = shown_states[i]


@inner()
def _spread(bits, start, count, out):  # type: ignore[no-untyped-def]
    """Write the states of a tile to places start.. of `out`, as far as it has such places."""
    for i in range(2 * count):
        at = start + 64 * i
        if at >= 0 and at + 64 <= out.shape[0]:
            spread_word(out, at, bits[word_place(i)])
        else:
            for k in range(max(0, -at), min(64, out.shape[0] - at)):
                out[at + k] = (bits[word_place(i)] >> np.uint64(k)) & _ONE


@inner()
def _collect(states, start, count, bits):  # type: ignore[no-untyped-def]
    """Read the states of a tile from places start.. of `states`, as far as it has such places."""
    for i in range(2 * count):
        at = start + 64 * i
        if at >= 0 and at + 64 <= states.shape[0]:
            bits[word_place(i)] = collect_word(states, at, 0)
        else:
            bits[word_place(i)] = _NONE
            for k in range(max(0, -at), min(64, states.shape[0] - at)):
                bits[word_place(i)] |= np.uint64(states[at + k] & 1) << np.uint64(k)


@inner()
def _keep_states(  # type: ignore[no-untyped-def]
    bits, parent, redraw_case, cardinality, held, v, count, wide
):
    """Give a node its states of the data in the view where it is not redrawn, or held."""
    redrawn = bits[2]
    some = redraw_case[v] == SOMETIMES
    none = redraw_case[v] == NEVER or held[v]  # a held node's mark is for the nodes below
    # A node that is always redrawn needs no mark: all nodes below it always are, too.
    if some and v > 0 and redraw_case[parent[v]] == SOMETIMES:
        for i in range(bits.shape[2]):
            redrawn[v, i] |= redrawn[parent[v], i]
    for j in range(2 * count if some or none else 0):
        i = word_place(j)
        new = _NONE if none else redrawn[v, i]
        bits[1, v, i] = (bits[1, v, i] & new) | (bits[0, v, i] & ~new)
        if wide is not None and cardinality[v] > 2:
            old_states, states = wide.states[0, v, 64 * j :], wide.states[1, v, 64 * j :]
            for k in range(64):
                if not (new >> np.uint64(k)) & _ONE:
                    states[k] = old_states[k]
