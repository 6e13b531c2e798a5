"""Steps of training: draw, forward, loss, backward, update, compiled where that is supported."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Method, State
from dualnets.methods.siamese import SiameseSpec
from dualnets.optim.compiled import CompiledUpdate, is_compiled
from dualnets.optim.optimizers import SGD
from dualnets.optim.schedule import Schedule
from dualnets.training.compiled import pairs, siamese
from dualnets.training.data import TreeRows, Undrawn
from dualnets.training.eager import differentiate, groups_by_name, merge, train_steps_eager
from dualnets.training.fused import pairs as fused_pairs
from dualnets.training.fused import siamese as fused_siamese
from dualnets.training.fused.launch import LaunchError
from dualnets.training.recorded.capture import Recording, is_repeatable
from dualnets.training.recorded.graphs import Graph
from dualnets.training.state import TrainConfig, TrainState
from dualnets.training.state import trained_tensors as trained_tensors

# steps of a whole training, for which recording them takes less time than it saves: a graph is recorded in
# about the time of ten steps, operations are traced and compared for seconds
WORTH_RECORDING = 1000
WORTH_A_GRAPH = 50
_one_at_a_time = Lock()  # torch.fx does not record on several threads
_recordings: WeakKeyDictionary[nn.Module, Recording | Graph | None] = WeakKeyDictionary()


def train_steps(
    network: nn.Module, config: TrainConfig, before: TrainState, first_step: int, steps: int
) -> TrainState:
    """Train the network in place for `steps` steps, by the fastest code that computes the same:

    1. many steps of a member in one kernel: of `compiled` on a CPU, of `fused` on CUDA
    2. a recorded step: a CUDA graph, on other devices a list of operations
    3. plain torch

    Compiled code replaces the optimiser, its schedule, the assembly of batches, the method and the
    network, so each must be exactly of a class that it knows: a subclass may do something else.
    """
    optimizer, data = config.optimizer, _known_rows(config)
    if data is not None:
        found = _train_compiled(network, config, data, before, first_step, steps)
        if found is None and type(optimizer) is SGD and type(optimizer.schedule) is Schedule:
            with suppress(LaunchError):  # then in plain torch
                found = _train_fused(network, config, data, before, first_step, steps)
        if found is not None:
            return found
    recorded = _recorded(network, config, before, first_step)
    if isinstance(recorded, Graph):
        return train_steps_eager(network, config, before, first_step, steps, advance=recorded)
    gradients = recorded or differentiate
    return train_steps_eager(network, config, before, first_step, steps, gradients)


def compile_steps(network: nn.Module, config: TrainConfig, before: TrainState) -> None:
    """Compile what the first step will call, where that is one kernel, without drawing or training.

    Kernels of the draws may be compiled by another process meanwhile.
    """
    data = _known_rows(config)
    if data is not None:
        frozen = before._replace(frozen_at=torch.zeros_like(before.frozen_at))
        _train_compiled(network, config, Undrawn.like(data), frozen, 0, 1)


def _known_rows(config: TrainConfig) -> TreeRows | None:
    """The rows, where they are of trees and in batches that compiled and fused steps assemble themselves."""
    data = config.data
    if not isinstance(data, TreeRows) or type(data).batches is not TreeRows.batches:
        return None
    return data if config.precision == "float32" else None


def _recorded(
    network: nn.Module, config: TrainConfig, before: TrainState, first_step: int
) -> Recording | Graph | None:
    """The step of this training as recorded operations, where that is possible and pays.

    It depends on the whole training, not on what is left of it, so that one that is interrupted goes
    on in the same way.
    """
    if network in _recordings:
        found = _recordings[network]
        if found is None or found.fits(network, config, before):
            return found
        del _recordings[network]  # and its memory, before there is another
    kind = Graph if before.frozen_at.is_cuda else Recording
    if config.context.steps < (WORTH_A_GRAPH if kind is Graph else WORTH_RECORDING):
        return None
    found = None
    if is_repeatable(network, config):
        (batch,) = config.data.batches(config.method.needs, first_step, 1)
        try:
            with _one_at_a_time:
                found = kind(network, config, before, batch)
        except Exception as error:  # of many kinds: what cannot be recorded is run as it is
            if kind is Graph:
                warnings.warn(
                    f"a step cannot be recorded as a CUDA graph, so its operations are launched one by "
                    f"one: {error}",
                    stacklevel=2,
                )
    _recordings[network] = found
    return found


def _train_compiled(
    network: nn.Module,
    config: TrainConfig,
    data: TreeRows,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState | None:
    """Steps compiled for a CPU; None where they are not supported."""
    method, optimizer, total = config.method, config.optimizer, config.context.steps
    pair_kernel = pairs.supported_kernel(network, _own_property(method, "plain_loss"))
    spec = _own_property(method, "siamese")
    siamese_kernel = None if pair_kernel else siamese.supported_kernel(network, spec)
    if pair_kernel is None and siamese_kernel is None:
        return None
    trained = trained_tensors(network, before.state)
    if not is_compiled(optimizer, trained, before.memory):
        return None
    update = CompiledUpdate(optimizer, trained, before.memory, groups_by_name(method, trained))
    if siamese_kernel is None:
        assert pair_kernel is not None

        def train_pairs(leaves: Sequence[Tensor], frozen_at: Tensor) -> Tensor:
            return pairs.train(
                pair_kernel, update, leaves, data.batch, first_step, total, frozen_at
            )

        return _train_pairs(train_pairs, config, data, before, first_step, steps)
    train = partial(siamese.train, siamese_kernel, update)
    return _train_siamese(
        train, siamese_kernel.spec, network, config, data, before, first_step, steps
    )


def _train_fused(
    network: nn.Module,
    config: TrainConfig,
    data: TreeRows,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState | None:
    """Steps by SGD fused for a GPU; None where they are not supported.

    Raises:
        LaunchError: the kernel could not be compiled or started; nothing was changed.
    """
    method, optimizer, batch = config.method, config.optimizer, data.batch
    loss = _own_property(method, "plain_loss") if optimizer.is_plain else None
    pair_kernel = fused_pairs.supported_kernel(network, loss)
    if pair_kernel is not None:

        def train_pairs(leaves: Sequence[Tensor], frozen_at: Tensor) -> Tensor:
            return fused_pairs.train(
                pair_kernel, optimizer.lr, leaves, batch, first_step, frozen_at
            )

        return _train_pairs(train_pairs, config, data, before, first_step, steps)
    spec = _own_property(method, "siamese")
    kernel = fused_siamese.supported_kernel(network, spec, optimizer, method.groups, batch)
    if kernel is None:
        return None
    train = partial(fused_siamese.train, kernel, before.memory)
    return _train_siamese(train, kernel.spec, network, config, data, before, first_step, steps)


def _own_property(method: Method, name: str) -> Any:
    """A property that the method's own class defines; None where it is inherited.

    A subclass that changes the loss inherits a description that is no longer its own.
    """
    return getattr(method, name) if name in vars(type(method)) else None


def _train_pairs(
    train: Callable[[Sequence[Tensor], Tensor], Tensor],
    config: TrainConfig,
    data: TreeRows,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState:
    """Compiled steps of a loss of pairs by `train`: (leaves, frozen_at) -> losses."""
    drawn = data.draw(config.method.needs, first_step, steps)
    assert drawn.negatives is not None  # every loss of pairs has one
    frozen_at = before.frozen_at.clone()
    losses = train([*drawn.views, drawn.negatives], frozen_at)
    return before._replace(losses=losses, frozen_at=frozen_at)


def _train_siamese(
    train: Callable[..., tuple[State, Tensor]],
    spec: SiameseSpec,
    network: nn.Module,
    config: TrainConfig,
    data: TreeRows,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState:
    """Compiled steps of a Siamese method, interrupted where its own `after_step` has to be called."""
    method, batch = config.method, data.batch
    views = data.draw(method.needs, first_step, steps).views
    state, memory, losses, frozen_at = before
    frozen_at = frozen_at.clone()
    every = spec.after_step_every
    step, end = first_step, first_step + steps
    while step < end:
        stop = min(end, (step // every + 1) * every) if every else end
        rows = slice((step - first_step) * batch, (stop - first_step) * batch)
        interrupted = every > 0 and stop % every == 0
        # where the method's own after_step follows, it updates the target itself
        try:
            state, losses = train(
                state, [view[..., rows] for view in views], batch, step, config.context.steps,
                frozen_at, keep_last_target=interrupted,
            )  # fmt: skip
        except LaunchError:  # these steps have changed nothing, and there is no kernel any more
            now = TrainState(state, memory, losses, frozen_at)
            return train_steps(network, config, now, step, end - step)
        if interrupted:
            with torch.no_grad():
                after = method.after_step(network, state, {}, stop - 1, config.context)
                state = merge(state, after, memory, frozen_at, stop - 1)
        step = stop
    return TrainState(state, memory, losses, frozen_at)
