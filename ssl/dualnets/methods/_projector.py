"""The projector of methods whose loss compares projections of one head on every pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualnets._lazy import torch
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
from dualnets.networks.heads import BatchMoments, Head

if TYPE_CHECKING:
    from torch import Tensor, nn

PLACE = 0  # number of the projector among the heads of a method, a part of its address


def init_projector(head: Head, network: nn.Module, setup: TrainContext) -> State:
    """`projector.…`, marked as trained; empty where the head is the identity."""
    if not head.widths:
        return {}
    units = output_units(network, setup)
    return with_prefix("projector", init_head(head, units, network, setup, PLACE))


def projections(
    head: Head, network: nn.Module, state: State, batch: Batch
) -> tuple[list[Tensor], State]:
    """`(S, B, U)` projections of every pass, each with its own batch statistics, and the running moments."""
    passes = outputs(network, batch)
    if not head.widths:
        return list(passes), {}
    record: list[BatchMoments] = []
    joined = head(
        strip_prefix(state, "projector"),
        torch.cat(list(passes), dim=1),
        passes=len(passes),
        record=record,
    )
    carried = update_running_stats("projector", head, state, record)
    return list(joined.split(batch.size, dim=1)), carried


def directions(
    head: Head, network: nn.Module, state: State, batch: Batch, record: list[BatchMoments]
) -> list[Tensor]:
    """`(S, B, U)` projections of every pass, of length 1; `record` collects the moments of BatchNorms."""
    projector = strip_prefix(state, "projector")
    return [direction(head(projector, own, record=record)) for own in outputs(network, batch)]
