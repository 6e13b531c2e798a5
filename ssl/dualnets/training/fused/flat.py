"""How a fused training of a Siamese method has its parameters and rates: side by side."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.block_network import BlockNetwork
from dualnets.optim.optimizers import SGD
from dualnets.optim.per_member import Group, PerMember


class End(NamedTuple):
    """Where a part of the flat parameters ends: how many names and how many numbers come before."""

    names: int
    numbers: int


def parameter_order(network: BlockNetwork, spec: SiameseSpec) -> tuple[list[str], list[End]]:
    """Names of all trained tensors as they lie side by side, and where the six parts end.

    The parts are weights and biases of the network, of the projector and of the predictor.
    """
    parts = [
        [f"network.weights.{i}" for i in range(network.depth)],
        [f"network.biases.{i}" for i in range(network.depth if network.biases else 0)],
    ]
    sizes = [
        sum(weight[0].numel() for weight in network.weights),
        sum(bias[0].numel() for bias in network.biases or []),
    ]
    inputs = network.blocks[-1] * network.units[-1]
    for place, head in (("projector", spec.projector), ("predictor", spec.predictor)):
        layers = range(len(head.widths))
        parts.append([f"{place}.{i}.weight" for i in layers])
        parts.append([f"{place}.{i}.bias" for i in layers if head.bias])
        fans = [inputs, *head.widths][: len(layers)]
        sizes.append(sum(u * fan for u, fan in zip(head.widths, fans, strict=True)))
        sizes.append(sum(head.widths) if head.bias else 0)
        inputs = head.outputs(inputs)
    names: list[str] = []
    ends: list[End] = []
    for part, size in zip(parts, sizes, strict=True):
        names += part
        ends.append(End(len(names), size + (ends[-1].numbers if ends else 0)))
    return names, ends


def velocity_name(name: str) -> str:
    """The name of a trained tensor's velocity in the optimiser's memory."""
    return f"momentum.{name}" if name.startswith("network.") else f"momentum.state.{name}"


def rates_of(optimizer: SGD, predictor: Group, like: Tensor) -> tuple[Tensor, ...]:
    """Learning rates and decays `(S, 2)`, of all and of the predictor; momenta and clips `(S,)`."""

    def each(rates: PerMember) -> Tensor:
        return torch.as_tensor(rates, dtype=like.dtype).expand(len(like))

    decay = each(optimizer.weight_decay)
    own = decay if predictor.weight_decay is None else each(predictor.weight_decay)
    lr = each(optimizer.lr)
    clip = float("inf") if optimizer.clip is None else optimizer.clip
    return (
        torch.stack([lr, lr * each(predictor.lr)], dim=1),
        torch.stack([decay, own], dim=1),
        each(optimizer.momentum).contiguous(),
        each(clip).contiguous(),
    )
