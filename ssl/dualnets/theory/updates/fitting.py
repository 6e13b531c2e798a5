"""Checks that a network and trees fit together, made before any work on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dualnets.networks.block_network import BlockNetwork
from hltm.tree import LatentTree


def check_block_network(network: Any) -> None:
    """Raise TypeError unless this is a network of blocks, such as a tree network or a dense network."""
    if not isinstance(network, BlockNetwork):
        raise TypeError(
            "expected a block network of this library, such as tree_network or mlp make, got "
            f"{type(network).__name__}"
        )


def check_trees(trees: object) -> None:
    """Raise TypeError unless these are trees."""
    if not isinstance(trees, LatentTree):
        raise TypeError(f"expected trees, got {type(trees).__name__}")


def check_members(trees: Sequence[int], members: Sequence[int]) -> None:
    """Raise ValueError unless there is one tree, or one with the address of each member."""
    if len(trees) == 1 or tuple(trees) == tuple(members):
        return
    if len(trees) != len(members):
        raise ValueError(f"{len(trees)} trees do not fit a network of {len(members)} members")
    first = next(i for i, (t, m) in enumerate(zip(trees, members, strict=True)) if t != m)
    raise ValueError(
        f"tree {first} has address {trees[first]}, the network's member {first} has address "
        f"{members[first]}: make the networks from these trees"
    )


def check_fit(network: BlockNetwork, trees: LatentTree) -> None:
    """Raise unless the network consists of blocks and its inputs are the leaves of these trees.

    Raises:
        TypeError: a network of another kind, or trees that are none.
        ValueError: neither one tree nor one for each member, trees with the addresses of other
            members, or another number of leaves.
    """
    check_block_network(network)
    check_trees(trees)
    check_members(trees.members, network.members)
    if len(trees.leaves) != network.inputs:
        raise ValueError(
            f"the trees have {len(trees.leaves)} leaves, the network reads {network.inputs}"
        )


def check_finite(what: str, given: Tensor) -> None:
    """Raise ValueError unless all numbers of a tensor are finite."""
    if lost := int((~given.isfinite()).sum()):
        raise ValueError(
            f"{what} must be finite, {lost} of {given.numel()} numbers are NaN or infinite"
        )


def check_finite_weights(network: nn.Module) -> None:
    """Raise ValueError unless all weights of the network are finite."""
    for name, weight in network.named_parameters():
        check_finite(f"{name} of the network", weight)


def check_binary(trees: LatentTree) -> None:
    """Raise ValueError unless all nodes of the trees have two states."""
    if (trees.tables.cardinality != 2).any():
        raise ValueError(
            f"expected binary trees, got a node with {trees.tables.cardinality.max()} states"
        )
