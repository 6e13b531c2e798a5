"""What a method is: what it needs of a batch, its state, its loss, and what it does after a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from dualnets.methods.siamese import SiameseSpec
from dualnets.networks.heads import Head, Seen
from dualnets.optim.optimizers import Group
from dualnets.optim.per_member import check_count, cut
from hltm.model.topology import Node
from hltm.tree import LatentTree

State = dict[str, Tensor]
MOMENTS = "moments"  # under which a loss hands running moments to `after_step`


class Needs(NamedTuple):
    """What a method wants drawn for every step.

    Attributes:
        views: augmented views of each sample.
        negatives: views of other samples per sample.
        targets: nodes whose states in the data themselves come with the batch: `root`, `latents`, or
            nodes; none by default.
        places: whether the samples' places in a fixed data set come with the batch; a method that
            asks for them cannot train on fresh data.
    """

    views: int = 2
    negatives: int = 0
    targets: str | tuple[Node, ...] = ()
    places: bool = False


class Batch(NamedTuple):
    """One step's data for all members.

    Attributes:
        leaves: `(S, P * B, X)`, all P = views + negatives passes one after the other, so that a
            network sees them in one call; no S axis where the network has none.
        size: B.
        targets: `(S, B, T)` int64 states, where the method needs them.
        places: `(B,)` int64 places in the fixed data set, where the method needs them; the same for
            all members.
        precision: what `outputs` runs networks in, under autocast; None for that of their
            parameters. Heads and losses are never short.
    """

    leaves: Tensor
    size: int
    targets: Tensor | None = None
    places: Tensor | None = None
    precision: torch.dtype | None = None


class TrainContext(NamedTuple):
    """What a method may know of the training it serves.

    Attributes:
        trees: the data.
        seed: 64 bits.
        steps: how many updates there will be.
        batch: B.
        samples: P, the size of the fixed data set; None for fresh data.
    """

    trees: LatentTree
    seed: int
    steps: int
    batch: int
    samples: int | None = None


class Method(ABC):
    """A way of training: a frozen dataclass of settings with pure functions.

    A method's state is a flat dict of tensors with the S axis in front (predictors, moving
    averages, queues); tensors that require gradients are trained beside the network.

    Attributes:
        projector: on the network's outputs, with `projector.…` in the state; none by default.
        per_member: names of the fields that are a number or one per member, or a `Group`.
    """

    projector: Head = Head()
    per_member: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def needs(self) -> Needs:
        """What it wants drawn."""

    @property
    def plain_loss(self) -> object | None:
        """The loss, where a step is nothing but this loss of the network's outputs; else None.

        Such a method can be trained by a compiled span. A class speaks for itself alone: what it
        inherits is not asked, since it may train otherwise.
        """
        return None

    @property
    def siamese(self) -> SiameseSpec | None:
        """What it is made of, where one branch foretells another and all it keeps is their parameters.

        Such a method can be trained by a compiled span too, under the same condition.
        """
        return None

    @property
    def groups(self) -> Mapping[str, Group]:
        """Name in the state, or what stands before a dot in names -> rates of their own."""
        return {}

    def of_members(self, low: int, high: int) -> Self:
        """The same method for members low..high-1."""
        parts: dict[str, Any] = {}
        for name in self.per_member:
            given = getattr(self, name)
            part = (
                given.of_members(low, high) if isinstance(given, Group) else cut(given, low, high)
            )
            if part != given:
                parts[name] = part
        return replace(self, **parts) if parts else self  # type: ignore[type-var]

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError, naming the value and what was expected, where it cannot be trained so.

        Here rates that do not fit the members, and a projector with a layer that says nothing; a
        method with more to refuse does so after this.
        """
        members = len(network.members)  # type: ignore[arg-type]
        for name in self.per_member:
            given = getattr(self, name)
            each = {name: given}
            if isinstance(given, Group):
                each = {f"{name}.lr": given.lr, f"{name}.weight_decay": given.weight_decay}
            for what, rates in each.items():
                check_count(f"values of {what}", rates, members)
        if self.projector.widths:
            self.projector.check(output_units(network, setup), "projector")

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        """The state before the first step."""
        return {}

    @abstractmethod
    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        """`(S,)` losses, differentiable, and what `after_step` needs to know.

        A member's loss depends on that member alone.
        """

    def embedding(
        self, network: nn.Module, state: State, leaves: Tensor, *, batch_statistics: bool = False
    ) -> Tensor:
        """`(S, B, U)`, what the loss compares: the network's outputs, behind a projector if there is one.

        As in evaluation: a BatchNorm in the projector goes by its running moments, so that a sample's
        embedding is its own.

        Args:
            network: any network.
            state: the method's.
            leaves: `(S, B, X)`, or `(B, X)` where the network has no S axis.
            batch_statistics: whether the projector goes by the moments of these leaves instead, as
                the loss does in training.
        """
        own = outputs(network, Batch(leaves, leaves.shape[-2]))[0]
        return self.projector(strip_prefix(state, "projector"), own, running=not batch_statistics)

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        """The state after update number `step`, counted from 0, of the parameters.

        What changes is a new tensor, never changed in place. A trained tensor that is replaced
        begins anew: the optimiser forgets what it knew of it. One that is only projected, such as
        prototypes back to unit length, is changed in place and keeps the optimiser's memory. Here
        the running moments of heads move; a method that does more calls this first.

        Args:
            network: after the update.
            state: before; its trained tensors after the update.
            carried: what `loss` handed over.
            step: counted from 0.
            setup: as in `init`.
        """
        return {**state, **strip_prefix(carried, MOMENTS)}


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    """The same tensors under names that begin with `prefix.`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """What lies under a prefix, by the rest of its name.

    Example:
        >>> strip_prefix({"target.0": torch.zeros(1), "queue": torch.ones(1)}, "target")
        {'0': tensor([0.])}
    """
    start = f"{prefix}."
    return {name[len(start) :]: v for name, v in state.items() if name.startswith(start)}


def trained(tensors: Mapping[str, Tensor]) -> State:
    """The same tensors, to be trained."""
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def init_head(
    head: Head, inputs: int, network: nn.Module, setup: TrainContext, place: int
) -> State:
    """A head before the first step: initial parameters, to be trained, and running moments.

    Args:
        head: its settings.
        inputs: features below.
        network: what it stands on.
        setup: as in `Method.init`.
        place: which head of the method, a part of the address.
    """
    drawn = head.init(inputs, place=place, **address(network, setup))
    parameter = next(network.parameters())
    return trained(drawn) | head.moments(len(parameter), parameter)


def update_running_stats(name: str, head: Head, state: State, seen: Sequence[Seen]) -> State:
    """What a loss carries so that `after_step` moves the running moments of the head of this name."""
    return with_prefix(f"{MOMENTS}.{name}", head.moved(strip_prefix(state, name), seen))


def detached_copy(network: nn.Module) -> State:
    """Parameters and buffers of a network by name, copied, without gradients."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def address(network: nn.Module, setup: TrainContext) -> dict[str, Any]:
    """Where what a method draws for itself comes from and goes to, for `Head.init` and its like.

    Seed and members, which with a place are the address of random numbers; dtype and device of the
    network's parameters.
    """
    like = next(network.parameters())
    return {
        "seed": setup.seed, "members": network.members, "dtype": like.dtype, "device": like.device,
    }  # fmt: skip


def outputs(
    network: nn.Module, batch: Batch, parameters: Mapping[str, Tensor] | None = None
) -> Sequence[Tensor]:
    """The network's outputs on every pass of a batch, `(S, B, U)` each.

    A network whose outputs depend on the rest of their batch sees each pass alone. Outputs that
    came out shorter than the parameters, as under autocast, are as long as these again.

    Args:
        network: any network.
        batch: P passes.
        parameters: parameters and buffers to use in place of the network's own, by name.
    """

    given = network.parameters() if parameters is None else parameters.values()
    long = next((own.dtype for own in given if own.is_floating_point()), None)
    short, device = batch.precision, batch.leaves.device.type

    def call(leaves: Tensor) -> Tensor:
        with nullcontext() if short is None else torch.autocast(device, dtype=short):
            if parameters is None:
                found = network(leaves)
            else:
                found = torch.func.functional_call(network, dict(parameters), (leaves,))
        if long is not None and found.dtype.itemsize < long.itemsize:
            found = found.to(long)
        return found if found.ndim == 3 else found[None]

    if getattr(network, "batch_dependent", False):
        return [call(leaves) for leaves in batch.leaves.split(batch.size, dim=-2)]
    return call(batch.leaves).split(batch.size, dim=1)


def output_units(network: nn.Module, setup: TrainContext) -> int:
    """How many outputs a network has, found by a pass over two rows of zeros."""
    given = next(network.parameters())
    leaves = torch.zeros(2, len(setup.trees.leaves), dtype=torch.uint8, device=given.device)
    if network.stacked:
        leaves = leaves.expand(len(network.members), *leaves.shape)  # type: ignore[arg-type]
    with torch.no_grad():  # on a copy: running statistics stay as they are
        return int(torch.func.functional_call(network, detached_copy(network), (leaves,)).shape[-1])
