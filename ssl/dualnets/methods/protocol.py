"""What a method is: what it needs of a batch, its state, its loss, and what it does after a step."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

State = dict[str, Tensor]


class Needs(NamedTuple):
    """What a method wants drawn for every step.

    Attributes:
        views: augmented views of each sample.
        negatives: views of other, fresh samples per sample.
    """

    views: int = 2
    negatives: int = 0


class Batch(NamedTuple):
    """One step's data for all members.

    Attributes:
        leaves: `(S, P * B, X)`, all P = views + negatives passes one after the other, so that a
            network sees them in one call; no S axis where the network has none.
        size: B.
    """

    leaves: Tensor
    size: int


class Method(Protocol):
    """A way of training; frozen settings, pure functions.

    A method's state is a flat dict of tensors with the S axis in front (predictors, moving
    averages, queues); tensors that require gradients are trained beside the network.
    """

    @property
    def needs(self) -> Needs:
        """What it wants drawn."""

    @property
    def plain_loss(self) -> object | None:
        """The loss, where a step is nothing but this loss of the network's outputs; else None.

        Such a method can be trained by a compiled span.
        """

    def init(self, network: nn.Module, seed: int) -> State:
        """The state before the first step."""

    def loss(self, network: nn.Module, state: State, batch: Batch) -> Tensor:
        """`(S,)` losses, differentiable; a member's loss depends on that member alone."""

    def after_step(self, network: nn.Module, state: State, step: int) -> State:
        """The state after an update of the parameters."""
