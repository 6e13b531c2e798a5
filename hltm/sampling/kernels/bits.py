"""64 states as the bits of one word, and as 64 numbers in a row: one or two vector instructions each way.

A loop over the 64 lanes would not compile to these instructions, so they are written as operations on
LLVM vectors, `<64 x i1>` and `<64 x i8>` or `<64 x i16>`, which LLVM translates for any processor.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_LANES = 64


def _lanes_at(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> tuple[Any, Any]:
    """A pointer to 64 elements of a contiguous array, and their vector type."""
    element = context.get_data_type(kind.dtype)
    lanes = ir.VectorType(element, _LANES)
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), lanes.as_pointer()), lanes


def _spread_word(typing: Any, out: Any, at: Any, word: Any) -> Any:
    """out[at + k] = bit k of the word, k = 0..63; `out` contiguous, of uint8 or uint16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, lanes = _lanes_at(context, builder, signature.args[0], *arguments[:2])
        bits = builder.bitcast(arguments[2], ir.VectorType(ir.IntType(1), _LANES))
        builder.store(builder.zext(bits, lanes), place, align=1)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.uint64), generate


def _collect_word(typing: Any, numbers: Any, at: Any, bit: Any) -> Any:
    """The word whose bit k is one bit of numbers[at + k], k = 0..63; bit 0 is the lowest.

    `numbers` is contiguous, of any unsigned integers.
    """
    place_of_bit = numbers.dtype

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place, lanes = _lanes_at(context, builder, signature.args[0], *arguments[:2])
        one = builder.insert_element(
            ir.Constant(lanes, ir.Undefined), arguments[2], ir.IntType(32)(0)
        )
        shift = builder.shuffle_vector(
            one, one, ir.VectorType(ir.IntType(32), _LANES)([0] * _LANES)
        )
        found = builder.lshr(builder.load(place, align=1), shift)
        bits = builder.trunc(found, ir.VectorType(ir.IntType(1), _LANES))
        return builder.bitcast(bits, ir.IntType(64))

    return types.uint64(numbers, types.intp, place_of_bit), generate


spread_word: Any = intrinsic(_spread_word)
collect_word: Any = intrinsic(_collect_word)
