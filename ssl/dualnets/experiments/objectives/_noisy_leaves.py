"""Trees whose leaves are the numbers of noisy embeddings, and the networks that read these numbers.

A leaf x of two states becomes a latent with D children. In state k, its child d has the number
e[x, k, d] + noise · g, with the vectors e of `hltm.data.encode.embeddings` and a standard normal g, rounded
to one of 256 equally spaced numbers, which are the states of the child. So trees with noisy embeddings are
ordinary trees, drawn and probed as any others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from hltm.data.encode import embeddings
from hltm.model.topology import Topology
from hltm.tree import LatentTree

STATES = 256
STEP = (
    1 / 16
)  # between neighbouring numbers, which end at ±8: five deviations of what they stand for


def numbers(states: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers that states stand for, in the shape they have.

    Example:
        >>> numbers(torch.tensor([0, 128, 255]))
        tensor([-7.9688,  0.0312,  7.9688])
    """
    return (states.to(dtype) - (STATES - 1) / 2) * STEP


def with_numbers(topology: Topology, dimension: int) -> Topology:
    """The shape with `dimension` children below every leaf.

    Example:
        >>> with_numbers(Topology.balanced(depth=1), 3).parent.tolist()
        [-1, 0, 0, 1, 1, 1, 2, 2, 2]
    """
    below = [leaf for leaf in topology.leaves for _ in range(dimension)]
    return Topology.from_parents([*topology.parent.tolist(), *below])


def noisy_embeddings(trees: LatentTree, *, dimension: int, noise: float, seed: int) -> LatentTree:
    """The trees with a noisy embedding of every leaf in its place.

    Args:
        trees: S trees of two-state leaves.
        dimension: D, numbers of an embedding.
        noise: standard deviation of each number's noise, above 0.
        seed: of the vectors.
    """
    inner = [trees.tables.of(node) for node in range(len(trees.topology))]
    inner[0] = inner[0][:, 0]  # the prior
    both = torch.arange(2)[:, None].expand(-1, len(trees.leaves))
    vectors = torch.stack(
        [
            embeddings(both, 2, dimension=dimension, seed=seed, member=member, dtype=torch.float64)
            for member in trees.members
        ]
    )  # (S, K, X, D)
    centred = numbers(torch.arange(STATES), torch.float64) - vectors[..., None]
    tables = (-(centred / noise).square() / 2).softmax(-1)  # (S, K, X, D, 256)
    outer = tables.flatten(2, 3).unbind(2)
    topology = with_numbers(trees.topology, dimension)
    return LatentTree.from_tables(topology, [*inner, *outer], len(trees.members))


class NumberNetwork(BlockNetwork):
    """A tree network, one block of units per latent, that reads the numbers of such trees."""

    def _features(self, leaves: Tensor) -> Tensor:
        """`(S, X, B)` numbers in the weights' dtype."""
        return numbers(self._checked(leaves).transpose(1, 2).to(self.device), self.dtype)


def number_network(
    trees: LatentTree, *, units: int, seed: int, bias: bool, normalize: bool, device: torch.device
) -> NumberNetwork:
    """An untrained network on such trees; arguments are those of `dualnets.tree_network`."""
    topology = trees.topology
    blocks = [len(topology.at_level(level)) for level in range(1, topology.depth + 1)]
    return NumberNetwork(
        states=[2] * len(trees.leaves), blocks=blocks, units=[units] * len(blocks), members=trees.members,
        stacked=trees.stacked, seed=seed, dense=False, bias=bias, normalize=normalize, device=device,
    )  # fmt: skip
