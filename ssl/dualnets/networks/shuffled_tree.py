"""A tree network over shuffled leaves: the data's shape with wrong receptive fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dualnets._checks import check_tree
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.network import leaf_states
from dualnets.networks.normalizations import Normalization
from dualnets.networks.tree_network import tree_network
from hltm.sampling.philox import Stream, check_seed, uniform
from hltm.tree import LatentTree


def shuffled_tree(
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
    """A tree network of the data's own shape whose leaves are shuffled: a control with a wrong prior.

    It has as many parameters as `tree_network` and the same initial weights; only the leaves that a
    block sees are different. Every member has a shuffle of its own, a function of its address and the
    seed. (Two of the n children of a node stay siblings with probability (n - 1) / (X - 1), so with few
    leaves the receptive fields are not very wrong.) For other wrong shapes see `topology` of
    `tree_network`.

    Args:
        tree: one tree or S trees, of any shape. Leaves change places with leaves that have as many
            states.
        units: per node of the network; no block belongs to a latent, so activations are those of
            whole layers.
        seed: of shuffles and initial weights.
        members, one_hot, bias, normalize, norm, weight_standardization, dtype, device: as for
            `tree_network`.

    Raises:
        ValueError: as `tree_network`.

    Example:
        >>> import hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = shuffled_tree(trees, units=5, seed=1)
        >>> network.leaf_order.tolist()
        [[0, 6, 3, 4, 1, 2, 5, 7], [1, 4, 5, 7, 0, 2, 3, 6]]
        >>> found = network.activations(trees.sample(7, seed=2).leaves)
        >>> {level: tuple(values.shape) for level, values in found.items()}
        {1: (2, 7, 20), 2: (2, 7, 10), 3: (2, 7, 5)}
    """
    check_tree(tree)
    network = tree_network(
        tree, units=units, topology=tree.topology, members=members, seed=seed,
        one_hot=one_hot, bias=bias, normalize=normalize, norm=norm,
        weight_standardization=weight_standardization, dtype=dtype, device=device,
    )  # fmt: skip
    order = shuffled_leaves(leaf_states(tree), seed=check_seed(seed), members=network.members)
    network.leaf_order = order.to(device)
    return network


def shuffled_leaves(states: Sequence[int], *, seed: int, members: Sequence[int]) -> Tensor:
    """`(S, X)` int64: a shuffle of the leaves for each member, among those of as many states."""
    keys = uniform(len(states), seed=seed, stream=Stream.INIT, members=members, node=0)
    order = torch.empty(keys.shape, dtype=torch.int64)
    for count in set(states):
        same = torch.tensor([x for x, other in enumerate(states) if other == count])
        order[:, same] = same[keys[:, same].argsort(dim=1)]
    return order
