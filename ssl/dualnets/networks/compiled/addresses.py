"""Arrays at addresses, which are plain numbers: what kernels need beside the products to use them."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined]
from numba.core import cgutils

from dualnets._instructions import REGISTER
from hltm._compile import inner
from hltm._separate import intrinsic, pointer


def pad(columns: int, size: int) -> int:
    """The number of columns, at least as many, that fit whole vectors of numbers of `size` bytes."""
    lanes = REGISTER // size
    return (columns + lanes - 1) // lanes * lanes


padded = inner()(pad)


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


@inner()
def array_at(like, address, rows, columns):  # type: ignore[no-untyped-def]
    """The array `(rows, columns)` at an address."""
    return carray(pointer(address), (rows, columns), type(like))


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
