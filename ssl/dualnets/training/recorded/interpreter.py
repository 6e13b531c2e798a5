"""A compiled interpreter of operations on tensors: rows of numbers, run one after the other by one call.

A row says what is computed, and of up to five operands, the result first, where it lies, what kind of
numbers it holds, and by how many bytes each dimension of four steps; so a view is an operand like any other,
and a broadcast dimension has step 0. Innermost dimensions are computed a tile at a time, in vectors:
what is no neighbouring numbers of the table's dtype is first brought into that form.

All addresses are read and written as they are: `rows` makes them of tensors, which it keeps.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types

from dualnets._vectors import LANES, exponential, load, multiply, spread, store
from dualnets.networks.compiled.addresses import array_at, size_of
from hltm._compile import compiled, inner
from hltm._separate import intrinsic

# operations on each number; a, b, c are the operands behind the result
(
    COPY, ADD, SUBTRACT, MULTIPLY, DIVIDE,
    MAXIMUM,  # NaN where one of them is
    ABOVE,  # 1 where a > b, else 0
    WHERE,  # b where a is not 0, else c
    KEEP_ABOVE,  # a where b > c or is NaN, else 0
    LERP,  # a + c (b - a)
    SQUARE_ROOT, EXP, SIGMOID,
    SIGMOID_SLOPE,  # a (1 - b) b
    TOTAL,  # the result plus a, of which the result may have steps 0
    # operations of other forms
    INTEGERS,  # a + b, or a, of int64
    GATHER,  # a at place b along one dimension; a has step 0 there
    SCATTER_ADD,  # the reverse: a is added to the result at place b
    LOG_SOFTMAX, LOG_SOFTMAX_SLOPE,  # along the last dimension; of a; of slopes a and results b
    NORM,  # (a - mean) / sqrt(variance + EXTRA) along the last dimension; b and c become mean and factor
    NORM_SLOPE,  # of slopes a, the norm's a, and its mean and factor
    PRODUCT,  # of matrices; dimensions are those of batches, rows, columns and terms
    CALL,  # a function at the address of the result, of numbers at the address of a
    CHECK,  # fails unless all bytes a are true
) = range(25)  # fmt: skip
NONE, FLOAT, BYTE, INTEGER = -1, 0, 1, 2  # kinds of operands; FLOAT is the table's dtype
OPERANDS, DIMENSIONS = 5, 4
# the first columns of a row's addresses, kinds, shape and steps, and of two more numbers
ADDRESS, KIND, SHAPE, STEP, EXTRA = 1, 6, 11, 15, 35
WIDTH = 37
TILE = 512
SUMS = {"reassoc", "contract"}  # NaN and infinity keep their meaning


@intrinsic
def _call(typing, function, numbers):  # type: ignore[no-untyped-def]
    """What the function at an address returns, which is given the address of its arguments."""

    def write(context, builder, signature, given):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.IntType(64), [ir.IntType(64)])
        return builder.call(builder.inttoptr(given[0], kind.as_pointer()), [given[1]])

    return types.int64(types.int64, types.int64), write


@compiled()
def run(like, rows, moves, bases, first):  # type: ignore[no-untyped-def]
    """Run the rows from the first on; returns 0, or 1 + the number of the row that failed.

    Args:
        like: any number of the dtype.
        rows: `(R, WIDTH)` int64.
        moves: `(M, 3)` int64: addresses of numbers in rows and calls that change from one run to the next,
            each with the place of a base and what is added to it.
        bases: int64, addresses.
    """
    memory = np.empty((OPERANDS, TILE), type(like))
    tiles = np.int64(memory.ctypes.data)
    inputs = np.empty(OPERANDS, np.int64)
    for m in range(len(moves)):
        array_at(np.int64(0), moves[m, 0], 1, 1)[0, 0] = bases[moves[m, 1]] + moves[m, 2]
    for r in range(first, len(rows)):
        row = rows[r]
        op = row[0]
        failed = np.int64(0)
        if op < INTEGERS:
            _numbers(like, op, row, tiles, inputs)
        elif op == PRODUCT:
            _product(like, row, tiles)
        elif op == CALL:
            failed = _call(row[ADDRESS], row[ADDRESS + 1])
        else:
            failed = _others(like, op, row)
        if failed != 0:
            return r + 1 + 0 * len(memory)
    return 0 * len(memory)  # which numba frees behind its last use


@inner()
def _at(row, operand, i, j, k):  # type: ignore[no-untyped-def]
    """The address of the first number of an innermost dimension."""
    step = STEP + DIMENSIONS * operand
    return row[ADDRESS + operand] + i * row[step] + j * row[step + 1] + k * row[step + 2]


@inner()
def _numbers(like, op, row, tiles, inputs):  # type: ignore[no-untyped-def]
    """An operation on each number."""
    size, last = size_of(like), row[SHAPE + 3]
    step, zero = row[STEP + 3], np.int64(0)
    direct = row[KIND] == FLOAT and step == size
    for i in range(row[SHAPE]):
        for j in range(row[SHAPE + 1]):
            for k in range(row[SHAPE + 2]):
                for start in range(0, last, TILE):
                    count = min(TILE, last - start)
                    target = _at(row, zero, i, j, k) + start * step
                    out = target if direct else tiles
                    if op == COPY and direct:
                        at = _at(row, zero + 1, i, j, k) + start * row[STEP + 7]
                        _bring(like, row[KIND + 1], at, row[STEP + 7], count, out)
                        continue
                    first = i + j + k + start == 0
                    for operand in range(1, 4):
                        if row[KIND + operand] != NONE:
                            inputs[operand] = _source(
                                like, op, row, operand, i, j, k, start, count, first, tiles
                            )
                    if op == TOTAL:
                        _add_to(like, inputs[1], count, target, step)
                        continue
                    if op == COPY:
                        out = inputs[1]
                    else:
                        _compute(like, op, count, inputs[1], inputs[2], inputs[3], out)
                    if not direct:
                        _take(like, row[KIND], out, count, target, step)


@inner()
def _source(like, op, row, operand, i, j, k, start, count, first, tiles):  # type: ignore[no-untyped-def]
    """The address of `count` neighbouring numbers of an operand, in a tile where they are none."""
    kind, step = row[KIND + operand], STEP + DIMENSIONS * operand
    tile = tiles + operand * TILE * size_of(like)
    last = row[step + 3]
    if last == 0 and not first and row[step] == 0 and row[step + 1] == 0 and row[step + 2] == 0:
        return tile  # as it was filled before
    at = _at(row, operand, i, j, k) + start * last
    # an exponential is computed in whole vectors, which may go beyond the numbers
    if kind == FLOAT and last == size_of(like) and op != EXP and op != SIGMOID:
        return at
    _bring(like, kind, at, last, count, tile)
    return tile


@inner()
def _bring(like, kind, at, step, count, target):  # type: ignore[no-untyped-def]
    """Copy numbers of any kind, `step` bytes from one to the next, to neighbouring ones of the dtype."""
    out = array_at(like, target, 1, count)[0]
    if kind == FLOAT:
        if step == size_of(like):
            near = array_at(like, at, 1, count)[0]
            for e in range(count):
                out[e] = near[e]
        elif step == 0:
            value = array_at(like, at, 1, 1)[0, 0]
            for e in range(count):
                out[e] = value
        else:
            far = array_at(like, at, count, step // size_of(like))
            for e in range(count):
                out[e] = far[e, 0]
    elif kind == BYTE:
        short = array_at(np.uint8(0), at, count, step)
        for e in range(count):
            out[e] = short[e, 0]
    else:
        whole = array_at(np.int64(0), at, count, step // 8)
        for e in range(count):
            out[e] = whole[e, 0]


@inner()
def _take(like, kind, source, count, at, step):  # type: ignore[no-untyped-def]
    """The reverse of `_bring`."""
    given = array_at(like, source, 1, count)[0]
    if kind == FLOAT:
        far = array_at(like, at, count, step // size_of(like))
        for e in range(count):
            far[e, 0] = given[e]
    else:
        short = array_at(np.uint8(0), at, count, step)
        for e in range(count):
            short[e, 0] = np.uint8(given[e])


@inner(fastmath=SUMS)
def _add_to(like, source, count, at, step):  # type: ignore[no-untyped-def]
    """Add neighbouring numbers to others, or all to one."""
    given = array_at(like, source, 1, count)[0]
    if step == 0:
        total = type(like)(0)
        for e in range(count):
            total += given[e]
        array_at(like, at, 1, 1)[0, 0] += total
    elif step == size_of(like):
        near = array_at(like, at, 1, count)[0]
        for e in range(count):
            near[e] += given[e]
    else:
        far = array_at(like, at, count, step // size_of(like))
        for e in range(count):
            far[e, 0] += given[e]


@inner()
def _compute(like, op, count, a, b, c, target):  # type: ignore[no-untyped-def]
    """An operation on neighbouring numbers."""
    kind = type(like)
    zero, one = kind(0), kind(1)
    x, y = array_at(like, a, 1, count)[0], array_at(like, b, 1, count)[0]
    z, out = array_at(like, c, 1, count)[0], array_at(like, target, 1, count)[0]
    if op == ADD:
        for e in range(count):
            out[e] = x[e] + y[e]
    elif op == SUBTRACT:
        for e in range(count):
            out[e] = x[e] - y[e]
    elif op == MULTIPLY:
        for e in range(count):
            out[e] = x[e] * y[e]
    elif op == DIVIDE:
        for e in range(count):
            out[e] = x[e] / y[e]
    elif op == MAXIMUM:
        for e in range(count):
            larger = x[e] if x[e] > y[e] else y[e]
            out[e] = x[e] if x[e] != x[e] else larger
    elif op == ABOVE:
        for e in range(count):
            out[e] = one if x[e] > y[e] else zero
    elif op == WHERE:
        for e in range(count):
            out[e] = y[e] if x[e] != zero else z[e]
    elif op == KEEP_ABOVE:
        for e in range(count):
            out[e] = zero if y[e] <= z[e] else x[e]
    elif op == LERP:
        for e in range(count):
            slope = y[e] - x[e]
            near = x[e] + z[e] * slope
            out[e] = near if abs(z[e]) < kind(0.5) else y[e] - slope * (one - z[e])
    elif op == SQUARE_ROOT:
        for e in range(count):
            out[e] = math.sqrt(x[e])
    elif op == SIGMOID_SLOPE:
        for e in range(count):
            out[e] = x[e] * (one - y[e]) * y[e]
    else:  # in tiles, whose lengths are whole vectors
        x = array_at(like, a, 1, TILE)[0]
        for e in range(0, count, LANES):
            if op == EXP:
                store(x, e, exponential(load(x, e)))
            else:
                store(x, e, spread(one) / (spread(one) + exponential(spread(zero) - load(x, e))))
        for e in range(count):
            out[e] = x[e]


@inner()
def _product(like, row, tile):  # type: ignore[no-untyped-def]
    """out[r, c] = Σ_t a[r, t] b[t, c] for every matrix, LANES columns at a time."""
    size = size_of(like)
    rows, columns, terms = row[SHAPE + 1], row[SHAPE + 2], row[SHAPE + 3]
    out_steps, a_steps, b_steps = (
        row[STEP : STEP + 4],
        row[STEP + 4 : STEP + 8],
        row[STEP + 8 : STEP + 12],
    )
    many = 8 if rows >= 8 else 4 if rows >= 4 else 1
    block = np.zeros(terms * LANES, type(like))
    sums = array_at(like, tile, 1, TILE)[0]
    for matrix in range(row[SHAPE]):
        a = array_at(like, row[ADDRESS + 1] + matrix * a_steps[0], 1, 1)[0]
        row_step, step = a_steps[1] // size, a_steps[3] // size
        for column in range(0, columns, LANES):
            count = min(LANES, columns - column)
            at = row[ADDRESS + 2] + matrix * b_steps[0] + column * b_steps[2]
            given, stride = array_at(like, at, 1, 1)[0], b_steps[3] // size
            if count < LANES or b_steps[2] != size:
                for t in range(terms):
                    far = array_at(like, at + t * b_steps[3], count, b_steps[2] // size)
                    for lane in range(count):
                        block[t * LANES + lane] = far[lane, 0]
                given, stride = block, LANES
            for start in range(0, rows, many):
                r = min(start, rows - many)
                if many == 8:
                    multiply(8, a, r * row_step, row_step, step, given, 0, stride, terms, sums, 0)
                elif many == 4:
                    multiply(4, a, r * row_step, row_step, step, given, 0, stride, terms, sums, 0)
                else:
                    multiply(1, a, r * row_step, row_step, step, given, 0, stride, terms, sums, 0)
                for own in range(many):
                    target = row[ADDRESS] + matrix * out_steps[0] + (r + own) * out_steps[1]
                    _take(
                        like, row[KIND], tile + own * LANES * size, count,
                        target + column * out_steps[2], out_steps[2],
                    )  # fmt: skip


@inner()
def _others(like, op, row):  # type: ignore[no-untyped-def]
    """An operation of another form; returns whether it failed."""
    last, one = row[SHAPE + 3], np.int64(1)
    size = size_of(like)
    for i in range(row[SHAPE]):
        for j in range(row[SHAPE + 1]):
            for k in range(row[SHAPE + 2]):
                a, b, c = (
                    _at(row, one, i, j, k),
                    _at(row, one + 1, i, j, k),
                    _at(row, one + 2, i, j, k),
                )
                if op == CHECK:
                    for e in range(last):
                        if array_at(np.uint8(0), a + e * row[STEP + 7], 1, 1)[0, 0] == 0:
                            return 1
                    continue
                at = _at(row, one - 1, i, j, k)
                if INTEGERS <= op <= SCATTER_ADD:
                    out_step, step, other = row[STEP + 3], row[STEP + 7], row[STEP + 11]
                    for e in range(last):
                        from_, to = a + e * step, at + e * out_step
                        if op == INTEGERS:
                            whole = array_at(np.int64(0), from_, 1, 1)[0, 0]
                            if row[KIND + 2] != NONE:
                                whole += array_at(np.int64(0), b + e * other, 1, 1)[0, 0]
                            array_at(np.int64(0), to, 1, 1)[0, 0] = whole
                            continue
                        place = array_at(np.int64(0), b + e * other, 1, 1)[0, 0]
                        if place < 0 or place >= row[EXTRA]:
                            return 1
                        if op == GATHER:
                            from_ += place * row[EXTRA + 1]
                            array_at(like, to, 1, 1)[0, 0] = array_at(like, from_, 1, 1)[0, 0]
                        else:
                            to += place * row[EXTRA + 1]
                            array_at(like, to, 1, 1)[0, 0] += array_at(like, from_, 1, 1)[0, 0]
                    continue
                out = array_at(like, at, last, row[STEP + 3] // size)
                x = array_at(like, a, last, row[STEP + 7] // size)
                if op == LOG_SOFTMAX:
                    _log_softmax(x, out)
                elif op == LOG_SOFTMAX_SLOPE:
                    _log_softmax_slope(x, array_at(like, b, last, row[STEP + 11] // size), out)
                elif op == NORM:
                    epsilon = array_at(np.float64(0), row[EXTRA], 1, 1)[0, 0]
                    mean, factor = _norm(x[:, 0], epsilon, out[:, 0])
                    array_at(like, b, 1, 1)[0, 0] = mean
                    array_at(like, c, 1, 1)[0, 0] = factor
                else:
                    mean, factor = (
                        array_at(like, c, 1, 1)[0, 0],
                        array_at(like, _at(row, one + 3, i, j, k), 1, 1)[0, 0],
                    )
                    y = array_at(like, b, last, row[STEP + 11] // size)
                    _norm_slope(x[:, 0], y[:, 0], mean, factor, out[:, 0])
    return 0


@inner()
def _log_softmax(x, out):  # type: ignore[no-untyped-def]
    """x - log Σ exp x, of `(n, 1)` columns."""
    top = x[0, 0]
    for e in range(1, len(x)):
        if not x[e, 0] <= top:
            top = x[e, 0]
    total = x.dtype.type(0)
    for e in range(len(x)):
        total += math.exp(x[e, 0] - top)
    level = math.log(total)
    for e in range(len(x)):
        out[e, 0] = x[e, 0] - top - level


@inner()
def _log_softmax_slope(slopes, found, out):  # type: ignore[no-untyped-def]
    total = slopes.dtype.type(0)
    for e in range(len(slopes)):
        total += slopes[e, 0]
    for e in range(len(slopes)):
        out[e, 0] = slopes[e, 0] - math.exp(found[e, 0]) * total


@inner(fastmath=SUMS)
def _norm(x, epsilon, out):  # type: ignore[no-untyped-def]
    kind = x.dtype.type
    share = kind(1) / kind(len(x))
    mean = squares = kind(0)
    for e in range(len(x)):
        mean += x[e]
    mean *= share
    for e in range(len(x)):
        squares += (x[e] - mean) * (x[e] - mean)
    factor = kind(1) / math.sqrt(squares * share + kind(epsilon))
    for e in range(len(x)):
        out[e] = (x[e] - mean) * factor
    return mean, factor


@inner(fastmath=SUMS)
def _norm_slope(slopes, x, mean, factor, out):  # type: ignore[no-untyped-def]
    """factor (g - mean g - y mean(g y)), y = (x - mean) factor."""
    kind = x.dtype.type
    share = kind(1) / kind(len(x))
    level = along = kind(0)
    for e in range(len(x)):
        level += slopes[e]
        along += slopes[e] * (x[e] - mean)
    level, along = level * share, along * share * factor * factor
    for e in range(len(x)):
        out[e] = factor * (slopes[e] - level - (x[e] - mean) * along)
