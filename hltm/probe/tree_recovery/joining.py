"""Trees from distances between leaves: neighbour joining, and recursive grouping.

Both join two nodes at a time below a new node until three are left, and give the parent of every node
of a tree whose inner nodes have three neighbours; more neighbours are joined by edges of length 0,
which `edges` takes away. Node i < X is leaf i, and the last node is the root.

Both are right for every tree metric: distances that are sums of the lengths of a tree's edges, of which
those between inner nodes are positive. They take integers as well as float64 distances; int64 below 2^60 / X
and Python's integers are never rounded on the way, since all that is halved is even in a tree metric.
"""

from __future__ import annotations

import numpy as np


def neighbour_joining(distances: np.ndarray) -> np.ndarray:
    """`(2 X - 2,)` parents by the method of Saitou and Nei (1987), in O(X^3).

    Of r nodes that are left, those two are joined that have the least (Studier and Keppler 1988)

        Q(i, j) = (r - 2) d(i, j) - sum_k d(i, k) - sum_k d(j, k)

    Args:
        distances: `(X, X)`, symmetric with zeros on the diagonal, X at least 3.

    Example:
        >>> d = np.array([[0, 2, 5, 5], [2, 0, 5, 5], [5, 5, 0, 4], [5, 5, 4, 0.0]])
        >>> neighbour_joining(d).tolist()  # leaves 0 and 1 below node 4
        [4, 4, 5, 5, 5, -1]
    """
    left = len(distances)
    parent = np.full(2 * left - 2, -1)
    d = distances.copy()  # rows of joined nodes are overwritten: the first `left` are in use
    divide = np.true_divide if d.dtype.kind == "f" else np.floor_divide
    node = np.arange(left)
    for new in range(left, len(parent) - 1):
        view = d[:left, :left]
        total = view.sum(1)
        q = (left - 2) * view - total[:, None] - total
        np.fill_diagonal(q, _most(q))
        i, j = sorted(divmod(int(q.argmin()), left))
        parent[node[[i, j]]] = new
        row = divide(view[i] + view[j] - view[i, j], 2)
        last = left - 1  # the new node takes the place of i, and the last one that of j
        view[i], view[:, i] = row, row
        view[j], view[:, j] = view[last], view[:, last]
        node[i], node[j] = new, node[last]
        np.fill_diagonal(view, 0)
        left = last
    parent[node[:left]] = len(parent) - 1
    return parent


def recursive_grouping(distances: np.ndarray, reach: float = np.inf) -> np.ndarray:
    """`(2 X - 2,)` parents by recursive grouping (Choi, Tan, Anandkumar and Willsky 2011), in O(X^3).

    Nodes i and j have one parent if Φ(k) = d(i, k) - d(j, k) is the same for all other nodes k. Those two
    are joined first for which the range of Φ over k is smallest, so that the distances of a tree, which
    give ranges of 0, and estimates need no threshold. The new node h stands at

        d(h, l) = (d(i, l) - d(i, h) + d(j, l) - d(j, h)) / 2,   d(i, h) + d(j, h) = d(i, j)

    Args:
        distances: `(X, X)`, symmetric with zeros on the diagonal, X at least 3.
        reach: only nodes k nearer than this to both are looked at. Pairs with fewer than two such k are
            joined last, the nearest first.

    Example:
        >>> d = np.array([[0, 2, 5, 5], [2, 0, 5, 5], [5, 5, 0, 4], [5, 5, 4, 0.0]])
        >>> recursive_grouping(d).tolist()
        [4, 4, 5, 5, 5, -1]
    """
    leaves = len(distances)
    parent = np.full(2 * leaves - 2, -1)
    size = len(parent)
    d = np.zeros((size, size), dtype=distances.dtype)
    divide = np.true_divide if d.dtype.kind == "f" else np.floor_divide
    d[:leaves, :leaves] = distances
    spread = np.full((size, size), np.inf)  # the range of Φ of every pair that is left
    active = np.arange(leaves)
    for v in range(leaves):
        spread[v, :v] = spread[:v, v] = _spreads(d, v, active, reach)[:v]
    for new in range(leaves, size - 1):
        block = spread[np.ix_(active, active)]
        at = int(block.argmin())
        if not np.isfinite(block.flat[at]):  # nothing is within reach: the nearest two
            near = d[np.ix_(active, active)]
            np.fill_diagonal(near, _most(near))
            at = int(near.argmin())
        i, j = active[[at // len(active), at % len(active)]]
        parent[[i, j]] = new
        active = active[(active != i) & (active != j)]
        row = divide(d[i, active] + d[j, active] - d[i, j], 2)
        d[new, active] = d[active, new] = row
        active = np.append(active, new)
        spread[new, active] = spread[active, new] = _spreads(d, new, active, reach)
    parent[active] = size - 1
    return parent


def _spreads(d: np.ndarray, i: int, active: np.ndarray, reach: float) -> np.ndarray:
    """`(N,)` the range of Φ over k for node i with each of the N active nodes; infinite for i itself."""
    phi = d[i, active][None, :] - d[np.ix_(active, active)]  # at (j, k): d(i, k) - d(j, k)
    seen = (active[:, None] != active) & (active != i)
    if np.isfinite(reach):
        seen &= (d[i, active] < reach) & (d[np.ix_(active, active)] < reach)
    most = np.iinfo(np.int64).max // 4 if phi.dtype.kind == "i" else np.inf
    found = phi.max(1, where=seen, initial=-most) - phi.min(1, where=seen, initial=most)
    found = found.astype(np.float64)
    enough = seen.sum(1) > (1 if np.isfinite(reach) else 0)
    return np.where(enough & (active != i), found, np.inf)


def _most(values: np.ndarray) -> float:
    """A number larger than all of them."""
    return float("inf") if values.dtype.kind == "f" else int(values.max()) + 1
