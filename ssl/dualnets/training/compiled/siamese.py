"""The inner span of methods that foretell one branch from another, compiled for a CPU.

As in `fused.py`, a member is trained on its own for a whole span, in its core's cache: target and
online network, projector and predictor with batch statistics and running ones, the loss, momentum
and weight decay, and the target's moving average. `train_steps` takes this path where it is offered;
the eager path is the reference, and both give the same numbers up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.block_network import BlockNetwork
from dualnets.optim.optimizers import SGD, Group, Optimizer, PerMember
from dualnets.training.compiled import heads
from dualnets.training.compiled.pairs import untouched
from dualnets.training.compiled.siamese_kernel import train
from hltm.sampling.kernels.threads import share


class SiameseKernel(NamedTuple):
    """What can be trained compiled."""

    network: BlockNetwork
    siamese: SiameseSpec
    optimizer: SGD
    predictor: Group


def offer(
    network: nn.Module,
    siamese: SiameseSpec | None,
    optimizer: Optimizer,
    groups: Mapping[str, Group],
) -> SiameseKernel | None:
    """What a span can run compiled; None where it cannot.

    Args:
        network: any.
        siamese: the method as this module knows it.
        optimizer: any.
        groups: the method's; only a predictor can have rates of its own.
    """
    if siamese is None or type(optimizer) is not SGD or not untouched(network):
        return None
    if not network.plain:
        return None
    if not heads.can(siamese.projector) or not heads.can(siamese.predictor):
        return None
    if not set(groups) <= {"predictor"}:
        return None
    return SiameseKernel(network, siamese, optimizer, groups.get("predictor", Group()))


@torch.no_grad()
def run(
    offered: SiameseKernel,
    state: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    views: Sequence[Tensor],
    batch: int,
    step: int,
    steps: int,
    frozen_at: Tensor,
    *,
    leave_last: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Train network, heads and target on the drawn leaves.

    Args:
        offered: parameters of its network change in place.
        state: the method's; trained tensors change in place.
        memory: the optimiser's; changes in place.
        views: two, `(S, X, n * B)` leaves of n steps.
        batch: B.
        step: the number of the first step.
        steps: how many updates the whole training has.
        frozen_at: `(S,)` int64, changed in place as in `span.Progress`.
        leave_last: whether the target ema_decay where it is in the last step.

    Returns:
        The state with new tensors for the target and the running moments, and `(S,)` losses of the
        last step.
    """
    network, told, optimizer, _ = offered
    names, ends = _order(network, told)
    online = {f"network.{name}": p for name, p in network.named_parameters()} | {**state}
    weights = _flat([online[name] for name in names])
    slots = [_slot(name) for name in names]
    remembered = [memory[slot] for slot in slots] if optimizer.slots else []
    velocity = _flat(remembered) if remembered else torch.zeros_like(weights)
    followers = [f"target.{name}" for name in names[: ends[3].names]] if told.slow else []
    target = _flat([state[name] for name in followers]) if followers else weights[:, :0].clone()
    many = views[0].shape[2] // batch
    ema_decay = [told.ema_decay(step + t, steps) if told.slow else 1.0 for t in range(many)]
    if leave_last:
        ema_decay[-1] = 1.0
    outputs = network.blocks[-1] * network.units[-1]
    projector, projector_numbers = heads.described(told.projector, outputs)
    predictor, predictor_numbers = heads.described(told.predictor, told.projector.outputs(outputs))
    running = _Running(state, told, weights)
    losses = torch.full((len(weights),), torch.nan, dtype=network.dtype)
    kind = losses.numpy().dtype
    arguments = (
        views[0].contiguous().numpy(),
        views[1].contiguous().numpy(),
        weights.numpy(),
        velocity.numpy(),
        target.numpy(),
        *_rates(offered, weights),
        np.array([optimizer.schedule.factor(step + t, steps) for t in range(many)], dtype=kind),
        np.array(ema_decay, dtype=kind),
        losses.numpy(),
        frozen_at.numpy(),
        running.moments.numpy(),
        running.batches.numpy(),
        np.array([0, *(end.numbers for end in ends)]),
        np.array([[w.shape[1], w.shape[2], w.shape[3]] for w in network.weights]),
        projector,
        projector_numbers.astype(kind),
        predictor,
        predictor_numbers.astype(kind),
        np.array([told.scale, told.offset], dtype=kind),
        batch,
        (network.normalize, told.stop_gradient, told.normalized, told.symmetric),
        optimizer.nesterov,
        step,
    )

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            train(*arguments, low, high)  # type: ignore[call-arg]

    share(work, len(weights), threads=torch.get_num_threads())
    _put(weights, [online[name] for name in names])
    if remembered:
        _put(velocity, remembered)
    moved = {name: torch.empty_like(state[name]) for name in followers}
    _put(target, list(moved.values()))
    return {**state} | moved | running.by_name(), losses


class _Running:
    """Running moments of both heads side by side: `(S, 2, units)` and, of batches, `(S, layers)`."""

    def __init__(self, state: Mapping[str, Tensor], told: SiameseSpec, like: Tensor) -> None:
        members = len(like)
        self.state, self.places = state, list[tuple[str, tuple[int, ...], slice]]()
        unit = layer = 0
        for name, head in (("projector", told.projector), ("predictor", told.predictor)):
            for own, width in enumerate(head.widths):
                units = slice(unit, unit + width)
                for row, kind in enumerate(("mean", "variance")):
                    self.places.append((f"{name}.{own}.{kind}", (row,), units))
                self.places.append((f"{name}.{own}.batches", (), slice(layer, layer + 1)))
                unit, layer = unit + width, layer + 1
        self.moments = like.new_zeros(members, 2, unit)
        self.batches = torch.zeros(members, layer, dtype=torch.int64)
        for name, view in self._views():
            view.copy_(state[name].view_as(view))

    def by_name(self) -> dict[str, Tensor]:
        """As new tensors."""
        return {name: view.reshape(self.state[name].shape).clone() for name, view in self._views()}

    def _views(self) -> Iterator[tuple[str, Tensor]]:
        """Those that the state has, a part that is off having none."""
        for name, row, place in self.places:
            if name in self.state:
                yield name, self.moments[:, row[0], place] if row else self.batches[:, place]


class _End(NamedTuple):
    """Where a part of the flat parameters ends."""

    names: int
    numbers: int


def _order(network: BlockNetwork, told: SiameseSpec) -> tuple[list[str], list[_End]]:
    """Names of all trained tensors as they lie side by side, and where the six parts end.

    The parts are weights and biases of the network, of the projector and of the predictor.
    """
    parts = [
        [f"network.weights.{i}" for i in range(network.depth)],
        [f"network.biases.{i}" for i in range(network.depth if network.biases else 0)],
    ]
    sizes = [
        sum(weight[0].numel() for weight in network.weights),
        sum(bias[0].numel() for bias in network.biases or []),
    ]
    inputs = network.blocks[-1] * network.units[-1]
    for place, head in (("projector", told.projector), ("predictor", told.predictor)):
        layers = range(len(head.widths))
        parts.append([f"{place}.{i}.weight" for i in layers])
        parts.append([f"{place}.{i}.bias" for i in layers if head.bias])
        fans = [inputs, *head.widths][: len(layers)]
        sizes.append(sum(u * fan for u, fan in zip(head.widths, fans, strict=True)))
        sizes.append(sum(head.widths) if head.bias else 0)
        inputs = head.outputs(inputs)
    names: list[str] = []
    ends: list[_End] = []
    for part, size in zip(parts, sizes, strict=True):
        names += part
        ends.append(_End(len(names), size + (ends[-1].numbers if ends else 0)))
    return names, ends


def _slot(name: str) -> str:
    """The name of a trained tensor's velocity in the optimiser's memory."""
    return f"momentum.{name}" if name.startswith("network.") else f"momentum.state.{name}"


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """`(S, P)`: tensors `(S, …)` side by side."""
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1)


def _put(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """The inverse of `_flat`, into given tensors."""
    at = 0
    for tensor in tensors:
        size = tensor[0].numel()
        tensor.copy_(flat[:, at : at + size].view_as(tensor))
        at += size


def _rates(offered: SiameseKernel, like: Tensor) -> tuple[np.ndarray, ...]:
    """Learning rates and decays `(S, 2)`, of all and of the predictor; momenta and clips `(S,)`."""
    optimizer, predictor = offered.optimizer, offered.predictor

    def each(rates: PerMember) -> Tensor:
        return torch.as_tensor(rates, dtype=like.dtype).expand(len(like))

    decay = each(optimizer.weight_decay)
    own = decay if predictor.weight_decay is None else each(predictor.weight_decay)
    lr = each(optimizer.lr)
    clip = float("inf") if optimizer.clip is None else optimizer.clip
    return (
        torch.stack([lr, lr * each(predictor.lr)], dim=1).numpy(),
        torch.stack([decay, own], dim=1).numpy(),
        each(optimizer.momentum).contiguous().numpy(),
        each(clip).contiguous().numpy(),
    )
