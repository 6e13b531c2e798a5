"""Methods that predict leaves: outputs at the leaves' positions, and a linear head with a logit per state.

S members, B samples, X leaves, U units, K states, the largest number among the leaves.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from dualnets._checks import check_kind, check_switch
from dualnets._lazy import torch
from dualnets._options import option
from dualnets.methods.protocol import (
    Batch,
    Method,
    State,
    TrainContext,
    address,
    output_units,
    outputs,
    strip_prefix,
    trained,
    with_prefix,
)
from dualnets.networks.heads import Head
from dualnets.networks.layers import linear
from dualnets.optim.per_member import Group

if TYPE_CHECKING:
    from torch import Tensor, nn

PLACE = 0  # of the classifier's random numbers


@dataclass(frozen=True)
class LeafPrediction(Method):
    """What methods share that predict the states of leaves from one view of a sample.

    The logits of leaf x are W_x h_x + b_x. A network with a method `positions` gives h_x, its output at the
    leaf's position, and W is the same for all leaves unless `per_leaf`. Any other network has one output h
    for all leaves, and every leaf a W_x of its own.

    State: `classifier.…`, the linear head, trained; `absent` `(S, X, K)` bool, the states that a leaf does
    not have, whose logits are -inf.

    Attributes:
        per_leaf: whether each leaf has a linear layer of its own at its position, rather than one for all.
        bias: whether the classifier has biases.
        rates: rates of the classifier; one number each or one per member.
    """

    per_leaf: bool = option(False, flag="classifier_per_leaf")
    bias: bool = option(True, flag="classifier_bias")
    rates: Group = Group()  # noqa: RUF009, immutable
    per_member: ClassVar[tuple[str, ...]] = ("rates",)

    def __post_init__(self) -> None:
        check_switch("per_leaf", self.per_leaf)
        check_switch("bias", self.bias)
        check_kind("rates", self.rates, Group, "dualnets.Group(lr=2.0)")

    @property
    def groups(self) -> dict[str, Group]:
        return {"classifier": self.rates}

    def check(self, network: nn.Module, setup: TrainContext) -> None:
        """Raise ValueError where there are no leaves to predict, or no positions to read them at."""
        super().check(network, setup)
        leaf_states(setup)
        if self.per_leaf and not has_positions(network):
            raise ValueError(
                "per_leaf=True needs a network with outputs at positions, such as a transformer, got "
                f"{type(network).__name__}"
            )

    def init(self, network: nn.Module, setup: TrainContext) -> State:
        states, own = leaf_states(setup), address(network, setup)
        leaves, most, units = len(states), max(states), output_units(network, setup)
        apart = self.per_leaf or not has_positions(network)
        widths = (leaves * most if apart else most,)
        classifier = Head(widths, bias=self.bias).init(units, place=PLACE, **own)
        if self.per_leaf:  # (S, X, K, U) and (S, X, K)
            classifier = {
                name: tensor.unflatten(2, (leaves, most))[:, 0]
                for name, tensor in classifier.items()
            }
        absent = torch.arange(most) >= torch.tensor(states)[:, None]  # (X, K)
        absent = absent.to(own["device"]).expand(len(own["members"]), -1, -1).contiguous()
        return with_prefix("classifier", trained(classifier)) | {"absent": absent}

    def loss(self, network: nn.Module, state: State, batch: Batch) -> tuple[Tensor, State]:
        passes = leaf_passes(batch)
        view, sample = passes[0], passes[-1]  # one and the same where the method needs one pass
        shown = batch._replace(leaves=batch.leaves[..., : batch.size, :])
        log_probability = self.logits(network, state, shown).log_softmax(-1)
        states = (~state["absent"]).sum(-1)  # (S, X)
        # labels are states already; recordings are compared on rows whose passes were exchanged, too
        labels = sample.clamp(min=0).minimum(states[:, None] - 1)
        losses = -log_probability.gather(-1, labels[..., None])[..., 0]  # (S, B, X)
        predicted = self._predicted(view, states)
        if predicted is None:
            return losses.mean((1, 2)), {}
        return masked_mean(losses, predicted), {}

    @abstractmethod
    def _predicted(self, view: Tensor, states: Tensor) -> Tensor | None:
        """`(S, B, X)` bool, the leaves whose losses count; None for all.

        Args:
            view: `(S, B, X)` int64.
            states: `(S, X)` int64, the number of states of each leaf.
        """

    def logits(self, network: nn.Module, state: State, batch: Batch) -> Tensor:
        """`(S, B, X, K)` logits of the leaves' states, from one pass; -inf for states that a leaf lacks."""
        absent, parameters = state["absent"], strip_prefix(state, "classifier")
        leaves, most = absent.shape[1:]
        if not has_positions(network):
            (output,) = outputs(network, batch)
            found = Head((leaves * most,), bias=self.bias)(parameters, output)
            found = found.unflatten(-1, (leaves, most))
        else:
            (output,) = position_outputs(network, batch)
            members, samples = output.shape[:2]
            if self.per_leaf:
                inputs = output.flatten(2).transpose(1, 2)  # (S, X * U, B)
                found = linear(inputs, parameters["0.weight"], parameters.get("0.bias"))
                found = found.view(members, leaves, most, samples).permute(0, 3, 1, 2)
            else:
                found = Head((most,), bias=self.bias)(parameters, output.flatten(1, 2))
                found = found.unflatten(1, (samples, leaves))
        return found.masked_fill(absent[:, None], -torch.inf)


def leaf_states(setup: TrainContext) -> list[int]:
    """The number of states of each leaf of the trees that are trained on.

    Raises:
        ValueError: data other than trees, which have no leaves with states.
    """
    from hltm.tree import LatentTree

    if not isinstance(setup.source, LatentTree):
        raise ValueError(
            f"leaves are predicted from data of trees, got {type(setup.source).__name__}"
        )
    return [int(k) for k in setup.source.tables.cardinality[list(setup.source.leaves)]]


def check_leaves_out(setup: TrainContext, needed: bool) -> None:
    """Check that the augmentation leaves out leaves, or that it leaves out none.

    Raises:
        ValueError: the other is the case.
    """
    if setup.augment is None:  # unknown
        return
    some = bool(setup.augment.missing_rates(setup.source).any())
    if some != needed:
        wanted = (
            "leaves that are left out are predicted: augment must leave out some, e.g. "
            "hltm.drop_leaves(0.3)"
            if needed
            else "every leaf is predicted: augment must leave out none"
        )
        raise ValueError(f"{wanted}, got {setup.augment}")


def leaf_passes(batch: Batch) -> list[Tensor]:
    """`(S, B, X)` int64 leaves of every pass of a batch."""
    leaves = batch.leaves if batch.leaves.ndim == 3 else batch.leaves[None]
    return list(leaves.long().split(batch.size, dim=1))


def is_missing(view: Tensor, states: Tensor) -> Tensor:
    """`(S, B, X)` bool: which leaves have no state: a number below 0, or the number of states or more.

    Args:
        view: `(S, B, X)` int64.
        states: `(S, X)` or `(X,)` numbers of states.

    Example:
        >>> is_missing(torch.tensor([[[0, 255, 2]]]), torch.tensor([2, 2, 3]))
        tensor([[[False,  True, False]]])
    """
    return (view < 0) | (view >= states[..., None, :])


def masked_mean(losses: Tensor, counted: Tensor) -> Tensor:
    """`(S,)` means of the losses `(S, B, X)` that count, bool; 0, without a gradient, where none does.

    Example:
        >>> masked_mean(torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]]), torch.eye(2).bool()[:, :1, None] )
        tensor([1.5000, 0.0000])
    """
    kept = torch.where(counted, losses, 0)
    return kept.sum((1, 2)) / counted.expand_as(losses).sum((1, 2)).clamp(min=1)


def has_positions(network: nn.Module) -> bool:
    """Whether a network has an output at each leaf's position."""
    return callable(getattr(network, "positions", None))


def position_outputs(
    network: nn.Module,
    batch: Batch,
    parameters: Mapping[str, Tensor] | None = None,
    layers: int = 0,
) -> list[Tensor]:
    """`(S, B, X, U)` outputs at the leaves' positions, of every pass of a batch.

    Args:
        network: one with positions.
        batch, parameters: as for `outputs`.
        layers: number of top layers whose activations are averaged instead, each normalised to mean 0 and
            variance 1 over the units of a position.
    """
    from dualnets.networks.position_reader import PositionReader

    given = None if parameters is None else with_prefix("network", parameters)
    found = outputs(PositionReader(network, layers), batch, given)
    return [own.unflatten(-1, (batch.leaves.shape[-1], -1)) for own in found]
