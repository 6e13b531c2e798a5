"""Nodes of more than two states: a guide table finds the state of a 32-bit number with one load.

A state is the number of thresholds <= u, with u a uniform 32-bit number. The interval of u is cut
into cells of equal width, a power of two of them, four to sixteen per state. A cell without a
threshold has one state; a cell with one threshold has two, and comparing u with it decides; the few
cells with several thresholds are flagged, and the thresholds are searched by bisection. So the result
is exact to 32 bits (guide tables: Chen and Asau 1974).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from hltm._compile import compiled
from hltm.model.tables import ONE, Tables, row_thresholds
from hltm.sampling.kernels.generator import philox_blocks
from hltm.sampling.kernels.lookup import PART, look_up, lowest_bit
from hltm.sampling.kernels.request import BLOCK


class Guide(NamedTuple):
    """The thresholds of every node, and the cells of every node of more than two states.

    Attributes:
        thresholds: `(S, M)` uint64: all rows of binary nodes and the distinct rows of others, as
            `Tables.thresholds` has them.
        threshold_start: `(V,)` int64 where in `thresholds` a node's first row begins.
        rank: `(S, R)` uint32: for each row of the table of a wide node, which of its distinct rows it
            is. So tables with few distinct rows, as a grammar's, need little memory.
        rank_start: `(V,)` int64 where in `rank` a node's first row begins.
        cells: `(S, N)` uint32. From the most significant bit, with `bits` that of the node: 32 - bits
            low bits of the largest u below the cell's threshold (all ones if it has none); 1 bit, the
            flag; bits - 1 bits, the state at the cell's lowest u.
        start: `(V,)` int64 where in `cells` a node's first distinct row begins.
        bits: `(V,)` uint64: a row has 2^bits cells, and the highest bits of u are the cell's number.
    """

    thresholds: np.ndarray
    threshold_start: np.ndarray
    rank: np.ndarray
    rank_start: np.ndarray
    cells: np.ndarray
    start: np.ndarray
    bits: np.ndarray


def guide_of(tables: Tables) -> Guide:
    """The guide of some tables, made when it is first needed."""
    return tables.kept("guide", _make)


def _make(tables: Tables) -> Guide:
    nodes = len(tables.topology)
    # 2^bits cells are 8 to 16 per state, or 4 to 8 above 256 states; a cell's state and flag fit in bits
    extra = np.where(tables.cardinality <= 256, 3, 2)
    bits = np.ceil(np.log2(tables.cardinality)).astype(np.int64) + extra
    empty = torch.empty(tables.count, 0, dtype=torch.int64)
    thresholds, ranks = [empty] * nodes, [empty] * nodes
    for v in range(nodes):
        if tables.cardinality[v] == 2:
            thresholds[v] = row_thresholds(tables.of(v).detach())
        else:
            distinct, ranks[v] = tables.distinct_rows(v)
            thresholds[v] = row_thresholds(distinct)
    rows = np.array([found.shape[1] for found in thresholds])
    size = np.where(tables.cardinality > 2, rows << bits, 0)
    start = np.cumsum(size) - size
    cells = np.empty((tables.count, int(size.sum())), dtype=np.uint32)
    for v in np.flatnonzero(size).tolist():
        found = cells[:, start[v] : start[v] + size[v]].reshape(tables.count, rows[v], -1)
        _fill_cells(np.ascontiguousarray(thresholds[v].numpy()), int(bits[v]), found)

    def joined(parts: list[torch.Tensor], dtype: type) -> tuple[np.ndarray, np.ndarray]:
        width = np.array([part[0].numel() for part in parts])
        whole = torch.cat([part.flatten(1) for part in parts], dim=1)
        return whole.numpy().astype(dtype), np.cumsum(width) - width

    return Guide(
        *joined(thresholds, np.uint64), *joined(ranks, np.uint32), cells, start,
        bits.astype(np.uint64),
    )  # fmt: skip


@compiled()
def _fill_cells(thresholds, bits, cells):  # type: ignore[no-untyped-def]
    """`(S, D, K - 1)` int64 sorted thresholds to `(S, D, 2^bits)` cells, see `Guide`."""
    width = ONE >> bits
    members, rows, steps = thresholds.shape
    for s in range(members):
        for r in range(rows):
            below = 0
            for cell in range(1 << bits):
                lowest = cell * width
                while below < steps and thresholds[s, r, below] <= lowest:
                    below += 1
                end = below
                while end < steps and thresholds[s, r, end] < lowest + width:
                    end += 1
                # a cell that begins with a threshold counts it as passed
                last = (thresholds[s, r, below] - 1 if below < end else ONE - 1) & (width - 1)
                many = 1 if end - below > 1 else 0
                cells[s, r, cell] = last << bits | many << (bits - 1) | below
                below = end


_NONE, _ONE = np.uint64(0), np.uint64(1)
CALLS = BLOCK // 4  # of the generator, for the numbers of a block's lanes
AT_ONCE = 8  # blocks whose numbers are made one after the other


@compiled()
def draw_wide(  # type: ignore[no-untyped-def]
    row, rank, cells, bits, thresholds, threshold_start, steps, key0, key1, c0, numbers, c2, c3, count,
    calls, words, out,
):  # fmt: skip
    """State of every lane of a tile: how many thresholds of its row are <= u.

    Args:
        row: which row of the table a lane uses: the state of its parent.
        rank: which distinct row each row of this node's table is.
        cells, bits: of this node.
        thresholds: of the tree; this node's begin at `threshold_start`, distinct row after distinct row,
            `steps` thresholds each.
        numbers: numbers of the tile's `count` blocks, uint64.
        calls, words: `(AT_ONCE CALLS,)` and `(2 AT_ONCE CALLS,)` uint64 scratch.
    """
    u = words.view(np.uint32)
    for first in range(0, count, AT_ONCE):
        blocks = min(AT_ONCE, count - first)
        for j in range(blocks * CALLS):
            calls[j] = numbers[first + j // CALLS] * np.uint64(CALLS) + np.uint64(j % CALLS)
        philox_blocks(key0, key1, c0, calls, c2, c3, blocks * CALLS, words)
        for low in range(0, blocks * BLOCK, PART):
            lane = first * BLOCK + low
            many = look_up(row, lane, words, low, rank, cells, bits, out)
            while many != _NONE:
                i = lowest_bit(many)
                r = np.int64(rank[row[lane + i]])
                out[lane + i] = _search(
                    thresholds, threshold_start + r * steps, steps, np.uint64(u[low + i])
                )
                many &= many - _ONE


@compiled()
def _search(thresholds, start, steps, u):  # type: ignore[no-untyped-def]
    """How many of the sorted thresholds start .. start + steps - 1 are <= u."""
    low = start
    while steps > 0:  # without a branch in the loop, which would be guessed wrong
        half = (steps + 1) >> 1
        low += half if thresholds[low + half - 1] <= u else 0
        steps -= half
    return low - start
