"""Nodes of more than two states: a guide table finds the state of a 32-bit number in one look.

The interval of u is cut into cells of equal width, a power of two of them, at least four per
state. A cell that holds no threshold has one state; a cell that holds one has two, told apart by
that threshold; in the few that hold more the thresholds are searched. So the state is exactly the
number of thresholds <= u (the method of guide tables, Chen and Asau 1974, made exact for 32 bits).
"""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numba import njit

from hltm.kernels.generator import philox_blocks
from hltm.tables import ONE, Tables

CELLS_PER_STATE = 4
MOST_BITS = 16
MANY = 1  # a cell of several thresholds: state 1 below and 0 above, which no other cell has


class Guide(NamedTuple):
    """The cells of every node of more than two states.

    Attributes:
        cells: `(S, N)` uint64: threshold << 32 | state from it on << 16 | state below it.
        start: `(V,)` int64 where in `cells` a node's first row begins.
        shift: `(V,)` uint64: u >> shift is the number of its cell; a row has 2^32 >> shift cells.
    """

    cells: np.ndarray
    start: np.ndarray
    shift: np.ndarray


_made: WeakKeyDictionary[Tables, Guide] = WeakKeyDictionary()


def guide_of(tables: Tables) -> Guide:
    """The guide of some tables, made once."""
    if tables not in _made:
        _made[tables] = _make(tables)
    return _made[tables]


def _make(tables: Tables) -> Guide:
    wide = tables.cardinality > 2
    wanted = np.ceil(np.log2(CELLS_PER_STATE * tables.cardinality)).astype(np.int64)
    bits = np.minimum(wanted, MOST_BITS)
    size = np.where(wide, tables.rows << bits, 0)
    start = np.cumsum(size) - size
    cells = np.zeros((len(tables.flat), int(size.sum())), dtype=np.uint64)
    for nodes in tables.groups:
        if wide[nodes[0]]:
            rows, steps = int(tables.rows[nodes[0]]), int(tables.cardinality[nodes[0]]) - 1
            at = tables.threshold_start[nodes][:, None] + np.arange(rows * steps)
            threshold = tables.thresholds[:, torch.as_tensor(at)].unflatten(-1, (rows, steps))
            found = _cells(threshold.contiguous(), int(bits[nodes[0]])).flatten(2)
            to = start[nodes][:, None] + np.arange(found.shape[-1])
            cells[:, to] = found.numpy().view(np.uint64)
    return Guide(cells, start, (32 - bits).astype(np.uint64))


def _cells(threshold: torch.Tensor, bits: int) -> torch.Tensor:
    """`(..., K - 1)` thresholds to `(..., 2^bits)` cells, int64."""
    width = ONE >> bits
    lowest = torch.arange(1 << bits, dtype=torch.int64) * width
    lowest = lowest.expand(*threshold.shape[:-1], -1).contiguous()
    below = torch.searchsorted(threshold, lowest, right=True)
    end = torch.searchsorted(threshold, lowest + (width - 1), right=True)
    # the first threshold inside the cell; any number will do where there is none
    inside = threshold.gather(-1, below.clamp(max=threshold.shape[-1] - 1)) & (ONE - 1)
    above = torch.where(below < end, torch.searchsorted(threshold, inside, right=True), below)
    many = above < end
    below, above = below.masked_fill(many, MANY), above.masked_fill(many, 0)
    return inside << 32 | above << 16 | below


_CELL_STATE = np.uint64(0xFFFF)
_HALF, _WORD_BITS = np.uint64(16), np.uint64(32)
_WORD = np.uint64(0xFFFFFFFF)


@njit(nogil=True, cache=True)
def draw_wide(  # type: ignore[no-untyped-def]
    row, cells, cell_start, shift, thresholds, threshold_start, steps, key0, key1, c0, first, c2,
    c3, count, blocks, words, out,
):  # fmt: skip
    """State of every lane of a tile: how many thresholds of its row are <= u.

    Args:
        row: which row of the table a lane uses, its parent's state.
        cells, thresholds: of the tree; this node's begin at `cell_start` and `threshold_start`,
            row after row, `steps` thresholds each.
        first: number of the first call of the generator; `count` calls, four lanes each.
    """
    for j in range(count):
        blocks[j] = first + np.uint64(j)
    philox_blocks(key0, key1, c0, blocks, c2, c3, count, words)
    bits = np.int64(32) - np.int64(shift)
    for j in range(2 * count):
        pair = words[j]
        for half in range(2):
            i = 2 * j + half
            u = pair & _WORD
            pair = pair >> _WORD_BITS
            r = np.int64(row[i])
            cell = cells[cell_start + (r << bits) + np.int64(u >> shift)]
            below = cell & _CELL_STATE
            above = (cell >> _HALF) & _CELL_STATE
            if below > above:
                out[i] = _search(thresholds, threshold_start + r * steps, steps, u)
            else:
                out[i] = above if u >= cell >> _WORD_BITS else below


@njit(nogil=True, cache=True)
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
