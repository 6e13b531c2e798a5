"""The projections of all passes of a batch, for methods whose loss compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualnets._lazy import torch
from dualnets.methods._directions import direction
from dualnets.methods.protocol import (
    Batch,
    State,
    apply_head,
    outputs,
    strip_prefix,
    update_running_stats,
)
from dualnets.networks.heads import BatchMoments, Head

if TYPE_CHECKING:
    from torch import Tensor, nn


def projections(
    head: Head, network: nn.Module, state: State, batch: Batch
) -> tuple[list[Tensor], State]:
    """`(S, B, U)` projections of every pass, each with its own batch statistics, and the running moments."""
    passes = outputs(network, batch)
    if not head.widths:
        return list(passes), {}
    joined, carried = apply_head("projector", head, state, torch.cat(list(passes), 1), len(passes))
    return list(joined.split(batch.size, dim=1)), carried


def directions(
    head: Head, network: nn.Module, state: State, batch: Batch
) -> tuple[list[Tensor], State]:
    """The same scaled to length 1; the head computes one pass after the other."""
    record: list[BatchMoments] = []
    projector = strip_prefix(state, "projector")
    found = [direction(head(projector, own, record=record)) for own in outputs(network, batch)]
    return found, update_running_stats("projector", head, state, record)
