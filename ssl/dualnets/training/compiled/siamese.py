"""Training of a Siamese method by SGD, compiled for the CPU.

As in `pairs`, each member is trained on its own through many steps, on one core: target and online
network, projector and predictor with batch statistics and running moments, the loss, momentum and
weight decay, and the moving average of the target (`siamese_kernel`). `train_steps` takes this path
where `supported_kernel` finds it exact. The eager path is the reference; both give the same numbers
up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.block_network import BlockNetwork
from dualnets.networks.compiled.blocks import Layers
from dualnets.networks.compiled.members import flatten, train_all, unflatten
from dualnets.networks.compiled.structure import head_layers, network_layers
from dualnets.networks.compiled.unmodified import is_unmodified
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.optim.optimizers import SGD, Optimizer
from dualnets.optim.per_member import Group, PerMember
from dualnets.training.compiled.siamese_kernel import train_members


class SiameseKernel(NamedTuple):
    """A network, a method and an optimiser for which there is compiled code."""

    network: BlockNetwork
    layers: tuple[Layers, Layers, Layers]  # of the network, the projector and the predictor
    spec: SiameseSpec
    optimizer: SGD
    predictor: Group


def supported_kernel(
    network: nn.Module,
    spec: SiameseSpec | None,
    optimizer: Optimizer,
    groups: Mapping[str, Group],
    device: str = "cpu",
) -> SiameseKernel | None:
    """The compiled training of a network by a Siamese method; None if it is not supported.

    A method of another kind has no `spec`. Only the predictor can have rates of its own here.
    """
    if spec is None or type(optimizer) is not SGD or not is_unmodified(network, device):
        return None
    if not network.plain:
        return None
    outputs = network.blocks[-1] * network.units[-1]
    layers = network_layers(network)
    projector = _head_layers(spec.projector, outputs)
    predictor = _head_layers(spec.predictor, spec.projector.outputs(outputs))
    if layers is None or projector is None or predictor is None:
        return None
    if not set(groups) <= {"predictor"}:
        return None
    return SiameseKernel(
        network, (layers, projector, predictor), spec, optimizer, groups.get("predictor", Group())
    )


def _head_layers(head: Head, inputs: int) -> Layers | None:
    """The layers of a head; None if it computes anything that is not compiled here."""
    norms = [norm for norm in (head.norm, head.last_norm) if norm is not None]
    plain = all(type(norm) is BatchNorm and not norm.affine for norm in norms)
    if type(head) is not Head or not plain or head.weight_standardization:
        return None
    return head_layers(head, inputs)


def _momenta(head: Head) -> list[float]:
    """The smallest step of the running moments of each layer."""
    norms = [head.norm] * (len(head.widths) - 1) + [head.last_norm] * bool(head.widths)
    return [norm.momentum if isinstance(norm, BatchNorm) else 0.0 for norm in norms]


@torch.no_grad()
def train(
    kernel: SiameseKernel,
    state: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    views: Sequence[Tensor],
    batch: int,
    first_step: int,
    total_steps: int,
    frozen_at: Tensor,
    *,
    keep_last_target: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Train network, heads and target, one step for every batch of the drawn leaves.

    Args:
        kernel: from `supported_kernel`; the parameters of its network change in place.
        state: the method's; trained tensors change in place.
        memory: the optimiser's; changes in place.
        views: two, `(S, X, n * B)` leaves of n steps.
        batch: B.
        first_step: the number of the first step, counted from 0.
        total_steps: how many steps the whole training has, by which schedules go.
        frozen_at: `(S,)` int64, changed in place: as in `TrainState`.
        keep_last_target: whether the target stays as it is in the last of these steps.

    Returns:
        The state, with new tensors for the target and the running moments, and `(S,)` losses of the
        last step.
    """
    network, layers, spec, optimizer, _ = kernel
    # 1. parameters, their momentum, and the target's parameters, side by side
    names, ends = parameter_order(network, spec)
    online = {f"network.{name}": p for name, p in network.named_parameters()} | {**state}
    weights = flatten([online[name] for name in names])
    velocities = [memory[velocity_name(name)] for name in names] if optimizer.slots else []
    velocity = flatten(velocities) if velocities else torch.zeros_like(weights)
    target_names = (
        [f"target.{name}" for name in names[: ends[3].names]] if spec.separate_target else []
    )
    target = flatten([weights[:, :0], *(state[name] for name in target_names)])
    # 2. schedules, and what the heads are
    steps = [first_step + t for t in range(views[0].shape[2] // batch)]
    ema_decay = [
        spec.ema_decay(step, total_steps) if spec.separate_target else 1.0 for step in steps
    ]
    if keep_last_target:
        ema_decay[-1] = 1.0
    running = RunningMoments(state, spec, weights)
    losses = torch.full((len(weights),), torch.nan, dtype=network.dtype)
    kind = losses.numpy().dtype
    arguments = (
        *(view.contiguous().numpy() for view in views),
        weights.numpy(), velocity.numpy(), target.numpy(),
        *member_rates(kernel, weights),
        np.array([optimizer.schedule.factor(step, total_steps) for step in steps], dtype=kind),
        np.array(ema_decay, dtype=kind),
        losses.numpy(), frozen_at.numpy(), running.moments.numpy(), running.batches.numpy(),
        np.array([0, *(end.numbers for end in ends)]),
        *layers,
        np.array(_momenta(spec.projector) + _momenta(spec.predictor), dtype=kind),
        np.array([spec.scale, spec.offset], dtype=kind),
        batch,
        (network.normalize, spec.stop_gradient, spec.normalized, spec.symmetric),
        optimizer.nesterov, first_step,
    )  # fmt: skip
    # 3. the kernel
    train_all(train_members, arguments, len(weights))
    # 4. trained tensors change in place; all other tensors of the state are new ones
    unflatten(weights, [online[name] for name in names])
    unflatten(velocity, velocities)
    new_target = {name: torch.empty_like(state[name]) for name in target_names}
    unflatten(target, list(new_target.values()))
    return {**state} | new_target | running.by_name(), losses


class RunningMoments:
    """Running moments of both heads side by side, as the kernel reads them.

    Attributes:
        moments: `(S, 2, units of both heads)`, means and variances.
        batches: `(S, layers of both heads)` int64, how many updates they have seen.
    """

    def __init__(self, state: Mapping[str, Tensor], spec: SiameseSpec, like: Tensor) -> None:
        members = len(like)
        self.state = state
        # name in the state, row of `moments` (none for `batches`), and place
        self.places: list[tuple[str, tuple[int, ...], slice]] = []
        unit = layer = 0
        for name, head in (("projector", spec.projector), ("predictor", spec.predictor)):
            for own, width in enumerate(head.widths):
                units = slice(unit, unit + width)
                for row, kind in enumerate(("mean", "variance")):
                    self.places.append((f"{name}.{own}.{kind}", (row,), units))
                self.places.append((f"{name}.{own}.batches", (), slice(layer, layer + 1)))
                unit, layer = unit + width, layer + 1
        self.moments = like.new_zeros(members, 2, unit)
        self.batches = torch.zeros(members, layer, dtype=torch.int64, device=like.device)
        for name, view in self._views():
            view.copy_(state[name].view_as(view))

    def by_name(self) -> dict[str, Tensor]:
        """New tensors under the names they have in the state."""
        return {name: view.reshape(self.state[name].shape).clone() for name, view in self._views()}

    def _views(self) -> Iterator[tuple[str, Tensor]]:
        """Those that the state has: a norm that is off, or a part of one, has none."""
        for name, row, place in self.places:
            if name in self.state:
                yield name, self.moments[:, row[0], place] if row else self.batches[:, place]


class End(NamedTuple):
    """Where a part of the flat parameters ends: how many names and how many numbers come before."""

    names: int
    numbers: int


def parameter_order(network: BlockNetwork, spec: SiameseSpec) -> tuple[list[str], list[End]]:
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
    for place, head in (("projector", spec.projector), ("predictor", spec.predictor)):
        layers = range(len(head.widths))
        parts.append([f"{place}.{i}.weight" for i in layers])
        parts.append([f"{place}.{i}.bias" for i in layers if head.bias])
        fans = [inputs, *head.widths][: len(layers)]
        sizes.append(sum(u * fan for u, fan in zip(head.widths, fans, strict=True)))
        sizes.append(sum(head.widths) if head.bias else 0)
        inputs = head.outputs(inputs)
    names: list[str] = []
    ends: list[End] = []
    for part, size in zip(parts, sizes, strict=True):
        names += part
        ends.append(End(len(names), size + (ends[-1].numbers if ends else 0)))
    return names, ends


def velocity_name(name: str) -> str:
    """The name of a trained tensor's velocity in the optimiser's memory."""
    return f"momentum.{name}" if name.startswith("network.") else f"momentum.state.{name}"


def member_rates(kernel: SiameseKernel, like: Tensor) -> tuple[np.ndarray, ...]:
    """Learning rates and decays `(S, 2)`, of all and of the predictor; momenta and clips `(S,)`."""
    optimizer, predictor = kernel.optimizer, kernel.predictor

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
