"""Vectors of length 1, which queues, banks and prototypes hold: of outputs, and random ones by address."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualnets._lazy import torch
from dualnets.methods._plain import plain_direction
from dualnets.networks.heads import LAYERS

if TYPE_CHECKING:
    from torch import Tensor


def direction(values: Tensor) -> Tensor:
    """Values scaled to length 1 over the last axis; zeros stay zeros.

    Vectors whose length overflows become NaN. Divided by infinity they would be zeros, with a small loss
    and no gradient, and a member that has diverged would not be recognised.

    Example:
        >>> direction(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0], [nan, nan]]
    """
    from dualnets.methods.compiled.operation import is_supported

    if values.ndim == 3 and is_supported(values):
        from dualnets.methods.compiled import samples

        return samples.direction(values)[0]
    return plain_direction(values)


def random_directions(
    count: int,
    units: int,
    *,
    seed: int,
    members: Sequence[int],
    place: int,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`(S, count, units)` vectors of length 1, uniform on the sphere: normal numbers, scaled.

    Args:
        count: vectors per member.
        units: numbers per vector.
        seed: 64 bits.
        members: S addresses; the vectors of a member depend on its address alone.
        place: a part of the address that no head of the same method has, 0..65535.
        dtype, device: of the vectors; float32 by default.

    Example:
        >>> found = random_directions(5, 3, seed=0, members=(4, 7), place=9, dtype=torch.float64)
        >>> found.shape, bool((found.norm(dim=-1) - 1).abs().max() < 1e-12)
        (torch.Size([2, 5, 3]), True)
        >>> found[1].equal(random_directions(5, 3, seed=0, members=[7], place=9, dtype=torch.float64)[0])
        True
    """
    from hltm._devices import float64_device
    from hltm.sampling.philox import Stream, uniform

    radius, angle = (
        uniform(
            count * units,
            seed=seed,
            stream=Stream.PREDICTOR,
            members=members,
            node=place * LAYERS,
            view=part,
            device=float64_device(device),
        )
        for part in (0, 1)
    )
    # normal numbers after Box and Muller; u < 1, so that log(1 - u) is finite
    normal = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
    found = plain_direction(normal.view(-1, count, units))
    return found.to(torch.float32 if dtype is None else dtype).to(device)
