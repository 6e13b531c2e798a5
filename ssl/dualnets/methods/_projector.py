"""The projections of all passes of a batch, for methods whose loss compares them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dualnets._lazy import torch
from dualnets.methods._directions import direction
from dualnets.methods.protocol import (
    Batch,
    State,
    apply_head,
    outputs,
)
from dualnets.networks.heads import Head

if TYPE_CHECKING:
    from torch import Tensor, nn


def joined(passes: Sequence[Tensor]) -> Tensor:
    """`(S, P * B, U)` of passes `(S, B, U)`, in the batch-last storage that they have."""
    if len(passes) == 1:
        return passes[0]
    return torch.cat([own.transpose(1, 2) for own in passes], dim=2).transpose(1, 2)


def projections(
    head: Head, network: nn.Module, state: State, batch: Batch
) -> tuple[list[Tensor], State]:
    """`(S, B, U)` projections of every pass, each with its own batch statistics, and the running moments."""
    passes = outputs(network, batch)
    if not head.widths:
        return list(passes), {}
    found, carried = apply_head("projector", head, state, joined(passes), len(passes))
    return list(found.split(batch.size, dim=1)), carried


def directions(
    head: Head, network: nn.Module, state: State, batch: Batch
) -> tuple[list[Tensor], State]:
    """The same scaled to length 1."""
    passes = outputs(network, batch)
    found, carried = apply_head("projector", head, state, joined(passes), len(passes))
    return list(direction(found).split(batch.size, dim=1)), carried
