"""The inner loops of matrix products: a tile of several rows by several vectors stays in registers.

numba's own vectoriser loads two numbers and stores one for every multiplication. In a tile each weight is
loaded once for all vectors, and each vector once for all rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from dualnets._instructions import REGISTER, Writer
from hltm._separate import intrinsic

PLAIN, RELU, MASKED = 0, 1, 2  # what a tile does to its sums before they are stored


def _written(count: int, write: Any) -> Any:
    """A signature of `count` whole numbers behind `like`, and how `write(writer, *arguments)` does it."""

    def instructions(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        write(Writer(builder, arguments[0].type), *arguments[1:])
        return context.get_dummy_value()

    return lambda like: (types.void(like, *[types.int64] * count), instructions)


def combining(rows: int, vectors: int) -> Any:
    """A tile of `combine_rows`: up to `rows` rows of sums by `vectors` vectors of columns."""

    def write(  # type: ignore[no-untyped-def]
        w, valid, weights, weight_row, weight_step, depth, bias, bias_row, x, x_rows, x_stride, y, y_rows,
        y_stride, mask, then, added,
    ):  # fmt: skip
        builder = w.builder
        row = w.clamped(rows, builder.sub(valid, w.index(1)))
        first = [w.row(weights, weight_row, r) for r in row]
        start = [w.broadcast(w.load(w.row(bias, bias_row, r), w.number)) for r in row]

        def begun(_: Any, sums: list[Any]) -> list[Any]:
            return [
                one for r in row for one in w.vectors(w.listed(y, y_stride, y_rows, r), vectors)
            ]

        def body(k: Any, sums: list[Any]) -> list[Any]:
            inputs = w.vectors(w.listed(x, x_stride, x_rows, k), vectors)
            offset = builder.mul(k, weight_step)
            new = []
            for r in range(rows):
                factor = w.broadcast(w.load(builder.add(first[r], offset), w.number))
                for c in range(vectors):
                    new.append(w.add_product(sums[r * vectors + c], factor, inputs[c]))
            return new

        sums = w.loop(added, 1, [s for s in start for _ in range(vectors)], begun)  # once or never
        sums = w.loop(depth, 1, sums, body)
        zero = w.constant(0.0)
        masked = builder.icmp_signed("==", then, w.index(MASKED))
        with builder.if_else(masked) as (yes, no):
            with yes:
                for r in range(rows):
                    seen = w.vectors(w.listed(mask, y_stride, y_rows, row[r]), vectors)
                    own = sums[r * vectors : (r + 1) * vectors]
                    w.store_all(
                        [
                            builder.select(builder.fcmp_ordered("<=", gate, zero), zero, value)
                            for gate, value in zip(seen, own, strict=True)
                        ],
                        w.listed(y, y_stride, y_rows, row[r]),
                    )
            with no:
                is_relu = builder.icmp_signed("==", then, w.index(RELU))
                lowest = ir.Constant(w.number, float("-inf"))
                floor = builder.select(is_relu, ir.Constant(w.number, 0.0), lowest)
                floor = w.broadcast(floor)
                for r in range(rows):
                    own = sums[r * vectors : (r + 1) * vectors]
                    w.store_all(  # NaN stays NaN
                        [
                            builder.select(builder.fcmp_ordered("<", v, floor), floor, v)
                            for v in own
                        ],
                        w.listed(y, y_stride, y_rows, row[r]),
                    )

    signature = _written(16, write)

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, like, valid, weights, weight_row, weight_step, depth, bias, bias_row, x, x_rows, x_stride,
        y, y_rows, y_stride, mask, then, added,
    ):  # fmt: skip
        return signature(like)

    return tile


def multiplying(rows: int, others: int) -> Any:
    """A tile of `row_products`: up to `rows` rows of g by up to `others` rows of x."""

    def write(w, valid, g, valid_x, x, x_rows, stride, end, out, out_row):  # type: ignore[no-untyped-def]
        builder = w.builder
        row = w.clamped(rows, builder.sub(valid, w.index(1)))
        other = w.clamped(others, builder.sub(valid_x, w.index(1)))
        left = [w.row(g, stride, r) for r in row]
        right = [w.listed(x, stride, x_rows, c) for c in other]

        def body(b: Any, sums: list[Any]) -> list[Any]:
            values = [w.load(builder.add(at, b)) for at in right]
            new = []
            for r in range(rows):
                own = w.load(builder.add(left[r], b))
                for c in range(others):
                    new.append(w.add_product(sums[r * others + c], own, values[c]))
            return new

        found = w.totals(w.loop(end, REGISTER, [w.constant(0.0)] * (rows * others), body))
        whole = builder.icmp_signed("==", valid_x, w.index(others))
        with builder.if_else(whole) as (yes, no):
            with yes:
                for r in range(rows):
                    vector, lane = found[r * others]
                    own = w.shuffle(vector, vector, list(range(lane, lane + others)))
                    w.store(own, w.row(out, out_row, row[r]))
            with no:
                for r in range(rows):
                    start = w.row(out, out_row, row[r])
                    for c in range(others):
                        vector, lane = found[r * others + c]
                        value = builder.extract_element(vector, ir.Constant(w.i32, lane))
                        w.store(value, w.row(start, w.index(w.size), other[c]))

    signature = _written(9, write)

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, like, valid, g, valid_x, x, x_rows, stride, end, out, out_row
    ):
        return signature(like)

    return tile


def copying(vectors: int) -> Any:
    """Copy the first vectors of listed rows, side by side."""

    def write(w, count, x, x_rows, stride, out):  # type: ignore[no-untyped-def]
        def body(k: Any, _: list[Any]) -> list[Any]:
            found = w.vectors(w.listed(x, stride, x_rows, k), vectors)
            w.store_all(found, w.row(out, w.index(vectors * REGISTER), k))
            return []

        w.loop(count, 1, [], body)

    signature = _written(5, write)

    @intrinsic
    def tile(typing, like, count, x, x_rows, stride, out):  # type: ignore[no-untyped-def]
        return signature(like)

    return tile


def _transpose(w, x, x_rows, stride, out, out_stride):  # type: ignore[no-untyped-def]
    rows = [w.load(w.listed(x, stride, x_rows, w.index(i))) for i in range(w.lanes)]
    for i, own in enumerate(w.transposed(rows)):
        w.store(own, w.row(out, out_stride, w.index(i)))


_transposing = _written(5, _transpose)


@intrinsic
def transpose_tile(typing, like, x, x_rows, stride, out, out_stride):  # type: ignore[no-untyped-def]
    """Write the first vectors of as many listed rows as a vector has lanes as the columns of a square."""
    return _transposing(like)


def counted(count: int) -> Any:
    """The list of the numbers 0 .. count - 1, as an address."""

    @intrinsic
    def tile(typing):  # type: ignore[no-untyped-def]
        def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            numbers = ir.Constant(ir.ArrayType(ir.IntType(64), count), list(range(count)))
            place = cgutils.global_constant(builder.module, "counted", numbers)
            return builder.ptrtoint(place, ir.IntType(64))

        return types.int64(), write

    return tile
