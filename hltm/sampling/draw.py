"""What a draw is: states of samples, the address they came from, and which leaves are missing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hltm.model.topology import Node, Topology
from hltm.sampling.philox import DRAW_FORMAT, Stream


@dataclass(frozen=True, eq=False)
class Draw:
    """States of nodes for B consecutive samples of one or S trees, and the address they came from.

    Attributes:
        states_SVB: `(S, V_kept, B)` uint8 or uint16, batch-last; S is 1 where `stacked` is False.
        topology: the shape of the trees.
        stacked: whether public arrays have the S axis.
        seed, stream, members, start, view: the address; samples are start .. start + B - 1.
        first: the lowest node that is kept; nodes with lower numbers are not.
        draw_format: the layout of addresses.
        missing_SXB: `(S, X, B)` bool, the leaves that a view misses; None where no leaf is missing.
            Only `leaves` hides them; `states`, `level` and `node` have the states of the model.
        redraws: how the states came from the data: for each view that was taken on the way, its
            number and its `(V,)` redraw rates; empty for the data themselves.
    """

    states_SVB: Tensor
    topology: Topology
    stacked: bool
    seed: int
    stream: Stream
    members: tuple[int, ...]
    start: int
    view: int = 0
    first: int = 0
    draw_format: int = DRAW_FORMAT
    missing_SXB: Tensor | None = None
    redraws: tuple[tuple[int, np.ndarray], ...] = ()

    def __repr__(self) -> str:
        shape = tuple(self.states.shape)
        return (
            f"Draw(states {shape}, seed={self.seed}, stream={self.stream.name.lower()}, "
            f"samples {self.rows.start}..{self.rows.stop - 1}, view={self.view})"
        )

    @property
    def rows(self) -> range:
        """The numbers of the samples: their rows in the endless data set of the seed."""
        return range(self.start, self.start + self.states_SVB.shape[-1])

    def _public(self, states_SVB: Tensor) -> Tensor:
        """Batch-first, and without S for a single tree."""
        found = states_SVB.transpose(1, 2)
        return found if self.stacked else found[0]

    @property
    def states(self) -> Tensor:
        """`(B, V)` or `(S, B, V)` states of all kept nodes, in storage order."""
        return self._public(self.states_SVB)

    @property
    def leaves(self) -> Tensor:
        """`(B, X)` or `(S, B, X)` states of the leaves as they are observed.

        If leaves may be missing, int16 (int32 above 256 states) with -1 for missing ones, which is
        what `posterior` expects.
        """
        if self.missing_SXB is None:
            return self.level(0)
        leaves_SXB = self.states_SVB[:, self.topology.leaves.start - self.first :]
        return self._public(hide(leaves_SXB, self.missing_SXB))

    @property
    def missing(self) -> Tensor:
        """`(B, X)` or `(S, B, X)` bool: which leaves are missing."""
        if self.missing_SXB is None:
            return torch.zeros_like(self.level(0), dtype=torch.bool)
        return self._public(self.missing_SXB)

    @property
    def root(self) -> Tensor:
        """`(B,)` or `(S, B)` states of the root."""
        return self.node(0)

    def level(self, level: int) -> Tensor:
        """`(B, V_l)` or `(S, B, V_l)` states of the nodes of one level.

        Raises:
            ValueError: no such level, or nodes that this draw did not keep.
        """
        nodes = self.topology.at_level(level)
        self._check_kept(nodes.start)
        return self._public(self.states_SVB[:, nodes.start - self.first : nodes.stop - self.first])

    def node(self, node: Node) -> Tensor:
        """`(B,)` or `(S, B)` states of one node, by number or name."""
        v = self.topology.node(node)
        self._check_kept(v)
        found = self.states_SVB[:, v - self.first]
        return found if self.stacked else found[0]

    def _check_kept(self, node: int) -> None:
        if node < self.first:
            raise ValueError(f"this draw keeps nodes from {self.first} on, got node {node}")


def hide(leaves: Tensor, missing: Tensor) -> Tensor:
    """Leaves with -1 where they are missing: int16, or int32 where they are not of 8 bits."""
    signed = torch.int16 if leaves.dtype == torch.uint8 else torch.int32
    return torch.where(missing, -1, leaves.to(signed))
