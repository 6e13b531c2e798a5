"""Steps of training: draw, forward, loss, backward, update, compiled where that is supported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Method, State
from dualnets.optim.optimizers import SGD
from dualnets.optim.schedule import Schedule
from dualnets.training.capture import Recording, is_repeatable
from dualnets.training.compiled import pairs, siamese
from dualnets.training.data import Rows
from dualnets.training.eager import differentiate, merge, train_steps_eager
from dualnets.training.fused import pairs as fused_pairs
from dualnets.training.fused import siamese as fused_siamese
from dualnets.training.fused.launch import LaunchError
from dualnets.training.graphs import Graph
from dualnets.training.state import TrainConfig, TrainState
from dualnets.training.state import trained_tensors as trained_tensors

WORTH_RECORDING = (
    1000  # steps of a whole training, for which recording one takes less time than it saves
)
_one_at_a_time = Lock()
_recordings: WeakKeyDictionary[nn.Module, Recording | Graph | None] = WeakKeyDictionary()


def train_steps(
    network: nn.Module, config: TrainConfig, before: TrainState, first_step: int, steps: int
) -> TrainState:
    """Train the network in place for `steps` steps, by compiled code where it computes the same.

    Compiled code replaces the optimiser, its schedule, the assembly of batches, the method and the
    network, so each must be exactly of a class that it knows: a subclass may do something else.
    """
    method, optimizer = config.method, config.optimizer
    known = type(optimizer) is SGD and type(optimizer.schedule) is Schedule
    known = known and type(config.data).batches is Rows.batches and config.precision == "float32"
    if known and optimizer.is_plain:
        loss = _own_property(method, "plain_loss")
        pair_kernel = pairs.supported_kernel(network, loss)
        if pair_kernel is not None:
            return _train_pairs(pairs.train, pair_kernel, config, before, first_step, steps)
        pair_kernel = fused_pairs.supported_kernel(network, loss)
        if pair_kernel is not None:
            with suppress(LaunchError):  # then in plain torch
                return _train_pairs(
                    fused_pairs.train, pair_kernel, config, before, first_step, steps
                )
    if known:
        spec = _own_property(method, "siamese")
        given = (network, spec, optimizer, method.groups)
        kernel = siamese.supported_kernel(*given)
        if kernel is not None:
            return _train_siamese(siamese.train, kernel, config, before, first_step, steps)
        kernel = fused_siamese.supported_kernel(*given, config.data.batch)
        if kernel is not None:
            with suppress(LaunchError):
                return _train_siamese(
                    fused_siamese.train, kernel, config, before, first_step, steps
                )
    recorded = _recorded(network, config, before, first_step)
    if isinstance(recorded, Graph):
        return train_steps_eager(network, config, before, first_step, steps, advance=recorded)
    gradients = recorded or differentiate
    return train_steps_eager(network, config, before, first_step, steps, gradients)


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
    if config.context.steps < WORTH_RECORDING:
        return None
    found = None
    if is_repeatable(network, config):
        kind = Graph if before.frozen_at.is_cuda else Recording
        (batch,) = config.data.batches(config.method.needs, first_step, 1)
        # what cannot be recorded is run as it is; torch records on one thread at a time
        with _one_at_a_time, suppress(RuntimeError, TypeError):
            found = kind(network, config, before, batch)
    _recordings[network] = found
    return found


def _own_property(method: Method, name: str) -> Any:
    """A property that the method's own class defines; None where it is inherited.

    A subclass that changes the loss inherits a description that is no longer its own.
    """
    return getattr(method, name) if name in vars(type(method)) else None


def _train_pairs(
    train: Callable[..., Tensor],
    kernel: pairs.PairKernel,
    config: TrainConfig,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState:
    """Compiled steps of a loss of pairs."""
    drawn = config.data.draw(config.method.needs, first_step, steps)
    assert drawn.negatives is not None  # every loss of pairs has one
    frozen_at, leaves = before.frozen_at.clone(), [*drawn.views, drawn.negatives]
    losses = train(kernel, config.optimizer.lr, leaves, config.data.batch, first_step, frozen_at)
    return before._replace(losses=losses, frozen_at=frozen_at)


def _train_siamese(
    train: Callable[..., tuple[State, Tensor]],
    kernel: siamese.SiameseKernel,
    config: TrainConfig,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState:
    """Compiled steps of a Siamese method, interrupted where its own `after_step` has to be called."""
    method, batch = config.method, config.data.batch
    views = config.data.draw(method.needs, first_step, steps).views
    state, memory, losses, frozen_at = before
    frozen_at = frozen_at.clone()
    every = kernel.spec.after_step_every
    step, end = first_step, first_step + steps
    while step < end:
        stop = min(end, (step // every + 1) * every) if every else end
        rows = slice((step - first_step) * batch, (stop - first_step) * batch)
        interrupted = every > 0 and stop % every == 0
        # where the method's own after_step follows, it updates the target itself
        state, losses = train(
            kernel, state, memory, [view[..., rows] for view in views], batch, step,
            config.context.steps, frozen_at, keep_last_target=interrupted,
        )  # fmt: skip
        if interrupted:
            with torch.no_grad():
                after = method.after_step(kernel.network, state, {}, stop - 1, config.context)
                state = merge(state, after, memory, frozen_at, stop - 1)
        step = stop
    return TrainState(state, memory, losses, frozen_at)
