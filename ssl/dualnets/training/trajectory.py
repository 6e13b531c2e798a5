"""Training: a network at chosen steps (`trajectory`), or at the last one (`train`)."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dualnets._checks import check_kind, check_network, check_switch, check_whole
from dualnets.methods import discover
from dualnets.methods.protocol import Method, State, TrainContext
from dualnets.methods.source import Source
from dualnets.optim.optimizers import Optimizer
from dualnets.training import ensemble
from dualnets.training.checkpoint import Checkpoints
from dualnets.training.draw_ahead import drawn_ahead
from dualnets.training.ensemble import Part
from dualnets.training.fingerprint import fingerprint
from dualnets.training.memory import pick
from dualnets.training.rows import Epochs
from dualnets.training.source_rows import rows_for
from dualnets.training.state import Precision, TrainConfig, TrainState
from dualnets.training.steps import compile_steps, train_steps
from dualnets.training.threads import on_threads
from hltm._paths import alone, local_path
from hltm.tree import LatentTree

STEPS_AT_ONCE = 64  # between two calls of `progress`, at most


class Snapshot(NamedTuple):
    """A network in training, after `step` updates.

    Attributes:
        step: the number of updates.
        network: a copy, in evaluation mode.
        state: a copy of the method's.
        losses: `(S,)` of the last step; NaN before the first.
        frozen_at: `(S,)` int64, the step at which a member was frozen because its loss or gradient
            was not finite; -1 for a member that is trained.
    """

    step: int
    network: Any
    state: State
    losses: Tensor
    frozen_at: Tensor

    def __repr__(self) -> str:
        frozen = describe_frozen(self.network.members, self.frozen_at) or "none frozen"
        losses = ", ".join(f"{loss:.3g}" for loss in self.losses[:4].tolist())
        losses += ", …" * (len(self.losses) > 4)
        return (
            f"Snapshot(step {self.step}, {type(self.network).__name__} of {len(self.losses)}, "
            f"losses [{losses}], {len(self.state)} tensors of state, {frozen})"
        )

    def without_frozen(self, trees: LatentTree) -> tuple[Any, LatentTree]:
        """The networks that were not frozen and their trees, e.g. for `hltm.probe.measure`.

        Members keep their addresses: member 3 stays member 3.

        Args:
            trees: as the training was given them; one tree of many networks is returned as it is.

        Raises:
            ValueError: every member is frozen; trees that are not as many as the networks.

        Example:
            >>> import dualnets, hltm
            >>> trees = hltm.symmetric_binary(depth=3, members=3, seed=0)
            >>> final = dualnets.train(
            ...     dualnets.tree_network(trees, units=4, seed=1), dualnets.SimCLR(), trees,
            ...     augment=hltm.keep_root(), steps=20, batch=32, seed=2,
            ...     optimizer=dualnets.SGD(lr=[0.1, 1e30, 0.1]))
            >>> network, kept = final.without_frozen(trees)
            >>> network.members, kept.members
            ((0, 2), (0, 2))
        """
        kept = (self.frozen_at < 0).nonzero().flatten().tolist()
        if not kept:
            raise ValueError(
                f"no member is left: {describe_frozen(self.network.members, self.frozen_at)}"
            )
        if trees.stacked and trees.members != tuple(self.network.members):
            raise ValueError(
                f"the networks are members {self.network.members}, the trees {trees.members}"
            )
        network = pick(self.network, kept) if self.network.stacked else self.network
        return network, trees[kept] if trees.stacked else trees


class DivergedError(RuntimeError):
    """With `strict`, a member's loss or gradient was not finite."""


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
    network: Any,
    method: Method,
    source: LatentTree | Source,
    *,
    augment: Any,
    steps: int,
    batch: int,
    optimizer: Optimizer,
    seed: int,
    samples: int | None = None,
    snapshots: Sequence[int] | None = None,
    members_at_once: int | None = None,
    precision: Precision = "float32",
    checkpoints: Checkpoints | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Snapshot]:
    """Train a network and yield it as it was after chosen steps.

    Args:
        network: of `dualnets.networks`; it is left as it was, every snapshot has a copy.
        method: e.g. `SimCLR(InfoNCE(temperature=0.1))`.
        source: the data: one tree, or as many as the network has members; or another `Source`, such as
            pictures of `dualnets.images.load()`.
        augment: what a view redraws, or changes in a picture.
        steps: how many updates.
        batch: B, samples per step and member.
        optimizer: its settings; rates there and in the method may be one per member.
        seed: of the data, 64 bits; all networks and methods read the same rows at the same step.
        samples: P, for a fixed data set in epochs; by default trees give fresh data at every step, and
            other sources all they have.
        snapshots: the steps to yield; log-spaced by default; the last step is always among them.
        members_at_once: how many members share a step; by default as many as fit 4 GiB, so that
            the numbers do not depend on the machine.
        precision: `bfloat16` computes losses under autocast, on CUDA only.
        checkpoints: where to keep them; training goes on from the newest one there. One training at a time
            may write to a folder.
        strict: raise instead of freezing a member whose loss or gradient is not finite.
        progress: called with the number of steps just done.

    Yields:
        One Snapshot per chosen step, the untrained network first where step 0 is chosen.

    Raises:
        ValueError: before any work: steps below 0, batch below 2, snapshots outside 0..steps,
            a source, rates or samples that do not fit the network, what the method cannot do,
            checkpoints of another training.
        OSError: at the first step: a folder of checkpoints that another training writes to.
        TypeError: before any work: a name or a class where an object is expected, a torch module that
            is not a network of this package, a number of another type.
        MemoryError: before any work: what does not fit the memory; its largest part is named.
        DivergedError: where `strict`.
    """
    # 1. check all that was given
    _check_types(network, method, source, optimizer, checkpoints)
    steps = check_whole("steps", steps, low=0)
    batch = check_whole("batch", batch, low=2)
    if samples is not None:
        samples = check_whole("samples", samples, low=1)
    check_switch("strict", strict)
    chosen = _chosen_steps(snapshots, steps)
    _check_precision(precision, next(network.parameters()).device)
    optimizer.check(len(network.members))
    # 2. the data
    data = rows_for(
        network, method, source, augment=augment, batch=batch, seed=seed, samples=samples, steps=steps
    )  # fmt: skip
    # 3. the method, and what fits the memory
    size = data.samples if isinstance(data, Epochs) else None
    context = TrainContext(source, seed, steps, batch, size, augment)
    method.check(network, context)
    config = TrainConfig(method, optimizer, data, context, precision)
    at_once = ensemble.members_at_once(network, config, members_at_once)
    return _train(network, config, chosen, at_once, checkpoints, strict, progress)


def train(
    network: Any,
    method: Method,
    source: LatentTree | Source,
    *,
    augment: Any,
    steps: int,
    batch: int,
    optimizer: Optimizer,
    seed: int,
    samples: int | None = None,
    members_at_once: int | None = None,
    precision: Precision = "float32",
    checkpoints: Checkpoints | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Snapshot:
    """Train a network and return it after the last step.

    Arguments and errors are those of `trajectory`.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=3, members=2, seed=0)
        >>> network = dualnets.tree_network(trees, units=4, seed=1)
        >>> final = dualnets.train(network, dualnets.SimCLR(), trees, augment=hltm.keep_root(),
        ...                        steps=10, batch=32, optimizer=dualnets.SGD(lr=0.1), seed=2)
        >>> final.step, final.losses.shape
        (10, torch.Size([2]))
    """
    (final,) = trajectory(
        network, method, source, augment=augment, steps=steps, batch=batch, optimizer=optimizer,
        seed=seed, samples=samples, snapshots=[steps], members_at_once=members_at_once,
        precision=precision, checkpoints=checkpoints, strict=strict, progress=progress,
    )  # fmt: skip
    return final


def describe_frozen(members: Sequence[int], frozen_at: Tensor) -> str:
    """Which members were frozen and at which step `(S,)`, in one line; empty if none was."""
    frozen = [(m, int(at)) for m, at in zip(members, frozen_at.tolist(), strict=True) if at >= 0]
    if not frozen:
        return ""
    shown = ", ".join(f"member {m} at step {at}" for m, at in frozen[:8])
    more = f" and {len(frozen) - 8} more" if len(frozen) > 8 else ""
    return f"loss or gradient not finite: {shown}{more}"


def _check_types(network: Any, method: Any, source: Any, optimizer: Any, checkpoints: Any) -> None:
    """Raise TypeError where a name or a class is given in place of an object."""
    check_network("network", network)
    known = discover() if isinstance(method, str) else {}
    if method in known:
        raise TypeError(
            f"method must be such as dualnets.{known[method].__name__}(), got {method!r}, its word on the "
            "command line"
        )
    check_kind("method", method, Method, "dualnets.SimCLR()")
    if isinstance(source, type) or not isinstance(source, LatentTree | Source):
        example = "hltm.symmetric_binary(depth=3, seed=0) or dualnets.images.load('digits')"
        check_kind("source", source, LatentTree, example)
    check_kind("optimizer", optimizer, Optimizer, "dualnets.SGD(lr=0.1)")
    if checkpoints is not None:
        check_kind("checkpoints", checkpoints, Checkpoints, "dualnets.Checkpoints(folder)")


def _chosen_steps(snapshots: Any, steps: int) -> list[int]:
    """The steps of the snapshots, checked and sorted; the last step is among them."""
    chosen: Any = log_spaced(steps) if snapshots is None else snapshots
    chosen = chosen.tolist() if hasattr(chosen, "tolist") else chosen  # numpy's and torch's
    if not isinstance(chosen, Iterable):
        raise TypeError(f"snapshots must be steps such as [0, 10], got {chosen!r}")
    # any whole number here, so that one error names the range
    found = sorted({*(check_whole("a snapshot", s, low=-(1 << 62)) for s in chosen), steps})
    if found[0] < 0 or found[-1] > steps:
        raise ValueError(f"snapshots must lie in 0..{steps}, got {found[0]}..{found[-1]}")
    return found


def _check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError where there is no such precision on the device of the network."""
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
    if precision == "bfloat16" and device.type != "cuda":
        raise ValueError(f"bfloat16 is for CUDA, the network is on {device}")


def _train(
    network: Any,
    config: TrainConfig,
    chosen: Sequence[int],
    at_once: int,
    checkpoints: Checkpoints | None,
    strict: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[Snapshot]:
    """Train in parts, on threads, whose rows are drawn ahead where that is faster.

    Two trainings in one folder of checkpoints would remove each other's.
    """
    each = ensemble.members_per_part(network, len(config.data.members), at_once)
    parts = ensemble.split(network, config, each)
    if chosen[-1] > 0:
        compile_steps(parts[0].network, parts[0].config, parts[0].state)
    # parts that are trained side by side are no more than fit the memory
    threads = min(len(parts), max(at_once // each, 1), torch.get_num_threads())
    own = nullcontext() if checkpoints is None else alone(local_path(checkpoints.folder))
    with own, drawn_ahead(parts, chosen[-1]):
        try:
            yield from _train_parts(
                parts, threads, network, config, chosen, checkpoints, strict, progress
            )
        except KeyboardInterrupt as interrupt:
            if checkpoints is not None:
                newest = (
                    f"step {checkpoints.steps()[-1]}" if checkpoints.steps() else "the beginning"
                )
                interrupt.add_note(
                    f"The training was interrupted; the same call goes on from {newest}, with the "
                    f"checkpoints in {os.fspath(checkpoints.folder)}."
                )
            raise


def _train_parts(
    parts: Sequence[Part],
    threads: int,
    network: Any,
    config: TrainConfig,
    chosen: Sequence[int],
    checkpoints: Checkpoints | None,
    strict: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[Snapshot]:
    """The training loop: yield a snapshot at every chosen step."""
    members = config.data.members
    step = 0
    stored: list[int] = []
    made_with: dict[str, str] = {}
    stops = {*chosen}
    # 1. go on from the newest checkpoint; snapshots that were yielded before come again
    if checkpoints is not None:
        initial = [tensor for part in parts for tensor in part.state.state.values()]
        made_with = fingerprint(network, config, chosen, len(parts[0].config.data.members), initial)
        stored = checkpoints.check(made_with)
        for step in stored:
            if step in chosen or step == stored[-1]:
                whole = copy.deepcopy(network)
                state = checkpoints.load(step, whole, like=parts[0].state)
                ensemble.restore(parts, whole, state)
                if step in chosen:
                    yield _snapshot(step, whole, state)
        if progress is not None and step:
            progress(step)
        stops |= {*range(0, chosen[-1] + 1, checkpoints.every)}
    for stop in sorted(stops):
        if stop < step or (stop == step and stop in stored):
            continue  # before the newest checkpoint
        # 2. train up to the next stop, parts on threads
        while step < stop:
            many = min(STEPS_AT_ONCE, stop - step)
            on_threads(partial(_advance, step=step, steps=many), parts, threads)
            step += many
            frozen_at = torch.cat([part.state.frozen_at for part in parts])
            if strict and bool((frozen_at >= 0).any()):
                raise DivergedError(describe_frozen(members, frozen_at))
            if progress is not None:
                progress(many)
        # 3. store and yield the whole ensemble
        whole = ensemble.join([part.network for part in parts], network)
        state = ensemble.join_states([part.state for part in parts])
        if checkpoints is not None:
            checkpoints.save(step, made_with, whole, state, snapshot=stop in chosen)
        if stop in chosen:
            yield _snapshot(step, whole, state)


def _advance(part: Part, step: int, steps: int) -> None:
    """Train one part, in chunks of as many steps as their data fit the memory set aside for them."""
    most = part.config.data.steps_at_once(part.config.method.needs)
    end = step + steps
    while step < end:
        many = min(most, end - step)
        part.state = train_steps(part.network, part.config, part.state, step, many)
        step += many


def _snapshot(step: int, network: Any, state: TrainState) -> Snapshot:
    return Snapshot(step, network.eval(), state.state, state.losses, state.frozen_at)
