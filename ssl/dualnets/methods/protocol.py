"""The interface of a training method: the data it needs, its state, its loss, and its work after a step.

A method is one file of this folder: a frozen dataclass derived from `Method`, whose fields are its
settings. A network may be of a dtype of 16 bits: heads, losses and all that a method keeps are then of
float32, into which the network's outputs are converted.

Abbreviations in shapes: S members, B samples, X leaves, U units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from dualnets._lazy import torch
from dualnets._precision import at_least_float32, with_bounded_slopes
from dualnets.methods._directions import direction
from dualnets.methods.siamese import SiameseSpec
from dualnets.methods.source import Source
from dualnets.networks.heads import Head
from dualnets.networks.running_moments import BatchMoments
from dualnets.optim.per_member import Group, check_count, rates_of_members

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hltm.model.nodes import Node
    from hltm.tree import LatentTree

State = dict[str, "Tensor"]
PROJECTOR = (
    0  # place of a projector's random numbers; a method's other parts have places of their own
)
MOMENTS = "moments"  # prefix of the running moments that a loss passes on to `after_step`


class Needs(NamedTuple):
    """The data that a method needs in every step.

    Attributes:
        views: number of augmented views of each sample.
        negatives: number of views of other samples per sample.
        targets: nodes whose states in the data come with the batch: `root`, `latents`, or nodes; none
            by default.
        places: whether the samples' places in a fixed data set come with the batch; a method that
            needs them cannot train on fresh data.
        original: whether the sample without augmentation is a pass, too, behind the views.
    """

    views: int = 2
    negatives: int = 0
    targets: str | tuple[Node, ...] = ()
    places: bool = False
    original: bool = False

    @property
    def passes(self) -> int:
        """P, the number of passes of a sample: views, the sample itself if needed, and negatives."""
        return self.views + self.original + self.negatives


class Batch(NamedTuple):
    """One step's data for all members.

    Attributes:
        leaves: `(S, P * B, X)`, all P passes (`Needs.passes`) one after the other, so that a
            network sees them in one call; no S axis where the network has none.
        size: B.
        targets: `(S, B, T)` int64 states, where the method needs them.
        places: `(B,)` int64 places in the fixed data set, where the method needs them; the same for
            all members.
        precision: dtype in which `outputs` runs networks under autocast; None for that of their
            parameters. Heads and losses always run in the parameters' dtype, or float32 if that is shorter.
    """

    leaves: Tensor
    size: int
    targets: Tensor | None = None
    places: Tensor | None = None
    precision: torch.dtype | None = None


class TrainContext(NamedTuple):
    """The training that a method is used in.

    Attributes:
        source: the data, e.g. trees.
        seed: 64 bits.
        steps: number of all updates.
        batch: B, samples per update and member.
        samples: P, the size of the fixed data set; None for fresh data.
        augment: what a view changes; None where that is unknown.
    """

    source: LatentTree | Source
    seed: int
    steps: int
    batch: int
    samples: int | None = None
    augment: Any = None


class Method(ABC):
    """A training method: a frozen dataclass of settings with pure functions.

    A method's state is a flat dict of tensors with the S axis in front (predictors, moving
    averages, queues); tensors that require gradients are trained together with the network.

    Attributes:
        projector: head on the network's outputs, `projector.…` in the state; none by default.
        per_member: names of the fields that are one number or one per member, or a `Group`.
        unit_length: whether the vectors that the loss compares are scaled to length 1.
    """

    projector: Head = Head()
    per_member: ClassVar[tuple[str, ...]] = ()
    unit_length: ClassVar[bool] = False

    @property
    def needs(self) -> Needs:
        """The data it needs in every step: two views of each sample, unless a method needs other data."""
        return Needs()

    @property
    def plain_loss(self) -> object | None:
        """The loss, where a step consists of this loss of the network's outputs alone; else None.

        Such a method can be trained by compiled steps. The property counts only where the class itself
        defines it, since a subclass may train differently.
        """
        return None

    @property
    def siamese(self) -> SiameseSpec | None:
        """The parts of a method whose predictor on one view predicts the other view's projection; else None.

        Such a method, if its state holds nothing but the parameters of the two branches, can be trained
        by compiled steps, too, under the same condition.
        """
        return None

    @property
    def groups(self) -> Mapping[str, Group]:
        """Name of a tensor in the state, or its part before the first dot -> rates of its own."""
        return {}

    def of_members(self, low: int, high: int) -> Self:
        """The same method for members low..high-1."""
        parts: dict[str, Any] = {}
        for name in self.per_member:
            given = getattr(self, name)
            whole = isinstance(given, Group)
            part = given.of_members(low, high) if whole else rates_of_members(given, low, high)
            if part != given:
                parts[name] = part
        return replace(self, **parts) if parts else self  # type: ignore[type-var]

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError, with the value and what was expected, where the network cannot be trained.

        This base checks that rates are as many as members, and that no layer of the projector has a constant
        output; a method with further conditions calls it first.
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
        """The state before the first step: `projector.…`; a method that keeps more adds it."""
        if not self.projector.widths:
            return {}
        units = output_units(network, setup)
        return init_head("projector", self.projector, units, network, setup, PROJECTOR)

    @abstractmethod
    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        """`(S,)` losses, differentiable, and the tensors that `after_step` needs.

        A member's loss depends on that member alone.
        """

    def embedding(
        self, network: nn.Module, state: State, leaves: Tensor, *, batch_statistics: bool = False
    ) -> Tensor:
        """`(S, B, U)`, the vectors that the loss compares: the projector's outputs, or the network's.

        They have length 1 where `unit_length`. As in evaluation, BatchNorm in the projector uses its
        running moments, so that the embedding of a sample does not depend on other samples.

        Args:
            network, state: trained or not.
            leaves: `(S, B, X)`, or `(B, X)` where the network has no S axis.
            batch_statistics: whether the projector uses the moments of these leaves instead, as the loss
                does in training.
        """
        own = outputs(network, Batch(leaves, leaves.shape[-2]))[0]
        projector = strip_prefix(state, "projector")
        found = self.projector(projector, own, running=not batch_statistics)
        return direction(found) if self.unit_length else found

    def after_step(
        self, network: nn.Module, state: State, carried: State, step: int, setup: TrainContext
    ) -> State:
        """The state after update number `step`, counted from 0, of the parameters.

        Tensors are replaced by new ones rather than changed in place. The optimiser's memory of a
        trained tensor that is replaced is reset. A trained tensor that is only projected, such as
        prototypes to unit length, is changed in place, which keeps the optimiser's memory. This base
        updates the running moments of heads; a method that does more calls it first.

        Args:
            network: after the update.
            state: before the update, except its trained tensors, which are updated already.
            carried: the tensors that `loss` returned for it.
            step: counted from 0.
            setup: as in `init`.
        """
        return {**state, **strip_prefix(carried, MOMENTS)}

    def in_place(
        self, network: nn.Module, state: State, setup: TrainContext
    ) -> Callable[[State, int], None] | None:
        """`after_step` as a function (carried, step) that changes tensors of the state where they lie.

        It is called instead of `after_step` on a CPU as long as every member is trained and the state is
        the one given here, but for running moments, which the caller updates. What it makes of finite
        numbers must be finite. It counts only where the class that defines `after_step` defines it, too.

        Args:
            network, state, setup: as for `after_step`.

        Returns:
            None where there is only `after_step`.
        """
        return _nothing_more


def _nothing_more(carried: State, step: int) -> None:
    """The work after a step of a method that keeps running moments alone."""


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    """The same tensors under names that begin with `prefix.`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(state: Mapping[str, Tensor], prefix: str) -> State:
    """The tensors whose names begin with `prefix.`, by the rest of their names.

    Example:
        >>> strip_prefix({"target.0": torch.zeros(1), "queue": torch.ones(1)}, "target")
        {'0': tensor([0.])}
    """
    start = f"{prefix}."
    return {name[len(start) :]: v for name, v in state.items() if name.startswith(start)}


def trained(tensors: Mapping[str, Tensor]) -> State:
    """The same tensors, marked as trained."""
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


def init_head(
    name: str, head: Head, inputs: int, network: nn.Module, setup: TrainContext, place: int
) -> State:
    """The head `name` in a state before the first step: trained parameters, and running moments.

    Its `place` within its method is a part of the address of its random numbers.
    """
    drawn = head.init(inputs, place=place, **address(network, setup))
    like = sample_parameter(network)
    moments = head.init_running_stats(len(like), like, inputs=inputs)
    return with_prefix(name, trained(drawn) | moments)


def apply_head(
    name: str, head: Head, state: State, inputs: Tensor, passes: int = 1
) -> tuple[Tensor, State]:
    """`(S, passes * B, U)` outputs of the head `name` in training, and its new running moments.

    Inputs are `(S, passes * B, U)`, each pass normalised by statistics of its own.
    """
    record: list[BatchMoments] = []
    found = head(strip_prefix(state, name), inputs, passes, record=record)
    return found, update_running_stats(name, head, state, record)


def update_running_stats(
    name: str, head: Head, state: State, record: Sequence[BatchMoments]
) -> State:
    """The new running moments of the head `name`, as a loss passes them on to `after_step`."""
    updated = head.update_running_stats(strip_prefix(state, name), record)
    return with_prefix(f"{MOMENTS}.{name}", updated)


def detached_copy(network: nn.Module) -> State:
    """Parameters and buffers of a network by name, copied, without gradients."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def slow_copy(tensors: Mapping[str, Tensor]) -> State:
    """The same tensors, copied without gradients, in float32 at least, for moving averages.

    A step of 1 % of the way is lost in the rounding of 16 bits.
    """
    return {
        name: at_least_float32(own.detach()).clone() if own.is_floating_point() else own.clone()
        for name, own in tensors.items()
    }


def sample_parameter(network: nn.Module) -> Tensor:
    """The network's first parameter, in float32 at least, for the dtype and device of what a method keeps."""
    return at_least_float32(next(network.parameters()).detach())


def address(network: nn.Module, setup: TrainContext) -> dict[str, Any]:
    """Seed and members, a part of the address of random numbers; dtype and device of what a method keeps.

    They are the arguments that `Head.init` and `random_directions` share.
    """
    like = sample_parameter(network)
    return {
        "seed": setup.seed, "members": network.members, "dtype": like.dtype, "device": like.device,
    }  # fmt: skip


def outputs(
    network: nn.Module, batch: Batch, parameters: Mapping[str, Tensor] | None = None
) -> Sequence[Tensor]:
    """The network's outputs on every pass of a batch, `(S, B, U)` each.

    A network whose outputs depend on the rest of their batch is called on each pass separately.
    Outputs of a shorter dtype than the parameters, as under autocast, are converted to theirs, and those of
    a network of 16 bits to float32, with slopes that do not overflow on their way back.

    Args:
        network: any network.
        batch: its leaves and precision are used.
        parameters: parameters and buffers to use in place of the network's own, by name; those of a network
            of 16 bits may be float32.
    """
    own_dtype = next((own.dtype for own in network.parameters()), torch.float32)
    long = torch.promote_types(own_dtype, torch.float32)
    if parameters is not None and long != own_dtype:
        parameters = {n: t.to(own_dtype) if t.dtype == long else t for n, t in parameters.items()}
    short, device = batch.precision, batch.leaves.device.type

    def call(leaves: Tensor) -> Tensor:
        with nullcontext() if short is None else torch.autocast(device, dtype=short):
            if parameters is None:
                found = network(leaves)
            else:
                found = torch.func.functional_call(network, dict(parameters), (leaves,))
        if own_dtype != long:
            found = with_bounded_slopes(found)
        elif found.dtype.itemsize < long.itemsize:
            found = found.to(long)
        return found if found.ndim == 3 else found[None]

    if getattr(network, "batch_dependent", False):
        return [call(leaves) for leaves in batch.leaves.split(batch.size, dim=-2)]
    # split as they are stored, batch-last, so that their gradient is, too
    return [own.mT for own in call(batch.leaves).mT.split(batch.size, dim=2)]


def output_units(network: nn.Module, setup: TrainContext) -> int:
    """The number of outputs of a network, found by a pass over two rows of zeros."""
    given = next(network.parameters())
    leaves = torch.zeros(2, network.inputs, dtype=torch.uint8, device=given.device)  # type: ignore[call-overload]
    if network.stacked:
        leaves = leaves.expand(len(network.members), *leaves.shape)  # type: ignore[arg-type]
    with torch.no_grad():  # on a copy: running statistics stay as they are
        return int(torch.func.functional_call(network, detached_copy(network), (leaves,)).shape[-1])
