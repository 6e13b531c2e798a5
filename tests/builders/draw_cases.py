"""Trees that the tests of draws share."""

from __future__ import annotations

import numpy as np

import hltm
from hltm.model.tables import Tables, make_tables
from hltm.model.topology import Topology


def random_tables(
    parents: list[int], cardinality: list[int], *, seed: int, members: int = 1, sharp: bool = False
) -> Tables:
    """Dirichlet tables over any tree; node v's parent comes before it. Sharp ones have 0s and 1s."""
    rng = np.random.default_rng(seed)
    topology = Topology.from_parents(parents)
    states = [cardinality[int(name)] for name in topology.names]
    tables = []
    for v, count in enumerate(states):
        rows = () if v == 0 else (states[topology.parent[v]],)
        table = rng.dirichlet(np.full(count, 0.3 if sharp else 1.0), size=(members, *rows))
        if sharp:
            table[table < 0.2] = 0.0
            table[..., -1] += 1 - table.sum(-1)
            table = np.clip(table, 0, 1)
        tables.append(table)
    return make_tables(topology, tables)


def random_tree(
    parents: list[int], cardinality: list[int], *, seed: int, members: int | None = None
) -> hltm.LatentTree:
    """A LatentTree of `random_tables`."""
    made = random_tables(parents, cardinality, seed=seed, members=members or 1)
    return hltm.LatentTree.of_members(made, members)


PARENTS = [-1, 0, 0, 1, 1, 2, 2]  # seven nodes, balanced
BINARY = [2] * 7
MIXED = [3, 2, 4, 2, 5, 2, 3]  # every kind of edge: two to two states, two to many, many to two
