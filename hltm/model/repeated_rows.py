"""Tables whose rows repeat, stored once each: a grammar's latents have thousands of states but few rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.model.topology import Topology


class RepeatedRows(Tables):
    """The tables of S trees, each as its distinct rows and the number of the row of each parent state.

    What needs whole tables makes them when it is first asked, those of some nodes in `of`, all of them
    in `flat`. Drawing samples needs the distinct rows alone.

    Args:
        topology: the shared shape.
        cardinality: `(V,)` int64, the number of states of every node.
        distinct: for every node `(D, K)` float64, its distinct rows, which all S trees share; one
            tensor may serve many nodes.
        rank: for every node `(S, rows)` int64, which of its distinct rows each row of its table is.
    """

    def __init__(
        self,
        topology: Topology,
        cardinality: np.ndarray,
        distinct: Sequence[Tensor],
        rank: Sequence[Tensor],
    ) -> None:
        # the parent is a frozen dataclass, whose field `flat` is a property here
        for name, value in {
            "topology": topology, "cardinality": cardinality, "distinct": distinct, "rank": rank,
        }.items():  # fmt: skip
            object.__setattr__(self, name, value)

    distinct: Sequence[Tensor]
    rank: Sequence[Tensor]

    @property
    def count(self) -> int:
        """S, the number of trees."""
        return len(self.rank[0])

    @property
    def shared(self) -> bool:
        """Whether all S trees have one set of tables, stored once."""
        return False

    @cached_property
    def flat(self) -> Tensor:
        """`(S, N)` float64, all tables one after the other, as `Tables` stores them."""
        return torch.cat([self.of(v).flatten(1) for v in range(len(self.topology))], dim=1)

    def of(self, nodes: int | np.ndarray) -> Tensor:
        """`(S, rows, K)` for one node, `(S, G, rows, K)` for G nodes whose tables have one shape."""
        many = np.atleast_1d(np.asarray(nodes)).tolist()
        found = torch.stack([self.distinct[v][self.rank[v]] for v in many], dim=1)
        return found if np.ndim(nodes) else found[:, 0]

    def distinct_rows(self, node: int) -> tuple[Tensor, Tensor]:
        """`(S, D, K)` the distinct rows of a node's table, and `(S, rows)` the number of each row's."""
        return self.distinct[node].expand(self.count, -1, -1), self.rank[node]

    def take(self, index: slice | Sequence[int]) -> RepeatedRows:
        """The tables of some of the S trees."""
        chosen = {id(rank): rank[index] for rank in self.rank}
        rank = [chosen[id(rank)] for rank in self.rank]
        return RepeatedRows(self.topology, self.cardinality, self.distinct, rank)
