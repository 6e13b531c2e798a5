"""Matrix products of arrays whose columns are samples.

Three products make a layer and its gradients (`blocks`). Two of them combine rows,

    Y = b + W X    and    ∂L/∂X = Wᵀ G,

and the third multiplies every row of one array with every row of another, ∂L/∂W = G Xᵀ. Tiles of sums
stay in registers (`tiles`): `combine_rows` has tiles of Y; `row_products` keeps a vector of partial sums
for every pair of rows, and adds up the parts of all pairs together.

Many rows of X exceed the nearest cache. Then both products take a *panel* at a time, DEPTH rows of X (or
of Xᵀ) by the columns of one tile, copied side by side, and add up the sums of all panels in the result.

Arrays are given by the addresses of their first rows, which begin `stride` bytes after one another.
Which rows a product reads or writes, in which order, is a list of row numbers (int64, also given by
its address), since a block of a tree of any shape may have its inputs anywhere. All rows have as
many columns as fit whole vectors (`padded`); what is beyond the samples is 0 in inputs and
gradients, so that it adds nothing.

Any machine computes the same with wider or narrower vectors, up to the order of sums.
"""

from __future__ import annotations

import numpy as np

from dualnets._instructions import REGISTER
from dualnets.networks.compiled.addresses import array_at, compiled_once, size_of, zero_of
from dualnets.networks.compiled.tiles import (
    PLAIN,
    combining,
    copying,
    counted,
    multiplying,
    transpose_tile,
)
from hltm._compile import inner

WIDE = 4 if REGISTER != 32 else 2  # vectors of a tile: 32 registers but for AVX, which has 16
ROWS, DEEP_ROWS = 5, 6  # rows of a tile; of one that reads a panel
PANEL = WIDE * REGISTER  # bytes of a row of a panel
DEPTH = 128  # rows of a panel, which fits the nearest cache
_combine_5, _combine_2 = combining(ROWS, WIDE), combining(2, WIDE)
_combine_narrow, _combine_deep = combining(ROWS, 1), combining(DEEP_ROWS, WIDE)
_multiply_wide, _multiply_narrow = multiplying(ROWS, WIDE), multiplying(ROWS, 2)
_copy_panel, _counted = copying(WIDE), counted(DEPTH)


@inner()
def combine_rows(  # type: ignore[no-untyped-def]
    like, count, columns, weights, weight_row, weight_step, depth, bias, bias_row, x, x_rows, y, y_rows,
    mask, then,
):  # fmt: skip
    """Y = b + A X, then nothing, a ReLU, or a mask.

    Args:
        like: any number of the dtype.
        count: rows of Y.
        columns: of all arrays, whole vectors.
        weights, weight_row, weight_step: number (r, k) of A is at `weights + r * weight_row + k *
            weight_step`.
        depth: rows of X.
        bias, bias_row: number r of b is at `bias + r * bias_row`.
        x, x_rows, y, y_rows: the arrays with the rows of X and Y, and lists of their numbers.
        mask: an array with as many rows as that of Y; where `then` is MASKED, Y is 0 where it is not
            above 0.
        then: PLAIN, RELU or MASKED.
    """
    compiled_once()
    stride = columns * size_of(like)
    at = 0
    if depth > DEPTH:
        at = _combine_panels(
            like, count, stride, weights, weight_row, weight_step, depth, bias, bias_row, x, x_rows, y,
            y_rows, mask, then,
        )  # fmt: skip
    while at < stride:
        wide = at + PANEL <= stride
        r = 0
        while r < count:
            rest = count - r
            a, b, rows = weights + r * weight_row, bias + r * bias_row, y_rows + 8 * r
            if not wide:
                _combine_narrow(
                    like, min(ROWS, rest), a, weight_row, weight_step, depth, b, bias_row, x + at, x_rows,
                    stride, y + at, rows, stride, mask + at, then, 0,
                )  # fmt: skip
                r += ROWS
            elif rest == 3 or rest > 4:
                _combine_5(
                    like, min(ROWS, rest), a, weight_row, weight_step, depth, b, bias_row, x + at, x_rows,
                    stride, y + at, rows, stride, mask + at, then, 0,
                )  # fmt: skip
                r += ROWS
            else:
                _combine_2(
                    like, min(2, rest), a, weight_row, weight_step, depth, b, bias_row, x + at, x_rows,
                    stride, y + at, rows, stride, mask + at, then, 0,
                )  # fmt: skip
                r += 2
        at += PANEL if wide else REGISTER


@inner()
def _combine_panels(  # type: ignore[no-untyped-def]
    like, count, stride, weights, weight_row, weight_step, depth, bias, bias_row, x, x_rows, y, y_rows,
    mask, then,
):  # fmt: skip
    """`combine_rows` as far as the columns fill panels; returns the bytes of a row that are done."""
    compiled_once()
    size = size_of(like)
    whole = stride // PANEL * PANEL
    memory = _new_memory(like, DEPTH * PANEL + (0 if weight_step == size else count * DEPTH * size))
    panel = _boundary(memory)
    turned = panel + DEPTH * PANEL
    for k in range(0, depth, DEPTH):
        some = min(DEPTH, depth - k)
        a, a_row = weights + k * weight_step, weight_row
        if weight_step != size:
            transpose(like, some, count, a, weight_step, turned, DEPTH * size)
            a, a_row = turned, DEPTH * size
        b, b_row = (bias, bias_row) if k == 0 else (zero_of(like), 0)
        last = then if k + some == depth else PLAIN
        for at in range(0, whole, PANEL):
            _copy_panel(like, some, x + at, x_rows + 8 * k, stride, panel)
            _combine_panel(
                like, count, a, a_row, size, some, b, b_row, panel, y + at, y_rows, stride, mask + at,
                last, min(k, 1),
            )  # fmt: skip
    return whole + 0 * len(memory)  # which numba frees behind its last use


@inner()
def _combine_panel(  # type: ignore[no-untyped-def]
    like, count, weights, weight_row, weight_step, depth, bias, bias_row, panel, y, y_rows, y_stride, mask,
    then, added,
):  # fmt: skip
    """Combine the rows of a panel; the sums are added to Y if `added` is 1."""
    compiled_once()
    for r in range(0, count, DEEP_ROWS):
        _combine_deep(
            like, min(DEEP_ROWS, count - r), weights + r * weight_row, weight_row, weight_step, depth,
            bias + r * bias_row, bias_row, panel, _counted(), PANEL, y, y_rows + 8 * r, y_stride, mask,
            then, added,
        )  # fmt: skip


@inner()
def _new_memory(like, count):  # type: ignore[no-untyped-def]
    """Memory of so many bytes, from `_boundary` on."""
    return np.empty((count + REGISTER) // size_of(like), type(like))


@inner()
def _boundary(memory):  # type: ignore[no-untyped-def]
    """The address of the first vector in an array that straddles no line of the cache."""
    return (memory.ctypes.data + REGISTER - 1) // REGISTER * REGISTER


@inner()
def row_products(like, count, g, count_x, x, x_rows, columns, out, out_row):  # type: ignore[no-untyped-def]
    """out[r, i] = Σ_b g[r, b] x[i, b].

    Args:
        like: any number of the dtype.
        count, g: the rows of g, which follow each other.
        count_x, x, x_rows: the array with the rows of x, and the list of their numbers.
        columns: of both arrays, whole vectors.
        out, out_row: number (r, i) is at `out + r * out_row`, plus i numbers.
    """
    compiled_once()
    size = size_of(like)
    stride = columns * size
    start = 0
    if count > 4 * ROWS and count_x >= PANEL // size:
        start = _row_panels(like, count, g, count_x, x, x_rows, columns, out, out_row)
    for r in range(0, count, ROWS):
        i = start
        while i < count_x:
            rest = count_x - i
            here = out + r * out_row + i * size
            if rest > 2:
                _multiply_wide(
                    like, min(ROWS, count - r), g + r * stride, min(WIDE, rest), x, x_rows + 8 * i,
                    stride, stride, here, out_row,
                )  # fmt: skip
                i += WIDE
            else:
                _multiply_narrow(
                    like, min(ROWS, count - r), g + r * stride, rest, x, x_rows + 8 * i, stride, stride,
                    here, out_row,
                )  # fmt: skip
                i += 2


@inner()
def _row_panels(like, count, g, count_x, x, x_rows, columns, out, out_row):  # type: ignore[no-untyped-def]
    """`row_products` as far as the rows of x, as columns of xᵀ, fill panels; returns how many are done."""
    compiled_once()
    size = size_of(like)
    stride, lanes = columns * size, REGISTER // size
    memory = _new_memory(like, DEPTH * PANEL)
    panel = _boundary(memory)
    i = 0
    while i + PANEL // size <= count_x:
        for b in range(0, columns, DEPTH):
            some = min(DEPTH, columns - b)
            for c in range(WIDE):
                for j in range(0, some, lanes):
                    transpose_tile(
                        like, x + (b + j) * size, x_rows + 8 * (i + c * lanes), stride,
                        panel + j * PANEL + c * REGISTER, PANEL,
                    )  # fmt: skip
            for r in range(0, count, DEPTH):
                _combine_panel(
                    like, min(DEPTH, count - r), g + r * stride + b * size, stride, size, some,
                    zero_of(like), 0, panel, out + r * out_row + i * size, _counted(), out_row, out, PLAIN,
                    min(b, 1),
                )  # fmt: skip
        i += PANEL // size
    return i + 0 * len(memory)


@inner()
def transpose(like, rows, columns, source, source_row, out, out_row):  # type: ignore[no-untyped-def]
    """out[c, r] = source[r, c]; rows begin so many bytes after one another."""
    compiled_once()
    size = size_of(like)
    lanes = REGISTER // size
    whole_rows, whole = rows // lanes * lanes, columns // lanes * lanes
    for r in range(0, whole_rows, lanes):
        for c in range(0, whole, lanes):
            transpose_tile(
                like, source + r * source_row + c * size, _counted(), source_row,
                out + c * out_row + r * size, out_row,
            )  # fmt: skip
    for r in range(rows):
        for c in range(0 if r >= whole_rows else whole, columns):
            number = array_at(like, source + r * source_row + c * size, 1, 1)[0, 0]
            array_at(like, out + c * out_row + r * size, 1, 1)[0, 0] = number
