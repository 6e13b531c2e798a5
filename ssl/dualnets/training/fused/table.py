"""The layers of a network and its heads as numbers that a kernel reads, and the sizes of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm

SMALLEST = 16  # sides of a matrix product
LARGEST = 8192  # numbers of a tile, which a program keeps in registers
PARTS = ("off", "on", "stop")  # of a BatchNorm, as `layers` numbers them
TILE = 32  # columns of a product
CHUNK = 1024  # parameters that are updated at once


class Tiles(NamedTuple):
    """The sizes of a network's or a head's tiles, powers of two.

    Attributes:
        units: of the largest block.
        first: inputs of a block of the first layer.
        terms: the same, not rounded up, where they are fewer than a matrix product needs; else 0.
        fan_in: of the largest block of the other layers.
    """

    units: int
    first: int
    terms: int
    fan_in: int

    @property
    def fit(self) -> bool:
        """Whether a program can hold the weights of a block and their gradient."""
        return self.units * max(self.first, self.fan_in) <= LARGEST // 2


def power_of_two(number: int, smallest: int = 1) -> int:
    """The smallest power of two that is at least `number` and `smallest`.

    Example:
        >>> power_of_two(10, 16), power_of_two(17), power_of_two(1)
        (16, 32, 1)
    """
    return max(1 << (number - 1).bit_length(), smallest)


def network_tiles(network: BlockNetwork) -> Tiles:
    """The tiles of a network."""
    _, units, fans = zip(*network_shapes(network), strict=True)
    return Tiles(
        power_of_two(max(units), SMALLEST),
        power_of_two(fans[0]),
        fans[0] if fans[0] < SMALLEST else 0,
        power_of_two(max(fans[1:], default=1), SMALLEST),
    )


def head_tiles(heads: Sequence[Head], inputs: int) -> Tiles:
    """The tiles of heads, the first on `inputs` features, each other one on the outputs of the one before."""
    shapes: list[tuple[int, int, int]] = []
    for head in heads:
        shapes += head_shapes(head, inputs)
        inputs = head.outputs(inputs)
    units = power_of_two(max((u for _, u, _ in shapes), default=1), SMALLEST)
    fan_in = power_of_two(max((fan for *_, fan in shapes), default=1), SMALLEST)
    return Tiles(units, fan_in, 0, fan_in)


def network_shapes(network: BlockNetwork) -> list[tuple[int, int, int]]:
    """Blocks, U_out and U_in of every layer."""
    return [(w.shape[1], w.shape[2], w.shape[3]) for w in network.weights]


def head_shapes(head: Head, inputs: int) -> list[tuple[int, int, int]]:
    """The same of a head on `inputs` features."""
    fans = [inputs, *head.widths][: len(head.widths)]
    return [(1, width, fan) for width, fan in zip(head.widths, fans, strict=True)]


@dataclass
class Table:
    """Layers in the order of their parameters: weights, then biases, of the network and of each head.

    Attributes:
        rows: of values, so far; at first those of the leaves.
        parameters: how many, so far.
        norm_units: units of heads, so far.
    """

    rows: int
    parameters: int = 0
    norm_units: int = 0
    _layers: list[tuple[int, ...]] = field(default_factory=list)
    _coefficients: list[tuple[float, float]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._layers)

    def add_network(self, network: BlockNetwork) -> int:
        """Add a network on the leaves, and return the first row of its outputs."""
        return self._add(network_shapes(network), network.biases is not None, 0)

    def add_head(self, head: Head, inputs: int, row: int) -> int:
        """Add a head on rows `row` .. `row + inputs - 1`, and return the first row of its outputs."""
        shapes = head_shapes(head, inputs)
        norms = [head.norm] * (len(shapes) - 1) + [head.last_norm] * bool(shapes)
        off = BatchNorm("off", "off")
        own = [norm if isinstance(norm, BatchNorm) else off for norm in norms]
        return self._add(shapes, head.bias, row, own)

    def add_rows(self, count: int) -> int:
        """Add rows that are no layer's, and return the first one."""
        self.rows += count
        return self.rows - count

    def tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """`table` `(layers, 11)` int32, and `coefficients` `(layers, 2)`, ε and momentum, for the kernels."""
        table = torch.tensor(self._layers, dtype=torch.int32, device=like.device)
        coefficients = torch.tensor(self._coefficients, dtype=like.dtype, device=like.device)
        return table, coefficients

    def _add(
        self,
        shapes: Sequence[tuple[int, int, int]],
        bias: bool,
        row: int,
        norms: Sequence[BatchNorm] = (),
    ) -> int:
        weights = self.parameters
        biases = weights + sum(v * u * fan for v, u, fan in shapes)
        for layer, (v, u, fan) in enumerate(shapes):
            norm = norms[layer] if norms else BatchNorm("off", "off")
            above = self.add_rows(v * u)
            self._layers.append((
                v, u, fan, weights, biases if bias else -1, row, above, int(layer > 0),
                PARTS.index(norm.mean), PARTS.index(norm.std), self.norm_units,
            ))  # fmt: skip
            self._coefficients.append((norm.epsilon, norm.momentum))
            weights += v * u * fan
            biases += v * u * bias
            self.norm_units += u if norms else 0
            row = above
        self.parameters = biases
        return row
