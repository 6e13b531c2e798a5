"""The inputs of blocks in a network on any tree: edges may skip levels, nodes have few or many children."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualnets._precision import at_least_float32
from hltm.model.topology import Topology


class Wires(NamedTuple):
    """The inputs of the blocks of one layer.

    Blocks with fewer inputs than the widest one are padded with a feature that is always zero, so
    that a layer is still one batched product; their weights there start at zero and have a gradient
    of zero.

    Attributes:
        sources: numbers of the lower layers that have inputs of this one; 0 is the input features.
        places: `(V, U_in)` int64, U_in the fan-in of the widest block: positions in
            [the zero feature, the features of `sources`, one layer after the other].
        fan_in: `(V,)` int64, the fan-in of each block without padding.
    """

    sources: tuple[int, ...]
    places: Tensor
    fan_in: Tensor

    def own_bounds(self, numbers: Tensor) -> Tensor:
        """Initial weights `(S, V, U, U_in)` or biases `(S, V, U)` for blocks of different fan-ins.

        Args:
            numbers: uniform in ±1/sqrt(the widest fan-in).

        Returns:
            Uniform in ±1/sqrt(a block's own fan-in), and zero at the padding.
        """
        widest = self.places.shape[1]
        shape = (1, -1, *[1] * (numbers.ndim - 2))
        scaled = numbers * (widest / self.fan_in.double()).sqrt().view(shape)
        if numbers.ndim == 3:
            return scaled
        return torch.where((self.places > 0)[:, None], scaled, 0.0)


def irregularity(topology: Topology, widths: Sequence[int]) -> str:
    """The reason why blocks do not have equal consecutive shares of the layer below; empty if they do.

    Args:
        topology: of the network.
        widths: number of features of each leaf.

    Example:
        >>> irregularity(Topology.balanced(depth=2), [1, 1, 1, 1])
        ''
        >>> irregularity(Topology.from_parents([None, 0, 0, 1, 1, 1]), [1, 1, 1, 1])
        'level 2 has children at levels [0, 1]'
    """
    if len(set(widths)) > 1:
        return f"leaves have {sorted(set(widths))} features"
    for level in range(topology.depth, 0, -1):
        children = [topology.children[v] for v in topology.at_level(level)]
        below = np.concatenate(children)
        levels = np.unique(topology.level[below]).tolist()
        if len(levels) > 1:
            return f"level {level} has children at levels {levels}"
        counts = sorted(set(map(len, children)))
        if len(counts) > 1:
            return f"level {level} has nodes of {counts} children"
        if not np.array_equal(below, topology.at_level(level - 1)):
            return f"level {level - 1} is not in the order of its parents"
    return ""


def wire(topology: Topology, widths: Sequence[int], units: int) -> list[Wires]:
    """The wires of levels 1..L of a network with `units` units per latent, on leaves of `widths` features.

    The inputs of a block are its children in storage order.
    """
    # feature f of node v has number first[v] + f among the features of its level
    count = np.full(len(topology), units)
    count[topology.leaves.start :] = widths
    first = np.zeros(len(topology), dtype=np.int64)
    size = []
    for level in range(topology.depth + 1):
        nodes = np.array(topology.at_level(level))
        first[nodes] = np.cumsum(count[nodes]) - count[nodes]
        size.append(int(count[nodes].sum()))
    found = []
    for level in range(1, topology.depth + 1):
        children = [topology.children[v] for v in topology.at_level(level)]
        sources = np.unique(topology.level[np.concatenate(children)])
        # position 0 is the zero feature, those of the sources follow
        before = 1 + np.cumsum([0, *(size[s] for s in sources[:-1])])
        start = dict(zip(sources, before, strict=True))
        read = [
            np.concatenate([start[topology.level[c]] + first[c] + np.arange(count[c]) for c in own])
            for own in children
        ]
        fan_in = [len(own) for own in read]
        places = np.zeros((len(read), max(fan_in)), dtype=np.int64)
        for block, own in zip(places, read, strict=True):
            block[: len(own)] = own
        numbers = tuple(map(int, sources))
        found.append(Wires(numbers, torch.from_numpy(places), torch.tensor(fan_in)))
    return found


def standardize_own(weight: Tensor, fan_in: Tensor, epsilon: float = 1e-5) -> Tensor:
    """`normalizations.standardize` over each block's own inputs; padding is zero and stays so.

    Args:
        weight: `(S, V, U, U_in)`, padded.
        fan_in: `(V,)` int64.
        epsilon: added to the variance.
    """
    count = fan_in[:, None, None]
    present = torch.arange(weight.shape[-1], device=weight.device) < count
    long = at_least_float32(weight)
    size = count.to(long.dtype)
    long = torch.where(present, long, 0)  # no gradient reaches the padding
    centred = torch.where(present, long - long.sum(-1, keepdim=True) / size, 0)
    variance = centred.square().sum(-1, keepdim=True) / size
    return (centred * (variance + epsilon).rsqrt() * size.rsqrt()).to(weight.dtype)
