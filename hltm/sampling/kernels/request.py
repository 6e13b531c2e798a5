"""What a kernel is asked to draw: a range of addresses, some views, and what each view redraws.

Whether a view redraws a node is a *decision*: a random bit that is 1 with the node's redraw rate, drawn
by address like any state. A node is redrawn if its own decision is 1 or its parent was redrawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import ONE
from hltm.model.topology import Topology

NEVER, SOMETIMES, ALWAYS = 0, 1, 2  # when a view redraws a node
BLOCK = 128  # samples that share the generator's calls for a binary node: 4 words of 32 bits


@dataclass(frozen=True, eq=False)
class DrawRequest:
    """One request for states, complete: a kernel needs the tables and this.

    Attributes:
        topology: the shape of the trees.
        seed, stream: the key, and what the random numbers are for.
        members: S addresses of members.
        start, samples: samples start .. start + samples - 1.
        views: the numbers of the views to draw; view 0 is the data themselves.
        rates: `(V,)` float64, the redraw rate of every node in views other than 0.
        base: `(S, V, B)` states of the data that the views start from; None draws them by address.
        first: the lowest node to return; nodes with lower numbers are left out.
        device: where to draw, and where the result lies.
        held: `(V,)` bool, nodes that have their states of `base` in every view; the nodes below follow.
        base_held: whether `base` has the states of the held nodes alone; the others are drawn.
        blocks: `(N,)` int64, draw the 128 samples of each of these blocks, one block after the other,
            in place of consecutive samples; start is then 0 and samples 128 N.
    """

    topology: Topology
    seed: int
    stream: int
    members: tuple[int, ...]
    start: int
    samples: int
    views: tuple[int, ...] = (0,)
    rates: np.ndarray | None = None
    base: Tensor | None = None
    first: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    held: np.ndarray | None = None
    base_held: bool = False
    blocks: np.ndarray | None = None

    def block(self, i: int) -> DrawRequest:
        """The request for the 128 samples of block number i of `blocks` alone."""
        assert self.blocks is not None
        part = slice(i * BLOCK, (i + 1) * BLOCK)
        base = None if self.base is None else self.base[..., part]
        start = int(self.blocks[i]) * BLOCK
        return replace(self, blocks=None, start=start, samples=BLOCK, base=base)

    @cached_property
    def redraw_case(self) -> np.ndarray:
        """`(V,)` uint8: whether a view NEVER, SOMETIMES or ALWAYS redraws a node or one above it."""
        found = np.zeros(len(self.topology), dtype=np.uint8)
        if self.rates is None:
            return found
        found[self.rates > 0] = SOMETIMES
        found[self.rates >= 1] = ALWAYS
        for level in range(self.topology.depth - 1, -1, -1):
            nodes = np.asarray(self.topology.at_level(level))
            found[nodes] = np.maximum(found[nodes], found[self.topology.parent[nodes]])
        return found

    @cached_property
    def redraw_limits(self) -> np.ndarray:
        """`(V,)` int64: a node's own decision is 1 where its uniform 32-bit number is >= this."""
        if self.rates is None:
            return np.full(len(self.topology), ONE)
        return decision_limits(self.rates)

    @cached_property
    def base_needed(self) -> np.ndarray:
        """`(V,)` bool: whether any view shows a node's state in the data themselves."""
        if 0 in self.views:
            return np.ones(len(self.topology), dtype=bool)
        return self.redraw_case < ALWAYS


def decision_limits(rates: np.ndarray) -> np.ndarray:
    """int64: a decision of each rate is 1 where its uniform 32-bit number is >= this."""
    return np.round((1 - rates) * ONE).astype(np.int64)
