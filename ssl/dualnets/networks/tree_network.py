"""The paper's network: one block of units per latent, whose inputs are the blocks of its children."""

from __future__ import annotations

import torch

from dualnets._checks import check_tree, check_whole
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.network import feature_widths, leaf_states, network_members
from dualnets.networks.normalizations import Normalization
from dualnets.networks.wiring import irregularity, wire
from hltm.model.topology import Topology
from hltm.tree import LatentTree


def tree_network(
    tree: LatentTree,
    *,
    units: int,
    topology: Topology | None = None,
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
    """A network of the tree's shape: `units` units per latent, no ReLU on top.

    The tree may have any shape: edges may skip levels, nodes may have few or many children, and leaves
    may be children of any latent. A leaf of two states is one bit, a leaf of K > 2 states is one-hot.

    Args:
        tree: one tree or S trees; S trees make S networks with the trees' addresses.
        units: per latent.
        topology: another shape for the network than the tree's, with as many leaves; its leaf x is
            the tree's leaf x. Then no block belongs to a latent, so activations are of whole layers.
        members: for one tree only: this many networks on it, each on rows of its own.
        seed: of the initial weights, which have the distribution of torch.nn.Linear's.
        one_hot: whether leaves of two states are one-hot, too, so that they can be missing: a missing leaf is
            all zeros.
        bias: whether units have biases; without them the network is homogeneous, an assumption of
            the theorems (docs/theory.md, Section 1).
        normalize: whether the output is scaled to length 1.
        norm: normalisation of the pre-activations of every hidden layer, block by block:
            `BatchNorm()`, `LayerNorm()`, `GroupNorm()`, or None.
        weight_standardization: whether the weights below the top layer have mean 0 and variance
            1 / fan-in over each unit's inputs.
        dtype, device: of the weights.

    Raises:
        ValueError: units below 1, a topology with more or fewer leaves, or `members` beside several
            trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> network = tree_network(tree, units=5, seed=1)
        >>> network(tree.sample(7, seed=2).leaves).shape
        torch.Size([7, 5])
        >>> {level: tuple(a.shape) for level, a in network.activations(tree.sample(7, seed=2).leaves).items()}
        {1: (7, 4, 5), 2: (7, 2, 5), 3: (7, 1, 5)}
        >>> tree = hltm.caterpillar(depth=3, seed=0)  # every latent has a leaf and the next latent
        >>> network = tree_network(tree, units=5, seed=1)
        >>> {level: tuple(a.shape) for level, a in network.activations(tree.sample(7, seed=2).leaves).items()}
        {1: (7, 1, 5), 2: (7, 1, 5), 3: (7, 1, 5)}
    """
    check_tree(tree)
    shape = tree.topology if topology is None else topology
    if len(shape.leaves) != len(tree.leaves):
        raise ValueError(
            f"the topology has {len(shape.leaves)} leaves, the tree {len(tree.leaves)}"
        )
    check_whole("units", units, low=1)
    addresses, stacked = network_members(tree, members)
    states = leaf_states(tree)
    widths = feature_widths(states, one_hot)
    blocks = [len(shape.at_level(level)) for level in range(1, shape.depth + 1)]
    return BlockNetwork(
        states=states, blocks=blocks, units=[units] * len(blocks), members=addresses, stacked=stacked,
        seed=seed, dense=topology is not None,
        wiring=wire(shape, widths, units) if irregularity(shape, widths) else None,
        one_hot=one_hot, bias=bias, normalize=normalize, norm=norm,
        weight_standardization=weight_standardization, dtype=dtype, device=device,
    )  # fmt: skip
