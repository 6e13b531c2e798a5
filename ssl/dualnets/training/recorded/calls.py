"""Compiled functions as rows of the interpreter's table: called at their addresses, with stored arguments.

A function that numba compiled takes its arguments one by one, an array as its address, shape and strides.
Here they are stored, eight bytes each, and a few instructions, written for each signature, load and
pass them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import typeof, types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from dualnets.networks.compiled.passes import Address
from hltm._separate import machine_code

I64 = ir.IntType(64)


class Call(NamedTuple):
    """A function with its arguments.

    Attributes:
        function: its address; it takes the address of the numbers below, and returns 0 unless it failed.
        numbers: int64.
        addresses: places in `numbers` of the addresses of arrays, and of those that are given as such.
        held: what has to stay alive.
    """

    function: int
    numbers: np.ndarray
    addresses: list[int]
    held: Any


def call(kernel: Any, *arguments: Any) -> Call:
    """The call of a compiled function; arrays are read and written where they are."""
    signature = tuple(typeof(own) for own in arguments)
    function, library = _function(kernel, signature)
    numbers: list[int] = []
    addresses: list[int] = []
    for kind, own in zip(signature, arguments, strict=True):
        _flatten(kind, own, numbers, addresses)
    return Call(function, np.array(numbers, dtype=np.int64), addresses, (library, arguments))


def _flatten(kind: Any, own: Any, numbers: list[int], addresses: list[int]) -> None:
    """Append an argument as the compiled function takes it."""
    if isinstance(kind, types.Array):
        addresses.append(len(numbers) + 4)
        numbers += [0, 0, own.size, own.itemsize, own.ctypes.data, *own.shape, *own.strides]
    elif isinstance(kind, types.BaseTuple):
        for part, value in zip(kind.types, own, strict=True):  # type: ignore[attr-defined]
            _flatten(part, value, numbers, addresses)
    elif isinstance(kind, types.Float):
        bits = np.zeros(1, dtype=np.int64)
        bits.view(f"f{kind.bitwidth // 8}")[0] = own
        numbers.append(int(bits[0]))
    else:
        if isinstance(own, Address):
            addresses.append(len(numbers))
        numbers.append(int(own))


@cache
@global_compiler_lock  # type: ignore[untyped-decorator]
def _function(kernel: Any, signature: tuple[Any, ...]) -> tuple[int, Any]:
    """The address of a function that loads arguments of these types and calls the kernel."""
    address, found = machine_code(kernel, signature)
    context = cpu_target.target_context
    convention = context.call_conv.get_function_type(
        found.signature.return_type, found.signature.args
    )
    library = context.codegen().create_library("arguments")
    module = library.create_ir_module("arguments")
    name = f"load_and_call_{id(kernel)}_{abs(hash(signature))}"
    function = ir.Function(module, ir.FunctionType(I64, [I64]), name)
    builder = ir.IRBuilder(function.append_basic_block())
    given = []
    for place, kind in enumerate(convention.args[2:]):
        at = builder.add(function.args[0], ir.Constant(I64, 8 * place))
        given.append(_loaded(builder, at, kind))
    room = [builder.alloca(ir.ArrayType(I64, 16)) for _ in range(2)]  # a result, and an exception
    results = [builder.bitcast(own, kind) for own, kind in zip(room, convention.args, strict=False)]
    target = builder.inttoptr(ir.Constant(I64, address), convention.as_pointer())
    status = builder.call(target, [*results, *given])
    # a function that returns nothing may say so
    failed = builder.icmp_signed(">", status, ir.Constant(status.type, 0))
    builder.ret(builder.zext(failed, I64))
    library.add_ir_module(module)
    library.finalize()
    return library.get_pointer_to_function(name), (library, found)


def _loaded(builder: Any, address: Any, kind: Any) -> Any:
    """A number of eight bytes as an argument of another type."""
    number = builder.load(builder.inttoptr(address, I64.as_pointer()))
    if isinstance(kind, ir.PointerType):
        return builder.inttoptr(number, kind)
    if isinstance(kind, ir.IntType):
        return number if kind.width == 64 else builder.trunc(number, kind)
    if isinstance(kind, ir.FloatType):
        number = builder.trunc(number, ir.IntType(32))
    return builder.bitcast(number, kind)
