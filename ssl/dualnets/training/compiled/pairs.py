"""Training on a loss of pairs by plain SGD, compiled for the CPU.

Eager torch is bound by products of small matrices, by passes over activations that do not fit the
cache, and by its own overhead. Here each member is trained on its own through many steps, on one
core: its leaves, activations and gradients stay in that core's cache (`blocks`, `pairs_kernel`),
and members are shared among threads.

`train_steps` takes this path where `supported_kernel` finds it exact: a `BlockNetwork` on a CPU, a
method whose step is nothing but a loss of pairs, and plain SGD, each of exactly the class known
here, since a subclass may compute something else. The eager path is the reference; both give the
same numbers up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dualnets.methods.losses import InfoNCE, PairLoss, Simple, Triplet
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.compiled.blocks import Layers
from dualnets.networks.compiled.members import flatten, train_all, unflatten
from dualnets.networks.compiled.structure import network_layers
from dualnets.networks.compiled.unmodified import is_unmodified
from dualnets.optim.per_member import PerMember
from dualnets.training.compiled.pairs_kernel import train_members

LOSSES = (Simple, Triplet, InfoNCE)


class PairKernel(NamedTuple):
    """A network and a loss for which there is compiled code."""

    network: BlockNetwork
    layers: Layers
    loss: PairLoss


def supported_kernel(network: nn.Module, loss: object, device: str = "cpu") -> PairKernel | None:
    """The compiled training of a network on a loss by plain SGD; None if it is not supported."""
    if type(loss) not in LOSSES or not is_unmodified(network, device) or not network.equal_shares:
        return None
    assert isinstance(loss, PairLoss)
    layers = network_layers(network)
    return None if layers is None else PairKernel(network, layers, loss)


@torch.no_grad()
def train(
    kernel: PairKernel, lr: PerMember, leaves: Sequence[Tensor], batch: int, first_step: int,
    frozen_at: Tensor,
) -> Tensor:  # fmt: skip
    """Train the kernel's network in place, one step for every batch of the drawn leaves.

    Args:
        kernel: from `supported_kernel`; the parameters of its network change.
        lr: the learning rate, or one per member.
        leaves: of n steps, uint8: anchors and positives `(S, X, n * B)`, and negatives
            `(S, X, n * B * H)`, the H of an anchor side by side.
        batch: B.
        first_step: the number of the first step, counted from 0.
        frozen_at: `(S,)` int64, changed in place: as in `TrainState`.

    Returns:
        `(S,)` losses of the last step.
    """
    network, layers, loss = kernel
    # 1. arrays for the kernel
    weights = flatten(list(network.weights))
    biases = flatten([weights[:, :0], *(network.biases or [])])
    rates = torch.as_tensor(lr, dtype=network.dtype).expand(len(weights)).contiguous()
    losses = torch.full_like(rates, torch.nan)
    inputs = [network.read(part).contiguous() for part in leaves]
    tensors = (*inputs, weights, biases, rates, losses, frozen_at)
    constants = np.array([loss.temperature, loss.margin], dtype=losses.numpy().dtype)
    arguments = (
        *(part.numpy() for part in tensors), layers, batch, loss.exponential, constants,
        network.normalize, first_step,
    )  # fmt: skip
    # 2. the kernel
    train_all(train_members, arguments, len(weights))
    # 3. parameters go back into the network
    unflatten(weights, list(network.weights))
    unflatten(biases, list(network.biases or []))
    return losses
