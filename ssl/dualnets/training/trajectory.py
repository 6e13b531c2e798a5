"""Training: a trajectory of snapshots, and its last one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dualnets._checks import check_kind, check_network, check_switch, check_whole
from dualnets.methods.protocol import Method, State, TrainContext, detached_copy
from dualnets.optim.optimizers import Optimizer
from dualnets.training.checkpoint import Checkpoints, digest
from dualnets.training.data import FixedData, FreshData, Rows
from dualnets.training.ensemble import join, join_states
from dualnets.training.ensemble import members_at_once as how_many_at_once
from dualnets.training.memory import config_of, take
from dualnets.training.steps import Precision, TrainConfig, TrainState, train_steps
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import DRAW_FORMAT, Stream, check_seed, uniform
from hltm.tree import LatentTree

STEPS_AT_ONCE = 64  # between two reports of progress


class Snapshot(NamedTuple):
    """A network in training, as it stood after `step` updates.

    Attributes:
        step: how many updates it has had.
        network: a copy of its own, in evaluation mode.
        state: the method's, copied.
        losses: `(S,)` of the last step; NaN before the first.
        frozen_at: `(S,)` int64, the step at which a member was frozen because its loss or gradient
            was not finite; -1 for a member that is alive.
    """

    step: int
    network: Any
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
    network: Any,
    method: Method,
    trees: LatentTree,
    *,
    augment: Augmentation,
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
    """Train and yield the network as it was after chosen steps.

    Args:
        network: of `dualnets.networks`; left as it was, every snapshot holds a copy.
        method: e.g. `SimCLR(InfoNCE(temperature=0.1))`.
        trees: the data; one tree, or as many as the network has members.
        augment: what a view draws again.
        steps: how many updates.
        batch: B, samples per step and member.
        optimizer: its settings; rates there and in the method may be one per member.
        seed: of the data, 64 bits; steps read the same rows whatever the network and method.
        samples: P, for a fixed set of samples in epochs; fresh data by default.
        snapshots: the steps to yield; log-spaced by default; the last step always comes.
        members_at_once: how many members share a step; by default as many as fit 4 GiB, so that
            the numbers do not depend on the machine.
        precision: `bfloat16` computes losses under autocast, on CUDA only.
        checkpoints: where to keep them; training goes on from the newest there.
        strict: raise instead of freezing a member whose loss or gradient is not finite.
        progress: called with the number of steps just done.

    Yields:
        One Snapshot per chosen step, the untrained network first where 0 is chosen.

    Raises:
        ValueError: before any work: steps below 0, batch below 2, snapshots outside 0..steps,
            trees, rates, samples or leaves that do not fit the network, what the method cannot do,
            checkpoints of another training.
        TypeError: before any work: a name or a class where an object is expected, a torch module that
            is no network, a number of another kind.
        MemoryError: before any work: what does not fit the memory; its largest part is named.
        DivergedError: where `strict`.
    """
    _check_kinds(network, method, trees, augment, optimizer, checkpoints)
    steps = check_whole("steps", steps, low=0)
    batch = check_whole("batch", batch, low=2)
    if samples is not None:
        samples = check_whole("samples", samples, low=1)
    check_switch("strict", strict)
    chosen: Any = log_spaced(steps) if snapshots is None else snapshots
    chosen = chosen.tolist() if hasattr(chosen, "tolist") else chosen  # numpy's and torch's
    if not isinstance(chosen, Iterable):
        raise TypeError(f"snapshots must be steps such as [0, 10], got {chosen!r}")
    wanted = sorted({*(check_whole("a snapshot", s, low=-(1 << 62)) for s in chosen), steps})
    if wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"snapshots must lie in 0..{steps}, got {wanted[0]}..{wanted[-1]}")
    members = tuple(network.members)
    if trees.members != members and len(trees.members) != 1:
        raise ValueError(f"{len(trees.members)} trees cannot train {len(members)} networks")
    if len(trees.leaves) != network.inputs:
        raise ValueError(
            f"the trees have {len(trees.leaves)} leaves, the network reads {network.inputs}"
        )
    if augment.missing_rates(trees).any():
        raise ValueError(f"networks here read whole samples, but {augment} misses leaves")
    augment.rates(trees)
    device = next(network.parameters()).device
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be float32 or bfloat16, got {precision!r}")
    if precision == "bfloat16" and device.type != "cuda":
        raise ValueError(f"bfloat16 is for CUDA, the network is on {device}")
    optimizer.check(len(members))
    given: dict[str, Any] = {
        "trees": trees, "members": members, "augment": augment, "batch": batch,
        "seed": check_seed(seed), "stacked": network.stacked, "device": device,
    }  # fmt: skip
    data: Rows = FreshData(**given) if samples is None else FixedData(**given, samples=samples)
    data.check(method.needs, steps)
    setup = TrainContext(trees, seed, steps, batch, samples)
    method.check(network, setup)
    recipe = TrainConfig(method, optimizer, data, setup, precision)
    count = how_many_at_once(network, recipe, members_at_once)
    return _train(network, recipe, wanted, count, checkpoints, strict, progress)


def _check_kinds(
    network: Any, method: Any, trees: Any, augment: Any, optimizer: Any, checkpoints: Any
) -> None:
    """What is taken for another thing most easily: a name for an object, a class for an instance."""
    check_network("network", network)
    wanted: list[tuple[str, Any, type, str]] = [
        ("method", method, Method, "dualnets.SimCLR()"),
        ("trees", trees, LatentTree, "hltm.symmetric_binary(depth=3, seed=0)"),
        ("augment", augment, Augmentation, "hltm.keep_root()"),
        ("optimizer", optimizer, Optimizer, "dualnets.SGD(lr=0.1)"),
    ]
    if checkpoints is not None:
        wanted.append(("checkpoints", checkpoints, Checkpoints, "dualnets.Checkpoints(folder)"))
    for name, given, kind, example in wanted:
        check_kind(name, given, kind, example)


@dataclass
class _Part:
    """Some members on their way."""

    network: nn.Module
    recipe: TrainConfig
    now: TrainState


def _parts(given: Any, recipe: TrainConfig, at_once: int) -> list[_Part]:
    """The ensemble in parts that are trained one after the other."""
    members = len(recipe.data.members)
    found = []
    for low in range(0, members, at_once):
        high = min(low + at_once, members)
        whole = at_once >= members
        network = copy.deepcopy(given) if whole else take(given, low, high)
        network.train()
        own = recipe if whole else config_of(recipe, low, high)
        found.append(_Part(network, own, own.begin(network)))
    return found


def _train(
    given: Any,
    recipe: TrainConfig,
    wanted: Sequence[int],
    count: int,
    checkpoints: Checkpoints | None,
    strict: bool,
    progress: Callable[[int], None] | None,
) -> Iterator[Snapshot]:
    parts = _parts(given, recipe, count)
    members = recipe.data.members
    made_with: dict[str, str] = {}
    step = 0
    stored: list[int] = []
    if checkpoints is not None:
        made_with = _made_with(given, recipe, wanted, parts)
        checkpoints.check(made_with)
        stored = checkpoints.steps()
        for old in stored:
            if old in wanted or old == stored[-1]:
                network, now = _restore(checkpoints, old, given, parts)
                if old in wanted:
                    yield _snapshot(old, network, now)
                step = old
        if progress is not None and step:
            progress(step)
    stops = set(wanted)
    if checkpoints is not None:
        stops |= set(range(0, wanted[-1] + 1, checkpoints.every))
    for target in sorted(stops):
        if target < step or (target == step and target in stored):
            continue  # it is on disk already, and was yielded where it is wanted
        while step < target:
            many = min(STEPS_AT_ONCE, target - step)
            for part in parts:
                _advance(part, step, many)
            step += many
            frozen_at = torch.cat([part.now.frozen_at for part in parts])
            if strict and bool((frozen_at >= 0).any()):
                raise DivergedError(describe_frozen(members, frozen_at))
            if progress is not None:
                progress(many)
        network = join([part.network for part in parts], given)
        now = join_states([part.now for part in parts])
        if checkpoints is not None:
            checkpoints.save(step, made_with, network, now, snapshot=target in wanted)
        if target in wanted:
            yield _snapshot(step, network, now)


def _advance(part: _Part, step: int, steps: int) -> None:
    """Train one part, in spans whose data fit the memory set aside for them."""
    most = part.recipe.data.steps_at_once(part.recipe.method.needs)
    end = step + steps
    while step < end:
        many = min(most, end - step)
        part.now = train_steps(part.network, part.recipe, part.now, step, many)
        step += many


def _snapshot(step: int, network: nn.Module, now: TrainState) -> Snapshot:
    return Snapshot(step, network.eval(), now.state, now.losses, now.frozen_at)


def _restore(
    checkpoints: Checkpoints, step: int, given: Any, parts: list[_Part]
) -> tuple[nn.Module, TrainState]:
    """The whole ensemble as it stood at a checkpoint; the parts go on from there."""
    network = copy.deepcopy(given)
    now = checkpoints.load(step, network, like=parts[0].now)
    low = 0
    for part in parts:
        high = low + len(part.recipe.data.members)
        part.network = take(network, low, high).train()
        trained = {name: tensor.requires_grad for name, tensor in now.state.items()}
        part.now = TrainState(
            {
                name: tensor.detach()[low:high].clone().requires_grad_(trained[name])
                for name, tensor in now.state.items()
            },
            {name: tensor[low:high].clone() for name, tensor in now.memory.items()},
            now.losses[low:high].clone(),
            now.frozen_at[low:high].clone(),
        )
        low = high
    return network, now


def _made_with(
    network: Any, recipe: TrainConfig, wanted: Sequence[int], parts: Sequence[_Part]
) -> dict[str, str]:
    """What must be the same where training goes on; `parts` stand at their beginning."""
    count = len(parts[0].recipe.data.members)
    states = [tensor for part in parts for tensor in part.now.state.values()]
    data, tables = recipe.data, recipe.data.trees.tables
    return {
        "network": repr(network),
        "initial parameters": digest(*detached_copy(network).values()),
        "initial outputs": _outputs(network, data.trees),
        "method": repr(recipe.method),
        "the method's initial state": digest(*states),
        "optimizer": repr(recipe.optimizer),
        "augment": f"{data.augment}, rates {digest(data.augment.rates(data.trees))}",
        "trees": f"{len(tables.flat)} with {len(tables.topology)} nodes, "
        + digest(tables.topology.parent, tables.cardinality, tables.flat),
        "members": repr(data.members),
        "seed": str(data.seed),
        "steps": str(recipe.setup.steps),
        "batch": str(data.batch),
        "samples": str(recipe.setup.samples),
        "snapshots": repr(list(wanted)),
        "members_at_once": str(count),
        "precision": recipe.precision,
        "draw_format": str(DRAW_FORMAT),
        "torch": torch.__version__,
    }


def _outputs(network: Any, trees: LatentTree) -> str:
    """What the network makes of fixed leaves, in a few numbers: what its parameters do not tell.

    A network may read leaves through any function, and its repr need not say which.
    """
    rows, states = 8, torch.from_numpy(trees.tables.cardinality[list(trees.leaves)])
    address: dict[str, Any] = {"seed": 0, "stream": Stream.EVALUATION, "members": (0,), "node": 0}
    leaves = (uniform(rows * len(states), **address).view(rows, -1) * states).to(torch.uint8)
    twin = copy.deepcopy(network).eval()  # a forward pass may count
    many = leaves.expand(len(network.members), -1, -1) if network.stacked else leaves
    with torch.no_grad():
        found = twin(many.to(next(network.parameters()).device))
    finite = found.double().nan_to_num(0.0, 0.0, 0.0)  # (S, rows, U), or (rows, U)
    weights = uniform(finite.shape[-1], **{**address, "view": 1})[0].to(finite) + 0.5
    per_row = (finite @ weights).view(-1, rows).mean(0)
    return " ".join(f"{number:.6g}" for number in per_row.tolist())


def train(
    network: Any,
    method: Method,
    trees: LatentTree,
    *,
    augment: Augmentation,
    steps: int,
    batch: int,
    optimizer: Optimizer,
    seed: int,
    **others: Any,
) -> Snapshot:
    """The last snapshot of a `trajectory`, which says what the other arguments are.

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
        **others,
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
