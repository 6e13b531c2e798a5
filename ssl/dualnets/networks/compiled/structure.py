"""What the kernels need to know of a network or a head, beside its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dualnets.networks.compiled.blocks import BATCH_NORM, GROUP_NORM, NO_NORM, Layers
from dualnets.networks.compiled.norms import PARTS
from dualnets.networks.normalizations import BatchNorm, GroupNorm, LayerNorm, Normalization

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork
    from dualnets.networks.heads import Head


def network_layers(network: BlockNetwork) -> Layers | None:
    """The layers of a network, whose weights are those that products use (`BlockNetwork._weight`).

    None with a normalisation of a class unknown here, where a BatchNorm has common moments of several
    blocks, or where an output of a layer is read twice or not at all.
    """
    blocks, units = network.blocks, network.units
    kinds = [norm_numbers(network.norm)] * (len(blocks) - 1) + [norm_numbers(None)]
    if None in kinds or (network.shared and any(k and k[0] == BATCH_NORM for k in kinds)):
        return None
    fans = [weight.shape[-1] for weight in network.weights]
    sizes = [network.features, *(b * u for b, u in zip(blocks, units, strict=True))]
    starts = [
        sum(sizes[:layer]) for layer in range(len(sizes))
    ]  # the first row of each layer's outputs
    rows = [
        _equal_shares(starts[layer], count, fans[layer])
        if network.wiring is None
        else _wired(network, layer, starts)
        for layer, count in enumerate(blocks)
    ]
    read = sorted(row for layer in rows for block in layer for row in block)
    if network.wiring is not None and read != list(range(starts[-1])):
        return None
    return _layers(
        network.features, blocks, units, fans, rows, kinds, network.shared, network.wiring is None
    )


def _equal_shares(first: int, blocks: int, fan_in: int) -> list[list[int]]:
    return [list(range(first + v * fan_in, first + (v + 1) * fan_in)) for v in range(blocks)]


def _wired(network: BlockNetwork, layer: int, starts: Sequence[int]) -> list[list[int]]:
    """The rows that every block of a layer reads.

    Args:
        layer: counted from 0.
        starts: rows of the first features of the leaves and of all layers below.
    """
    assert network.wiring is not None
    sources = network.wiring[layer]
    sizes = [network.features, *(b * u for b, u in zip(network.blocks, network.units, strict=True))]
    # places count a zero, and then the features of all sources
    rows = [-1]
    for source in sources:
        rows += range(starts[source], starts[source] + sizes[source])
    places = network.constants[f"places{layer + 1}"].view(network.blocks[layer], -1)
    counts = network.constants[f"fan_in{layer + 1}"]
    return [
        [rows[place] for place in own[:count]]
        for own, count in zip(places.tolist(), counts.tolist(), strict=True)
    ]


def head_layers(head: Head, inputs: int) -> Layers | None:
    """The layers of a head with a number of inputs.

    None with a normalisation of a class unknown here, or one of the inputs.

    Example:
        >>> from dualnets.networks.heads import Head
        >>> head_layers(Head((8, 4), norm=BatchNorm(std="stop")), 5).layout[:, 1:6].tolist()
        [[8, 5, 1, 1, 2], [4, 8, 0, 0, 0]]
    """
    count = len(head.widths)
    kinds = [norm_numbers(head.norm)] * (count - 1) + [norm_numbers(head.last_norm)] * (count > 0)
    if None in kinds or head.input_norm is not None:
        return None
    fans = [inputs, *head.widths][:count]
    firsts = np.cumsum([0, *fans])
    rows = [[list(range(first, first + fan))] for first, fan in zip(firsts, fans, strict=False)]
    return _layers(inputs, [1] * count, head.widths, fans, rows, kinds, False, True)


def norm_numbers(norm: Normalization | None) -> tuple[int, int, int, float] | None:
    """Kind, two numbers and epsilon, as in `Layers`; None for a class unknown here, as of a subclass."""
    if norm is None:
        return NO_NORM, 0, 0, 0.0
    if type(norm) is BatchNorm:
        if norm.mean == norm.std == "off":
            # as no norm, but with a gain and a shift
            return (BATCH_NORM, 0, 0, norm.epsilon) if norm.affine else (NO_NORM, 0, 0, 0.0)
        return BATCH_NORM, PARTS.index(norm.mean), PARTS.index(norm.std), norm.epsilon
    if type(norm) is LayerNorm:
        return GROUP_NORM, 1, 0, norm.epsilon
    if type(norm) is GroupNorm:
        return GROUP_NORM, norm.groups, 0, norm.epsilon
    return None


def _layers(
    features: int, blocks: Sequence[int], units: Sequence[int], fans: Sequence[int],
    rows: Sequence[Sequence[Sequence[int]]], kinds: Sequence[tuple[int, int, int, float] | None],
    shared: bool, alternating: bool,
) -> Layers:  # fmt: skip
    most = max([features, *units, *fans])
    places, layout = list(range(most)), []
    for layer, own in enumerate(rows):
        kind = kinds[layer]
        assert kind is not None
        layout.append(
            (blocks[layer], units[layer], fans[layer], *kind[:3], int(shared), len(places))
        )
        for block in own:
            places += [len(block), *block, *[0] * (fans[layer] - len(block))]
    return Layers(
        np.array(layout, dtype=np.int64).reshape(-1, 8),
        np.array(places, dtype=np.int64),
        np.array([kind[3] for kind in kinds if kind is not None], dtype=np.float64),
        features,
        alternating,
    )
