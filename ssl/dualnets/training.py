"""Training: a trajectory of snapshots, and its last one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dualnets.methods.protocol import Method, State
from dualnets.networks.block_network import BlockNetwork
from dualnets.optim import SGD
from dualnets.span import FreshData, Progress, run_span
from hltm.augment import Augmentation
from hltm.philox import check_seed
from hltm.tree import LatentTree

STEPS_AT_ONCE = 64  # between two reports of progress


class Snapshot(NamedTuple):
    """A network in training, as it stood after `step` updates.

    Attributes:
        step: how many updates it has had.
        network: a copy of its own.
        state: the method's.
        losses: `(S,)` of the last step; NaN before the first.
        frozen_at: `(S,)` int64, the step at which a member was frozen because its loss or gradient
            was not finite; -1 for a member that is alive.
    """

    step: int
    network: BlockNetwork
    state: State
    losses: Tensor
    frozen_at: Tensor


class DivergedError(RuntimeError):
    """A member's loss or gradient was not finite and `strict` was asked for."""


def log_spaced(steps: int, count: int = 16) -> list[int]:
    """At most `count` (but at least two) whole steps from 0 to `steps`, evenly spaced on a logarithmic axis.

    Example:
        >>> log_spaced(1000, 7)
        [0, 1, 4, 16, 63, 251, 1000]
    """
    if steps < 1:
        return [0]
    between = [steps ** (i / (count - 2)) for i in range(count - 2)]
    return sorted({0, steps, *(round(step) for step in between)})


def trajectory(
    network: BlockNetwork,
    method: Method,
    trees: LatentTree,
    *,
    augment: Augmentation,
    steps: int,
    batch: int,
    optimizer: SGD,
    seed: int,
    snapshots: Sequence[int] | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Snapshot]:
    """Train on fresh data and yield the network as it was after chosen steps.

    Args:
        network: left as it was; every snapshot holds a copy.
        method: e.g. `SimCLR(InfoNCE(temperature=0.1))`.
        trees: the data; one tree, or as many as the network has members.
        augment: what a view draws again.
        steps: how many updates.
        batch: B, samples per step and member.
        optimizer: its settings.
        seed: of the data, 64 bits; steps read the same rows whatever the network and method.
        snapshots: the steps to yield; log-spaced by default; the last step always comes.
        strict: raise instead of freezing a member whose loss or gradient is not finite.
        progress: called with the number of steps just done.

    Yields:
        One Snapshot per chosen step, the untrained network first where 0 is chosen.

    Raises:
        ValueError: before any work: steps below 0, batch below 2, snapshots outside 0..steps,
            trees, rates or leaves that do not fit the network.
        DivergedError: where `strict`.
    """
    if steps < 0:
        raise ValueError(f"steps must be at least 0, got {steps}")
    if batch < 2:
        raise ValueError(f"batch must be at least 2, got {batch}")
    wanted = sorted({*(log_spaced(steps) if snapshots is None else snapshots), steps})
    if wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"snapshots must lie in 0..{steps}, got {wanted[0]}..{wanted[-1]}")
    members = len(network.members)
    if trees.members != network.members and len(trees.members) != 1:
        raise ValueError(f"{len(trees.members)} trees cannot train {members} networks")
    if len(trees.leaves) != network.inputs:
        raise ValueError(
            f"the trees have {len(trees.leaves)} leaves, the network reads {network.inputs}"
        )
    if augment.missing_rates(trees).any():
        raise ValueError(f"networks here read whole samples, but {augment} misses leaves")
    optimizer.check(members)
    data = FreshData(
        trees=trees,
        members=network.members,
        rates=augment.rates(trees),
        batch=batch,
        seed=check_seed(seed),
        stacked=network.stacked,
        device=network.device,
    )
    return _train(network, method, optimizer, data, wanted, strict, progress)


def _train(
    given: BlockNetwork,
    method: Method,
    optimizer: SGD,
    data: FreshData,
    wanted: Sequence[int],
    strict: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[Snapshot]:
    network = copy.deepcopy(given)
    members, device = len(network.members), network.device
    now = Progress(
        method.init(network, data.seed),
        torch.full((members,), torch.nan, dtype=network.dtype, device=device),
        torch.full((members,), -1, device=device),
    )
    most = min(STEPS_AT_ONCE, data.steps_at_once(method.needs))
    step = 0
    for target in wanted:
        while step < target:
            count = min(most, target - step)
            now = run_span(network, method, optimizer, data, now, step, count)
            step += count
            if strict and bool((now.frozen_at >= 0).any()):
                raise DivergedError(describe_frozen(network.members, now.frozen_at))
            if progress is not None:
                progress(count)
        yield Snapshot(step, copy.deepcopy(network), now.state, now.losses, now.frozen_at)


def train(
    network: BlockNetwork,
    method: Method,
    trees: LatentTree,
    *,
    augment: Augmentation,
    steps: int,
    batch: int,
    optimizer: SGD,
    seed: int,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Snapshot:
    """The last snapshot of a `trajectory`.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> final = dualnets.train(network, dualnets.SimCLR(), trees, augment=hltm.keep_root(),
        ...                        steps=10, batch=32, optimizer=dualnets.SGD(lr=0.1), seed=2)
        >>> final.step, final.losses.shape
        (10, torch.Size([2]))
    """
    found = trajectory(
        network,
        method,
        trees,
        augment=augment,
        steps=steps,
        batch=batch,
        optimizer=optimizer,
        seed=seed,
        snapshots=[steps],
        strict=strict,
        progress=progress,
    )
    return next(found)


def describe_frozen(members: Sequence[int], frozen_at: Tensor) -> str:
    """Which members were frozen and when, in one line; empty if none was."""
    frozen = [(m, int(at)) for m, at in zip(members, frozen_at.tolist(), strict=True) if at >= 0]
    if not frozen:
        return ""
    shown = ", ".join(f"member {m} at step {at}" for m, at in frozen[:8])
    more = f" and {len(frozen) - 8} more" if len(frozen) > 8 else ""
    return f"loss or gradient not finite: {shown}{more}"
