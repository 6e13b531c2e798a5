"""Recorded operations on certain tensors as rows of the interpreter's table."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualnets.methods.compiled.operation import KERNELS, NAMESPACE, Kernel
from dualnets.networks.compiled.ensembles import Given
from dualnets.networks.compiled.passes import BackwardPass, ForwardPass
from dualnets.training.recorded import interpreter as kinds
from dualnets.training.recorded.calls import call
from dualnets.training.recorded.interpreter import ADDRESS, DIMENSIONS, EXTRA, KIND, SHAPE, STEP

DTYPES: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}
Row = Callable[..., None]
# operation -> writes its rows: (rows, result, arguments); filled by `operations`
KNOWN: dict[Any, Row] = {}


class UnknownError(Exception):
    """An operation, or a form of one, that the interpreter does not have."""


class Rows:
    """Rows that one call runs, and the tensors that they read and write, which stay alive with them.

    Args:
        dtype: float32 or float64.
        moving: memory that moves between calls: tensors that stand for those that will be there.
    """

    def __init__(self, dtype: torch.dtype, moving: Sequence[Tensor] = ()) -> None:
        self.dtype, self.moving = dtype, moving
        self.rows: list[list[int]] = []
        self.held: list[Any] = []
        # 1 + number of a row -> what is done if it fails
        self.plain: dict[int, Callable[[np.ndarray], object]] = {}
        # an array, or None for the rows, place in it, number of the base, and what is added to it
        self.moves: list[tuple[np.ndarray | None, int, int, int]] = []

    def add(self, target: Any, result: Any, *given: Any, **options: Any) -> None:
        """Append an operation.

        Args:
            target: the operation, one of linked layers included.
            result: its result, a tensor or several; of layers, what they are bound to.
            given, options: its arguments.

        Raises:
            UnknownError: it is not known.
        """
        if isinstance(result, ForwardPass | BackwardPass):
            self._layers(result, *given)
        elif target in KNOWN:
            KNOWN[target](self, result, *given, **options)
        elif (kernel := KERNELS.get(_own_name(target))) is not None:
            self._kernel(target, kernel, given, [result] if isinstance(result, Tensor) else result)
        else:
            raise UnknownError(str(target))

    def bound(self, bases: np.ndarray) -> Callable[[], None]:
        """The function that runs the rows. `bases` are the addresses of memory that moves."""
        rows = np.array(self.rows, dtype=np.int64).reshape(-1, kinds.WIDTH)
        moves = np.zeros((len(self.moves), 3), dtype=np.int64)
        for move, (array, place, *rest) in zip(moves, self.moves, strict=True):
            move[:] = (rows if array is None else array).ctypes.data + 8 * place, *rest
        like, held, run, plain = DTYPES[self.dtype](0), self.held, kinds.run, self.plain

        def repeat(held: list[Any] = held) -> None:
            failed = run(like, rows, moves, bases, 0)
            while failed:
                if failed not in plain:
                    raise IndexError("an index of a recorded step is out of range")
                plain[failed](bases)
                failed = run(like, rows, moves, bases, failed)

        return repeat

    def _kernel(
        self, target: Any, kernel: Kernel, given: Sequence[Any], results: Sequence[Tensor]
    ) -> None:
        """A compiled loss."""
        prepared = [
            self._contiguous(own.transpose(1, 2)) if i in kernel.batch_last else own
            for i, own in enumerate(given)
        ]
        known = [own for own in (*prepared, *results) if isinstance(own, Tensor)]
        arguments = kernel.arguments(*prepared, *results)
        for i, own in enumerate(arguments):
            if not isinstance(own, np.ndarray) or not own.size or i == kernel.exact:
                continue
            if not any(_holds(tensor, own.ctypes.data) for tensor in known):
                raise UnknownError("an argument that is copied first")
        self._call(kernel.function, 0, len(results[0]), *arguments)
        if kernel.exact is not None:
            flags = torch.from_numpy(arguments[kernel.exact])
            self.row(kinds.CHECK, flags, flags, last=1)
            self.plain[len(self.rows)] = partial(self._in_plain_torch, target, given, results[0])

    def _in_plain_torch(
        self, target: Any, given: Sequence[Any], result: Tensor, bases: np.ndarray
    ) -> None:
        """Do an operation as it was recorded; what moves is copied from where it is, and back."""
        read = [own.data_ptr() for own in given if isinstance(own, Tensor)]
        for base, own in enumerate(self.moving):  # others may not be there yet
            if any(_holds(own, address) for address in read):
                ctypes.memmove(own.data_ptr(), int(bases[base]), own.untyped_storage().nbytes())
        result.copy_(target(*given))
        for base, own in enumerate(self.moving):
            if _holds(own, result.data_ptr()):
                ctypes.memmove(int(bases[base]), own.data_ptr(), own.untyped_storage().nbytes())

    def _layers(
        self, bound: ForwardPass | BackwardPass, features: Tensor, parameters: Sequence[Tensor],
        arrived: Tensor | None = None, _: Any = None,
    ) -> None:  # fmt: skip
        """Layers, forward or backward."""
        if features.stride(2) != 1:
            features = self._contiguous(features)
        arguments: tuple[Any, ...]
        if isinstance(bound, ForwardPass):
            arguments = bound.arguments(features)
        else:
            assert arrived is not None
            arguments = bound.arguments(features, self._contiguous(arrived))
        self._call(bound.kernel, *arguments)
        self.held.append(
            (bound, features, arrived)
        )  # whose addresses are numbers among the arguments
        table = next(own for own in arguments if isinstance(own, Given)).addresses
        for place, own in zip(bound.places, parameters, strict=True):
            self._address(table, int(place), own)

    def _call(self, kernel: Any, *arguments: Any) -> None:
        own = call(kernel, *arguments)
        self.held.append(own)
        row = [0] * kinds.WIDTH
        row[0], row[ADDRESS], row[ADDRESS + 1] = kinds.CALL, own.function, own.numbers.ctypes.data
        self.rows.append(row)
        for place in own.addresses:
            self._move(own.numbers, place, int(own.numbers[place]))

    def _contiguous(self, tensor: Tensor) -> Tensor:
        """The same numbers in contiguous memory."""
        if tensor.is_contiguous():
            self.held.append(tensor)
            return tensor
        found = torch.empty(tensor.shape, dtype=tensor.dtype)
        self.copy(found, tensor)
        return found

    def _address(self, array: np.ndarray | None, place: int, tensor: Tensor) -> None:
        """Note that the address of a tensor is at a place of an array, or of the row that comes next."""
        if not self._move(array, place, tensor.data_ptr()):
            self.held.append(tensor)

    def _move(self, array: np.ndarray | None, place: int, address: int) -> bool:
        """Note an address that is within memory that moves."""
        for base, stand_in in enumerate(self.moving):
            if _holds(stand_in, address):
                if array is None:
                    place += len(self.rows) * kinds.WIDTH
                self.moves.append((array, place, base, address - stand_in.data_ptr()))
                return True
        return False

    def row(
        self, op: int, result: Tensor, *operands: Any, leading: int = 0, extra: Sequence[int] = (0, 0),
        last: int = 0,
    ) -> None:  # fmt: skip
        """Append a row.

        Args:
            op: of the interpreter.
            result, operands: tensors, or numbers, which broadcast to the shape of the result.
            leading: the operand in whose memory neighbours are computed one after the other.
            extra: two more numbers.
            last: how many of the last dimensions stay as they are.
        """
        shape = [*result.shape]
        if not all(shape):
            return
        tensors = [result, *map(self._tensor, operands)]
        steps = [[s * t.itemsize for s in t.expand(shape).stride()] for t in tensors]
        free = len(shape) - last
        dims = [d for d in range(free) if shape[d] != 1]
        dims.sort(key=lambda d: -steps[leading][d])
        sizes, found = _merged([shape[d] for d in dims], [[own[d] for d in dims] for own in steps])
        sizes += shape[free:]
        found = [own + all_steps[free:] for own, all_steps in zip(found, steps, strict=True)]
        room = DIMENSIONS - len(sizes)
        if room < 0:
            raise UnknownError("dimensions")
        row = [0] * kinds.WIDTH
        row[0] = op
        row[KIND : KIND + kinds.OPERANDS] = [kinds.NONE] * kinds.OPERANDS
        row[SHAPE:STEP] = [1] * room + sizes
        row[EXTRA:] = extra
        for i, (tensor, own) in enumerate(zip(tensors, found, strict=True)):
            row[ADDRESS + i] = tensor.data_ptr()
            self._address(None, ADDRESS + i, tensor)
            row[KIND + i] = self._kind(tensor)
            row[STEP + DIMENSIONS * i : STEP + DIMENSIONS * (i + 1)] = [0] * room + own
        self.rows.append(row)

    def copy(self, target: Tensor, source: Any) -> None:
        """Copy numbers, or fill with one."""
        if target.dtype == torch.int64:
            if isinstance(source, Tensor) and source.dtype != torch.int64:
                raise UnknownError("conversion to whole numbers")
            source = source if isinstance(source, Tensor) else torch.tensor(source)
            self.row(kinds.INTEGERS, target, source)
        elif target.dtype == self.dtype or (
            isinstance(source, Tensor) and source.dtype == target.dtype
        ):
            self.row(kinds.COPY, target, source)
        else:
            raise UnknownError("conversion")

    def float(self, op: int, result: Tensor, *operands: Any) -> None:
        """An operation on numbers whose results are of the table's dtype."""
        if result.dtype != self.dtype:
            raise UnknownError(str(result.dtype))
        self.row(op, result, *operands)

    def _tensor(self, operand: Any) -> Tensor:
        if isinstance(operand, Tensor):
            return operand
        return torch.tensor(operand, dtype=self.dtype)

    def _kind(self, tensor: Tensor) -> int:
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise UnknownError(str(tensor.device))
        if tensor.dtype == self.dtype:
            return kinds.FLOAT
        if tensor.dtype in (torch.uint8, torch.bool):
            return kinds.BYTE
        if tensor.dtype == torch.int64:
            return kinds.INTEGER
        raise UnknownError(str(tensor.dtype))


def _holds(tensor: Tensor, address: int) -> bool:
    """Whether an address is within the memory of a tensor."""
    memory = tensor.untyped_storage()
    return memory.data_ptr() <= address < memory.data_ptr() + memory.nbytes()


def _own_name(target: Any) -> str:
    """The name of an operation of compiled losses."""
    if not isinstance(target, torch._ops.OpOverload):
        return ""
    namespace, _, name = target._schema.name.partition("::")
    return name if namespace == NAMESPACE else ""


def _merged(sizes: list[int], steps: list[list[int]]) -> tuple[list[int], list[list[int]]]:
    """Dimensions of which one goes on where the other ends joined into one, for all operands."""
    found: list[int] = []
    own_steps: list[list[int]] = [[] for _ in steps]
    for d, size in enumerate(sizes):
        if found and all(
            own[-1] == given[d] * size for own, given in zip(own_steps, steps, strict=True)
        ):
            found[-1] *= size
            for own, given in zip(own_steps, steps, strict=True):
                own[-1] = given[d]
        else:
            found.append(size)
            for own, given in zip(own_steps, steps, strict=True):
                own.append(given[d])
    return found, own_steps
