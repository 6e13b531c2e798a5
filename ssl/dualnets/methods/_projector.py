"""The projector of methods whose loss compares the projections of all passes with each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import (
    Batch,
    Setup,
    State,
    address,
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
    units = output_units(network, setup)
    return under("projector", trained(head.init(units, place=PLACE, **address(network, setup))))


def projections(head: Head, network: nn.Module, state: State, batch: Batch) -> list[Tensor]:
    """`(S, B, U)` of every pass; each has batch statistics of its own."""
    found = outputs(network, batch)
    if not head.widths:
        return list(found)
    joined = head(part(state, "projector"), torch.cat(list(found), dim=1), passes=len(found))
    return list(joined.split(batch.size, dim=1))
