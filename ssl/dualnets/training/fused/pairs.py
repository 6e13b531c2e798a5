"""Training on a loss of pairs by plain SGD, fused for CUDA: `compiled.pairs` with one program per member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualnets.networks.compiled.members import flatten, unflatten
from dualnets.optim.per_member import PerMember
from dualnets.training.compiled import pairs
from dualnets.training.compiled.pairs import PairKernel
from dualnets.training.fused.launch import device_type, is_available, launch
from dualnets.training.fused.table import CHUNK, SMALLEST, TILE, Table, network_tiles, power_of_two

ANCHORS = 64  # of a tile, at most; a multiple of a warp


def supported_kernel(network: nn.Module, loss: object) -> PairKernel | None:
    """The fused training of a network on a loss by plain SGD; None if it is not supported."""
    if not is_available(network):
        return None
    kernel = pairs.supported_kernel(network, loss, device_type(network))
    return kernel if kernel is not None and network_tiles(kernel.network).fit else None


@torch.no_grad()
def train(
    kernel: PairKernel, lr: PerMember, leaves: Sequence[Tensor], batch: int, first_step: int,
    frozen_at: Tensor,
) -> Tensor:  # fmt: skip
    """Train the kernel's network in place, as `compiled.pairs.train` does by plain SGD.

    `lr` is the learning rate, or one per member.

    Raises:
        LaunchError: the kernel could not be compiled or started; nothing was changed.
    """
    network = kernel.network
    parameters = [*network.weights, *(network.biases or [])]
    flat = flatten(parameters)
    losses = torch.full_like(flat[:, 0], torch.nan)
    found = frozen_at.clone()
    given = arguments(kernel, lr, leaves, batch, first_step, flat, losses, found)
    launch(network, _kernel, given)
    unflatten(flat, parameters)
    frozen_at.copy_(found)
    return losses


def _kernel() -> Any:
    from dualnets.training.fused.pairs_kernel import train_pairs

    return train_pairs


def arguments(
    kernel: PairKernel, lr: PerMember, leaves: Sequence[Tensor], batch: int, first_step: int,
    flat: Tensor, losses: Tensor, frozen_at: Tensor,
) -> dict[str, Any]:  # fmt: skip
    """The arguments of `train_pairs` by name."""
    network, loss = kernel.network, kernel.loss
    features = [network.read(part).contiguous() for part in leaves]
    table = Table(rows=features[0].shape[1])
    top = table.add_network(network)
    layers, _ = table.tensors(flat)
    steps = features[0].shape[2] // batch
    passes = 2 + features[2].shape[2] // (steps * batch)
    block = min(power_of_two(batch, SMALLEST), ANCHORS)
    tiles = network_tiles(network)
    outputs = network.blocks[-1] * network.units[-1]
    constants = [loss.temperature, loss.margin, 1 / batch]
    return {
        "anchors": features[0], "positives": features[1], "negatives": features[2],
        "parameters": flat, "gradients": torch.empty_like(flat),
        "values": flat.new_empty(len(flat), table.rows, passes * block),
        "rates": torch.as_tensor(lr, dtype=flat.dtype).to(flat.device).expand(len(flat)).contiguous(),
        "losses": losses, "frozen_at": frozen_at, "table": layers,
        "constants": torch.tensor(constants, dtype=flat.dtype, device=flat.device),
        "count": flat.shape[1], "rows": table.rows, "layers": len(table),
        "features": features[0].shape[1], "outputs": outputs, "top": top, "steps": steps,
        "batch": batch, "first_step": first_step, "EXPONENTIAL": loss.exponential,
        "NORMALIZE": network.normalize, "UNITS": tiles.units, "FIRST": tiles.first,
        "TERMS": tiles.terms, "FAN": tiles.fan_in, "OUT": power_of_two(outputs), "PASSES": passes,
        "BLOCK": block, "TILE": min(TILE, block), "CHUNK": CHUNK,
    }  # fmt: skip
