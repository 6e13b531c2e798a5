"""Forward and backward passes of a network or a head on the tensors of all members, without autograd."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualnets.networks.compiled.blocks import WEIGHT, Layers, count_rows
from dualnets.networks.compiled.ensembles import Given, backward_members, forward_members
from dualnets.networks.compiled.memory import Buffer
from dualnets.networks.compiled.products import pad
from hltm.sampling.kernels.threads import share

CACHE = 2**20  # bytes; what a forward pass computes is kept for the backward pass up to this size
_numbered: list[Passes] = []
_KINDS: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


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
        self._rows = rows + self.units + groups + 1  # that a forward pass fills
        self.places = np.array([4 * layer + part for layer, part in parts])
        self._sizes = [_size(layers, layer, part) for layer, part in parts]
        self._gradient_rows = (2 if layers.alternating else 1) * widest
        self._largest_block = max(int(units * fan_in) for _, units, fan_in, *_ in layers.layout)

    @cached_property
    def number(self) -> int:
        """By which a graph names these passes."""
        _numbered.append(self)
        return len(_numbered) - 1

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
        features, given = self._given(features, parameters, passes)
        members, _, count = features.shape
        dtype = parameters[0].dtype
        output = torch.empty(members, self.outputs, count, dtype=dtype)
        statistics = torch.empty(members, 4, self.units, passes, dtype=dtype)
        size = self._kept_bytes(count, dtype)
        buffer = Buffer(size * members) if keep and size * members <= CACHE else None
        zero, moments, address = _KINDS[dtype](0), statistics.numpy(), output.data_ptr()

        def work(shares: Iterator[tuple[int, int]]) -> None:
            own, step = (Buffer(size), 0) if buffer is None else (buffer, size)
            for low, high in shares:
                forward_members(
                    zero, self.layers, given, own.address, step, moments, address, low, high
                )

        share(work, members, threads=torch.get_num_threads())
        return Forward(output, statistics, buffer)

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
        features, given = self._given(features, parameters, passes)
        arrived = arrived.contiguous()
        members, _, count = arrived.shape
        dtype = arrived.dtype
        gradients = [torch.empty_like(parameter) for parameter in parameters]
        inputs = torch.empty(features.shape, dtype=dtype) if of_inputs else None
        kept = None if found is None else found.kept
        size = self._kept_bytes(count, dtype)
        columns = pad(count, dtype.itemsize)
        room = self._gradient_rows + max(2, -(-self._largest_block // columns))
        room *= columns * dtype.itemsize
        statistics = torch.empty(members, 4, self.units, passes, dtype=dtype)
        if kept is not None and found is not None:
            statistics = found.statistics
        arguments = (_KINDS[dtype](0), self.layers, given, self._table(gradients))
        moments, above = statistics.numpy(), arrived.data_ptr()
        below = 0 if inputs is None else inputs.data_ptr()

        def work(shares: Iterator[tuple[int, int]]) -> None:
            own, step = (Buffer(size), 0) if kept is None else (kept, size)
            scratch = Buffer(room)
            for low, high in shares:
                backward_members(
                    *arguments, own.address, step, moments, above, scratch.address, below, low, high
                )

        share(work, members, threads=torch.get_num_threads())
        return gradients, inputs

    def _given(
        self, features: Tensor, parameters: Sequence[Tensor], passes: int
    ) -> tuple[Tensor, Given]:
        """The features, whose columns lie side by side, and what the kernels are given."""
        if features.stride(2) != 1:
            features = features.contiguous()
        steps = [own.stride(0) * own.itemsize for own in parameters]
        size = features.itemsize
        given = Given(
            self._table(parameters), self._spread(steps), features.data_ptr(), features.stride(0) * size,
            features.stride(1) * size, size == 1, passes, features.shape[2] // passes, self.normalize,
        )  # fmt: skip
        return features, given

    def _kept_bytes(self, columns: int, dtype: torch.dtype) -> int:
        return self._rows * pad(columns, dtype.itemsize) * dtype.itemsize

    def _table(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """Addresses of member 0, `(L, 4)`."""
        return self._spread([own.data_ptr() for own in tensors])

    def _spread(self, numbers: list[int]) -> np.ndarray:
        """A number for every parameter, `(L, 4)`."""
        found = np.zeros(4 * len(self.layers.layout), dtype=np.int64)
        found[self.places] = numbers
        return found.reshape(-1, 4)


def _size(layers: Layers, layer: int, part: int) -> int:
    """Numbers of one member's parameter, which is a column of `table` in `blocks`."""
    blocks, units, fan_in, *_, shared, _ = layers.layout[layer].tolist()
    rows = units if shared else blocks * units
    return rows * fan_in if part == WEIGHT else rows
