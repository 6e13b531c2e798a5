"""Vectors of LANES numbers inside compiled kernels: loads, arithmetic, exponential, products of rows.

numba leaves it to the compiler which loops become vector instructions, and that never includes an
exponential. A variable of the type below is a vector of LLVM's own, of float32 or float64, which any
processor computes, in one register or several.

A kernel that works on columns, one per lane, needs neither sums across lanes nor remainders: it pads
its columns to whole vectors.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import models, overload, register_model

from dualnets._instructions import REGISTER, Writer
from hltm._separate import intrinsic

LANES = REGISTER // 4  # numbers of float32 in a register; float64 takes two

# log 2 in two parts, the first of so few digits that n times it is exact; the exponents between which exp
# is computed; and the coefficients of exp(r), |r| <= log(2) / 2, that interpolate it at Chebyshev's
# points (relative error 3e-9 and 4e-18)
_EXP: dict[Any, tuple[float, float, int, int, tuple[float, ...]]] = {
    types.float32: (
        0.693359375, -2.12194440e-4, -100, 128,
        (1.0, 1.00000003773887126, 0.500000004714605742, 0.166664154140411784, 0.0416663527711122113,
         0.00837513477462432517, 0.00139411188958370008),
    ),
    types.float64: (
        6.93145751953125e-1, 1.42860682030941723212e-6, -1000, 1024,
        (1.0, 1.0, 0.50000000000000184, 0.166666666666666808, 0.0416666666664879525,
         0.00833333333331958962, 0.00138888889523528629, 0.000198412698900764028,
         2.4801485441561313e-5, 2.75572408872298686e-6, 2.76326547225277919e-7,
         2.51100492048186598e-8),
    ),
}  # fmt: skip
_BITS = {types.float32: (ir.IntType(32), 23), types.float64: (ir.IntType(64), 52)}  # of a fraction
_SHORT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


class Vector(types.Type):
    """LANES numbers of one dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"vector({dtype}, {LANES})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(_SHORT[fe_type.dtype], LANES))


def _writer(builder: Any, dtype: Any) -> Writer:
    return Writer(builder, _SHORT[dtype], LANES)


def _start(context: Any, w: Writer, kind: Any, array: Any) -> Any:
    """The address of a contiguous array."""
    return w.builder.ptrtoint(context.make_array(kind)(context, w.builder, array).data, w.i64)


def _at(context: Any, w: Writer, kind: Any, array: Any, place: Any) -> Any:
    """A pointer to a place of a contiguous array, counted in numbers."""
    return w.builder.gep(context.make_array(kind)(context, w.builder, array).data, [place])


@intrinsic
def load(typing_context, array, place):  # type: ignore[no-untyped-def]
    """The vector that begins at a place of a contiguous array."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        w = _writer(builder, array.dtype)
        return w.load(_at(context, w, array, *given))

    return Vector(array.dtype)(array, types.intp), build


@intrinsic
def store(typing_context, array, place, vector):  # type: ignore[no-untyped-def]
    """Write a vector to a place of a contiguous array."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        w = _writer(builder, array.dtype)
        w.store(given[2], _at(context, w, array, *given[:2]))
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), build


@intrinsic
def spread(typing_context, scalar):  # type: ignore[no-untyped-def]
    """A number in every lane."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        return _writer(builder, scalar).broadcast(given[0])

    return Vector(scalar)(scalar), build


@intrinsic
def convert(typing_context, vector, like):  # type: ignore[no-untyped-def]
    """The same numbers in the dtype of the array `like`."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        ours, theirs = vector.dtype, like.dtype
        if ours == theirs:
            return given[0]
        change = builder.fptrunc if theirs == types.float32 else builder.fpext
        return change(given[0], ir.VectorType(_SHORT[theirs], LANES))

    return Vector(like.dtype)(vector, like), build


def _operation(name: str) -> Any:
    """An operation on two vectors, by LLVM's name of its instruction."""

    @intrinsic
    def operation(typing_context, a, b):  # type: ignore[no-untyped-def]
        def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
            return getattr(builder, name)(*given)

        return a(a, b), build

    return operation


def _register(symbol: Any, name: str) -> None:
    chosen = _operation(name)

    @overload(symbol)
    def use(a, b):  # type: ignore[no-untyped-def]
        if isinstance(a, Vector) and a == b:
            return lambda a, b: chosen(a, b)
        return None


for _symbol, _name in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    _register(_symbol, _name)


@intrinsic
def maximum(typing_context, a, b):  # type: ignore[no-untyped-def]
    """The larger number of each lane; `b` where either is NaN."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        larger = builder.fcmp_ordered(">", *given)
        return builder.select(larger, *given)

    return a(a, b), build


@intrinsic
def exponential(typing_context, vector):  # type: ignore[no-untyped-def]
    """exp of every lane, to 2 units in the last place; 0 below 2^-100 or 2^-1000.

    That is far from the smallest numbers, with whose products processors take a hundred times as long.
    Infinities have the exponentials 0 and infinity, and NaN stays NaN.
    """

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        kind, x, w = vector.dtype, given[0], _writer(builder, vector.dtype)
        high, low, lowest, highest, coefficients = _EXP[kind]
        number, fraction = _BITS[kind]
        whole = ir.VectorType(number, LANES)
        least, most = w.constant(lowest * math.log(2)), w.constant(highest * math.log(2))
        bound = builder.select(
            builder.fcmp_ordered(">", x, least), x, least
        )  # NaN for now is `least`
        bound = builder.select(builder.fcmp_ordered("<", bound, most), bound, most)
        # 1. x = n log 2 + r: 3 * 2^(fraction - 1) is so large that a sum with it is rounded to a whole
        #    number, whose last bits are those of n
        large = w.constant(1.5 * 2**fraction)
        shifted = w.add_product(large, bound, w.constant(1 / math.log(2)))
        n = builder.fsub(shifted, large)
        r = w.add_product(bound, n, w.constant(-high))
        r = w.add_product(r, n, w.constant(-low))
        # 2. exp(r) by Horner's rule
        found = w.constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            found = w.add_product(w.constant(coefficient), found, r)
        # 3. times 2^n: n is added to the bits that hold the exponent
        places = ir.Constant(whole, [ir.Constant(number, fraction)] * LANES)
        power = builder.shl(builder.bitcast(shifted, whole), places)
        found = builder.bitcast(builder.add(builder.bitcast(found, whole), power), x.type)
        # 4. what was out of range
        found = builder.select(builder.fcmp_ordered("<", x, least), w.constant(0.0), found)
        found = builder.select(builder.fcmp_ordered(">=", x, most), w.constant(math.inf), found)
        return builder.select(builder.fcmp_unordered("uno", x, x), x, found)

    return vector(vector), build


@intrinsic(prefer_literal=True)
def multiply(  # type: ignore[no-untyped-def]
    typing_context, rows, factors, first, row_step, step, columns, start, stride, count, out, place
):
    """out[r] = Σ_d factors[first + r row_step + d step] columns[start + d stride], one vector per row r.

    Arrays are contiguous and all places are counted in numbers.

    Args:
        rows: a literal, how many rows of sums are kept in registers at once.
        factors: numbers, each of which multiplies a whole vector.
        first, row_step, step: place of the first one, and how far those of the next row and term are.
        columns: vectors, at `start` and every `stride`.
        count: how many terms.
        out: row after row, LANES numbers each, filled from `place` on.
    """
    if not isinstance(rows, types.IntegerLiteral):
        return None
    whole = types.intp

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        _, factors, first, row_step, step, columns, start, stride, count, out, place = given
        w = _writer(builder, signature.args[5].dtype)
        size = w.index(w.size)
        factors, columns, out = (_start(context, w, signature.args[i], given[i]) for i in (1, 5, 9))

        def body(d: Any, sums: list[Any]) -> list[Any]:
            column = w.load(w.row(columns, size, w.row(start, stride, d)))
            where, new = w.row(factors, size, w.row(first, step, d)), []
            for own in sums:
                new.append(w.add_product(own, w.broadcast(w.load(where, w.number)), column))
                where = w.row(where, size, row_step)
            return new

        sums = w.loop(count, 1, [w.constant(0.0)] * rows.literal_value, body)
        w.store_all(sums, w.row(out, size, place))
        return context.get_dummy_value()

    kinds = (rows, factors, whole, whole, whole, columns, whole, whole, whole, out, whole)
    return types.none(*kinds), build
