"""Distances between the leaves of a tree whose tables are known, and the splits that they show."""

from __future__ import annotations

import numpy as np

from hltm.formats.branch_lengths import paralinear_lengths
from hltm.model.tables import Tables
from hltm.probe.tree_recovery.leaf_distances import LeafDistances
from hltm.probe.tree_recovery.splits import keys, leaves_below
from hltm.tree import LatentTree

BITS = 59  # of distances as int64, of which neighbour joining adds four times as many as leaves


def tree_distances(tree: LatentTree) -> list[LeafDistances]:
    """Paralinear distances of the leaves of every member of a tree.

    They are sums of the lengths of edges, as integers: an edge is rounded to a multiple of 2^-60 X of
    the longest distance, 1e-16 of it for 100 leaves, and nothing is rounded thereafter.

    Raises:
        ValueError: nodes with different numbers of states, or a table on a path between two leaves that
            is singular, which cuts the tree in two.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=1, polarity=0.5, seed=0)
        >>> found = tree_distances(tree)[0]
        >>> found.distances * found.step / np.log(2)
        array([[0., 2.],
               [2., 0.]])
    """
    found = []
    for s in range(tree.tables.count):
        lengths, below = _checked_lengths(tree.tables.take([s]))
        most = 2 * float((below * lengths[:, None]).sum(0).max())
        bits = BITS - int(np.ceil(np.log2(below.shape[1])))
        step = 2.0 ** (np.ceil(np.log2(most)) - bits) if most > 0 else 1.0
        weighted = below * np.round(lengths / step).astype(np.int64)[:, None]
        depth, shared = weighted.sum(0), weighted.T @ below
        found.append(LeafDistances(depth[:, None] + depth - 2 * shared, step=step))
    return found


def true_splits(tables: Tables) -> dict[bytes, np.ndarray]:
    """The splits of one tree that distances can show, and the leaves below each as `(X,)` bool.

    A node with two neighbours makes no split of its own, and an edge whose table only renames the
    states, which has length 0, makes none.
    """
    below = leaves_below(tables.topology)
    lengths = paralinear_lengths(tables)
    total: dict[bytes, float] = {}
    rows: dict[bytes, np.ndarray] = {}
    for v in range(1, len(below)):
        for key in keys(below[v : v + 1]):
            total[key] = total.get(key, 0.0) + (np.inf if lengths is None else lengths[v])
            rows[key] = below[v]
    return {key: row for key, row in rows.items() if total[key] > 0}


def _checked_lengths(tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    """`(V,)` paralinear lengths, 0 off all paths between leaves, and `(V, X)` the leaves below."""
    topology = tables.topology
    lengths = paralinear_lengths(tables)
    if lengths is None:
        few, many = tables.cardinality.min(), tables.cardinality.max()
        raise ValueError(
            f"paralinear distances need one number of states for all nodes, got {few}..{many}"
        )
    below = leaves_below(topology)
    between = ~below.all(1)
    for v in np.flatnonzero(between):
        if not np.isfinite(lengths[v]) or _singular(tables.of(int(v))[0].detach().numpy()):
            above = topology.names[topology.parent[v]]
            raise ValueError(
                f"the table of node {topology.names[v]!r:.60} given {above!r:.60} is singular, so no "
                "distance between leaves goes past it: every table needs an inverse"
            )
    return np.where(between, lengths, 0.0), below.astype(np.int64)


def _singular(table: np.ndarray) -> bool:
    """Whether a square table has no inverse, to rounding; columns of rare states count like others."""
    return bool(np.linalg.matrix_rank(table / table.max(0)) < len(table))
