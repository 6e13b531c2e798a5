"""The layers that the kernels compute, in plain torch: for gradients of gradients, and for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dualnets.networks.compiled.blocks import BATCH_NORM, BIAS, GAIN, NO_NORM, SHIFT, WEIGHT
from dualnets.networks.compiled.norms import PARTS
from dualnets.networks.normalizations import BatchNorm, GroupNorm

if TYPE_CHECKING:
    from dualnets.networks.compiled.passes import Passes


def plain_layers(
    passes: Passes, features: Tensor, parameters: Sequence[Tensor], count: int = 1
) -> Tensor:
    """`(S, U, count * B)` outputs, as `Passes.forward` computes them from the same arguments."""
    layers = passes.layers
    given = {
        divmod(int(place), 4): own for place, own in zip(passes.places, parameters, strict=True)
    }
    values = features.to(parameters[0].dtype)  # (S, rows so far, count * B)
    members = len(values)
    for layer, numbers in enumerate(layers.layout.tolist()):
        blocks, units, fan_in, norm, first, second, _, place = numbers
        table = torch.from_numpy(layers.places[place : place + blocks * (fan_in + 1)])
        counts, rows = table.view(blocks, -1)[:, 0], table.view(blocks, -1)[:, 1:]
        read = values[:, rows.flatten()].view(members, blocks, fan_in, -1)
        present = torch.arange(fan_in) < counts[:, None]
        weight = torch.where(present[:, None], given[layer, WEIGHT], 0.0)
        hidden = weight @ read  # (S, V, U, count * B)
        if (layer, BIAS) in given:
            hidden = hidden + given[layer, BIAS][..., None]
        epsilon = float(layers.epsilons[layer])
        if norm == BATCH_NORM:
            own = BatchNorm(PARTS[first], PARTS[second], epsilon=epsilon)  # type: ignore[arg-type]
            hidden = own(hidden.unflatten(3, (count, -1))).flatten(3)
        elif norm != NO_NORM:
            hidden = GroupNorm(first, epsilon=epsilon)(hidden)
        if (layer, GAIN) in given:
            gain, shift = (given[layer, part].view(members, -1, units, 1) for part in (GAIN, SHIFT))
            hidden = hidden * gain + shift
        if layer < len(layers.layout) - 1:
            hidden = hidden.relu()
        values = torch.cat([values, hidden.flatten(1, 2)], 1)
    output = values[:, values.shape[1] - passes.outputs :]
    return torch.nn.functional.normalize(output, dim=1) if passes.normalize else output
