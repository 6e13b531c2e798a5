"""Training of a Siamese method by SGD, fused for CUDA: `compiled.siamese` with one program per member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.compiled.members import flatten, unflatten
from dualnets.optim.optimizers import SGD, Optimizer
from dualnets.optim.per_member import Group
from dualnets.training.compiled import siamese
from dualnets.training.compiled.siamese import HeadMoments, target_decays
from dualnets.training.fused.flat import parameter_order, rates_of, velocity_name
from dualnets.training.fused.launch import device_type, is_available, launch
from dualnets.training.fused.table import (
    CHUNK,
    LARGEST,
    SMALLEST,
    TILE,
    Table,
    head_tiles,
    network_tiles,
    power_of_two,
)


class FusedKernel(NamedTuple):
    """A network, a method and an optimiser for which there is fused code."""

    network: BlockNetwork
    spec: SiameseSpec
    optimizer: SGD
    predictor: Group  # its rates; no other part has rates of its own


def supported_kernel(
    network: nn.Module,
    spec: SiameseSpec | None,
    optimizer: Optimizer,
    groups: Mapping[str, Group],
    batch: int,
) -> FusedKernel | None:
    """The fused training of a network by a Siamese method and SGD; None if it is not supported."""
    if type(optimizer) is not SGD or not set(groups) <= {"predictor"}:
        return None
    if not is_available(network):
        return None
    found = siamese.supported_kernel(network, spec, device_type(network))
    if found is None:
        return None
    kernel = FusedKernel(found.network, found.spec, optimizer, groups.get("predictor", Group()))
    return kernel if _fits(kernel, batch) else None


def _fits(kernel: FusedKernel, batch: int) -> bool:
    """Whether a program can hold its tiles: of layers, and of a pass of the whole batch."""
    block = power_of_two(batch, SMALLEST)
    network, spec = kernel.network, kernel.spec
    outputs = network.blocks[-1] * network.units[-1]
    tiles = (network_tiles(network), head_tiles((spec.projector, spec.predictor), outputs))
    widest = power_of_two(max(outputs, spec.projector.outputs(outputs)), SMALLEST)
    return all(own.fit for own in tiles) and widest * block <= LARGEST


@torch.no_grad()
def train(
    kernel: FusedKernel,
    memory: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    views: Sequence[Tensor],
    batch: int,
    first_step: int,
    total_steps: int,
    frozen_at: Tensor,
    *,
    keep_last_target: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Train network, heads and target, as `compiled.siamese.train` does.

    Raises:
        LaunchError: the kernel could not be compiled or started; nothing was changed.
    """
    network, spec, optimizer, _ = kernel
    # 1. parameters, their momentum, and the target's parameters, side by side
    names, ends = parameter_order(network, spec)
    online = {f"network.{name}": p for name, p in network.named_parameters()} | {**state}
    flat = flatten([online[name] for name in names])
    velocities = [memory[velocity_name(name)] for name in names] if optimizer.slots else []
    velocity = flatten([flat[:, :0], *velocities])
    own = names[: ends[3].names] if spec.separate_target else []
    target_names = [f"target.{name}" for name in own]
    target = flatten([flat[:, :0], *(state[name] for name in target_names)])
    running = HeadMoments(state, spec, flat)
    # 2. the kernel
    losses = torch.full_like(flat[:, 0], torch.nan)
    found = frozen_at.clone()
    steps = range(first_step, first_step + views[0].shape[2] // batch)
    decays = target_decays(spec, first_step, len(steps), total_steps, keep_last=keep_last_target)
    factors = [optimizer.schedule.factor(step, total_steps) for step in steps]
    both = torch.cat([flat, target], dim=1)
    given = arguments(kernel, views, batch, first_step, both, velocity) | {
        "losses": losses, "frozen_at": found, "running": running.moments, "batches": running.batches,
        "ema_decays": flat.new_tensor(decays), "factors": flat.new_tensor(factors),
    }  # fmt: skip
    launch(network, _kernel, given)
    # 3. trained tensors change in place; all other tensors of the state are new ones
    frozen_at.copy_(found)
    flat, target = both[:, : flat.shape[1]], both[:, flat.shape[1] :]
    unflatten(flat, [online[name] for name in names])
    unflatten(velocity, velocities)
    new_target = {name: torch.empty_like(state[name]) for name in target_names}
    unflatten(target, list(new_target.values()))
    return {**state} | new_target | running.by_name(), losses


def _kernel() -> Any:
    from dualnets.training.fused.siamese_kernel import train_siamese

    return train_siamese


def arguments(
    kernel: FusedKernel, views: Sequence[Tensor], batch: int, first_step: int, flat: Tensor,
    velocity: Tensor,
) -> dict[str, Any]:  # fmt: skip
    """Most arguments of `train_siamese` by name: all that follow from what is trained."""
    network, spec, optimizer, predictor = kernel
    outputs = network.blocks[-1] * network.units[-1]
    units = spec.projector.outputs(outputs)
    table = Table(rows=network.inputs)
    top = table.add_network(network)
    network_end = len(table)
    output = table.add_rows(outputs)
    projections = table.add_head(spec.projector, outputs, output)
    projector_end, predictor_at = len(table), table.parameters
    predictions = table.add_head(spec.predictor, units, projections)
    count = table.parameters
    slopes_at = table.add_rows(table.rows - output)
    targets_at = table.add_rows(units)
    layers, coefficients = table.tensors(flat)
    passes = 2 if spec.symmetric or not spec.separate_target else 1
    block = power_of_two(batch, SMALLEST)
    tiles = network_tiles(network)
    heads = head_tiles((spec.projector, spec.predictor), outputs)

    own = rates_of(optimizer, predictor, flat)
    rates, decays, momenta, clips = (each.to(flat).contiguous() for each in own)
    return {
        "first": views[0].contiguous(), "second": views[1].contiguous(), "parameters": flat,
        "velocity": velocity, "gradients": flat.new_empty(len(flat), count),
        "values": flat.new_empty(len(flat), table.rows, passes * block),
        "statistics": flat.new_empty(len(flat), 4, table.norm_units, passes),
        "rates": rates, "decays": decays, "momenta": momenta, "clips": clips,
        "table": layers, "coefficients": coefficients,
        "constants": flat.new_tensor([spec.scale, spec.offset, 1 / batch]),
        "count": count, "target_count": flat.shape[1] - count, "predictor_at": predictor_at,
        "rows": table.rows, "features": network.inputs, "outputs": outputs, "units": units, "top": top,
        "output": output, "projections": projections, "predictions": predictions,
        "slopes_at": slopes_at, "targets_at": targets_at, "network_end": network_end,
        "projector_end": projector_end, "predictor_end": len(table), "norm_units": table.norm_units,
        "steps": views[0].shape[2] // batch, "batch": batch, "first_step": first_step,
        "NORMALIZE": network.normalize, "SEPARATE": spec.separate_target, "STOP": spec.stop_gradient,
        "COSINE": spec.normalized, "SYMMETRIC": spec.symmetric, "VELOCITY": velocity.shape[1] > 0,
        "NESTEROV": optimizer.nesterov, "UNITS": tiles.units, "FIRST": tiles.first,
        "TERMS": tiles.terms, "FAN": tiles.fan_in, "HEAD_UNITS": heads.units, "HEAD_FAN": heads.fan_in,
        "OUT": power_of_two(max(outputs, units)), "PASSES": passes, "BLOCK": block,
        "TILE": min(TILE, block), "CHUNK": CHUNK,
    }  # fmt: skip
