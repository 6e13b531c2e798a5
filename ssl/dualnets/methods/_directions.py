"""Directions, which are what queues, banks and prototypes hold: of outputs, and random ones by address."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dualnets.networks.heads import LAYERS
from hltm.sampling.philox import Stream, uniform


def direction(values: Tensor) -> Tensor:
    """Values scaled to length 1 over the last axis; zeros stay zeros.

    What is so long that its length overflows becomes NaN. It would come out as zeros, a fine loss and
    no gradient, and a member that diverged would pass for one that is alive.

    Example:
        >>> direction(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0], [nan, nan]]
    """
    length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return values / length.clamp(min=1e-12).masked_fill(length.isinf(), torch.nan)


def random_directions(
    count: int,
    units: int,
    *,
    seed: int,
    members: Sequence[int],
    place: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """`(S, count, units)` vectors of length 1, uniform on the sphere: normal numbers, scaled.

    Args:
        count: vectors per member.
        units: numbers per vector.
        seed: 64 bits.
        members: S addresses; a member's vectors depend on its address alone.
        place: a part of the address that no head of the same method has, 0..65535.
        dtype, device: of the vectors.

    Example:
        >>> found = random_directions(5, 3, seed=0, members=(4, 7), place=9, dtype=torch.float64)
        >>> found.shape, bool((found.norm(dim=-1) - 1).abs().max() < 1e-12)
        (torch.Size([2, 5, 3]), True)
        >>> found[1].equal(random_directions(5, 3, seed=0, members=[7], place=9, dtype=torch.float64)[0])
        True
    """
    radius, angle = (
        uniform(
            count * units,
            seed=seed,
            stream=Stream.PREDICTOR,
            members=members,
            node=place * LAYERS,
            view=part,
            device=device,
        )
        for part in (0, 1)
    )
    # Box and Muller; 1 - u is never 0
    normal = (-2 * torch.log1p(-radius)).sqrt() * torch.cos(2 * math.pi * angle)
    return direction(normal.view(-1, count, units)).to(dtype)
