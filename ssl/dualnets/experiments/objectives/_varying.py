"""Teachers whose every unit varies over the data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork
    from hltm.tree import LatentTree

SAMPLES = 2048  # behind a unit's mean and deviation


@torch.no_grad()
def varying(network: BlockNetwork, trees: LatentTree, seed: int) -> BlockNetwork:
    """The same network, changed in place: over the data, pre-activations have mean 0 and variance 1.

    As they are drawn, deep units hardly vary, and most are off for good: there would be nothing to find.
    Without biases the mean stays. A unit that never varies stays as it is.

    Args:
        network: one per tree, without norms.
        trees: the data.
        seed: of the samples.
    """
    leaves = trees.sample(SAMPLES, seed=seed).leaves
    for level in range(1, network.depth + 1):
        values = network.activations(leaves)[level]
        values = values.reshape(*values.shape[:2], network.blocks[level - 1], -1)  # (S, B, V, U)
        over = (1, 2) if network.shared else (1,)
        mean, std = (
            found[:, None] if network.shared else found
            for found in (values.mean(over), values.std(over))
        )
        scale = torch.where(std > 1e-6, 1 / std, torch.ones_like(std))
        network.weights[level - 1].mul_(scale[..., None])
        if network.biases is not None:
            network.biases[level - 1].sub_(mean).mul_(scale)
    return network
