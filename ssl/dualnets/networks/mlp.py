"""A dense network: it has no receptive fields, so any correspondence with the tree is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dualnets._checks import check_tree, check_whole
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.network import leaf_states, network_members
from dualnets.networks.normalizations import Normalization
from hltm.tree import LatentTree


def mlp(
    tree: LatentTree,
    *,
    units: int | Sequence[int],
    layers: int | None = None,
    members: int | None = None,
    seed: int,
    one_hot: bool = False,
    bias: bool = False,
    normalize: bool = False,
    norm: Normalization | None = None,
    weight_standardization: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BlockNetwork:
    """A dense ReLU network over all leaves; layer l is compared with the latents of level l.

    Args:
        tree: one tree or S trees; S trees make S networks with the trees' addresses.
        units: units of every layer, or a sequence with those of each layer, the lowest first.
        layers: L; by default the length of such a sequence, or the tree's depth.
        members, seed, one_hot, bias, normalize, norm, weight_standardization, dtype, device: as for
            `tree_network`.

    Raises:
        ValueError: units or layers below 1, a sequence of units that is not L long, or
            `members` beside several trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> mlp(tree, units=16, seed=1)(tree.sample(7, seed=2).leaves).shape
        torch.Size([7, 16])
        >>> mlp(tree, units=[40, 20, 10], seed=1).units
        (40, 20, 10)
    """
    check_tree(tree)
    given: Any = units.tolist() if hasattr(units, "tolist") else units  # numpy's and torch's
    if isinstance(given, Sequence):
        widths = list(given)
        count = check_whole("layers", len(widths) if layers is None else layers, low=1)
    else:
        check_whole("units", given, low=1)
        count = check_whole("layers", tree.topology.depth if layers is None else layers, low=1)
        widths = [given] * count
    if len(widths) != count:
        raise ValueError(f"expected units of {count} layers, got {len(widths)}")
    addresses, stacked = network_members(tree, members)
    return BlockNetwork(
        states=leaf_states(tree), blocks=[1] * count, units=widths, members=addresses, stacked=stacked,
        seed=seed, dense=True,
        one_hot=one_hot, bias=bias, normalize=normalize, norm=norm,
        weight_standardization=weight_standardization, dtype=dtype, device=device,
    )  # fmt: skip
