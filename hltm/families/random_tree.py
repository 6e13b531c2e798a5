"""Irregular trees: a random shape, random cardinalities, random tables."""

from __future__ import annotations

from functools import partial

import numpy as np

from hltm._integers import as_integer
from hltm.families.random_tables import ends, random_tables
from hltm.model.topology import MAX_NODES, Topology
from hltm.sampling.philox import Stream, check_seed, uniform
from hltm.tree import LatentTree

SHAPE_VIEW = 1  # view 0 of the same stream makes the tables


def random_tree(
    *,
    nodes: int,
    max_branching: int = 3,
    cardinality: tuple[int, int] | list[int] | int = 2,
    concentration: float = 1.0,
    members: int | None = None,
    seed: int,
) -> LatentTree:
    """A random recursive tree with bounded branching and Dirichlet tables.

    Nodes are added one at a time, each below a node that is chosen uniformly among those with fewer
    than `max_branching` children, so leaves lie at many depths. All members share the shape and the
    cardinalities.

    Args:
        nodes: how many nodes, at least 2.
        max_branching: the largest number of children of a node; 1 gives a chain.
        cardinality: (lowest, highest) states per node, uniform between; or one number.
        concentration: of the Dirichlet tables.
        members: None for one tree, S for S independent sets of tables over one topology.
        seed: of shape and tables, 64 bits.

    Raises:
        ValueError: fewer than 2 or more than 2^24 nodes, max_branching below 1, a range of
            cardinalities that is empty or outside 2..65536, concentration out of range.

    Example:
        >>> random_tree(nodes=40, max_branching=4, cardinality=(2, 6), seed=1)
        LatentTree(40 nodes, 17 leaves, depth 5, 2..6 states)
    """
    nodes, max_branching = as_integer("nodes", nodes), as_integer("max_branching", max_branching, 1)
    if not 2 <= nodes <= MAX_NODES:
        raise ValueError(f"nodes must be in 2..{MAX_NODES}, got {nodes}")
    low, high = ends("cardinality", cardinality)
    if not low <= high:
        raise ValueError(f"the range of cardinalities is empty: ({low}, {high})")
    numbers = partial(uniform, nodes, seed=check_seed(seed), stream=Stream.TABLES, members=[0])
    choice, size = (numbers(node=i, view=SHAPE_VIEW)[0].numpy() for i in range(2))
    shape = Topology.from_parents(_recursive(choice[1:].tolist(), max_branching))
    names = tuple(map(str, range(nodes)))  # a node's name is its number, as in balanced trees
    return random_tables(
        Topology(shape.parent, shape.level, names),
        cardinality=low + np.floor(size * (high - low + 1)).astype(np.int64),
        concentration=concentration,
        members=members,
        seed=seed,
    )


def _recursive(choices: list[float], max_branching: int) -> list[int]:
    """Parents of 1 + len(choices) nodes; uniform number v chooses among the nodes that are not full."""
    parents = [-1]
    open_nodes, room = [0], [max_branching]
    for v, u in enumerate(choices, start=1):
        place = int(u * len(open_nodes))
        parent = open_nodes[place]
        parents.append(parent)
        room[parent] -= 1
        room.append(max_branching)
        if room[parent] == 0:
            open_nodes[place] = v  # the new node replaces the full one
        else:
            open_nodes.append(v)
    return parents
