"""Where the layers of a compiled training find their parameters and gradients: tables of addresses.

The tensors of a training are numbered as `CompiledUpdate.names` has them; `places` says where each
belongs in the table of all layers, `(L, 4)`, as in `dualnets.networks.compiled.blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dualnets.networks.compiled.addresses import size_of
from dualnets.networks.compiled.blocks import BIAS, WEIGHT
from dualnets.optim.update_kernel import SIZE
from hltm._compile import inner
from hltm._separate import address_of


def network_places(depth: int) -> dict[str, int]:
    """Names of a network's weights and biases, and their places in the table of its layers.

    Example:
        >>> network_places(1)
        {'network.weights.0': 0, 'network.biases.0': 1}
    """
    return {
        f"network.{kind}.{layer}": 4 * layer + part
        for layer in range(depth)
        for kind, part in (("weights", WEIGHT), ("biases", BIAS))
    }


def head_places(name: str, layers: int, first: int) -> dict[str, int]:
    """The same for a head in a method's state, whose layers begin at row `first` of the table."""
    return {
        f"state.{name}.{layer}.{kind}": 4 * (first + layer) + part
        for layer in range(layers)
        for kind, part in (("weight", WEIGHT), ("bias", BIAS))
    }


def in_order(names: Sequence[str], places: Mapping[str, int]) -> np.ndarray:
    """`(T,)` int64 places of named tensors."""
    return np.array([places[name] for name in names], dtype=np.int64)


@inner()
def point_to_member(like, rules, starts, places, s, table):  # type: ignore[no-untyped-def]
    """Fill `table` for member s of tensors of all members, which begin at `starts`; 0 for no tensor."""
    for k in range(len(places)):
        own = s * rules.table[k, SIZE] * size_of(like)
        table[places[k] // 4, places[k] % 4] = starts[k] + own if starts[k] != 0 else 0


@inner()
def side_by_side(rules, numbers):  # type: ignore[no-untyped-def]
    """`(T,)` addresses of one member's tensors in an array, which has to outlive their use."""
    starts = np.empty(len(rules.table), np.int64)
    at = address_of(numbers)
    for k in range(len(starts)):
        starts[k] = at
        at += rules.table[k, SIZE] * numbers.itemsize
    return starts
