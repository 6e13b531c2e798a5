"""Whether a network and trees fit together, asked before any work on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dualnets.networks.block_network import BlockNetwork
from hltm.sampling.augment import Augmentation
from hltm.tree import LatentTree


def check_block_network(network: Any) -> None:
    """Raise TypeError unless this is a network of blocks, such as a tree network or a dense one."""
    if not isinstance(network, BlockNetwork):
        raise TypeError(
            "expected a block network of this library, such as of tree_network or mlp, got "
            f"{type(network).__name__}"
        )


def check_trees(trees: object) -> None:
    """Raise TypeError unless these are trees."""
    if not isinstance(trees, LatentTree):
        raise TypeError(f"expected trees, got {type(trees).__name__}")


def check_augmentation(augmentation: object) -> None:
    """Raise TypeError unless this says what views draw again."""
    if not isinstance(augmentation, Augmentation):
        hint = ": hltm.augment.parse reads names" if isinstance(augmentation, str) else ""
        raise TypeError(
            f"expected an augmentation such as hltm.keep_root(), got {augmentation!r}{hint}"
        )


def check_members(trees: Sequence[int], members: Sequence[int]) -> None:
    """Raise ValueError unless trees are one, or have the members' own addresses."""
    if len(trees) == 1 or tuple(trees) == tuple(members):
        return
    if len(trees) != len(members):
        raise ValueError(f"{len(trees)} trees do not fit a network of {len(members)} members")
    first = next(i for i, (t, m) in enumerate(zip(trees, members, strict=True)) if t != m)
    raise ValueError(
        f"tree {first} has address {trees[first]}, the network's member {first} address {members[first]}: "
        "make the networks on these very trees"
    )


def check_fit(network: BlockNetwork, trees: LatentTree) -> None:
    """Raise unless the network is one of blocks that reads the leaves of one tree or of as many as it is.

    Raises:
        TypeError: another network, or what are no trees.
        ValueError: another number of trees or of leaves, or trees of other addresses.
    """
    check_block_network(network)
    check_trees(trees)
    check_members(trees.members, network.members)
    if len(trees.leaves) != network.inputs:
        raise ValueError(
            f"the trees have {len(trees.leaves)} leaves, the network reads {network.inputs}"
        )
