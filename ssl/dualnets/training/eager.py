"""Steps of training in plain torch, for any network, method, optimiser and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Batch, Method, State
from dualnets.optim import compiled
from dualnets.optim.optimizers import Optimizer, finite_members
from dualnets.optim.per_member import Group
from dualnets.training.state import TrainConfig, TrainState, trained_tensors

Gradients = tuple[Tensor, Sequence[Tensor], State]  # losses, gradients, what a loss passes on
Differentiate = Callable[[nn.Module, TrainConfig, State, Batch], Gradients]
# (gradients, losses, frozen_at, step, steps, other tensors) -> whether all members are surely alive
Update = Callable[[Sequence[Tensor], Tensor, Tensor, int, int, Sequence[Tensor]], bool]


def differentiate(network: nn.Module, config: TrainConfig, state: State, batch: Batch) -> Gradients:
    """`(S,)` losses, the gradient of every trained tensor, and what the loss passes on to `after_step`."""
    losses, carried = config.method.loss(network, state, batch)
    # members share nothing, so the sum of their losses has every member's own gradient
    gradients = torch.autograd.grad(
        losses.sum(), [*trained_tensors(network, state).values()],
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    return losses.detach(), gradients, carried


def train_steps_eager(
    network: nn.Module,
    config: TrainConfig,
    before: TrainState,
    first_step: int,
    steps: int,
    differentiate: Differentiate = differentiate,
) -> TrainState:
    """`train_steps` in plain torch: the reference for compiled code.

    Gradients are those of `differentiate`, e.g. a recording of it.
    """
    method, optimizer, data, context, precision = config
    state, memory, losses, frozen_at = before
    frozen_at = frozen_at.clone()
    trained = trained_tensors(network, state)
    update = _update(optimizer, trained, memory, _groups(method, trained))
    buffers = [*network.buffers()]
    for step, batch in enumerate(data.batches(method.needs, first_step, steps), start=first_step):
        kept = [buffer.clone() for buffer in buffers]
        if precision == "bfloat16":
            batch = batch._replace(precision=torch.bfloat16)
        # 1. losses and gradients
        losses, gradients, carried = differentiate(network, config, state, batch)
        with torch.no_grad():
            # 2. the optimiser's update of members whose numbers are finite and will be; others are frozen
            others = [*buffers, *carried.values()]
            all_alive = update(gradients, losses, frozen_at, step, context.steps, others)
            # 3. the method's own update, which no frozen member takes part in
            after = method.after_step(network, state, carried, step, context)
            changed = [*zip(buffers, kept, strict=True)]
            state = merge(state, after, memory, frozen_at, step, all_alive, changed)
    return TrainState(state, memory, losses, frozen_at)


def _update(
    optimizer: Optimizer,
    trained: Mapping[str, Tensor],
    memory: dict[str, Tensor],
    groups: Mapping[str, Group],
) -> Update:
    """The optimiser's update of all trained tensors, compiled where that is the same."""
    if compiled.is_compiled(optimizer, trained, memory):
        return compiled.CompiledUpdate(optimizer, trained, memory, groups)

    def update(
        gradients: Sequence[Tensor], losses: Tensor, frozen_at: Tensor, step: int, steps: int,
        others: Sequence[Tensor],
    ) -> bool:  # fmt: skip
        alive = (frozen_at < 0) & finite_members([losses, *gradients, *others], frozen_at)
        named = dict(zip(trained, gradients, strict=True))
        updated = optimizer.update(trained, named, memory, alive, step, steps, groups)
        freeze(frozen_at, ~updated, step)
        return False

    return update


def freeze(frozen_at: Tensor, lost: Tensor, step: int | Tensor) -> None:
    """Note in `frozen_at` `(S,)`, in place, the step at which members were lost, `(S,)` bool."""
    frozen_at.copy_(torch.where(lost & (frozen_at < 0), step, frozen_at))


def _groups(method: Method, trained: Mapping[str, Tensor]) -> dict[str, Group]:
    """Name of a trained tensor -> its rates, where the method gives it rates of its own."""
    return {
        name: group
        for prefix, group in method.groups.items()
        for name in trained
        if f"{name}.".startswith(f"state.{prefix}.")
    }


def merge(
    state: State,
    after: State,
    memory: dict[str, Tensor],
    frozen_at: Tensor,
    step: int,
    all_alive: bool = False,
    buffers: Sequence[tuple[Tensor, Tensor]] = (),
) -> State:
    """The state after a step; a member of which it is not finite is frozen.

    Frozen members keep their own state and `buffers`, given as pairs of now and before. A trained tensor
    that was replaced is changed in place, and the optimiser forgets it.
    """
    new = {name: own.detach() for name, own in after.items() if own is not state.get(name)}
    if all_alive and compiled.all_finite([*new.values()]):
        merged = {name: own.contiguous() for name, own in new.items()}
    else:
        freeze(frozen_at, ~finite_members([*new.values()], frozen_at), step)
        alive = frozen_at < 0
        merged = {
            name: _where(alive, own, state[name]).contiguous() if name in state else own
            for name, own in new.items()
        }
        for now, before in buffers:
            now.copy_(_where(alive, now, before))
    for name in new:
        before = state.get(name)
        if before is not None and before.requires_grad:
            for slot, remembered in memory.items():
                if slot.endswith(f".state.{name}"):
                    remembered.copy_(
                        _where(frozen_at < 0, torch.zeros_like(remembered), remembered)
                    )
            merged[name] = before.copy_(merged[name])
    return {**after, **merged}


def _where(alive: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for members that are alive, `no` for the others; a tensor without an S axis is `yes`."""
    if yes.ndim == 0 or len(yes) != len(alive):
        return yes
    return torch.where(alive.view(-1, *[1] * (yes.ndim - 1)), yes, no)
