"""The paper's network: one block of units per latent, reading the blocks of its children."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dualnets.networks.block_network import BlockNetwork
from hltm.tree import LatentTree, check_members


def tree_network(
    tree: LatentTree,
    *,
    units: int,
    members: int | None = None,
    seed: int,
    bias: bool = False,
    normalize: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> BlockNetwork:
    """A network shaped as the tree: `units` units per latent, leaves as bits, no ReLU on top.

    Args:
        tree: one tree or S trees; S trees make S networks with the trees' addresses.
        units: per latent.
        members: for one tree only: this many networks on it, each on rows of its own.
        seed: of the initial weights, drawn as torch.nn.Linear draws them.
        bias: whether units have biases; without them the network is homogeneous, which the
            operator form of the theorems needs.
        normalize: whether the output is scaled to length 1.
        dtype, device: of the weights.

    Raises:
        ValueError: a tree whose levels are not equally branched, leaves that are not binary, units
            below 1, or `members` beside several trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> network = tree_network(tree, units=5, seed=1)
        >>> network(tree.sample(7, seed=2).leaves).shape
        torch.Size([7, 5])
        >>> {level: tuple(a.shape) for level, a in network.activations(tree.sample(7, seed=2).leaves).items()}
        {1: (7, 4, 5), 2: (7, 2, 5), 3: (7, 1, 5)}
    """
    topology = tree.topology
    addresses, stacked = network_members(tree, members)
    blocks = [len(topology.at_level(level)) for level in range(1, topology.depth + 1)]
    for level in range(1, topology.depth + 1):
        children = [topology.children[v] for v in topology.at_level(level)]
        below = np.concatenate(children)
        if (
            not np.array_equal(below, topology.at_level(level - 1))
            or len(set(map(len, children))) > 1
        ):
            raise ValueError(
                f"a tree network needs equally many children at every node of a level, one level "
                f"down; level {level} has {sorted(set(map(len, children)))}"
            )
    check_binary_leaves(tree)
    return BlockNetwork(
        inputs=len(topology.leaves),
        blocks=blocks,
        units=[units] * len(blocks),
        members=addresses,
        stacked=stacked,
        seed=seed,
        dense=False,
        bias=bias,
        normalize=normalize,
        dtype=dtype,
        device=device,
    )


def network_members(tree: LatentTree, members: int | None) -> tuple[Sequence[int], bool]:
    """The addresses of the networks on a tree, and whether they show the S axis.

    Raises:
        ValueError: `members` beside several trees.
    """
    if members is None:
        return tree.members, tree.stacked
    if tree.stacked:
        raise ValueError(
            f"members={members} is for a single tree; these {len(tree.members)} trees already "
            "make one network each"
        )
    return range(check_members(members)), True


def check_binary_leaves(tree: LatentTree) -> None:
    """Raise ValueError unless every leaf has two states."""
    states = tree.tables.cardinality[list(tree.leaves)]
    if (states != 2).any():
        raise ValueError(
            f"networks read leaves as bits; this tree's leaves have {states.max()} states"
        )
