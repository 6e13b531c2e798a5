"""What every network here is: an ensemble that reads leaves and shows its layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from hltm.sampling.philox import check_members
from hltm.tree import LatentTree


class Network(nn.Module, ABC):
    """S networks that read the leaves of their trees; the contract is in `dualnets.networks`.

    A leaf of two states is read as a bit, any other as one number per state, 1 in the place of the
    state it is in.

    Args:
        states: the number of states of each leaf.
        members: S addresses.
        stacked: whether public arrays have the S axis.

    Attributes:
        inputs: X, the leaves it reads.
        features: the numbers that the leaves are read as.
        constants: tensors that all members share and training never changes. They are no buffers, so
            that whatever is a parameter or a buffer has S in front.
    """

    def __init__(self, *, states: Sequence[int], members: Sequence[int], stacked: bool) -> None:
        super().__init__()
        self.members = tuple(members)
        self.stacked = stacked
        self.inputs = len(states)
        widths = feature_widths(states)
        self.features = sum(widths)
        self.constants: dict[str, Tensor] = {}
        if self.features > self.inputs:
            places = [
                (x, state)
                for x, width in enumerate(widths)
                for state in (range(width) if width > 1 else (1,))
            ]
            # which leaf a feature shows, and the state at which it is 1
            self.constants["leaf_of"], self.constants["state_of"] = torch.tensor(places).unbind(1)

    @property
    @abstractmethod
    def depth(self) -> int:
        """L, the level of the output."""

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        return next(self.parameters()).dtype

    @property
    def batch_dependent(self) -> bool:
        """Whether a sample's output in training depends on the batch it comes in."""
        return False

    @abstractmethod
    def forward(self, leaves: Tensor) -> Tensor:
        """`(S, B, U)` outputs of `(S, B, X)` leaves; neither has S where the network has none."""

    @abstractmethod
    def activations(self, leaves: Tensor) -> dict[int, Tensor]:
        """Level -> `(S, B, V, U)` or `(S, B, U)`; no S where the network has none."""

    def _checked(self, leaves: Tensor) -> Tensor:
        """`(S, B, X)` leaves, as they were given.

        Raises:
            ValueError: leaves of the wrong shape.
        """
        members = len(self.members)
        given = leaves if self.stacked else leaves[None]
        if given.ndim != 3 or given.shape[0] != members or given.shape[2] != self.inputs:
            expected = f"({members}, B, {self.inputs})" if self.stacked else f"(B, {self.inputs})"
            raise ValueError(f"leaves have shape {tuple(leaves.shape)}, expected {expected}")
        return given

    def _encoded(self, leaves_SXB: Tensor) -> Tensor:
        """`(S, F, B)` features in the weights' dtype."""
        return self._shown(leaves_SXB.to(self.device)).to(self.dtype)

    def _shown(self, leaves_SXB: Tensor) -> Tensor:
        """`(S, F, B)` features: the leaves' own bits where all are binary, otherwise uint8."""
        if "leaf_of" not in self.constants:
            return leaves_SXB
        shown = leaves_SXB[:, self.constants["leaf_of"]]
        return (shown == self.constants["state_of"][:, None]).to(torch.uint8)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # what moves parameters to a device moves constants as well
        self.constants = {name: fn(tensor) for name, tensor in self.constants.items()}
        return super()._apply(fn, recurse)


def feature_widths(states: Sequence[int]) -> list[int]:
    """How many numbers each leaf is read as: 1 for a leaf of two states, K for one of K > 2."""
    return [1 if count <= 2 else int(count) for count in states]


def leaf_states(tree: LatentTree) -> list[int]:
    """The number of states of each leaf."""
    return [int(count) for count in tree.tables.cardinality[list(tree.leaves)]]


def network_members(tree: LatentTree, members: int | None) -> tuple[Sequence[int], bool]:
    """The addresses of the networks on a tree, and whether they show the S axis.

    Raises:
        ValueError: `members` beside several trees.
    """
    if members is None:
        return tree.members, tree.stacked
    if tree.stacked:
        raise ValueError(
            f"members={members} is for a single tree; these {len(tree.members)} trees already "
            "make one network each"
        )
    return range(check_members(members)), True
