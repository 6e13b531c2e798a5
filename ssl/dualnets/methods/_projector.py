"""The projector of methods whose loss compares projections of the same head on every pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dualnets.methods._directions import direction
from dualnets.methods.protocol import (
    Batch,
    State,
    TrainContext,
    init_head,
    output_units,
    outputs,
    strip_prefix,
    update_running_stats,
    with_prefix,
)
from dualnets.networks.heads import Head, Seen

PLACE = 0  # of its random numbers among a method's heads


def new_projector(head: Head, network: nn.Module, setup: TrainContext) -> State:
    """`projector.…`, trained; nothing where the head is the identity."""
    if not head.widths:
        return {}
    units = output_units(network, setup)
    return with_prefix("projector", init_head(head, units, network, setup, PLACE))


def projections(
    head: Head, network: nn.Module, state: State, batch: Batch
) -> tuple[list[Tensor], State]:
    """`(S, B, U)` of every pass, each with batch statistics of its own, and what the loss carries."""
    found = outputs(network, batch)
    if not head.widths:
        return list(found), {}
    seen: list[Seen] = []
    together = torch.cat(list(found), dim=1)
    joined = head(strip_prefix(state, "projector"), together, passes=len(found), seen=seen)
    return list(joined.split(batch.size, dim=1)), update_running_stats(
        "projector", head, state, seen
    )


def directions(
    head: Head, network: nn.Module, state: State, batch: Batch, seen: list[Seen]
) -> list[Tensor]:
    """`(S, B, U)` of every pass, of length 1; `seen` is told what the head saw of each."""
    projector = strip_prefix(state, "projector")
    return [direction(head(projector, own, seen=seen)) for own in outputs(network, batch)]
