"""Steps of training in plain torch, for any network, method, optimiser and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import MOMENTS, Batch, Method, State, strip_prefix
from dualnets.optim import compiled
from dualnets.optim.optimizers import finite_members
from dualnets.optim.per_member import Group
from dualnets.training.state import TrainConfig, TrainState, trained_tensors

Gradients = tuple[Tensor, Sequence[Tensor], State]  # losses, gradients, what a loss passes on
Differentiate = Callable[[nn.Module, TrainConfig, State, Batch], Gradients]


def checked_loss(
    network: nn.Module, method: Method, state: State, batch: Batch
) -> tuple[Tensor, State]:
    """What `method.loss` returns: the border to methods and losses that users write.

    Raises:
        TypeError: no pair of a tensor and a dict.
        ValueError: losses of another shape than `(S,)`.
    """
    found: Any = method.loss(network, state, batch)
    members = len(network.members)  # type: ignore[arg-type]
    criterion = getattr(method, "criterion", None)
    name = f"{type(method).__name__}.loss" if criterion is None else (
        f"the loss {getattr(criterion, '__name__', type(criterion).__name__)}"
    )  # fmt: skip
    pair: tuple[Any, Any] = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if criterion is not None and not isinstance(pair[0], Tensor):
        raise TypeError(
            f"{name} must return ({members},), a number per member, got {type(pair[0]).__name__}"
        )
    if not isinstance(pair[0], Tensor) or not isinstance(pair[1], Mapping):
        kinds = " and ".join(type(own).__name__ for own in pair if own is not None)
        raise TypeError(
            f"{name} must return losses ({members},) and a dict of what after_step needs, as in "
            f"`return losses, {{}}`; got {kinds}"
        )
    losses, carried = pair
    if losses.shape != (members,):
        raise ValueError(
            f"{name} must return ({members},), a number per member, got {tuple(losses.shape)}"
        )
    return losses, dict(carried)


def differentiate(network: nn.Module, config: TrainConfig, state: State, batch: Batch) -> Gradients:
    """`(S,)` losses, the gradient of every trained tensor, and what the loss passes on to `after_step`."""
    losses, carried = checked_loss(network, config.method, state, batch)
    if not losses.requires_grad:
        name = type(config.method).__name__
        raise ValueError(f"the losses of {name} do not depend on any trained parameter")
    # members share nothing, so the sum of their losses has every member's own gradient
    gradients = torch.autograd.grad(
        losses.sum(), [*trained_tensors(network, state).values()],
        allow_unused=True, materialize_grads=True,
    )  # fmt: skip
    return losses.detach(), gradients, carried


class Update:
    """The update of all trained tensors of members whose numbers are finite and will be; others are frozen.

    Args:
        network, config, before: what is trained, in place.
        frozen_at: `(S,)`, changed in place.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, before: TrainState, frozen_at: Tensor
    ) -> None:
        self.optimizer, self.steps = config.optimizer, config.context.steps
        self.trained = trained_tensors(network, before.state)
        self.memory, self.frozen_at = before.memory, frozen_at
        self.groups = groups_by_name(config.method, self.trained)
        self.buffers = [*network.buffers()]
        given = (self.optimizer, self.trained, self.memory)
        self.compiled: compiled.CompiledUpdate | None = None
        if compiled.is_compiled(*given):
            self.compiled = compiled.CompiledUpdate(*given, self.groups)

    @torch.no_grad()
    def __call__(self, found: Gradients, step: int | Tensor) -> bool:
        """Update after update number `step`; returns whether all members are surely alive afterwards.

        Where the number is a tensor `()`, nothing depends on numbers that are not tensors.
        """
        losses, gradients, carried = found
        others = [*self.buffers, *carried.values()]
        if self.compiled is not None and isinstance(step, int):
            return self.compiled(gradients, losses, self.frozen_at, step, self.steps, others)
        alive = (self.frozen_at < 0) & finite_members([losses, *gradients, *others], losses)
        named = dict(zip(self.trained, gradients, strict=True))
        updated = self.optimizer.update(
            self.trained, named, self.memory, alive, step, self.steps, self.groups
        )
        freeze(self.frozen_at, ~updated, step)
        return False


# (method's state, batch, number of the step, frozen_at, changed in place) -> losses, what a loss passes on,
# and what `Update` returns
Advance = Callable[[State, Batch, int, Tensor], tuple[Tensor, State, bool]]


def train_steps_eager(
    network: nn.Module,
    config: TrainConfig,
    before: TrainState,
    first_step: int,
    steps: int,
    differentiate: Differentiate = differentiate,
    advance: Advance | None = None,
) -> TrainState:
    """`train_steps` in plain torch: the reference for compiled code.

    Gradients are those of `differentiate`, e.g. a recording of it; or `advance` computes them and the update,
    e.g. as a graph on a GPU.
    """
    method, _, data, context, precision = config
    state, memory, losses, frozen_at = before
    frozen_at = frozen_at.clone()
    update = Update(network, config, before, frozen_at)
    buffers = update.buffers
    kept = [buffer.clone() for buffer in buffers]
    state, in_place = _in_place(network, config, state)
    for step, batch in enumerate(data.batches(method.needs, first_step, steps), start=first_step):
        if kept:
            torch._foreach_copy_(kept, buffers)
        if precision == "bfloat16":
            batch = batch._replace(precision=torch.bfloat16)
        # 1. losses and gradients, and the optimiser's update
        if advance is None:
            found = differentiate(network, config, state, batch)
            losses, carried, all_alive = found[0], found[2], update(found, step)
        else:
            losses, carried, all_alive = advance(state, batch, step, frozen_at)
        # 2. the method's own update, which no frozen member takes part in
        if all_alive and in_place is not None:
            in_place(carried, step)
            state = {**state, **strip_prefix(carried, MOMENTS)}
            continue
        in_place = None  # from now on the state's tensors are replaced
        with torch.no_grad():
            after = method.after_step(network, state, carried, step, context)
            changed = [*zip(buffers, kept, strict=True)]
            state = merge(state, after, memory, frozen_at, step, all_alive, changed)
    return TrainState(state, memory, losses, frozen_at)


def _in_place(
    network: nn.Module, config: TrainConfig, state: State
) -> tuple[State, Callable[[State, int], None] | None]:
    """The method's `in_place`, where the class that defines its `after_step` defines it; and its state.

    Tensors that are not trained are copied for it, since whoever gave the state may still read them.
    """
    method = config.method
    owner = next(own for own in type(method).__mro__ if "after_step" in vars(own))
    if "in_place" not in vars(owner):
        return state, None
    copied = {name: own if own.requires_grad else own.clone() for name, own in state.items()}
    found = method.in_place(network, copied, config.context)
    return (state, None) if found is None else (copied, found)


def freeze(frozen_at: Tensor, lost: Tensor, step: int | Tensor) -> None:
    """Note in `frozen_at` `(S,)`, in place, the step at which members were lost, `(S,)` bool."""
    frozen_at.copy_(torch.where(lost & (frozen_at < 0), step, frozen_at))


def groups_by_name(method: Method, trained: Mapping[str, Tensor]) -> dict[str, Group]:
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
        merged = {name: value.contiguous() for name, value in new.items()}
    else:
        freeze(frozen_at, ~finite_members([*new.values()], frozen_at), step)
        alive = frozen_at < 0
        merged = {
            name: _where(alive, value, state[name]).contiguous() if name in state else value
            for name, value in new.items()
        }
        for now, before in buffers:
            now.copy_(_where(alive, now, before))
    for name in new:
        own = state.get(name)
        if own is not None and own.requires_grad:
            for slot, remembered in memory.items():
                if slot.endswith(f".state.{name}"):
                    remembered.copy_(
                        _where(frozen_at < 0, torch.zeros_like(remembered), remembered)
                    )
            merged[name] = own.copy_(merged[name])
    return {**after, **merged}


def _where(alive: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for members that are alive, `no` for the others; a tensor without an S axis is `yes`."""
    if yes.ndim == 0 or len(yes) != len(alive):
        return yes
    return torch.where(alive.view(-1, *[1] * (yes.ndim - 1)), yes, no)
