"""Caterpillars: a path of latents, the spine, with leaves along it."""

from __future__ import annotations

from hltm._integers import as_integer
from hltm.families.random_tables import random_tables
from hltm.model.topology import Topology
from hltm.tree import LatentTree


def caterpillar(
    *,
    depth: int,
    branching: int = 2,
    cardinality: int = 2,
    concentration: float = 1.0,
    members: int | None = None,
    seed: int,
) -> LatentTree:
    """A spine of `depth` latents, each with the next and `branching - 1` leaves, and Dirichlet tables.

    The last latent of the spine has `branching` leaves. With two children per latent it is a hidden
    Markov model whose chain is the spine. A leaf's distance to the root is anything from 1 to L.

    Args:
        depth: latents on the spine, so levels below the root.
        branching: children per latent.
        cardinality: states per node.
        concentration: of the Dirichlet tables.
        members: None for one tree, S for S independent ones over one topology.
        seed: of the tables, 64 bits.

    Raises:
        ValueError: a depth below 1, a branching below 2, cardinality or concentration out of range.

    Example:
        >>> caterpillar(depth=6, seed=0)
        LatentTree(13 nodes, 7 leaves, depth 6, 2 states)
    """
    depth, branching = as_integer("depth", depth, 1), as_integer("branching", branching, 2)
    # the spine is stored first, then the leaves of its latents in turn: already storage order
    spine = [*range(-1, depth - 1)]
    leaves = [v for v in range(depth) for _ in range(branching - 1)] + [depth - 1]
    return random_tables(
        Topology.from_parents(spine + leaves),
        cardinality=cardinality,
        concentration=concentration,
        members=members,
        seed=seed,
    )
