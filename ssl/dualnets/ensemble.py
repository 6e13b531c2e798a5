"""Ensembles in parts: some members of a network, parts put together again, and what memory they take."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from dualnets.span import Progress, Recipe

MEMORY = 4 << 30  # bytes that members trained at once may take, on any machine
Network = TypeVar("Network", bound=nn.Module)


def take(network: Network, low: int, high: int) -> Network:
    """Members low..high-1 of a network, copied.

    Example:
        >>> import dualnets, hltm
        >>> tree = hltm.symmetric_binary(depth=2, seed=0)
        >>> take(dualnets.tree_network(tree, units=3, members=5, seed=1), 1, 3).members
        (1, 2)
    """
    found = copy.deepcopy(network)
    for tensor in (*found.parameters(), *found.buffers()):
        tensor.data = tensor.data[low:high].clone()
    found.members = tuple(network.members)[low:high]  # type: ignore[arg-type, assignment]
    return found


def join(parts: Sequence[Network], like: Network) -> Network:
    """The networks of all parts as one, a copy of `like` with their parameters."""
    found = copy.deepcopy(like)
    ours = (*found.parameters(), *found.buffers())
    theirs = zip(*((*part.parameters(), *part.buffers()) for part in parts), strict=True)
    for tensor, pieces in zip(ours, theirs, strict=True):
        tensor.data = torch.cat([piece.data for piece in pieces])
    return found


def join_progress(parts: Sequence[Progress]) -> Progress:
    """Where the training of all parts stands, as one; tensors are copies."""

    def joined(pieces: Iterable[Tensor]) -> Tensor:
        return torch.cat([piece.detach() for piece in pieces])

    first = parts[0]
    return Progress(
        {name: joined(part.state[name] for part in parts) for name in first.state},
        {name: joined(part.memory[name] for part in parts) for name in first.memory},
        joined(part.losses for part in parts),
        joined(part.frozen_at for part in parts),
    )


def bytes_per_member(network: nn.Module, recipe: Recipe) -> int:
    """What one more member takes in training, in bytes.

    Counted, not guessed: parameters, gradients, the method's state, the optimiser's memory, and all
    that one step's loss keeps for the backward pass, in a trial with the first member.
    """
    one = take(network, 0, 1)
    data = recipe.data.of_members(0, 1)
    alone = recipe._replace(data=data, optimizer=recipe.optimizer.of_members(0, 1))
    progress = alone.begin(one)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    needs = recipe.method.needs
    (batch,) = data.batches(needs, 0, 1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        recipe.method.loss(one, progress.state, batch)
    own = [*one.parameters(), *one.buffers(), *progress.state.values(), *progress.memory.values()]
    stored = sum(tensor.nbytes for tensor in own)
    gradients = sum(tensor.nbytes for tensor in [*one.parameters(), *progress.state.values()])
    # going backward, gradients of activations stand beside the activations
    return stored + gradients + 2 * sum(kept.values()) + batch.leaves.nbytes


def members_at_once(network: nn.Module, recipe: Recipe, wanted: int | None) -> int:
    """How many members are trained at once; by default as many as fit `MEMORY`, whatever the machine.

    Raises:
        ValueError: fewer than one.
        MemoryError: they would not fit the memory of this machine or device.
    """
    members = len(recipe.data.members)
    if wanted is not None and wanted < 1:
        raise ValueError(f"members_at_once must be at least 1, got {wanted}")
    if len(recipe.data.trees.leaves) * recipe.setup.batch * members < 1 << 20 and wanted is None:
        return members  # small enough to need no trial
    each = bytes_per_member(network, recipe)
    count = min(wanted or max(MEMORY // each, 1), members)
    there = _memory(next(network.parameters()).device)
    if each * count > there:
        raise MemoryError(
            f"{count} members at once take about {each * count / 2**30:.1f} GiB, there are "
            f"{there / 2**30:.1f} GiB; lower members_at_once, batch or units"
        )
    return count


def _memory(device: torch.device) -> int:
    """Bytes that the machine or the device has."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
