"""Ensembles in parts: how many members are trained at once, and parts put together again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from dualnets._checks import check_whole
from dualnets.training.memory import (
    at_most,
    config_of,
    footprint,
    memory_error,
    memory_of,
    take,
    with_tensors,
)
from dualnets.training.steps import TrainConfig, TrainState

MEMORY = 4 << 30  # bytes that members trained at once may take, on any machine
Network = TypeVar("Network", bound=nn.Module)


def join(parts: Sequence[Network], like: Network) -> Network:
    """The networks of all parts as one, a copy of `like` with their parameters."""
    ours = (*like.parameters(), *like.buffers())
    theirs = zip(*((*part.parameters(), *part.buffers()) for part in parts), strict=True)
    joined = {
        id(tensor): torch.cat([piece.detach() for piece in pieces])
        for tensor, pieces in zip(ours, theirs, strict=True)
    }
    return with_tensors(like, joined)


def join_states(parts: Sequence[TrainState]) -> TrainState:
    """Where the training of all parts stands, as one; tensors are copies."""

    def joined(pieces: Iterable[Tensor]) -> Tensor:
        return torch.cat([piece.detach() for piece in pieces])

    first = parts[0]
    return TrainState(
        {name: joined(part.state[name] for part in parts) for name in first.state},
        {name: joined(part.memory[name] for part in parts) for name in first.memory},
        joined(part.losses for part in parts),
        joined(part.frozen_at for part in parts),
    )


def members_at_once(network: nn.Module, recipe: TrainConfig, wanted: int | None) -> int:
    """How many members are trained at once; by default as many as fit `MEMORY`, whatever the machine.

    Nothing of the training is allocated to find out.

    Raises:
        TypeError: no whole number.
        ValueError: fewer than one.
        MemoryError: they would not fit the memory of this machine or device; the largest part is
            named.
    """
    members = len(recipe.data.members)
    if wanted is not None:
        check_whole("members_at_once", wanted, low=1)
    there = memory_of(next(network.parameters()).device)
    most = at_most(take(network, 0, 1).train(), config_of(recipe, 0, 1))
    if most * members < min(MEMORY, there) // 2:
        return min(wanted or members, members)  # small enough to need no trial
    found = footprint(network, recipe)
    count = min(wanted or max(MEMORY // found.each, 1), members)
    total = members * (found.stored + found.data) + found.shared + count * found.passing
    if total > there:
        raise memory_error(found, recipe, count, total, there)
    return count
