"""The base class of networks: an ensemble that takes leaves and returns outputs and activations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dualnets._checks import check_switch, check_tree
from hltm.sampling.philox import check_members
from hltm.tree import LatentTree


class Network(nn.Module, ABC):
    """S networks on the leaves of their trees; `dualnets.networks` describes the interface.

    A leaf of two states is one bit, any other leaf is one-hot: one number per state, 1 for its state. A
    one-hot leaf that has none of its states, since it is missing, is all zeros.

    Args:
        states: the number of states of each leaf.
        members: S addresses.
        stacked: whether public arrays have the S axis.
        one_hot: whether leaves of two states are one-hot, too.

    Attributes:
        inputs: X, the number of leaves.
        features: the number of inputs of the first layer.
        constants: tensors that all members share and training never changes. They are not buffers, so
            that every parameter and every buffer has S in front.
        sizes: the setting of how large its layers are, and `reads`, what it reads, in words for errors.
    """

    sizes: ClassVar[str] = "units"
    reads: ClassVar[str] = "leaves"

    def __init__(
        self, *, states: Sequence[int], members: Sequence[int], stacked: bool, one_hot: bool = False
    ) -> None:
        super().__init__()
        self.one_hot = check_switch("one_hot", one_hot)
        self.members = tuple(members)
        self.stacked = stacked
        self.inputs = len(states)
        widths = feature_widths(states, one_hot)
        self.features = sum(widths)
        self.constants: dict[str, Tensor] = {}
        if self.features > self.inputs:
            places = [
                (x, state)
                for x, width in enumerate(widths)
                for state in (range(width) if width > 1 else (1,))
            ]
            # the leaf of each feature, and the state at which the feature is 1
            self.constants["leaf_of"], self.constants["state_of"] = torch.tensor(places).unbind(1)

    @property
    @abstractmethod
    def depth(self) -> int:
        """L, the level of the output."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

    @property
    def batch_dependent(self) -> bool:
        """Whether a sample's output in training depends on the other samples of its batch."""
        return False

    @property
    def reads_missing(self) -> bool:
        """Whether it can read that a leaf of two states is missing; other leaves can always be."""
        return self.one_hot

    @abstractmethod
    def forward(self, leaves: Tensor) -> Tensor:
        """`(S, B, U)` outputs of `(S, B, X)` leaves; neither has S where the network has none."""

    @abstractmethod
    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(S, B, V, U)` or `(S, B, U)`; no S where the network has none."""

    def _checked(self, leaves: Tensor) -> Tensor:
        """The leaves as `(S, B, X)`.

        Raises:
            ValueError: leaves of the wrong shape.
        """
        members = len(self.members)
        given = leaves if self.stacked else leaves[None]
        if given.ndim != 3 or given.shape[0] != members or given.shape[2] != self.inputs:
            expected = f"({members}, B, {self.inputs})" if self.stacked else f"(B, {self.inputs})"
            raise ValueError(f"{self.reads} have shape {tuple(leaves.shape)}, expected {expected}")
        return given

    def _encoded(self, leaves_SXB: Tensor) -> Tensor:
        """`(S, F, B)` features in the weights' dtype."""
        return self._featured(leaves_SXB.to(self.device)).to(self.dtype)

    def _featured(self, leaves_SXB: Tensor) -> Tensor:
        """`(S, F, B)` features: the leaves' own bits where all are binary, otherwise uint8."""
        if "leaf_of" not in self.constants:
            return leaves_SXB
        shown = leaves_SXB[:, self.constants["leaf_of"]]
        return (shown == self.constants["state_of"][:, None]).to(torch.uint8)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # what moves parameters to a device moves constants as well
        self.constants = {name: fn(tensor) for name, tensor in self.constants.items()}
        return super()._apply(fn, recurse)


def feature_widths(states: Sequence[int], one_hot: bool = False) -> list[int]:
    """The number of features of each leaf: 1 for a leaf of two states, K for one of K > 2 or `one_hot`."""
    return [1 if count <= 2 and not one_hot else int(count) for count in states]


def leaf_states(tree: LatentTree) -> list[int]:
    """The number of states of each leaf."""
    return [int(count) for count in tree.tables.cardinality[list(tree.leaves)]]


def network_members(tree: LatentTree, members: int | None) -> tuple[Sequence[int], bool]:
    """The addresses of the networks on a tree, and whether public arrays have the S axis.

    Raises:
        TypeError: anything but a tree.
        ValueError: `members` beside several trees.
    """
    check_tree(tree)
    if members is None:
        return tree.members, tree.stacked
    if tree.stacked:
        raise ValueError(
            f"members={members} is for a single tree; these {len(tree.members)} trees already "
            "make one network each"
        )
    return range(check_members(members)), True
