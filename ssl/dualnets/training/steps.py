"""The inner span: k steps of draw, forward, loss, backward, update."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from dualnets.methods.protocol import Method, State, TrainContext
from dualnets.optim.optimizers import SGD, Group, Optimizer, Schedule
from dualnets.training.compiled import pairs as fused
from dualnets.training.compiled import siamese as fused_foretelling
from dualnets.training.data import Rows

Precision = Literal["float32", "bfloat16"]


class TrainState(NamedTuple):
    """Where training stands.

    Attributes:
        state: the method's.
        memory: the optimiser's.
        losses: `(S,)` the last step's.
        frozen_at: `(S,)` int64, the step at which a member's loss or gradient was not finite and it
            was frozen as it stood; -1 for a member that is alive.
    """

    state: State
    memory: dict[str, Tensor]
    losses: Tensor
    frozen_at: Tensor


class TrainConfig(NamedTuple):
    """What does not change during training.

    Attributes:
        method, optimizer: how to train.
        data: what on.
        setup: what the method may know.
        precision: `bfloat16` runs networks under autocast; parameters, heads and losses stay as
            they are.
    """

    method: Method
    optimizer: Optimizer
    data: Rows
    setup: TrainContext
    precision: Precision = "float32"

    def begin(self, network: nn.Module) -> TrainState:
        """Where training stands before the first step.

        Raises:
            ValueError: bfloat16 for a network of float64, which autocast leaves alone.
        """
        parameter = next(network.parameters())
        if self.precision == "bfloat16" and parameter.dtype == torch.float64:
            raise ValueError("bfloat16 is for networks of float32, this one's are torch.float64")
        state = self.method.init(network, self.setup)
        members = len(parameter)
        return TrainState(
            state,
            self.optimizer.init(trained_tensors(network, state)),
            torch.full((members,), torch.nan, dtype=parameter.dtype, device=parameter.device),
            torch.full((members,), -1, device=parameter.device),
        )


def trained_tensors(network: nn.Module, state: State) -> dict[str, Tensor]:
    """All that the optimiser changes: `network.…` and `state.…`."""
    found: dict[str, Tensor] = {
        f"network.{name}": tensor for name, tensor in network.named_parameters()
    }
    return found | {f"state.{n}": tensor for n, tensor in state.items() if tensor.requires_grad}


def train_steps(
    network: nn.Module, recipe: TrainConfig, before: TrainState, first_step: int, steps: int
) -> TrainState:
    """Train the network in place for `steps` steps, compiled where that is offered."""
    method, optimizer = recipe.method, recipe.optimizer
    # compiled code knows optimisers, their schedules and rows as they are written, and one precision
    known = type(optimizer) is SGD and type(optimizer.schedule) is Schedule
    known = known and type(recipe.data).batches is Rows.batches and recipe.precision == "float32"
    if known and optimizer.is_plain:
        pairs = fused.offer(network, _says(method, "plain_loss"))
        if pairs is not None:
            return _run_pairs(pairs, recipe, before, first_step, steps)
    if known:
        told = _says(method, "siamese")
        siamese = fused_foretelling.offer(network, told, optimizer, method.groups)
        if siamese is not None:
            return _run_foretelling(siamese, recipe, before, first_step, steps)
    return train_steps_eager(network, recipe, before, first_step, steps)


def _says(method: Method, name: str) -> Any:
    """What a method's own class says of it; None where it only inherits that, and may train otherwise."""
    return getattr(method, name) if name in vars(type(method)) else None


def _run_pairs(
    offer: fused.PairKernel, recipe: TrainConfig, before: TrainState, first_step: int, steps: int
) -> TrainState:
    """A compiled span of a loss of pairs."""
    drawn = recipe.data.draw(recipe.method.needs, first_step, steps)
    assert drawn.negatives is not None  # every loss of pairs has one
    pairs = fused.DrawnPairs(drawn.views[0], drawn.views[1], drawn.negatives, recipe.data.batch)
    frozen_at = before.frozen_at.clone()
    losses = fused.run(*offer, recipe.optimizer.lr, pairs, first_step, frozen_at)
    return before._replace(losses=losses, frozen_at=frozen_at)


def _run_foretelling(
    offer: fused_foretelling.SiameseKernel,
    recipe: TrainConfig,
    before: TrainState,
    first_step: int,
    steps: int,
) -> TrainState:
    """A compiled span of a method that foretells, cut where the method has its own say."""
    method, batch = recipe.method, recipe.data.batch
    views = recipe.data.draw(method.needs, first_step, steps).views
    state, memory, losses, frozen_at = before
    frozen_at = frozen_at.clone()
    every = offer.siamese.after
    step, end = first_step, first_step + steps
    while step < end:
        stop = min(end, (step // every + 1) * every) if every else end
        rows = slice((step - first_step) * batch, (stop - first_step) * batch)
        says = every > 0 and stop % every == 0
        state, losses = fused_foretelling.run(
            offer,
            state,
            memory,
            [view[..., rows] for view in views],
            batch,
            step,
            recipe.setup.steps,
            frozen_at,
            leave_last=says,
        )
        if says:
            with torch.no_grad():
                after = method.after_step(offer.network, state, {}, stop - 1, recipe.setup)
                state = _merged(state, after, memory, frozen_at < 0)
        step = stop
    return TrainState(state, memory, losses, frozen_at)


def train_steps_eager(
    network: nn.Module, recipe: TrainConfig, before: TrainState, first_step: int, steps: int
) -> TrainState:
    """`train_steps` in plain torch: any network, method and device, and what the compiled path must equal."""
    method, optimizer, data, setup, precision = recipe
    state, memory, losses, frozen_at = before
    groups = _groups(method, trained_tensors(network, state))
    for step, batch in enumerate(data.batches(method.needs, first_step, steps), start=first_step):
        trained = trained_tensors(network, state)
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        if precision == "bfloat16":
            batch = batch._replace(precision=torch.bfloat16)
        losses, carried = method.loss(network, state, batch)
        # losses of different members share nothing, so their sum has every member's own gradient
        gradients = torch.autograd.grad(
            losses.sum(), list(trained.values()), allow_unused=True, materialize_grads=True
        )
        losses = losses.detach()
        # infinities of either sign and NaN leave no sum finite
        sums = torch.stack([losses, *(gradient.flatten(1).sum(1) for gradient in gradients)])
        finite = torch.isfinite(sums.sum(0))
        frozen_at = torch.where((frozen_at < 0) & ~finite, step, frozen_at)
        alive = frozen_at < 0
        named = dict(zip(trained, gradients, strict=True))
        optimizer.update(trained, named, memory, alive, step, setup.steps, groups)
        with torch.no_grad():
            after = method.after_step(network, state, carried, step, setup)
            state = _merged(state, after, memory, alive)
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


def _merged(state: State, after: State, memory: dict[str, Tensor], alive: Tensor) -> State:
    """The state after a step: frozen members keep theirs, what was replaced begins anew."""
    found = {}
    for name, tensor in after.items():
        before = state.get(name)
        if before is None or tensor is before:
            found[name] = tensor
            continue
        kept = _where(alive, tensor.detach(), before).contiguous()
        if before.requires_grad:
            kept = kept.detach().requires_grad_()
            for slot, remembered in memory.items():
                if slot.endswith(f".state.{name}"):
                    remembered.copy_(_where(alive, torch.zeros_like(remembered), remembered))
        found[name] = kept
    return found


def _where(alive: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for members that are alive, `no` for the others; what has no S axis is `yes`."""
    if yes.ndim == 0 or len(yes) != len(alive):
        return yes
    return torch.where(alive.view(-1, *[1] * (yes.ndim - 1)), yes, no)
