"""Steps of training: draw, forward, loss, backward, update, compiled where that is supported."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dualnets._precision import at_least_float32
from dualnets.methods.protocol import Method, State, TrainContext
from dualnets.optim.optimizers import SGD, Optimizer
from dualnets.optim.per_member import Group
from dualnets.optim.schedule import Schedule
from dualnets.training.compiled import pairs, siamese
from dualnets.training.data import Rows
from dualnets.training.fused import pairs as fused_pairs
from dualnets.training.fused import siamese as fused_siamese
from dualnets.training.fused.launch import LaunchError

Precision = Literal["float32", "bfloat16"]


class TrainState(NamedTuple):
    """What changes during training, beside the network's parameters.

    Attributes:
        state: the method's.
        memory: the optimiser's.
        losses: `(S,)` of the last step; NaN before the first.
        frozen_at: `(S,)` int64, the step whose loss or gradient was not finite, before whose update
            the member was frozen; -1 for a member that is trained.
    """

    state: State
    memory: dict[str, Tensor]
    losses: Tensor
    frozen_at: Tensor


class TrainConfig(NamedTuple):
    """What does not change during training.

    Attributes:
        method, optimizer: how to train.
        data: the rows to train on.
        context: what the method may know of the training.
        precision: `bfloat16` runs networks under autocast; parameters, heads and losses keep their
            own precision.
    """

    method: Method
    optimizer: Optimizer
    data: Rows
    context: TrainContext
    precision: Precision = "float32"

    def init(self, network: nn.Module) -> TrainState:
        """The state before the first step.

        Raises:
            ValueError: bfloat16 for a network of float64, which autocast leaves as it is.
        """
        parameter = next(network.parameters())
        if self.precision == "bfloat16" and parameter.dtype == torch.float64:
            raise ValueError(
                "precision bfloat16 is for networks of float32, the parameters are torch.float64"
            )
        state = self.method.init(network, self.context)
        members = len(parameter)
        return TrainState(
            state,
            self.optimizer.init(trained_tensors(network, state)),
            torch.full_like(at_least_float32(parameter.detach()).flatten(1)[:, 0], torch.nan),
            torch.full((members,), -1, device=parameter.device),
        )

    def of_members(self, low: int, high: int) -> TrainConfig:
        """The configuration for members low .. high - 1 alone."""
        data = self.data.of_members(low, high)
        return self._replace(
            method=self.method.of_members(low, high),
            optimizer=self.optimizer.of_members(low, high),
            data=data,
            context=self.context._replace(trees=data.trees),
        )


def trained_tensors(network: nn.Module, state: State) -> dict[str, Tensor]:
    """All tensors that the optimiser changes, under names `network.…` and `state.…`."""
    found: dict[str, Tensor] = {f"network.{name}": p for name, p in network.named_parameters()}
    return found | {f"state.{n}": tensor for n, tensor in state.items() if tensor.requires_grad}


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
    return train_steps_eager(network, config, before, first_step, steps)


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
                state = _merge(state, after, memory, frozen_at < 0)
        step = stop
    return TrainState(state, memory, losses, frozen_at)


def train_steps_eager(
    network: nn.Module, config: TrainConfig, before: TrainState, first_step: int, steps: int
) -> TrainState:
    """`train_steps` in plain torch, for any network, method and device: the reference for compiled code."""
    method, optimizer, data, context, precision = config
    state, memory, losses, frozen_at = before
    groups = _groups(method, trained_tensors(network, state))
    for step, batch in enumerate(data.batches(method.needs, first_step, steps), start=first_step):
        trained = trained_tensors(network, state)
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        if precision == "bfloat16":
            batch = batch._replace(precision=torch.bfloat16)
        # 1. losses and gradients; members share nothing, so the sum of their losses has every
        #    member's own gradient
        losses, carried = method.loss(network, state, batch)
        gradients = torch.autograd.grad(
            losses.sum(), list(trained.values()), allow_unused=True, materialize_grads=True
        )
        losses = losses.detach()
        # 2. members that are not finite are frozen; infinities of either sign and NaN leave no sum
        #    finite
        long = [at_least_float32(gradient.flatten(1)) for gradient in gradients]
        sums = torch.stack([losses, *(gradient.sum(1) for gradient in long)])
        finite = torch.isfinite(sums.sum(0))
        frozen_at = torch.where((frozen_at < 0) & ~finite, step, frozen_at)
        alive = frozen_at < 0
        # 3. the optimiser's update, then the method's own
        named = dict(zip(trained, gradients, strict=True))
        optimizer.update(trained, named, memory, alive, step, context.steps, groups)
        with torch.no_grad():
            after = method.after_step(network, state, carried, step, context)
            state = _merge(state, after, memory, alive)
            for name, buffer in network.named_buffers():
                buffer.copy_(_where(alive, buffer, buffers[name]))
    return TrainState(state, memory, losses, frozen_at)


def _groups(method: Method, trained: dict[str, Tensor]) -> dict[str, Group]:
    """Name of a trained tensor -> its rates, where the method gives it rates of its own."""
    return {
        name: group
        for prefix, group in method.groups.items()
        for name in trained
        if f"{name}.".startswith(f"state.{prefix}.")
    }


def _merge(state: State, after: State, memory: dict[str, Tensor], alive: Tensor) -> State:
    """The state after a step.

    Frozen members keep their own, and the optimiser forgets a trained tensor that was replaced.
    """
    merged = {}
    for name, tensor in after.items():
        before = state.get(name)
        if before is None or tensor is before:
            merged[name] = tensor
            continue
        kept = _where(alive, tensor.detach(), before).contiguous()
        if before.requires_grad:
            kept = kept.detach().requires_grad_()
            for slot, remembered in memory.items():
                if slot.endswith(f".state.{name}"):
                    remembered.copy_(_where(alive, torch.zeros_like(remembered), remembered))
        merged[name] = kept
    return merged


def _where(alive: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for members that are alive, `no` for the others; a tensor without an S axis is `yes`."""
    if yes.ndim == 0 or len(yes) != len(alive):
        return yes
    return torch.where(alive.view(-1, *[1] * (yes.ndim - 1)), yes, no)
