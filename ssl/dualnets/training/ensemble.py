"""Ensembles in parts: members that do not fit the memory together are trained part by part."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dualnets._checks import check_whole
from dualnets.training import memory
from dualnets.training.memory import take
from dualnets.training.state import TrainConfig, TrainState

MEMORY = 4 << 30  # bytes that members trained at once may take, on any machine
PER_PART = 16  # members whose steps are one operation on a CPU
Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Part:
    """Some members of an ensemble, in training."""

    network: nn.Module
    config: TrainConfig
    state: TrainState


def split(network: Any, config: TrainConfig, at_once: int) -> list[Part]:
    """The ensemble before its first step, in parts of `at_once` members; the network is copied."""
    members = len(config.data.members)
    if at_once >= members:
        whole = copy.deepcopy(network).train()
        return [Part(whole, config, config.init(whole))]
    parts = []
    for low in range(0, members, at_once):
        high = min(low + at_once, members)
        own, own_config = take(network, low, high).train(), config.of_members(low, high)
        parts.append(Part(own, own_config, own_config.init(own)))
    return parts


def members_per_part(network: nn.Module, members: int, at_once: int) -> int:
    """How many members are trained in one operation, of `members`, where `at_once` fit the memory.

    On a CPU equal parts of about `PER_PART`, of which several threads train one each. With fewer members the
    threads would wait for the interpreter's lock between short operations, with more their numbers leave the
    cache. A network that computes members one after the other has its own number, `members_per_part`. It
    depends on the ensemble alone, so that the number of threads changes no bit.
    """
    own = getattr(network, "members_per_part", None)
    if own is not None:
        return min(at_once, own)
    if next(network.parameters()).device.type != "cpu":
        return at_once
    return min(at_once, -(-members // max(members // PER_PART, 1)))


def restore(parts: Sequence[Part], network: nn.Module, whole: TrainState) -> None:
    """Put the parts where the whole ensemble stands: the inverse of `join` and `join_states`."""
    low = 0
    for part in parts:
        high = low + len(part.config.data.members)
        part.network = take(network, low, high).train()
        state = {
            name: tensor.detach()[low:high].clone().requires_grad_(tensor.requires_grad)
            for name, tensor in whole.state.items()
        }
        part.state = TrainState(
            state,
            {name: tensor[low:high].clone() for name, tensor in whole.memory.items()},
            whole.losses[low:high].clone(),
            whole.frozen_at[low:high].clone(),
        )
        low = high


def join(parts: Sequence[Network], like: Network) -> Network:
    """The networks of all parts as one, a copy of `like` with their parameters."""
    ours = (*like.parameters(), *like.buffers())
    theirs = zip(*((*part.parameters(), *part.buffers()) for part in parts), strict=True)
    joined = {
        id(tensor): torch.cat([piece.detach() for piece in pieces])
        for tensor, pieces in zip(ours, theirs, strict=True)
    }
    return memory.with_tensors(like, joined)


def join_states(parts: Sequence[TrainState]) -> TrainState:
    """The states of all parts as one; tensors are copies."""

    def joined(pieces: Iterable[Tensor]) -> Tensor:
        return torch.cat([piece.detach() for piece in pieces])

    first = parts[0]
    return TrainState(
        {name: joined(part.state[name] for part in parts) for name in first.state},
        {name: joined(part.memory[name] for part in parts) for name in first.memory},
        joined(part.losses for part in parts),
        joined(part.frozen_at for part in parts),
    )


def members_at_once(network: nn.Module, config: TrainConfig, wanted: int | None) -> int:
    """How many members share a step: as many as fit `MEMORY`, whatever the machine, or `wanted`.

    Nothing of the training is allocated to find out.

    Raises:
        TypeError: `wanted` is no whole number.
        ValueError: `wanted` is below 1.
        MemoryError: they would not fit the memory of this machine or device; the largest part is
            named.
    """
    members = len(config.data.members)
    if wanted is not None:
        check_whole("members_at_once", wanted, low=1)
    available = memory.memory_of(next(network.parameters()).device)
    bound = memory.upper_bound(take(network, 0, 1).train(), config.of_members(0, 1))
    if bound * members < min(MEMORY, available) // 2:
        return min(wanted or members, members)  # so small that nothing need be measured
    found = memory.footprint(network, config)
    count = min(wanted or max(MEMORY // found.each, 1), members)
    total = members * (found.stored + found.data) + found.shared + count * found.working
    if total > available:
        raise memory.memory_error(found, config, count, total, available)
    return count
