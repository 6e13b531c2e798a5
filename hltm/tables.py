"""Conditional tables P(child | parent) of a whole tree, as one flat array; making and checking them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hltm.topology import Topology

MAX_STATES = 1 << 16
TOLERANCE = 1e-6  # rows may miss one by this much; they are then normalised
ONE = 1 << 32  # probability 1 in units of 2^-32


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of S trees over one topology. The root's prior is a table with one row.

    Attributes:
        topology: the shared shape.
        cardinality: `(V,)` int64, the number of states of every node.
        flat: `(S, N)` float64, all tables one after the other, rows of each contiguous.
    """

    topology: Topology
    cardinality: np.ndarray
    flat: Tensor

    @cached_property
    def rows(self) -> np.ndarray:
        """`(V,)` the number of rows of every node's table: its parent's states, 1 for the root."""
        parent = self.topology.parent
        return np.where(parent < 0, 1, self.cardinality[np.maximum(parent, 0)])

    @cached_property
    def start(self) -> np.ndarray:
        """`(V,)` where in `flat` every node's table begins."""
        return np.cumsum(self.rows * self.cardinality) - self.rows * self.cardinality

    @property
    def binary(self) -> bool:
        """Whether every node has two states."""
        return bool((self.cardinality == 2).all())

    @property
    def state_dtype(self) -> torch.dtype:
        """uint8, or uint16 where some node has more than 256 states."""
        return torch.uint8 if int(self.cardinality.max()) <= 256 else torch.uint16

    @cached_property
    def groups(self) -> tuple[np.ndarray, ...]:
        """The nodes, parents first, split into runs of one level and one shape of table."""
        key = np.stack([-self.topology.level, self.rows, self.cardinality])
        _, label = np.unique(key, axis=1, return_inverse=True)
        return tuple(np.flatnonzero(label.ravel() == g) for g in range(int(label.max()) + 1))

    def of(self, nodes: int | np.ndarray) -> Tensor:
        """`(S, rows, K)` for one node, `(S, G, rows, K)` for G nodes whose tables have one shape."""
        many = np.atleast_1d(np.asarray(nodes))
        rows, states = int(self.rows[many[0]]), int(self.cardinality[many[0]])
        index = self.start[many][:, None] + np.arange(rows * states)
        found = self.flat[:, torch.as_tensor(index, device=self.flat.device)]
        found = found.unflatten(-1, (rows, states))
        return found if np.ndim(nodes) else found[:, 0]

    @cached_property
    def thresholds(self) -> Tensor:
        """`(S, M)` int64: the cumulative probabilities of every row in units of 2^-32, last one left out.

        A node's state is the number of thresholds of its parent's row that are <= u, u a uniform
        32-bit number: so a state of probability 0 is never drawn and one of probability 1 always.
        """
        found = self.flat.new_empty((len(self.flat), self.threshold_size), dtype=torch.int64)
        for nodes in self.groups:
            cumulative = self.of(nodes).cumsum(-1)[..., :-1]
            units = (cumulative * ONE).round().to(torch.int64).clamp(0, ONE).flatten(2)
            index = self.threshold_start[nodes][:, None] + np.arange(units.shape[-1])
            found[:, torch.as_tensor(index)] = units
        return found

    @cached_property
    def threshold_start(self) -> np.ndarray:
        """`(V,)` where in `thresholds` every node's rows begin."""
        size = self.rows * (self.cardinality - 1)
        return np.cumsum(size) - size

    @property
    def threshold_size(self) -> int:
        """M, the length of `thresholds`."""
        return int((self.rows * (self.cardinality - 1)).sum())

    def take(self, index: slice | Sequence[int]) -> Tables:
        """The tables of some of the S trees."""
        return Tables(self.topology, self.cardinality, self.flat[index])


def make_tables(topology: Topology, tables: Sequence[Tensor | np.ndarray]) -> Tables:
    """Check and pack one table per node, in storage order; the root's is its prior.

    Args:
        topology: the shape.
        tables: for the root `(K,)` or `(S, K)`; for any other node `(K_parent, K)` or
            `(S, K_parent, K)`. A table without the S axis is shared by all trees.

    Raises:
        ValueError: naming the node and the value: sizes that disagree, fewer than 2 or more than
            65536 states, rows that do not sum to one, negative or NaN probabilities.
    """
    if len(tables) != len(topology):
        raise ValueError(f"expected {len(topology)} tables, one per node, got {len(tables)}")
    found = [torch.as_tensor(table, dtype=torch.float64) for table in tables]
    found[0] = found[0].unsqueeze(-2)
    cardinality = np.array([table.shape[-1] for table in found], dtype=np.int64)
    members = max([table.shape[0] for table in found if table.ndim == 3], default=1)
    parts = []
    for v, table in enumerate(found):
        name = topology.names[v]
        rows = 1 if v == 0 else int(cardinality[topology.parent[v]])
        if table.ndim not in (2, 3) or table.shape[-2] != rows:
            raise ValueError(
                f"the table of node {name!r} has shape {tuple(table.shape)}, expected {rows} row(s), "
                "one per state of its parent"
            )
        if table.ndim == 3 and table.shape[0] not in (1, members):
            raise ValueError(
                f"the table of node {name!r} is for {table.shape[0]} trees, others for {members}"
            )
        if not 2 <= table.shape[-1] <= MAX_STATES:
            raise ValueError(
                f"node {name!r} has {table.shape[-1]} state(s), expected 2..{MAX_STATES}"
            )
        _check_rows(name, table)
        table = table / table.sum(-1, keepdim=True)
        parts.append(table.expand(members, rows, -1).reshape(members, -1))
    return Tables(topology, cardinality, torch.cat(parts, dim=1))


def _check_rows(name: str, table: Tensor) -> None:
    """Raise for the first entry that is no probability and for the first row that misses one."""
    bad = table[~((table >= 0) & (table <= 1 + TOLERANCE))]
    if bad.numel():
        raise ValueError(
            f"the table of node {name!r} holds {float(bad[0])}, expected probabilities in [0, 1]"
        )
    total = table.sum(-1).flatten()
    off = total[(total - 1).abs() > TOLERANCE]
    if off.numel():
        raise ValueError(f"a row of the table of node {name!r} sums to {float(off[0])}, expected 1")


def symmetric_table(polarity: Tensor) -> Tensor:
    """`(..., 2, 2)` tables P(s' | s) = (1 + ρ s s') / 2 over s = -1, +1 (theory, Section 4)."""
    same, other = (1 + polarity) / 2, (1 - polarity) / 2
    return torch.stack([torch.stack([same, other], -1), torch.stack([other, same], -1)], -2)
