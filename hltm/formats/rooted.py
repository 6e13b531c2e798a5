"""Edges as a rooted tree: every node's parent, or the one reason why they make no such tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Edge = tuple[str, str]


def parents_of(nodes: Iterable[str], edges: Sequence[Edge]) -> dict[str, str | None]:
    """Node -> parent, None for the root, of edges from parent to child.

    Raises:
        ValueError: an edge from a node to itself; the first edge, in the given order, that closes a
            circle, whichever way its edges point; a node with several parents; several roots.

    Example:
        >>> parents_of("abc", [("b", "a"), ("b", "c")])
        {'a': 'b', 'b': None, 'c': 'b'}
        >>> parents_of("abc", [("a", "b"), ("a", "c"), ("b", "c")])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: not a tree: the edge 'b' -> 'c' closes the circle 'b', 'a', 'c', ...
    """
    above: dict[str, list[str]] = {node: [] for node in nodes}
    for parent, child in edges:
        above[child].append(parent)
    _check_circles(above, edges, " -> ")
    for node, parents in above.items():
        if len(parents) > 1:
            raise ValueError(
                f"not a tree with one root: node {_short(node)} has {len(parents)} parents: "
                f"{_listed(parents, 3)}"
            )
    roots = [node for node, parents in above.items() if not parents]
    if len(roots) > 1:
        raise ValueError(
            f"not one tree but {len(roots)} that no edge joins, with the roots {_listed(roots)}"
        )
    return {node: parents[0] if parents else None for node, parents in above.items()}


def directed_from(root: str, nodes: Sequence[str], edges: Sequence[Edge]) -> list[Edge]:
    """Undirected edges as edges from parent to child, away from a root; in the given order.

    Raises:
        ValueError: an edge from a node to itself, the first edge that closes a circle, or a node
            that is not connected with the root.

    Example:
        >>> directed_from("c", "abc", [("a", "b"), ("b", "c")])
        [('b', 'a'), ('c', 'b')]
    """
    near = _check_circles(nodes, edges, " - ")
    parent: dict[str, str | None] = {root: None}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        below = [other for other in near[node] if other not in parent]
        parent.update(dict.fromkeys(below, node))
        waiting += below
    apart = [node for node in nodes if node not in parent]
    if apart:
        raise ValueError(
            f"not one tree: no edges lead from root {_short(root)} to {_listed(apart)}"
        )
    return [(a, b) if parent[b] == a else (b, a) for a, b in edges]


def _check_circles(nodes: Iterable[str], edges: Sequence[Edge], arrow: str) -> dict[str, list[str]]:
    """Raise ValueError of the first edge that closes a circle; else the neighbours of every node."""
    near: dict[str, list[str]] = {node: [] for node in nodes}
    part = {node: node for node in near}  # union-find: from a node to another of its part

    def part_of(node: str) -> str:
        while part[node] != node:
            part[node] = node = part[part[node]]
        return node

    for a, b in edges:
        if a == b:
            raise ValueError(f"not a tree: node {_short(a)} has an edge to itself")
        one, other = part_of(a), part_of(b)
        if one == other:
            path = _path(near, a, b)
            if len(path) == 2:
                raise ValueError(f"not a tree: two edges join {_short(a)} and {_short(b)}")
            raise ValueError(_circle(path, arrow, edges))
        part[one] = other
        near[a].append(b)
        near[b].append(a)
    return near


def _circle(path: list[str], arrow: str, edges: Sequence[Edge]) -> str:
    """The message for an edge whose ends a path joined before."""
    a, b = path[0], path[-1]
    edge = f"{_short(a)}{arrow}{_short(b)}"
    found = f"not a tree: the edge {edge} closes the circle {_listed(path)}"
    if arrow != " -> ":
        return found
    on_it = set(zip(path, [*path[1:], a], strict=True))
    on_it |= {(y, x) for x, y in on_it}
    for node in (b, *path):  # the last edge's own end first
        parents = [parent for parent, child in edges if child == node]
        if sum((parent, node) in on_it for parent in parents) > 1:
            return (
                f"{found}, so node {_short(node)} has {len(parents)} parents: {_listed(parents, 3)}"
            )
    return f"{found}, so each of them is its own ancestor"


def _path(near: dict[str, list[str]], a: str, b: str) -> list[str]:
    """The nodes from a to b."""
    came_from = {a: a}
    waiting = [a]
    while b not in came_from:
        node = waiting.pop()
        below = [other for other in near[node] if other not in came_from]
        came_from.update(dict.fromkeys(below, node))
        waiting += below
    path = [b]
    while path[-1] != a:
        path.append(came_from[path[-1]])
    return path[::-1]


def _listed(names: Sequence[str], most: int = 5) -> str:
    """At most some of the names, the last among them."""
    cut = len(names) > most
    shown = [*map(_short, names[: most - 1 if cut else most]), *["…", _short(names[-1])] * cut]
    return ", ".join(shown)


def _short(name: str) -> str:
    """The name in quotes, or its first letters, so that a message stays below 300 characters."""
    return repr(name if len(name) <= 17 else name[:16] + "…")
