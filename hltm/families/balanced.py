"""Balanced trees: every latent has the same number of children, every leaf the same depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hltm.families.random_tables import random_tables
from hltm.model.tables import Table
from hltm.model.topology import Topology
from hltm.tree import LatentTree


def balanced(
    *,
    depth: int,
    branching: int = 2,
    cardinality: int | Sequence[int] = 2,
    concentration: float = 1.0,
    transition: Table | None = None,
    prior: Table | None = None,
    members: int | None = None,
    seed: int | None = None,
) -> LatentTree:
    """A balanced tree with Dirichlet tables, or with one given table on every edge.

    Args:
        depth: levels below the root.
        branching: children per latent.
        cardinality: states per node, one number or one per level, root first (L + 1 of them).
        concentration: of the Dirichlet tables.
        transition: `(K, K)` or `(S, K, K)` P(child | parent) of every edge, in place of random
            tables; cardinality and concentration then have no effect.
        prior: `(K,)` or `(S, K)` of the root, only beside a transition; the default is uniform.
        members: None for one tree, S for S trees over one topology.
        seed: of the random tables, 64 bits; needed unless a transition is given.

    Raises:
        ValueError: a depth or branching below 1, cardinalities outside 2..65536 or not one per
            level, no seed for random tables, a prior without a transition, a bad given table.

    Example:
        >>> balanced(depth=3, branching=3, cardinality=(8, 4, 4, 2), seed=0)
        LatentTree(40 nodes, 27 leaves, depth 3, 2..8 states)
        >>> noisy_copy = [[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]
        >>> balanced(depth=4, transition=noisy_copy)
        LatentTree(31 nodes, 16 leaves, depth 4, 3 states)
    """
    topology = Topology.balanced(depth, branching)
    if transition is not None:
        size = np.shape(transition)[-1:] or (1,)
        first = np.full(size, 1 / size[0]) if prior is None else prior
        tables = [first, *([transition] * (len(topology) - 1))]
        return LatentTree.from_tables(topology, tables, members)
    if prior is not None:
        raise ValueError("a prior needs a transition beside it; random tables have a random prior")
    if seed is None:
        raise ValueError("random tables need a seed, got None; a given transition needs none")
    states = np.asarray(cardinality)
    if states.ndim:
        if states.shape != (depth + 1,):
            raise ValueError(
                f"expected 1 or {depth + 1} cardinalities, root first, got {states.size}"
            )
        states = states[depth - topology.level]
    return random_tables(
        topology, cardinality=states, concentration=concentration, members=members, seed=seed
    )
