"""Cells of ordered values: a cell for every value that comes often, equal shares of all others.

A value that comes often is an atom, such as the exact 0 of a ReLU. While any value's rows make up a
share of 1 / (bins left) or more of the rows left, it is an atom, takes one bin and leaves with its rows;
the bins that are left share the remaining rows equally. So a unit with at most `bins` values has a cell
for each of them, and a unit that is on in few rows has one cell for off and all others for how much it is
on. An atom inside a share divides it, so that cells are intervals: there may be up to 2 bins - 1 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hltm._compile import compiled
from hltm.sampling.kernels.threads import share

HEAVY = 4  # shares of one cell: beyond, it is divided again


class Ordered(NamedTuple):
    """Rows of N units in the order of their values.

    Attributes:
        value: `(N, B)`, ascending.
        row: `(N, B)` int64, the row of each.
    """

    value: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, activations: Tensor) -> Ordered:
        """Of `(…, B)` activations that are finite."""
        values = activations.flatten(0, -2).numpy()
        row = np.argsort(values, -1)
        return cls(np.take_along_axis(values, row, -1), row)


class Cells(NamedTuple):
    """Cells of N units in ascending order; those beyond `filled` are empty.

    Attributes:
        low, high: `(N, F)`, the smallest and largest value in each.
        weight: `(N, F)` float64 rows in each.
        filled: `(N,)` int64.
    """

    low: np.ndarray
    high: np.ndarray
    weight: np.ndarray
    filled: np.ndarray

    @classmethod
    def empty(cls, units: int, dtype: np.dtype) -> Cells:
        ends = np.zeros((units, 0), dtype)
        return cls(ends, ends, np.zeros((units, 0)), np.zeros(units, np.int64))


class Fold(NamedTuple):
    """Old cells and further rows in new cells.

    Attributes:
        cells: the new ones.
        cell: `(N, B)` int32, the new cell of each row.
        head, tail: `(N, F)` int32, the new cells of the two halves of each old cell; mostly the same.
    """

    cells: Cells
    cell: np.ndarray
    head: np.ndarray
    tail: np.ndarray


def fold(cells: Cells, rows: Ordered, bins: int) -> Fold:
    """Add rows to cells; with no rows, cells are put together to fewer, with no cells, rows to cells.

    An old cell stays whole, and rows between its ends are added to it, unless it came to hold more than
    `HEAVY` shares of all rows: then the new rows divide it, and its old rows, of which no more is known
    than that they lie between its ends, go half to the lower and half to the upper end.
    """
    units, count = rows.value.shape
    held = cells.low.shape[1]
    cell = np.empty((units, count), np.int32)
    head, tail = (np.full((units, held), -1, np.int32) for _ in range(2))
    size = min(2 * bins, count + 2 * held)
    low, high = (np.zeros((units, size), rows.value.dtype) for _ in range(2))
    weight, filled = np.zeros((units, size)), np.zeros(units, np.int64)
    in_threads(
        lambda start, stop: _fold(
            cells, rows, bins, start, stop, cell, head, tail, Cells(low, high, weight, filled)
        ),
        units,
    )
    used = int(filled.max(initial=1))
    new = Cells(low[:, :used].copy(), high[:, :used].copy(), weight[:, :used].copy(), filled)
    return Fold(new, cell, head, tail)


def mid_ranks(activations: Tensor) -> Tensor:
    """`(…, B)` int64, twice the mid-rank of each row among the B, minus B + 1: the mean is 0.

    Example:
        >>> mid_ranks(torch.tensor([[5.0, 0.0, 0.0, 7.0]]))  # mid-ranks 3, 1.5, 1.5 and 4
        tensor([[ 1, -2, -2,  3]])
    """
    rows = Ordered.of(activations.cpu())
    found = np.empty(rows.value.shape, np.int64)
    in_threads(lambda low, high: _mid_ranks(rows, low, high, found), len(found))
    return torch.from_numpy(found).reshape(activations.shape)


def in_threads(work: Callable[[int, int], None], units: int) -> None:
    """Do units 0 .. units - 1 in as many threads as torch uses."""

    def each(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            work(low, high)

    share(each, units, threads=torch.get_num_threads(), grain=16)


@compiled()
def divide(low, high, weight, count, bins, cell):  # type: ignore[no-untyped-def]
    """The cell of each of `count` items in order; the number of cells.

    An item is a value (low = high), or a cell that must not be divided. Items of one value are a run.
    """
    run = np.empty(count, np.int64)  # of each item
    runs = -1
    size = np.zeros(count)  # of each run
    rest = 0.0
    for i in range(count):
        if i == 0 or low[i] != high[i] or low[i - 1] != low[i] or high[i - 1] != low[i]:
            runs += 1
        run[i] = runs
        size[runs] += weight[i]
        rest += weight[i]
    runs += 1
    atom = np.zeros(runs, np.bool_)
    left = bins
    while True:
        found, taken = 0, 0.0
        for r in range(runs):
            if not atom[r] and size[r] * left >= rest:
                atom[r] = True
                found += 1
                taken += size[r]
        if found == 0:
            break
        left -= found
        rest -= taken
    cells, part, before = -1, -1, 0.0
    for i in range(count):
        r = run[i]
        if i > 0 and r == run[i - 1]:
            cell[i] = cells
            continue
        if atom[r]:
            cells += 1
            part = -1
        else:
            here = int(before * left / rest)
            before += size[r]
            if here != part:
                cells += 1
                part = here
        cell[i] = cells
    return cells + 1


@compiled()
def _fold(old, rows, bins, start, stop, cell, head, tail, new):  # type: ignore[no-untyped-def]
    count = rows.value.shape[1]
    most = count + 2 * old.low.shape[1]
    low, high = np.empty(most, rows.value.dtype), np.empty(most, rows.value.dtype)
    weight, place = np.empty(most), np.empty(most, np.int32)
    item = np.empty(count, np.int64)
    for u in range(start, stop):
        value = rows.value[u]
        total = old.weight[u].sum() + count
        i = k = 0
        for f in range(old.filled[u] + 1):
            last = f == old.filled[u]
            while i < count and (last or value[i] < old.low[u, f]):
                low[k] = high[k] = value[i]
                weight[k] = 1.0
                item[i] = k
                i += 1
                k += 1
            if last:
                break
            stays, ends = i, old.high[u, f]
            while stays < count and value[stays] <= ends:
                stays += 1
            mass = old.weight[u, f]
            together = mass + stays - i
            wide = old.low[u, f] < ends
            if wide and stays > i and together * bins > HEAVY * total:
                low[k] = high[k] = old.low[u, f]
                weight[k] = mass / 2
                head[u, f] = k
                k += 1
                while i < stays:
                    low[k] = high[k] = value[i]
                    weight[k] = 1.0
                    item[i] = k
                    i += 1
                    k += 1
                low[k] = high[k] = ends
                weight[k] = mass / 2
            else:
                low[k], high[k], weight[k] = old.low[u, f], ends, together
                head[u, f] = k
                while i < stays:
                    item[i] = k
                    i += 1
            tail[u, f] = k
            k += 1
        new.filled[u] = divide(low, high, weight, k, bins, place)
        for j in range(k):
            c = place[j]
            if j == 0 or place[j - 1] != c:
                new.low[u, c] = low[j]
            new.high[u, c] = high[j]
            new.weight[u, c] += weight[j]
        for j in range(count):
            cell[u, rows.row[u, j]] = place[item[j]]
        for f in range(old.filled[u]):
            head[u, f], tail[u, f] = place[head[u, f]], place[tail[u, f]]


@compiled()
def _mid_ranks(rows, start, stop, found):  # type: ignore[no-untyped-def]
    count = rows.value.shape[1]
    for u in range(start, stop):
        value = rows.value[u]
        i = 0
        while i < count:
            j = i + 1
            while j < count and value[j] == value[i]:
                j += 1
            for k in range(i, j):
                found[u, rows.row[u, k]] = i + j - count
            i = j
