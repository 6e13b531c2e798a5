"""Teachers of the experiment on teachers and students: random networks whose units all vary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from dualnets.networks.block_network import BlockNetwork
    from hltm.tree import LatentTree

TEACHER_SAMPLES = 2048  # behind the mean and deviation of a teacher's unit


@torch.no_grad()
def standardised(network: BlockNetwork, trees: LatentTree, seed: int) -> BlockNetwork:
    """The same network, changed in place: over the data, pre-activations have mean 0 and variance 1.

    As they are drawn, deep units hardly vary, and most are off for good: there would be nothing to find.
    Without biases the mean stays. A unit that never varies stays as it is.

    Args:
        network: one per tree, without norms.
        trees: the data.
        seed: of the samples.
    """
    leaves = trees.sample(TEACHER_SAMPLES, seed=seed).leaves
    for level in range(1, network.depth + 1):
        values = network.activations(leaves)[level]
        values = values.reshape(*values.shape[:2], network.blocks[level - 1], -1)  # (S, B, V, U)
        over = (1, 2) if network.shared else (1,)
        mean, std = values.mean(over), values.std(over)
        if network.shared:
            mean, std = mean[:, None], std[:, None]
        scale = torch.where(std > 1e-6, 1 / std, torch.ones_like(std))
        network.weights[level - 1].mul_(scale[..., None])
        if network.biases is not None:
            network.biases[level - 1].sub_(mean).mul_(scale)
    return network
