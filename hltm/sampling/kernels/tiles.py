"""A tile of samples through the whole tree and all views: the compiled work of a CPU thread.

The states of binary nodes are bits, 64 to a word; those of wide nodes, of more than two states, are
one number each. For a binary tree `wide` is None, so numba compiles none of the code for wide nodes.
A lane is the place of a sample in the tile.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hltm._compile import compiled
from hltm.sampling.kernels.bits import collect_word, spread_word
from hltm.sampling.kernels.guide import draw_wide
from hltm.sampling.kernels.planes import draw_bits
from hltm.sampling.kernels.request import BLOCK, NEVER, SOMETIMES
from hltm.sampling.philox import DECISIONS, WORD_PLANE

_NONE, _ONE = np.uint64(0), np.uint64(1)
_DECISIONS = np.uint64(DECISIONS)
_WORDS = np.uint64(WORD_PLANE << 24)
_NODE = np.uint64(8)


class Scratch(NamedTuple):
    """A thread's own memory for tiles of some blocks.

    Attributes:
        numbers, words: block numbers and output words of calls of the generator.
        undecided, undecided_words: see `hltm.sampling.kernels.planes.draw_bits`.
        lane_bits: `(words,)` uint64, scratch for the threshold bits of lanes.
        zeros: `(words,)` uint64, all 0: the parent's states of the root and of every decision.
        bits: `(2, V, words)` uint64 states of binary nodes, of the data and of the view.
        redrawn: `(V, words)` uint64 whether the view redrew a node.
    """

    numbers: np.ndarray
    words: np.ndarray
    undecided: np.ndarray
    undecided_words: np.ndarray
    lane_bits: np.ndarray
    zeros: np.ndarray
    bits: np.ndarray
    redrawn: np.ndarray


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


@compiled()
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
    numbers, words, undecided, undecided_words, lane_bits, zeros, bits, redrawn = scratch
    for task in range(low, high):
        s = task // tiles
        tile = task % tiles * size
        count = min(size, blocks - tile)
        block = block_numbers[tile : tile + count]
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
            for v in range(nodes if drawing else 0):
                two = cardinality[v] == 2
                if step < 0 and (held[v] or not base_needed[v]):
                    continue
                if step >= 0 and redraw_case[v] == NEVER:
                    for i in range(2 * count):
                        bits[1, v, i] = bits[0, v, i]
                    if wide is not None and not two:
                        for i in range(BLOCK * count):
                            wide.states[1, v, i] = wide.states[0, v, i]
                    continue
                c2 = np.uint64(v) << _NODE | stream
                at = threshold_start[v]
                t0 = thresholds[of, at]
                t1 = t0
                by_lane = False
                above = zeros
                if v > 0 and cardinality[parent[v]] == 2:
                    above = bits[now, parent[v]]
                    if two:
                        t1 = thresholds[of, at + 1]
                if wide is not None:
                    by_lane = v > 0 and cardinality[parent[v]] > 2
                    row = wide.states[now, parent[v]] if by_lane else wide.row
                    if not two:
                        if not by_lane:
                            for i in range(2 * count):
                                spread_word(row, 64 * i, above[i])
                        draw_wide(
                            row, wide.rank[of, wide.rank_start[v] :], wide.cells[of],
                            wide.start[v], wide.bits[v],
                            thresholds[of], at, cardinality[v] - 1, key0, key1, _WORDS | view,
                            block, c2, members[s], 32 * count, numbers, words,
                            wide.states[now, v],
                        )  # fmt: skip
                    elif by_lane:
                        above, t0, t1 = lane_bits, _NONE, _NONE
                        for i in range(BLOCK * count):
                            wide.thresholds[i] = thresholds[of, at + np.int64(row[i])]
                            t0 |= wide.thresholds[i]
                sometimes = step >= 0 and redraw_case[v] == SOMETIMES
                # First the states, then the decision which of them are new: one call in a loop, as
                # two calls would inline `draw_bits` twice and compile much longer.
                for own in range(0 if two else 1, 2 if sometimes else 1):  # 1: its own decision
                    draw_bits(
                        zeros if own else above, redraw_limits[v] if own else t0,
                        redraw_limits[v] if own else t1, wide, by_lane and own == 0, key0, key1,
                        view, block, c2 | _DECISIONS if own else c2, members[s], count, numbers,
                        words, undecided, undecided_words, redrawn[v] if own else bits[now, v],
                    )  # fmt: skip
                # A node that is always redrawn needs no mark: all nodes below it always are, too.
                if sometimes:
                    for i in range(2 * count):
                        if v > 0:
                            redrawn[v, i] |= redrawn[parent[v], i]
                        kept = bits[0, v, i] & ~redrawn[v, i]
                        bits[1, v, i] = (bits[1, v, i] & redrawn[v, i]) | kept
                    if wide is not None and not two:
                        _keep(redrawn[v], count, wide.states[0, v], wide.states[1, v])
                if held[v]:  # its mark is for the nodes below; its state is given
                    for i in range(2 * count):
                        bits[1, v, i] = bits[0, v, i]
                    if wide is not None and not two:
                        for i in range(BLOCK * count):
                            wide.states[1, v, i] = wide.states[0, v, i]
            for v in range(first, nodes if step >= 0 else 0):
                if packed.shape[0] > 0:
                    part = packed[step, s, v - first, 2 * tile :]
                    for i in range(2 * count):
                        part[i] = bits[now, v, i]
                elif cardinality[v] == 2:
                    _spread(bits[now, v], start, count, out[step, s, v - first])
                elif wide is not None:
                    shown_out = out[step, s, v - first, start + shown :]
                    shown_states = wide.states[now, v, shown:]
                    for i in range(end - shown):
                        shown_out[i] = shown_states[i]


@compiled()
def _spread(bits, start, count, out):  # type: ignore[no-untyped-def]
    """Write the states of a tile to places start.. of `out`, as far as it has such places."""
    for i in range(2 * count):
        at = start + 64 * i
        if at >= 0 and at + 64 <= out.shape[0]:
            spread_word(out, at, bits[i])
        else:
            for k in range(max(0, -at), min(64, out.shape[0] - at)):
                out[at + k] = (bits[i] >> np.uint64(k)) & _ONE


@compiled()
def _collect(states, start, count, bits):  # type: ignore[no-untyped-def]
    """Read the states of a tile from places start.. of `states`, as far as it has such places."""
    for i in range(2 * count):
        at = start + 64 * i
        if at >= 0 and at + 64 <= states.shape[0]:
            bits[i] = collect_word(states, at)
        else:
            bits[i] = _NONE
            for k in range(max(0, -at), min(64, states.shape[0] - at)):
                bits[i] |= np.uint64(states[at + k] & 1) << np.uint64(k)


@compiled()
def _keep(redrawn, count, old, new):  # type: ignore[no-untyped-def]
    """Put the old state back where a node was not redrawn."""
    for i in range(BLOCK * count):
        if not (redrawn[i >> 6] >> np.uint64(i & 63)) & _ONE:
            new[i] = old[i]
