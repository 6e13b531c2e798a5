"""Philox 4x32-10 for eight calls side by side; it equals `hltm.sampling.philox.philox`.

A round takes two 64-bit products of 32-bit words; with hi and lo the halves of a product, M the
multipliers and k the round's key,

    x0', x1', x2', x3'  =  hi(M1 x2) ^ x1 ^ k0,  lo(M1 x2),  hi(M0 x0) ^ x3 ^ k1,  lo(M0 x0).

Words are kept in 64-bit integers. A product of two words is then one vector instruction, which reads
the low halves alone, so the high halves of x1 and x3 need not be cleared between rounds. In the last
round, a product rotated by 32 bits has its high half, for x0', below its low half, for x1': two output
words in their places with one rotation.

The rounds are operations on LLVM vectors, `<8 x i64>`, which LLVM translates for any processor; of
numba's loops LLVM makes vectors of half that length. A word that is the same for all calls stays a single
integer until it meets one that is not: where the calls differ in their blocks alone, that saves two
of ten rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hltm._compile import inner
from hltm.sampling.philox import MASK, MULTIPLIER, ROUNDS, WEYL

LANES = 8  # calls side by side; arrays of calls are padded to a multiple

_INTEGER = ir.IntType(64)
VECTOR = ir.VectorType(_INTEGER, LANES)
_IN_TURNS = [[i // 2 + i % 2 * LANES for i in range(half, half + LANES)] for half in (0, LANES)]


@inner()
def philox_blocks(key0, key1, c0, blocks, c2, c3, count, words):  # type: ignore[no-untyped-def]
    """Words of `count` calls: those of block j in words[2j] (0, then 1) and words[2j + 1] (2, 3).

    `count` is rounded up to LANES; keys and counters are uint64 that hold 32 bits.
    """
    whole = count // (2 * LANES) * (2 * LANES)
    for j in range(0, whole, 2 * LANES):
        _philox_pairs(key0, key1, c0, blocks, c2, c3, j, words, 2 * j)
    for j in range(whole, count, LANES):
        philox_lanes(key0, key1, c0, blocks, c2, c3, j, words, 2 * j)


def _philox_lanes(groups: int) -> Any:
    """Instructions for some times LANES calls, in turns, so that their multiplications overlap."""

    def write(
        typing: Any, key0: Any, key1: Any, c0: Any, blocks: Any, c2: Any, c3: Any, at: Any,
        words: Any, place: Any,
    ) -> Any:  # fmt: skip
        """words[place ..] = those of calls at, at + 1, …, two uint64 a call; counter word 1 is `blocks`."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c0, blocks_, c2, c3, at, words_, place = arguments[2:]
            each = [at.type(i * LANES) for i in range(groups)]
            c1 = [load_lanes(context, builder, blocks, blocks_, builder.add(at, i)) for i in each]
            made = philox_rounds(builder, arguments[:2], [(c0, one, c2, c3) for one in c1])
            for i, (pair, order) in enumerate(product(made, _IN_TURNS)):
                where = builder.add(place, place.type(i * LANES))
                store_lanes(context, builder, words, words_, where, _chosen(builder, pair, order))
            return context.get_dummy_value()

        word = types.uint64
        given = (word, word, word, blocks, word, word, types.intp, words, types.intp)
        return types.void(*given), generate

    return intrinsic(write)


philox_lanes: Any = _philox_lanes(1)
_philox_pairs: Any = _philox_lanes(2)


def philox_rounds(
    builder: Any, key: Sequence[Any], counters: Sequence[Sequence[Any]]
) -> list[list[Any]]:
    """All rounds, of several counters in turns: of each words 0 (the low half) and 1, then 2 and 3."""
    states = list(counters)
    for r in range(ROUNDS):
        k0, k1 = (
            _low(builder, builder.add(k, _INTEGER(r * w))) for k, w in zip(key, WEYL, strict=True)
        )
        products = [[_product(builder, x[2 * i], MULTIPLIER[i]) for i in (0, 1)] for x in states]
        if r == ROUNDS - 1:
            break
        states = [
            [
                exclusive_or(builder, _high(builder, b), x[1], k0), b,
                exclusive_or(builder, _high(builder, a), x[3], k1), a,
            ]
            for x, (a, b) in zip(states, products, strict=True)
        ]  # fmt: skip
    return [
        [
            exclusive_or(builder, _rotated(builder, product), _low(builder, word), k)
            for product, word, k in ((b, x[1], k0), (a, x[3], k1))
        ]
        for x, (a, b) in zip(states, products, strict=True)
    ]


def load_lanes(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Elements at .. at + LANES - 1 of a contiguous uint64 array."""
    return builder.load(_place(context, builder, kind, array, at), align=8)


def store_lanes(context: Any, builder: Any, kind: Any, array: Any, at: Any, value: Any) -> None:
    """The reverse of `load_lanes`."""
    builder.store(value, _place(context, builder, kind, array, at), align=8)


def spread(builder: Any, value: Any) -> Any:
    """LANES times an integer; a vector as it is."""
    if value.type == VECTOR:
        return value
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), value, ir.IntType(32)(0))
    return _chosen(builder, [one, one], [0] * LANES)


def exclusive_or(builder: Any, *values: Any) -> Any:
    """Exclusive or of integers, which are combined first, and vectors."""
    single = [value for value in values if value.type != VECTOR]
    vectors = [value for value in values if value.type == VECTOR]
    combined = [reduce(builder.xor, single)] if single else []
    if vectors:
        combined = [spread(builder, value) for value in combined]
    return reduce(builder.xor, vectors + combined)


def _place(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), VECTOR.as_pointer())


def _chosen(builder: Any, vectors: Sequence[Any], order: list[int]) -> Any:
    return builder.shuffle_vector(*vectors, ir.VectorType(ir.IntType(32), LANES)(order))


def _constant(value: Any, number: int) -> Any:
    return VECTOR([number] * LANES) if value.type == VECTOR else _INTEGER(number)


def _low(builder: Any, value: Any) -> Any:
    return builder.and_(value, _constant(value, MASK))


def _high(builder: Any, value: Any) -> Any:
    """The high halves; of vectors the lanes above 32 bits are not cleared, see below."""
    if value.type != VECTOR:
        return builder.lshr(value, _constant(value, 32))
    # a shuffle, since LLVM would see that a shift leaves nothing to clear, take the clearing of a factor
    # away, and then no longer see that one instruction can multiply
    halves = builder.bitcast(value, ir.VectorType(ir.IntType(32), 2 * LANES))
    order = ir.VectorType(ir.IntType(32), 2 * LANES)([i | 1 for i in range(2 * LANES)])
    return builder.bitcast(builder.shuffle_vector(halves, halves, order), VECTOR)


def _product(builder: Any, value: Any, multiplier: int) -> Any:
    return builder.mul(_low(builder, value), _constant(value, multiplier))


def _rotated(builder: Any, value: Any) -> Any:
    half = _constant(value, 32)
    return builder.or_(builder.lshr(value, half), builder.shl(value, half))
