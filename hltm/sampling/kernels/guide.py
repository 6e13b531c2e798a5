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
from hltm.model.tables import ONE, Tables
from hltm.sampling.kernels.generator import philox_blocks


class Guide(NamedTuple):
    """The cells of every node of more than two states.

    Attributes:
        cells: `(S, N)` uint32. From the most significant bit, with `bits` that of the node: 32 - bits
            low bits of the largest u below the cell's threshold (all ones if it has none); 1 bit, the
            flag; bits - 1 bits, the state at the cell's lowest u.
        start: `(V,)` int64 where in `cells` a node's first row begins.
        bits: `(V,)` uint64: a row has 2^bits cells, and the highest bits of u are the cell's number.
    """

    cells: np.ndarray
    start: np.ndarray
    bits: np.ndarray


def guide_of(tables: Tables) -> Guide:
    """The guide of some tables, made when it is first needed."""
    return tables.kept("guide", _make)


def _make(tables: Tables) -> Guide:
    wide = tables.cardinality > 2
    # 2^bits cells are 8 to 16 per state, or 4 to 8 above 256 states; a cell's state and flag fit in bits
    extra = np.where(tables.cardinality <= 256, 3, 2)
    bits = np.ceil(np.log2(tables.cardinality)).astype(np.int64) + extra
    size = np.where(wide, tables.rows << bits, 0)
    start = np.cumsum(size) - size
    cells = np.zeros((len(tables.flat), int(size.sum())), dtype=np.uint32)
    for nodes in tables.groups:
        if wide[nodes[0]]:
            rows, steps = int(tables.rows[nodes[0]]), int(tables.cardinality[nodes[0]]) - 1
            at = tables.threshold_start[nodes][:, None] + np.arange(rows * steps)
            threshold = tables.thresholds[:, torch.as_tensor(at)].unflatten(-1, (rows, steps))
            found = _cells(threshold.contiguous(), int(bits[nodes[0]])).flatten(2)
            to = start[nodes][:, None] + np.arange(found.shape[-1])
            cells[:, to] = found.numpy()
    return Guide(cells, start, bits.astype(np.uint64))


def _cells(threshold: torch.Tensor, bits: int) -> torch.Tensor:
    """`(..., K - 1)` thresholds to `(..., 2^bits)` cells, int64."""
    width = ONE >> bits
    lowest = torch.arange(1 << bits, dtype=torch.int64) * width
    lowest = lowest.expand(*threshold.shape[:-1], -1).contiguous()
    below = torch.searchsorted(threshold, lowest, right=True)
    end = torch.searchsorted(threshold, lowest + (width - 1), right=True)
    # the first threshold inside the cell; a cell that begins with one counts it as passed
    inside = threshold.gather(-1, below.clamp(max=threshold.shape[-1] - 1))
    last = torch.where(below < end, inside - 1, ONE - 1) & (width - 1)
    many = (end - below > 1).to(torch.int64)
    return last << bits | many << (bits - 1) | below


_ONE, _WORD_BITS = np.uint64(1), np.uint64(32)
_WORD = np.uint64(0xFFFFFFFF)


@compiled()
def draw_wide(  # type: ignore[no-untyped-def]
    row, cells, cell_start, bits, thresholds, threshold_start, steps, key0, key1, c0, numbers, c2,
    c3, count, blocks, words, out,
):  # fmt: skip
    """State of every lane of a tile: how many thresholds of its row are <= u.

    Args:
        row: which row of the table a lane uses: the state of its parent.
        cells, thresholds: of the tree; this node's begin at `cell_start` and `threshold_start`,
            row after row, `steps` thresholds each.
        numbers: numbers of the tile's blocks, uint64; a block is 32 of the `count` calls of the
            generator, of four lanes each.
    """
    for j in range(count):
        blocks[j] = (numbers[j >> 5] << np.uint64(5)) + np.uint64(j & 31)
    philox_blocks(key0, key1, c0, blocks, c2, c3, count, words)
    shift = _WORD_BITS - bits
    low = (_ONE << shift) - _ONE
    flag = _ONE << (bits - _ONE)
    at = np.uint64(cell_start)  # numba takes signed indices for ones that may be negative
    for j in range(2 * count):
        pair = words[j]
        for half in range(2):
            i = 2 * j + half
            u = pair & _WORD
            pair = pair >> _WORD_BITS
            r = np.uint64(row[i])
            cell = np.uint64(cells[at + (r << bits) + (u >> shift)])
            out[i] = (cell & (flag - _ONE)) + np.uint64((u & low) > (cell >> bits))
            if cell & flag:
                out[i] = _search(thresholds, threshold_start + np.int64(r) * steps, steps, u)


@compiled()
def _search(thresholds, start, steps, u):  # type: ignore[no-untyped-def]
    """How many of the sorted thresholds start .. start + steps - 1 are <= u."""
    low, high = start, start + steps
    while low < high:
        middle = (low + high) >> 1
        if thresholds[middle] <= u:
            low = middle + 1
        else:
            high = middle
    return low - start
