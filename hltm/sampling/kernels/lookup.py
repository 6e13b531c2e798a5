"""States of 16 lanes from the cells of a guide table (see `guide`), in vector instructions.

numba would look up one lane after the other. LLVM gathers all lanes in one instruction where the
machine has such a one.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PART = 16  # lanes
_WORD = ir.IntType(32)
_WORDS = ir.VectorType(_WORD, PART)


def _look_up(
    typing: Any, row: Any, at: Any, words: Any, low: Any, rank: Any, cells: Any, bits: Any, out: Any
) -> Any:
    """Write the states of lanes at .. at + PART - 1; returns which of them are in a flagged cell.

    Args:
        row, rank, cells, bits, out: as in `draw_wide`.
        words: the lanes' numbers, 32 bits each, from number `low` on.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row_, at, words_, low, rank_, cells_, bits, out_ = arguments
        bits = builder.trunc(bits, _WORD)
        ones = builder.sub(builder.shl(_WORD(1), bits), _WORD(1))
        state = builder.lshr(ones, _WORD(1))
        shift, bits, ones, state, flag = (
            _spread(builder, value)
            for value in (builder.sub(_WORD(32), bits), bits, ones, state, builder.xor(ones, state))
        )
        narrow = ir.VectorType(context.get_data_type(row.dtype), PART)

        def pointer(kind: Any, array: Any, place: Any, vector: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [place]), vector.as_pointer())

        half = builder.lshr(low, low.type(1))
        u = builder.load(pointer(words, words_, half, _WORDS), align=4)
        rows = builder.zext(builder.load(pointer(row, row_, at, narrow), align=1), _WORDS)
        first = _gather(context, builder, rank, rank_, rows)
        place = builder.add(builder.shl(first, bits), builder.lshr(u, shift))
        cell = _gather(context, builder, cells, cells_, place)
        # the low bits of u, moved up to those of the cell
        above = builder.icmp_unsigned(">", builder.shl(u, bits), builder.or_(cell, ones))
        found = builder.add(builder.and_(cell, state), builder.zext(above, _WORDS))
        builder.store(builder.trunc(found, narrow), pointer(out, out_, at, narrow), align=1)
        many = builder.icmp_unsigned("!=", builder.and_(cell, flag), ir.Constant(_WORDS, None))
        return builder.zext(builder.bitcast(many, ir.IntType(PART)), ir.IntType(64))

    place_ = types.intp
    given = (row, place_, words, place_, rank, cells, types.uint64, out)
    return types.uint64(*given), generate


def _spread(builder: Any, value: Any) -> Any:
    """PART times an integer."""
    vector = ir.VectorType(value.type, PART)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _WORD(0))
    return builder.shuffle_vector(one, one, ir.Constant(_WORDS, None))


def _gather(context: Any, builder: Any, kind: Any, array: Any, places: Any) -> Any:
    """The elements of a uint32 array at PART places."""
    data = context.make_array(kind)(context, builder, array).data
    long = ir.VectorType(ir.IntType(64), PART)
    start = _spread(builder, builder.ptrtoint(data, long.element))
    bytes_ = builder.shl(builder.zext(places, long), long([2] * PART))
    pointers = builder.inttoptr(builder.add(start, bytes_), ir.VectorType(data.type, PART))
    every = ir.Constant(ir.VectorType(ir.IntType(1), PART), [1] * PART)
    kinds = [pointers.type, _WORD, every.type, _WORDS]
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(_WORDS, kinds),
        f"llvm.masked.gather.v{PART}i32.v{PART}p0i32",
    )
    return builder.call(function, [pointers, _WORD(4), every, ir.Constant(_WORDS, ir.Undefined)])


def _lowest_bit(typing: Any, word: Any) -> Any:
    """The place of the lowest 1 of a word that has one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.intp(types.uint64), generate


look_up: Any = intrinsic(_look_up)
lowest_bit: Any = intrinsic(_lowest_bit)
