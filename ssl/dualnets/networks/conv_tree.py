"""A convolutional tree network: the latents of a level share one block of weights."""

from __future__ import annotations

import torch

from dualnets._checks import check_tree
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.network import feature_widths, leaf_states, network_members
from dualnets.networks.normalizations import Normalization
from dualnets.networks.wiring import irregularity
from hltm.tree import LatentTree


def conv_tree(
    tree: LatentTree,
    *,
    units: int,
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
    """A tree network whose blocks of one level share their weights, as a convolution does over places.

    It has the tree's receptive fields but cannot treat two latents of a level differently: it suits
    trees whose levels repeat one pattern, and not trees whose edges have different polarities.

    Args:
        tree: one tree or S trees whose levels are equally branched: every node of a level has as
            many children, one level down, and every leaf as many states.
        units: per latent.
        members, seed, one_hot, bias, normalize, norm, weight_standardization, dtype, device: as for
            `tree_network`.

    Raises:
        ValueError: a tree whose levels are not equally branched, units below 1, or `members` beside
            several trees.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> network = conv_tree(tree, units=5, seed=1)
        >>> [tuple(weight.shape) for weight in network.weights]
        [(1, 1, 5, 2), (1, 1, 5, 10), (1, 1, 5, 10)]
        >>> {level: tuple(a.shape) for level, a in network.activations(tree.sample(7, seed=2).leaves).items()}
        {1: (7, 4, 5), 2: (7, 2, 5), 3: (7, 1, 5)}
    """
    check_tree(tree)
    topology = tree.topology
    states = leaf_states(tree)
    uneven = irregularity(topology, feature_widths(states, one_hot))
    if uneven:
        raise ValueError(f"shared weights need equally branched levels, but {uneven}")
    addresses, stacked = network_members(tree, members)
    blocks = [len(topology.at_level(level)) for level in range(1, topology.depth + 1)]
    return BlockNetwork(
        states=states, blocks=blocks, units=[units] * len(blocks), members=addresses, stacked=stacked,
        seed=seed, dense=False, shared=True,
        one_hot=one_hot, bias=bias, normalize=normalize, norm=norm,
        weight_standardization=weight_standardization, dtype=dtype, device=device,
    )  # fmt: skip
