"""Training on a loss of pairs, compiled for the CPU.

Eager torch is bound by products of small matrices, by passes over activations that do not fit the
cache, and by its own overhead. Here each member is trained on its own through many steps, on one
core: its leaves, activations and gradients stay in that core's cache (`blocks`, `pairs_kernel`), the
update is that of `dualnets.optim.compiled`, and members are shared among threads.

`train_steps` takes this path where `supported_kernel` finds it exact: a `BlockNetwork` on a CPU, and a
method whose step is nothing but a loss of pairs, each of exactly the class known here, since a
subclass may compute something else; and where the optimiser has a compiled update. The eager path is
the reference; both give the same numbers up to the order of sums.
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
from dualnets.networks.compiled.members import train_all
from dualnets.networks.compiled.structure import network_layers
from dualnets.networks.compiled.unmodified import is_unmodified
from dualnets.optim.compiled import CompiledUpdate
from dualnets.training.compiled.pairs_kernel import train_members
from dualnets.training.compiled.tables import in_order, network_places

LOSSES = (Simple, Triplet, InfoNCE)


class PairKernel(NamedTuple):
    """A network and a loss for which there is compiled code."""

    network: BlockNetwork
    layers: Layers
    loss: PairLoss


def supported_kernel(network: nn.Module, loss: object, device: str = "cpu") -> PairKernel | None:
    """The compiled training of a network on a loss; None if it is not supported."""
    if type(loss) not in LOSSES or not is_unmodified(network, device) or not network.equal_shares:
        return None
    assert isinstance(loss, PairLoss)
    layers = network_layers(network)
    return None if layers is None else PairKernel(network, layers, loss)


@torch.no_grad()
def train(
    kernel: PairKernel, update: CompiledUpdate, leaves: Sequence[Tensor], batch: int, first_step: int,
    total_steps: int, frozen_at: Tensor,
) -> Tensor:  # fmt: skip
    """Train the kernel's network, one step for every batch of the drawn leaves.

    Args:
        kernel: from `supported_kernel`.
        update: of the network's parameters and the optimiser's memory, which change in place.
        leaves: of n steps, uint8: anchors and positives `(S, X, n * B)`, and negatives
            `(S, X, n * B * H)`, the H of an anchor side by side.
        batch: B.
        first_step: the number of the first step, counted from 0.
        total_steps: how many steps the whole training has, by which schedules go.
        frozen_at: `(S,)` int64, changed in place: as in `TrainState`.

    Returns:
        `(S,)` losses of the last step.
    """
    network, layers, loss = kernel
    losses = torch.full((len(frozen_at),), torch.nan, dtype=network.dtype)
    inputs = [network.read(part).contiguous().numpy() for part in leaves]
    arguments = (
        *inputs, update.rules, in_order(update.names, network_places(network.depth)),
        update.factors(first_step, inputs[0].shape[2] // batch, total_steps), losses.numpy(),
        frozen_at.numpy(), layers, batch, loss.exponential,
        np.array([loss.temperature, loss.margin], dtype=losses.numpy().dtype), network.normalize,
        first_step,
    )  # fmt: skip
    train_all(train_members, arguments, losses.numpy())
    return losses
