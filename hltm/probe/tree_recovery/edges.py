"""Lengths of the edges of a joined tree, and the rooted tree that is left without edges of length 0."""

from __future__ import annotations

from itertools import count
from typing import Any, NamedTuple

import numpy as np

from hltm.model.topology import Topology


class Joined(NamedTuple):
    """A rooted tree and the length of the edge above every node.

    Attributes:
        topology: the leaves' names are those given; latents have the smallest free numbers.
        lengths: `(V,)` float64, 0 for the root.
    """

    topology: Topology
    lengths: np.ndarray


def edge_lengths(parent: np.ndarray, distances: np.ndarray, *, average: bool) -> np.ndarray:
    """`(..., V)` lengths of the edges above the nodes of a joined tree, from distances alone.

    An edge has two subtrees A, B at its one end and C, D at its other one. Its length is

        ((d(A, C) + d(B, D) + d(A, D) + d(B, C)) / 2 - d(A, B) - d(C, D)) / 2

    where the distance of subtrees is that of one leaf of each, or a mean in which the subtrees of a
    subtree count equally (Pauplin 2000). A leaf's own edge has (d(v, C) + d(v, D) - d(C, D)) / 2.

    Args:
        parent: from `neighbour_joining` or `recursive_grouping`.
        distances: `(..., X, X)`; several sets of distances share one tree.
        average: a mean over leaves, for estimates; one leaf leaves exact distances exact.
    """
    leaves, size = distances.shape[-1], len(parent)
    children: list[list[int]] = [[] for _ in range(size)]
    for v, p in enumerate(parent.tolist()):
        if p >= 0:
            children[p].append(v)

    # what stands for a subtree: the number of a leaf, or weights of all leaves
    def joined(parts: list[Any]) -> Any:
        return sum(parts[1:], parts[0]) / len(parts) if average else parts[0]

    down: list[Any] = list(np.eye(leaves)) if average else list(range(leaves))
    for v in range(leaves, size):  # children come first
        down.append(joined([down[c] for c in children[v]]))
    behind: list[list[Any]] = [down[:2]] * size  # C and D of the edge above v; the root has none
    for v in range(size - 2, -1, -1):
        p = int(parent[v])
        others = [down[c] for c in children[p] if c != v]
        behind[v] = others if parent[p] < 0 else [*others, joined(behind[p])]
    # a leaf stands for both A and B
    own = [[down[v]] * 2 if v < leaves else [down[c] for c in children[v][:2]] for v in range(size)]
    a, b, c, d = (np.array([pair[i] for pair in pairs]) for pairs in (own, behind) for i in (0, 1))

    def between(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return ((p @ distances) * q).sum(-1) if average else distances[..., p, q]

    cross = between(a, c) + between(b, d) + between(a, d) + between(b, c)
    found = ((cross - 2 * (between(a, b) + between(c, d))) / 4).astype(np.float64)
    found[..., -1] = 0
    return found


def contracted(
    parent: np.ndarray, lengths: np.ndarray, absent: np.ndarray, names: list[str]
) -> Joined:
    """The tree without the absent edges between inner nodes, its root in the middle of its longest path.

    Args:
        parent, lengths: `(V,)` of a joined tree.
        absent: `(V,)` bool, edges above inner nodes that are taken away.
        names: of the leaves.
    """
    leaves, size = len(names), len(parent)
    into = np.arange(size)
    for v in range(size - 2, leaves - 1, -1):  # parents first
        if absent[v]:
            into[v] = into[parent[v]]
    neighbours: dict[int, dict[int, float]] = {v: {} for v in np.unique(into).tolist()}
    for v in range(size - 1):
        a, b = int(into[v]), int(into[parent[v]])
        if a != b:
            neighbours[a][b] = neighbours[b][a] = max(float(lengths[v]), 0.0)
    order, above, far = _away(neighbours, 0)
    start = max(range(leaves), key=far.__getitem__)
    order, above, far = _away(neighbours, start)
    v = max(range(leaves), key=far.__getitem__)
    middle, path = far[v][0] / 2, []
    while v != start:
        v = above[v]
        path.append(v)
    root = min(path[:-1], key=lambda u: abs(far[u][0] - middle))  # the ends are leaves
    order, above, _ = _away(neighbours, root)
    free = (str(i) for i in count() if str(i) not in set(names))
    named = {v: names[v] if v < leaves else next(free) for v in order}
    topology = Topology.from_parents(
        {named[v]: None if v == root else named[above[v]] for v in order}
    )
    length = {named[v]: 0.0 if v == root else neighbours[v][above[v]] for v in order}
    return Joined(topology, np.array([length[name] for name in topology.names]))


def _away(
    neighbours: dict[int, dict[int, float]], start: int
) -> tuple[list[int], dict[int, int], dict[int, tuple[float, int]]]:
    """The nodes in breadth-first order from one node, the node before each, and its length and edges away."""
    order, above, far = [start], {start: -1}, {start: (0.0, 0)}
    for v in order:
        for u, length in neighbours[v].items():
            if u not in far:
                order.append(u)
                above[u], far[u] = v, (far[v][0] + length, far[v][1] + 1)
    return order, above, far
