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

from llvmlite import binding, ir
from numba import extending, types
from numba.core import cgutils
from numba.extending import models, overload, register_model

intrinsic: Any = extending.intrinsic  # numba's types count the typing context among the arguments


def _vector_bytes() -> int:
    """The length of a vector register of this machine."""
    features = binding.get_host_cpu_features()
    lengths = {"avx512f": 64, "avx": 32}
    return next((size for name, size in lengths.items() if features.get(name)), 16)


LANES = _vector_bytes() // 4  # numbers of float32 in a register; float64 takes two

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


def _constant(dtype: Any, value: float) -> ir.Constant:
    kind = _SHORT[dtype]
    return ir.Constant(ir.VectorType(kind, LANES), [ir.Constant(kind, value)] * LANES)


def _spread(builder: Any, scalar: Any, lanes: int = LANES) -> Any:
    """A scalar in every lane."""
    start = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(start, scalar, ir.Constant(ir.IntType(32), 0))
    places = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, start, places)


def _call(builder: Any, name: str, *values: Any) -> Any:
    """LLVM's own function of vectors, such as fmuladd."""
    kind = values[0].type
    word = "f32" if kind.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(values)), f"llvm.{name}.v{LANES}{word}"
    )
    return builder.call(function, values)


def _at(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """A pointer to the vector that begins at a place of a contiguous array, counted in numbers."""
    data = context.make_array(kind)(context, builder, array).data
    start = builder.gep(data, [place])
    return builder.bitcast(start, ir.VectorType(_SHORT[kind.dtype], LANES).as_pointer())


@intrinsic
def load(typing_context, array, place):  # type: ignore[no-untyped-def]
    """The vector that begins at a place of a contiguous array."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        pointer = _at(context, builder, kind, *given)
        return builder.load(pointer, align=kind.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), build


@intrinsic
def store(typing_context, array, place, vector):  # type: ignore[no-untyped-def]
    """Write a vector to a place of a contiguous array."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        kind = signature.args[0]
        pointer = _at(context, builder, kind, *given[:2])
        builder.store(given[2], pointer, align=kind.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), build


@intrinsic
def spread(typing_context, scalar):  # type: ignore[no-untyped-def]
    """A number in every lane."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        return _spread(builder, given[0])

    return Vector(scalar)(scalar), build


@intrinsic
def convert(typing_context, vector, like):  # type: ignore[no-untyped-def]
    """The same numbers in the dtype of the array `like`."""

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        ours, theirs = signature.args[0].dtype, signature.args[1].dtype
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
        kind, x = signature.args[0].dtype, given[0]
        high, low, lowest, highest, coefficients = _EXP[kind]
        number, fraction = _BITS[kind]
        whole = ir.VectorType(number, LANES)

        def constant(value: float) -> ir.Constant:
            return _constant(kind, value)

        least, most = constant(lowest * math.log(2)), constant(highest * math.log(2))
        bound = builder.select(
            builder.fcmp_ordered(">", x, least), x, least
        )  # NaN for now is `least`
        bound = builder.select(builder.fcmp_ordered("<", bound, most), bound, most)
        # 1. x = n log 2 + r: 3 * 2^(fraction - 1) is so large that a sum with it is rounded to a whole
        #    number, whose last bits are those of n
        large = constant(1.5 * 2**fraction)
        shifted = _call(builder, "fmuladd", bound, constant(1 / math.log(2)), large)
        n = builder.fsub(shifted, large)
        r = _call(builder, "fmuladd", n, constant(-high), bound)
        r = _call(builder, "fmuladd", n, constant(-low), r)
        # 2. exp(r) by Horner's rule
        found = constant(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            found = _call(builder, "fmuladd", found, r, constant(coefficient))
        # 3. times 2^n: n is added to the bits that hold the exponent
        places = ir.Constant(whole, [ir.Constant(number, fraction)] * LANES)
        power = builder.shl(builder.bitcast(shifted, whole), places)
        found = builder.bitcast(builder.add(builder.bitcast(found, whole), power), x.type)
        # 4. what was out of range
        found = builder.select(builder.fcmp_ordered("<", x, least), constant(0.0), found)
        found = builder.select(builder.fcmp_ordered(">=", x, most), constant(math.inf), found)
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
    many = rows.literal_value
    whole = types.intp

    def build(context, builder, signature, given):  # type: ignore[no-untyped-def]
        _, factors, first, row_step, step, columns, start, stride, count, out, place = given
        kinds = signature.args
        factor_kind, column_kind, out_kind = kinds[1], kinds[5], kinds[9]
        data = context.make_array(factor_kind)(context, builder, factors).data
        zero = _constant(column_kind.dtype, 0.0)
        sums = [cgutils.alloca_once_value(builder, zero) for _ in range(many)]
        for own in sums:  # once more, since the value above is set at the function's start
            builder.store(zero, own)
        with cgutils.for_range(builder, count, intp=count.type) as loop:
            at = builder.add(start, builder.mul(loop.index, stride))
            pointer = _at(context, builder, column_kind, columns, at)
            column = builder.load(pointer, align=column_kind.dtype.bitwidth // 8)
            where = builder.add(first, builder.mul(loop.index, step))
            for own in sums:
                factor = _spread(builder, builder.load(builder.gep(data, [where])))
                total = _call(builder, "fmuladd", factor, column, builder.load(own))
                builder.store(total, own)
                where = builder.add(where, row_step)
        lanes = ir.Constant(place.type, LANES)
        for own in sums:
            pointer = _at(context, builder, out_kind, out, place)
            builder.store(builder.load(own), pointer, align=out_kind.dtype.bitwidth // 8)
            place = builder.add(place, lanes)
        return context.get_dummy_value()

    given = (rows, factors, whole, whole, whole, columns, whole, whole, whole, out, whole)
    return types.none(*given), build
