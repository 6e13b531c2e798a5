"""Compiled functions that other kernels call by their address, so that they are compiled once.

What numba's `njit` functions call is compiled into them, again for each of them. A function decorated with
`separate` has machine code of its own instead, stored like that of a kernel. Python code asks for its
`address`, which it gives to the kernels that call it:

    @separate(lambda like: types.void(like, types.int64))
    def fill(like, address): ...

    @compiled()
    def kernel(fill_at, like, address):
        fill.call(fill_at, (like, address))    # in kernels: call = fill.call, a global

Other processes can compile other functions meanwhile (`compile_together`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba import typeof, types
from numba.core import cgutils
from numba.core.typing.templates import Signature
from numba.extending import intrinsic as numba_intrinsic

from hltm._compile import stored

intrinsic: Any = numba_intrinsic  # its type is that of a function that has the typing context, too


class Separate:
    """A function with machine code of its own.

    Attributes:
        kernel: numba's compiled function.
        call: for kernels, `call(address, arguments)` with a tuple; arguments become what the function takes.
    """

    def __init__(self, kernel: Any, signature_of: Callable[[Any], Signature]) -> None:
        self.kernel, self.signature_of = kernel, signature_of

        @intrinsic
        def call(typing, address, arguments):  # type: ignore[no-untyped-def]
            signature = signature_of(types.unliteral(arguments[0]))

            def write(context, builder, own, given):  # type: ignore[no-untyped-def]
                convention = context.call_conv
                kind = convention.get_function_type(signature.return_type, signature.args)
                function = builder.inttoptr(given[0], kind.as_pointer())
                values = [
                    context.cast(builder, value, before, after)
                    for value, before, after in zip(
                        cgutils.unpack_tuple(builder, given[1]),
                        own.args[1],
                        signature.args,
                        strict=True,
                    )
                ]
                status, found = convention.call_function(
                    builder, function, signature.return_type, signature.args, values
                )
                with cgutils.if_unlikely(builder, status.is_error):
                    convention.return_status_propagate(builder, status)
                return found

            return signature.return_type(types.int64, arguments), write

        self.call = call

    def address(self, like: Any) -> int:
        """Where the machine code for a dtype begins; it is compiled first if it has to be.

        Args:
            like: any number of the dtype.
        """
        return machine_code(self.kernel, self.signature_of(typeof(like)).args)[0]


def separate(signature_of: Callable[[Any], Signature], **options: Any) -> Callable[[Any], Separate]:
    """A decorator for functions that are compiled once.

    Args:
        signature_of: types of the arguments and of what is returned, from that of the first argument.
        **options: of `numba.njit`.
    """

    def decorate(function: Any) -> Separate:
        return Separate(stored(function, no_cpython_wrapper=True, **options), signature_of)

    return decorate


def machine_code(kernel: Any, arguments: tuple[Any, ...]) -> tuple[int, Any]:
    """Where the machine code of a kernel for arguments of these types begins, and numba's compiled form.

    It is compiled first if it has to be. The form has to outlive the use of the address.
    """
    kernel.compile(arguments)
    found = kernel.overloads[arguments]
    return found.library.get_pointer_to_function(found.fndesc.llvm_func_name), found


def compile_together(wanted: Sequence[tuple[Any, tuple[Any, ...]]]) -> None:
    """Compile functions, those first that no other process compiles now.

    Args:
        wanted: kernels, and the types of their arguments.
    """
    left = [(kernel, own) for kernel, own in wanted if own not in kernel.overloads]
    while left:
        free = [one for one in left if not one[0]._cache.is_taken()]
        chosen = (free or left)[0]
        chosen[0].compile(chosen[1])
        left.remove(chosen)


@intrinsic
def address_of(typing, array):  # type: ignore[no-untyped-def]
    """The address of an array's first number: int64, where numba's own would make float64 of a sum."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(data, context.get_value_type(types.int64))

    return types.int64(array), write


@intrinsic
def pointer(typing, address):  # type: ignore[no-untyped-def]
    """An address as a pointer, of which `numba.carray` makes an array."""

    def write(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), write
