"""Training of a Siamese method, compiled for the CPU.

As in `pairs`, each member is trained on its own through many steps, on one core: target and online
network, projector and predictor with batch statistics and running moments, the loss, the update, and
the moving average of the target (`siamese_kernel`). `train_steps` takes this path where
`supported_kernel` finds it exact and the optimiser has a compiled update. The eager path is the
reference; both give the same numbers up to the order of sums.
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
from dualnets.networks.compiled.members import train_all
from dualnets.networks.compiled.structure import head_layers, network_layers
from dualnets.networks.compiled.unmodified import is_unmodified
from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.optim.compiled import CompiledUpdate
from dualnets.training.compiled.siamese_kernel import train_members
from dualnets.training.compiled.tables import head_places, in_order, network_places


class SiameseKernel(NamedTuple):
    """A network and a method for which there is compiled code."""

    network: BlockNetwork
    layers: tuple[Layers, Layers, Layers]  # of the network, the projector and the predictor
    spec: SiameseSpec


def supported_kernel(
    network: nn.Module, spec: SiameseSpec | None, device: str = "cpu"
) -> SiameseKernel | None:
    """The compiled training of a network by a Siamese method; None if it is not supported.

    A method of another kind has no `spec`.
    """
    if spec is None or not is_unmodified(network, device) or not network.plain:
        return None
    outputs = network.blocks[-1] * network.units[-1]
    layers = network_layers(network)
    projector = _head_layers(spec.projector, outputs)
    predictor = _head_layers(spec.predictor, spec.projector.outputs(outputs))
    if layers is None or projector is None or predictor is None:
        return None
    return SiameseKernel(network, (layers, projector, predictor), spec)


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
    update: CompiledUpdate,
    state: Mapping[str, Tensor],
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
        kernel: from `supported_kernel`.
        update: of all trained tensors and the optimiser's memory, which change in place.
        state: the method's.
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
    network, layers, spec = kernel
    # 1. the moving average of every trained tensor that has one
    averages = {
        name: state[target_name(name)].contiguous().clone()
        for name in update.names
        if spec.separate_target and target_name(name) in state
    }
    addresses = [averages[name].data_ptr() if name in averages else 0 for name in update.names]
    # 2. schedules, and what the heads are
    count = views[0].shape[2] // batch
    decays = target_decays(spec, first_step, count, total_steps, keep_last=keep_last_target)
    losses = torch.full((len(frozen_at),), torch.nan, dtype=network.dtype)
    running = HeadMoments(state, spec, losses)
    kind = losses.numpy().dtype
    arguments = (
        *(view.contiguous().numpy() for view in views),
        update.rules, np.array(addresses, dtype=np.int64), _places(kernel, update.names),
        update.factors(first_step, count, total_steps), np.array(decays, dtype=kind),
        losses.numpy(), frozen_at.numpy(), running.moments.numpy(), running.batches.numpy(),
        *layers,
        np.array(_momenta(spec.projector) + _momenta(spec.predictor), dtype=kind),
        np.array([spec.scale, spec.offset], dtype=kind),
        batch,
        (network.normalize, spec.stop_gradient, spec.normalized, spec.symmetric),
        first_step,
    )  # fmt: skip
    # 3. the kernel
    train_all(train_members, arguments, losses.numpy())
    # 4. tensors that are not trained are new ones
    target = {target_name(name): own for name, own in averages.items()}
    return {**state} | target | running.by_name(), losses


def target_name(name: str) -> str:
    """The name in the state of the target's tensor beside a trained one."""
    return f"target.{name.removeprefix('state.')}"


def target_decays(
    spec: SiameseSpec, first_step: int, steps: int, total_steps: int, *, keep_last: bool
) -> list[float]:
    """m of the moving average in every step; 1 in the last one where the target stays as it is."""
    if not spec.separate_target:
        return [1.0] * steps
    found = [spec.ema_decay(first_step + step, total_steps) for step in range(steps)]
    return [*found[:-1], 1.0] if keep_last else found


def _places(kernel: SiameseKernel, names: Sequence[str]) -> np.ndarray:
    """`(T,)` places of the trained tensors in the table of all layers."""
    network, _, spec = kernel
    first, second = len(spec.projector.widths), len(spec.predictor.widths)
    places = network_places(network.depth) | head_places("projector", first, network.depth)
    return in_order(names, places | head_places("predictor", second, network.depth + first))


class HeadMoments:
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
