"""Forward and backward passes of a network or a head on the tensors of all members, without autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from dualnets.networks.compiled.addresses import pad
from dualnets.networks.compiled.blocks import WEIGHT, Layers, count_rows
from dualnets.networks.compiled.code import layer_code
from dualnets.networks.compiled.ensembles import Given, backward_members, forward_members
from dualnets.networks.compiled.memory import Buffer
from hltm.sampling.kernels.threads import share

CACHE = 2**20  # bytes; what a forward pass computes is kept for the backward pass up to this size
_numbered: WeakValueDictionary[int, Passes] = WeakValueDictionary()
_numbers = itertools.count()
_KINDS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


class Address(int):
    """An address of numbers that may lie elsewhere in another call."""


class Forward(NamedTuple):
    """What a forward pass returns.

    Attributes:
        output: `(S, U, passes * B)`.
        statistics: `(S, 4, units of all layers, passes)`, as in `blocks.Values`, of layers with a BatchNorm;
            without units where no layer has a norm.
        kept: what `Passes.backward` would compute again; None where it has to.
    """

    output: Tensor
    statistics: Tensor
    kept: Buffer | None


class Passes:
    """Passes of one network or head.

    Args:
        layers: of all members.
        parts: for every parameter, in the order in which they are given, its layer and its column of
            `table` in `blocks`.
        normalize: whether the output is scaled to length 1.
    """

    def __init__(
        self, layers: Layers, parts: Sequence[tuple[int, int]], *, normalize: bool = False
    ) -> None:
        self.layers, self.normalize = layers, normalize
        rows, self.units, groups, self.outputs, widest = count_rows(layers)
        self.rows = rows + self.units + groups + 1  # that a forward pass fills
        self.places = np.array([4 * layer + part for layer, part in parts])
        self._sizes = [_size(layers, layer, part) for layer, part in parts]
        self.gradient_rows = (2 if layers.alternating else 1) * widest
        self.largest_block = max(int(units * fan_in) for _, units, fan_in, *_ in layers.layout)

    @cached_property
    def number(self) -> int:
        """By which a graph names these passes, as long as they exist."""
        number = next(_numbers)
        _numbered[number] = self
        return number

    @staticmethod
    def numbered(number: int) -> Passes:
        """The passes of a number."""
        return _numbered[number]

    def fit(self, features: Tensor, parameters: Sequence[Tensor]) -> bool:
        """Whether all have the shapes that the kernels, which read addresses, take for granted."""
        members = features.shape[0]
        return features.shape[1] == self.layers.features and all(
            own.shape[0] == members and own.numel() == members * size
            for own, size in zip(parameters, self._sizes, strict=True)
        )

    def forward(
        self, features: Tensor, parameters: Sequence[Tensor], passes: int = 1, *, keep: bool = False
    ) -> Forward:
        """Compute all members.

        Args:
            features: `(S, F, passes * B)`, uint8 or of the parameters' dtype.
            parameters: `(S, …)`, contiguous.
            passes: how many, each normalised by its own moments.
            keep: whether `backward` will follow.
        """
        own = ForwardPass(self, parameters, features.shape[2], passes, keep=keep)
        own(features)
        return Forward(own.output, own.statistics, own.kept)

    def backward(
        self, features: Tensor, parameters: Sequence[Tensor], arrived: Tensor, passes: int = 1, *,
        found: Forward | None = None, of_inputs: bool = False,
    ) -> tuple[list[Tensor], Tensor | None]:  # fmt: skip
        """Gradients of all parameters, and of the features where wanted.

        Args:
            features, parameters, passes: as `forward` had them.
            arrived: `(S, U, passes * B)`, the gradient of the output.
            found: what `forward` returned; where it kept nothing, it is computed again.
            of_inputs: whether the features' gradient is wanted.
        """
        own = BackwardPass(self, parameters, features.shape[2], passes, found, of_inputs=of_inputs)
        own(features, arrived)
        return own.gradients, own.inputs

    def given(
        self, parameters: Sequence[Tensor], columns: int, passes: int
    ) -> Callable[[Tensor], Given]:
        """What the kernels are given for features, as long as the parameters stay where they are."""
        steps = [own.stride(0) * own.itemsize for own in parameters]
        places = self.table(parameters), self.spread(steps)
        batch, normalize = columns // passes, self.normalize

        def given(features: Tensor) -> Given:
            size = features.itemsize
            step, row, _ = features.stride()
            return Given(
                *places, Address(features.data_ptr()), step * size, row * size, size == 1, passes,
                batch, normalize,
            )  # fmt: skip

        return given

    def kept_bytes(self, columns: int, dtype: torch.dtype) -> int:
        return self.rows * pad(columns, dtype.itemsize) * dtype.itemsize

    def table(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """Addresses of member 0, `(L, 4)`."""
        return self.spread([own.data_ptr() for own in tensors])

    def spread(self, numbers: list[int]) -> np.ndarray:
        """A number for every parameter, `(L, 4)`."""
        found = np.zeros(4 * len(self.layers.layout), dtype=np.int64)
        found[self.places] = numbers
        return found.reshape(-1, 4)


def _size(layers: Layers, layer: int, part: int) -> int:
    """Numbers of one member's parameter, which is a column of `table` in `blocks`."""
    blocks, units, fan_in, *_, shared, _ = layers.layout[layer].tolist()
    rows = units if shared else blocks * units
    return rows * fan_in if part == WEIGHT else rows


class ForwardPass:
    """Forward passes on parameters that stay where they are; each overwrites the results of the one before.

    Args:
        passes, parameters, count, keep: as in `Passes.forward`, `count` its `passes`.
        columns: count * B.

    Attributes:
        output, statistics, kept: as in `Forward`.
        results: output and statistics.
        kernel: the compiled function.
        places: of the parameters' addresses in the `(L, 4)` table that the kernel reads.
    """

    kernel = staticmethod(forward_members)

    def __init__(
        self, passes: Passes, parameters: Sequence[Tensor], columns: int, count: int, *, keep: bool
    ) -> None:
        dtype, members = parameters[0].dtype, len(parameters[0])
        self.output = torch.empty(members, passes.outputs, columns, dtype=dtype)
        self.statistics = torch.empty(members, 4, passes.units, count, dtype=dtype)
        size = self._size = passes.kept_bytes(columns, dtype)
        self.kept = Buffer(size * members) if keep and size * members <= CACHE else None
        self._given = passes.given(parameters, columns, count)
        self._first = layer_code(_KINDS[dtype]), _KINDS[dtype](0), passes.layers
        self._last = self.statistics.numpy(), self.output.data_ptr()
        self._held = parameters
        self.results = self.output, self.statistics
        self.places = passes.places

    def arguments(self, features: Tensor) -> tuple[Any, ...]:
        """What `forward_members` is given to compute all members one after the other.

        Features have neighbouring columns. The memory belongs to this object.
        """
        self._own = Buffer(self._size) if self.kept is None else self.kept
        step = 0 if self.kept is None else self._size
        given = self._given(features), self._own.address, step, *self._last
        return *self._first, *given, 0, len(self.output)

    def __call__(self, features: Tensor) -> None:
        """Compute all members, of features as in `Passes.forward`."""
        if features.stride(2) != 1:
            features = features.contiguous()
        given = self._given(features)

        def work(shares: Iterator[tuple[int, int]]) -> None:
            kept = self.kept
            own, step = (Buffer(self._size), 0) if kept is None else (kept, self._size)
            for low, high in shares:
                forward_members(*self._first, given, own.address, step, *self._last, low, high)

        share(work, len(self.output), threads=torch.get_num_threads())


class BackwardPass:
    """Backward passes on parameters that stay where they are; each overwrites the results of the one before.

    Args:
        passes, parameters, count, found, of_inputs: as in `Passes.backward`, `count` its `passes`.
        columns: count * B.

    Attributes:
        gradients, inputs: what `Passes.backward` returns.
        results: all of them in one list.
        kernel, places: as of `ForwardPass`.
    """

    kernel = staticmethod(backward_members)

    def __init__(
        self, passes: Passes, parameters: Sequence[Tensor], columns: int, count: int,
        found: Forward | ForwardPass | None, *, of_inputs: bool,
    ) -> None:  # fmt: skip
        dtype, members = parameters[0].dtype, len(parameters[0])
        self.gradients = [torch.empty_like(parameter) for parameter in parameters]
        shape = members, passes.layers.features, columns
        self.inputs = torch.empty(shape, dtype=dtype) if of_inputs else None
        self.results = [*self.gradients, *([] if self.inputs is None else [self.inputs])]
        self._kept = None if found is None else found.kept
        if self._kept is not None and found is not None:
            statistics = found.statistics
        else:
            statistics = torch.empty(members, 4, passes.units, count, dtype=dtype)
        self._size = passes.kept_bytes(columns, dtype)
        padded = pad(columns, dtype.itemsize)
        rows = passes.gradient_rows + max(2, -(-passes.largest_block // padded))
        self._room = rows * padded * dtype.itemsize
        self._given = passes.given(parameters, columns, count)
        self._first = layer_code(_KINDS[dtype]), _KINDS[dtype](0), passes.layers
        self._table, self._moments = passes.table(self.gradients), statistics.numpy()
        self._below = 0 if self.inputs is None else self.inputs.data_ptr()
        self._held, self._members = parameters, members
        self.places = passes.places

    def arguments(self, features: Tensor, arrived: Tensor) -> tuple[Any, ...]:
        """What `backward_members` is given to compute all members one after the other.

        Features have neighbouring columns, and the gradient of the output is contiguous. The memory belongs
        to this object.
        """
        self._own = Buffer(self._size) if self._kept is None else self._kept
        step = 0 if self._kept is None else self._size
        self._scratch = Buffer(self._room)
        return (
            *self._first, self._given(features), self._table, self._own.address, step, self._moments,
            Address(arrived.data_ptr()), self._scratch.address, self._below, 0, self._members,
        )  # fmt: skip

    def __call__(self, features: Tensor, arrived: Tensor) -> None:
        """Compute the gradients, of features and a gradient of the output as in `Passes.backward`."""
        if features.stride(2) != 1:
            features = features.contiguous()
        arrived = arrived.contiguous()
        given, above = self._given(features), arrived.data_ptr()

        def work(shares: Iterator[tuple[int, int]]) -> None:
            kept = self._kept
            own, step = (Buffer(self._size), 0) if kept is None else (kept, self._size)
            scratch = Buffer(self._room)
            for low, high in shares:
                backward_members(
                    *self._first, given, self._table, own.address, step, self._moments, above,
                    scratch.address, self._below, low, high,
                )  # fmt: skip

        share(work, self._members, threads=torch.get_num_threads())
