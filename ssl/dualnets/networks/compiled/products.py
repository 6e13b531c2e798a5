"""Matrix products of arrays whose columns are samples, written in vector instructions.

Three products make a layer and its gradients (`blocks`). Two of them combine rows,

    Y = b + W X    and    ∂L/∂X = Wᵀ G,

and the third multiplies every row of one array with every row of another, ∂L/∂W = G Xᵀ. numba's
own vectoriser loads two numbers and stores one for every multiplication, so here a tile of several
rows by several vectors of samples stays in registers while the sum runs: `combine_rows` loads each
weight once for all vectors of the tile and each vector once for all its rows. `row_products` keeps
a vector of partial sums for every pair of rows, and adds up the parts of all pairs together.

Arrays are given by the addresses of their first rows, which begin `stride` bytes after one another.
Which rows a product reads or writes, in which order, is a list of row numbers (int64, also given by
its address), since a block of a tree of any shape may have its inputs anywhere. All rows have as
many columns as fit whole vectors (`padded`); what is beyond the samples is 0 in inputs and
gradients, so that it adds nothing.

The size of a tile is that of this machine's registers: 64 bytes with AVX-512, 32 with AVX, else 16.
Any machine computes the same with wider or narrower vectors, up to the order of sums in ∂L/∂W.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

from hltm._compile import inner

intrinsic: Any = numba_intrinsic  # its type is that of a function that has the typing context, too
# NaN and infinity keep their meaning, as members whose loss is not finite must be found
FLAGS = ("contract",)
PLAIN, RELU, MASKED = 0, 1, 2  # what `combine_rows` does to its sums before they are stored


def _register_bytes() -> int:
    """The size of this machine's vector registers, in bytes."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx") else 16


REGISTER = _register_bytes()
WIDE = 4 if REGISTER != 32 else 2  # vectors of a tile: 32 registers but for AVX, which has 16
ROWS = 5  # rows of a tile


def pad(columns: int, size: int) -> int:
    """The number of columns, at least as many, that fit whole vectors of numbers of `size` bytes."""
    lanes = REGISTER // size
    return (columns + lanes - 1) // lanes * lanes


padded = inner()(pad)


class _Writer:
    """Writes instructions on vectors of one dtype, `number`, at addresses that are numbers."""

    def __init__(self, builder: Any, number: Any, size: int) -> None:
        self.builder, self.number, self.size = builder, number, size
        self.lanes = REGISTER // size
        self.vector = ir.VectorType(number, self.lanes)
        self.i64, self.i32 = ir.IntType(64), ir.IntType(32)

    def index(self, value: int) -> Any:
        return ir.Constant(self.i64, value)

    def row(self, base: Any, step: Any, row: Any) -> Any:
        """base + step * row."""
        return self.builder.add(base, self.builder.mul(step, row))

    def listed(self, base: Any, step: Any, rows: Any, i: Any) -> Any:
        """The address of row rows[i]."""
        own = self.builder.load(
            self.builder.inttoptr(self.row(rows, self.index(8), i), self.i64.as_pointer())
        )
        return self.row(base, step, own)

    def load(self, address: Any, kind: Any = None) -> Any:
        kind = self.vector if kind is None else kind
        found = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        found.align = self.size
        return found

    def vectors(self, address: Any, count: int) -> list[Any]:
        """Neighbouring vectors."""
        return [
            self.load(self.builder.add(address, self.index(i * REGISTER))) for i in range(count)
        ]

    def store_all(self, values: list[Any], address: Any) -> None:
        """Store vectors side by side."""
        for i, value in enumerate(values):
            self.store(value, self.builder.add(address, self.index(i * REGISTER)))

    def store(self, value: Any, address: Any) -> None:
        done = self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()))
        done.align = self.size

    def broadcast(self, value: Any) -> Any:
        one = self.builder.insert_element(
            ir.Constant(self.vector, ir.Undefined), value, ir.Constant(self.i32, 0)
        )
        return self.shuffle(one, one, [0] * self.lanes)

    def shuffle(self, a: Any, b: Any, places: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(self.i32, len(places)), places)
        return self.builder.shuffle_vector(a, b, mask)

    def add_product(self, total: Any, a: Any, b: Any) -> Any:
        return self.builder.fadd(total, self.builder.fmul(a, b, flags=FLAGS), flags=FLAGS)

    def loop(self, end: Any, step: int, start: list[Any], body: Callable[..., list[Any]]) -> Any:
        """Values after `values = body(i, values)` for i = 0, step, … below `end`."""
        builder = self.builder
        before = builder.block
        head = builder.append_basic_block("head")
        inside = builder.append_basic_block("inside")
        after = builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        i = builder.phi(self.i64)
        values = [builder.phi(value.type) for value in start]
        builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
        builder.position_at_end(inside)
        new = body(i, values)
        following = builder.add(i, self.index(step))
        inside = builder.block
        builder.branch(head)
        for phi, first, again in zip(
            [i, *values], [self.index(0), *start], [following, *new], strict=True
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(again, inside)
        builder.position_at_end(after)
        return values

    def clamped(self, count: int, last: Any) -> list[Any]:
        """The numbers 0 .. count - 1, none above `last`."""
        found = []
        for i in range(count):
            own = self.index(i)
            found.append(self.builder.select(self.builder.icmp_signed("<", own, last), own, last))
        return found

    def totals(self, parts: list[Any]) -> list[tuple[Any, int]]:
        """The sum over the lanes of each vector, as (vector, lane).

        Vectors are joined in pairs: half of the lanes of the sum belong to each.
        """
        found: list[tuple[Any, int]] = []
        while parts:
            count = 1
            while count * 2 <= min(len(parts), self.lanes):
                count *= 2
            now, parts = parts[:count], parts[count:]
            segment = self.lanes  # neighbouring lanes that belong to one of them
            while len(now) > 1:
                now = [
                    self._halved(a, b, segment) for a, b in zip(now[::2], now[1::2], strict=True)
                ]
                segment //= 2
            (vector,) = now
            while segment > 1:
                vector = self._halved(vector, None, segment)
                segment //= 2
            found += [(vector, lane) for lane in range(count)]
        return found

    def _halved(self, a: Any, b: Any, segment: int) -> Any:
        """The sum of the two halves of every segment of `a`, followed by those of `b`."""
        count = a.type.count * (1 if b is None else 2)
        low = [i for i in range(count) if i % segment < segment // 2]
        high = [i + segment // 2 for i in low]
        b = a if b is None else b
        return self.builder.fadd(self.shuffle(a, b, low), self.shuffle(a, b, high), flags=FLAGS)


def _writer(context: Any, builder: Any, like: Any) -> _Writer:
    return _Writer(builder, context.get_value_type(like), like.bitwidth // 8)


@intrinsic
def size_of(typing, like):  # type: ignore[no-untyped-def]
    """The bytes of one number of a dtype."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return ir.Constant(ir.IntType(64), like.bitwidth // 8)

    return types.int64(like), write


@intrinsic
def compiled_once(typing):  # type: ignore[no-untyped-def]
    """Make the function that calls this one of its own in machine code, not a part of its callers."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), write


@intrinsic
def zero_of(typing, like):  # type: ignore[no-untyped-def]
    """The address of a zero of a dtype: a bias where there is none."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        zero = ir.Constant(context.get_value_type(like), 0.0)
        place = cgutils.global_constant(builder.module, "zero", zero)
        return builder.ptrtoint(place, ir.IntType(64))

    return types.int64(like), write


@intrinsic
def _pointer(typing, like, address):  # type: ignore[no-untyped-def]
    """An address as a pointer."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[1], context.get_value_type(types.CPointer(like)))

    return types.CPointer(like)(like, types.int64), write


@inner()
def array_at(like, address, rows, columns):  # type: ignore[no-untyped-def]
    """The array `(rows, columns)` at an address."""
    return carray(_pointer(like, address), (rows, columns))


@inner()
def copy_rows(source, target, columns):  # type: ignore[no-untyped-def]
    """Copy the first columns of all rows of `source`; what `target` has beside them becomes 0.

    In loops: numba compiles an assignment of slices for a second.
    """
    for r in range(len(source)):
        for c in range(columns):
            target[r, c] = source[r, c]
        for c in range(columns, target.shape[1]):
            target[r, c] = 0


@inner()
def aligned(like, rows, columns):  # type: ignore[no-untyped-def]
    """A new array of zeros `(rows, columns)`, whose vectors do not straddle lines of the cache."""
    count = REGISTER // size_of(like)
    found = np.zeros(rows * columns + count, type(like))
    skipped = (-found.ctypes.data // size_of(like)) % count
    return found[skipped : skipped + rows * columns].reshape((rows, columns))


def _combining(rows: int, vectors: int) -> Any:
    """A tile of `combine_rows`: up to `rows` rows of sums by `vectors` vectors of columns."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, like, valid, weights, weight_row, weight_step, depth, bias, bias_row, stride, x, x_rows,
        y, y_rows, mask, then,
    ):  # fmt: skip
        def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            w = _writer(context, builder, like)
            (_, valid, weights, weight_row, weight_step, depth, bias, bias_row, stride, x, x_rows,
             y, y_rows, mask, then) = arguments  # fmt: skip
            row = w.clamped(rows, builder.sub(valid, w.index(1)))
            first = [w.row(weights, weight_row, r) for r in row]
            start = [w.broadcast(w.load(w.row(bias, bias_row, r), w.number)) for r in row]

            def body(k: Any, sums: list[Any]) -> list[Any]:
                inputs = w.vectors(w.listed(x, stride, x_rows, k), vectors)
                offset = builder.mul(k, weight_step)
                new = []
                for r in range(rows):
                    factor = w.broadcast(w.load(builder.add(first[r], offset), w.number))
                    for c in range(vectors):
                        new.append(w.add_product(sums[r * vectors + c], factor, inputs[c]))
                return new

            sums = w.loop(depth, 1, [s for s in start for _ in range(vectors)], body)
            zero = ir.Constant(w.vector, [0.0] * w.lanes)
            masked = builder.icmp_signed("==", then, w.index(MASKED))
            with builder.if_else(masked) as (yes, no):
                with yes:
                    for r in range(rows):
                        seen = w.vectors(w.listed(mask, stride, y_rows, row[r]), vectors)
                        own = sums[r * vectors : (r + 1) * vectors]
                        w.store_all(
                            [
                                builder.select(builder.fcmp_ordered("<=", gate, zero), zero, value)
                                for gate, value in zip(seen, own, strict=True)
                            ],
                            w.listed(y, stride, y_rows, row[r]),
                        )
                with no:
                    is_relu = builder.icmp_signed("==", then, w.index(RELU))
                    lowest = ir.Constant(w.number, float("-inf"))
                    floor = builder.select(is_relu, ir.Constant(w.number, 0.0), lowest)
                    floor = w.broadcast(floor)
                    for r in range(rows):
                        own = sums[r * vectors : (r + 1) * vectors]
                        w.store_all(
                            [  # NaN stays NaN
                                builder.select(builder.fcmp_ordered("<", v, floor), floor, v)
                                for v in own
                            ],
                            w.listed(y, stride, y_rows, row[r]),
                        )
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * 14), write

    return tile


def _multiplying(rows: int, others: int) -> Any:
    """A tile of `row_products`: up to `rows` rows of g by up to `others` rows of x."""

    @intrinsic
    def tile(  # type: ignore[no-untyped-def]
        typing, like, valid, g, valid_x, x, x_rows, stride, end, out, out_row
    ):
        def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            w = _writer(context, builder, like)
            _, valid, g, valid_x, x, x_rows, stride, end, out, out_row = arguments
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

            zero = ir.Constant(w.vector, [0.0] * w.lanes)
            found = w.totals(w.loop(end, REGISTER, [zero] * (rows * others), body))
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
            return context.get_dummy_value()

        return types.void(like, *[types.int64] * 9), write

    return tile


_combine_5, _combine_2 = _combining(ROWS, WIDE), _combining(2, WIDE)
_combine_narrow = _combining(ROWS, 1)
_multiply_wide, _multiply_narrow = _multiplying(ROWS, WIDE), _multiplying(ROWS, 2)


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
    while at < stride:
        wide = at + WIDE * REGISTER <= stride
        r = 0
        while r < count:
            rest = count - r
            a, b, rows = weights + r * weight_row, bias + r * bias_row, y_rows + 8 * r
            if not wide:
                _combine_narrow(
                    like, min(ROWS, rest), a, weight_row, weight_step, depth, b, bias_row, stride,
                    x + at, x_rows, y + at, rows, mask + at, then,
                )  # fmt: skip
                r += ROWS
            elif rest == 3 or rest > 4:
                _combine_5(
                    like, min(ROWS, rest), a, weight_row, weight_step, depth, b, bias_row, stride,
                    x + at, x_rows, y + at, rows, mask + at, then,
                )  # fmt: skip
                r += ROWS
            else:
                _combine_2(
                    like, min(2, rest), a, weight_row, weight_step, depth, b, bias_row, stride,
                    x + at, x_rows, y + at, rows, mask + at, then,
                )  # fmt: skip
                r += 2
        at += WIDE * REGISTER if wide else REGISTER


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
    for r in range(0, count, ROWS):
        i = 0
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
