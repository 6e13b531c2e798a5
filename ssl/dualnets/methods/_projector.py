"""The projector of methods whose loss compares the projections of all passes with each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import (
    Batch,
    Setup,
    State,
    output_units,
    outputs,
    part,
    trained,
    under,
)
from dualnets.networks.heads import Head

PLACE = 0  # of its random numbers among a method's heads


def new_projector(head: Head, network: nn.Module, setup: Setup) -> State:
    """`projector.…`, trained; nothing where the head is the identity."""
    if not head.widths:
        return {}
    like = next(network.parameters())
    parameters = head.init(
        output_units(network, setup),
        seed=setup.seed,
        members=network.members,  # type: ignore[arg-type]
        place=PLACE,
        dtype=like.dtype,
        device=like.device,
    )
    return under("projector", trained(parameters))


def projections(head: Head, network: nn.Module, state: State, batch: Batch) -> list[Tensor]:
    """`(S, B, U)` of every pass; each has batch statistics of its own."""
    found = outputs(network, batch)
    if not head.widths:
        return list(found)
    joined = head(part(state, "projector"), torch.cat(list(found), dim=1), passes=len(found))
    return list(joined.split(batch.size, dim=1))


def projected_units(head: Head, network: nn.Module, setup: Setup) -> int:
    """How many units a projection has."""
    return head.outputs(output_units(network, setup))
