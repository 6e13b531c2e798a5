"""The shape of a rooted tree: parents, levels, children, names; nothing about states."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from hltm._integers import as_integer
from hltm._names import brief
from hltm.model.digest import stored
from hltm.model.nodes import Node, NodeNumber, NodeRange, Nodes, is_single

if TYPE_CHECKING:
    import networkx as nx

Value = TypeVar("Value")
Parents = Sequence[int | str | None] | Mapping[str, str | None] | np.ndarray
MOST_COMPARED = 10_000  # names with which an unknown one is compared, in about a second
MAX_NODES = 1 << 24  # a draw's address holds the node in 24 bits


@dataclass(frozen=True, eq=False)
class Topology:
    """A rooted tree whose nodes are stored by decreasing level, so parents come first.

    Within a level, nodes stand in the order of their parents; hence every level is a slice,
    and in a balanced tree the children of consecutive nodes are consecutive too.

    Attributes:
        parent: `(V,)` int64, the parent of every node; -1 for the root, which is node 0.
        level: `(V,)` int64, the height of a node above its deepest leaf: 0 = leaves, L = root.
        names: `V` distinct names, in storage order.

    Example:
        >>> tree = Topology.balanced(depth=2, branching=2)
        >>> tree.parent.tolist(), tree.level.tolist()
        ([-1, 0, 0, 1, 1, 2, 2], [2, 1, 1, 0, 0, 0, 0])
        >>> tree.at_level(0)
        range(3, 7)
    """

    parent: np.ndarray
    level: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def from_parents(cls, parents: Parents, names: Sequence[str] | None = None) -> Topology:
        """Build from the parent of every node, in any order.

        Args:
            parents: for each node its parent, by place in `parents` or by name, as text; None or -1
                for the root. A mapping gives names and parents at once, and numbers in it are names.
            names: a distinct name for each node; the default is each node's place in `parents`.

        Raises:
            ValueError: no root or several, an unknown parent, a cycle, a single node, more than
                2^24 nodes, names that are too few, too many or repeated, or an integer that could
                mean the place of a node and the name of another, where names are given as integers.
            TypeError: a parent that is neither a place nor a name, or names beside a mapping.

        Example:
            >>> tree = Topology.from_parents({"cat": "pet", "pet": None, "dog": "pet"})
            >>> tree.names, tree.parent.tolist()
            (('pet', 'cat', 'dog'), [-1, 0, 0])
        """
        if isinstance(parents, Mapping):
            if names is not None:
                raise TypeError("a mapping of parents holds the names already, got names as well")
            names = [str(name) for name in parents]
            parents = [None if p is None else str(p) for p in parents.values()]
        count = len(parents)
        if count < 2:
            raise ValueError(f"a tree needs a root and at least one leaf, got {count} node(s)")
        if count > MAX_NODES:
            raise ValueError(f"a tree holds at most {MAX_NODES} nodes, got {count}")
        labels = [str(v) for v in (range(count) if names is None else names)]
        if len(labels) != count:
            raise ValueError(f"expected {count} names, one per node, got {len(labels)}")
        place_of = {label: v for v, label in enumerate(labels)}
        if len(place_of) < count:
            repeated = next(label for v, label in enumerate(labels) if place_of[label] != v)
            raise ValueError(f"names must be distinct, got {brief(repr(repeated))} more than once")
        if names is not None and not all(isinstance(name, str) for name in names):
            _check_places(parents, labels, place_of)
        parent = np.array(
            [_place(p, label, place_of) for p, label in zip(parents, labels, strict=True)],
            dtype=np.int64,
        )
        roots = np.flatnonzero(parent == -1)
        if roots.size != 1:
            found = ", ".join(repr(labels[int(r)]) for r in roots[:5]) or "none"
            raise ValueError(f"a tree has exactly one root, found {roots.size}: {found}")

        order, level = _parents_first(parent, labels)
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        stored = np.where(parent[order] < 0, -1, place[parent[order]])
        return cls(stored, level[order], tuple(labels[int(v)] for v in order))

    @classmethod
    def from_networkx(cls, graph: nx.Graph[Any], root: Any = None) -> Topology:
        """The shape of a networkx graph; see `hltm.formats.networkx.topology_from_networkx`."""
        return import_module("hltm.formats.networkx").topology_from_networkx(graph, root)

    @classmethod
    def balanced(cls, depth: int, branching: int = 2) -> Topology:
        """The tree whose every node above the leaves has `branching` children, `depth` levels down.

        Raises:
            ValueError: a depth or branching below 1, or more than 2^24 nodes.
        """
        depth, branching = as_integer("depth", depth, 1), as_integer("branching", branching, 1)
        widths = [1]
        for _ in range(depth):
            widths.append(widths[-1] * branching)
            if sum(widths) > MAX_NODES:
                raise ValueError(
                    f"depth {depth} and branching {branching} make more than {MAX_NODES} nodes"
                )
        count = sum(widths)
        parent = (np.arange(count, dtype=np.int64) - 1) // branching
        level = np.repeat(np.arange(depth, -1, -1, dtype=np.int64), widths)
        return cls(parent, level, tuple(map(str, range(count))))

    def __len__(self) -> int:
        return len(self.parent)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same shape and the same names in the same storage order."""
        if not isinstance(other, Topology):
            return NotImplemented
        return self is other or (
            self.names == other.names
            and np.array_equal(self.parent, other.parent)
            and np.array_equal(self.level, other.level)
        )

    @cached_property
    def _hash(self) -> int:
        return hash((self.names, self.parent.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __getstate__(self) -> dict[str, Any]:
        return stored(self)

    def __repr__(self) -> str:
        return f"Topology({len(self)} nodes {self.some_names}, depth {self.depth})"

    @property
    def some_names(self) -> str:
        """The first few names, for messages."""
        return ", ".join(map(repr, self.names[:8])) + (", …" if len(self) > 8 else "")

    @cached_property
    def depth(self) -> int:
        """L, the level of the root."""
        return int(self.level[0])

    @cached_property
    def _level_start(self) -> np.ndarray:
        # entry l is the first node of level l; the levels are stored from the root down
        return np.searchsorted(-self.level, -np.arange(self.depth + 1), side="left")

    def at_level(self, level: int) -> NodeRange:
        """The nodes of one level, a contiguous range.

        Raises:
            ValueError: a level outside 0..L.
        """
        level = as_integer("level", level)
        if not 0 <= level <= self.depth:
            raise ValueError(f"level must be in 0..{self.depth}, got {level}")
        first = int(self._level_start[level])
        end = len(self) if level == 0 else int(self._level_start[level - 1])
        return NodeRange(first, end)

    @cached_property
    def leaves(self) -> NodeRange:
        """The observed nodes."""
        return self.at_level(0)

    @cached_property
    def latents(self) -> NodeRange:
        """The unobserved nodes, root first."""
        return NodeRange(0, self.leaves.start)

    @cached_property
    def children(self) -> tuple[np.ndarray, ...]:
        """The children of every node, in storage order; empty for a leaf."""
        order = np.argsort(self.parent[1:], kind="stable") + 1
        ends = np.searchsorted(self.parent[order], np.arange(len(self) + 1))
        return tuple(order[a:b] for a, b in pairwise(ends))

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: v for v, name in enumerate(self.names)}

    def node(self, node: Node) -> int:
        """The number of a node given by name, as text, or by number, its place in storage order.

        Raises:
            KeyError: an unknown name.
            IndexError: a number outside the tree.
            ValueError: an integer v that could mean two nodes, the one of number v and another whose
                name is the text of v; numbers from `leaves`, `latents`, `at_level`, `ancestors` and
                this method are never refused.
            TypeError: neither a name nor an integer.
        """
        return NodeNumber(self._number(node))

    def _number(self, node: Node) -> int:
        if type(node) is NodeNumber and 0 <= node < len(self.names):
            return node  # what follows takes longer
        if isinstance(node, str):
            if node not in self._number_of:
                near = get_close_matches(node, self.names[:MOST_COMPARED], n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise KeyError(f"unknown node {node!r}{hint}; the tree has {self.some_names}")
            return self._number_of[node]
        if isinstance(node, bool) or not hasattr(node, "__index__"):
            raise TypeError(f"a node is given by name or by number, got {node!r}")
        v = operator.index(node)
        if not 0 <= v < len(self):
            hint = f"; the node named {str(v)!r} is given as text" * (str(v) in self._number_of)
            raise IndexError(f"node must be in 0..{len(self) - 1}, got {v}{hint}")
        other = None
        if not isinstance(node, NodeNumber) and self.names[v] != str(v):
            other = self._number_of.get(str(v))
        if other is not None:
            raise ValueError(
                f"node {v} is ambiguous: the node of number {v} is named {self.names[v]!r}, and the node "
                f"named {str(v)!r} has number {other}; give the name as text"
            )
        return v

    def by_number(self, given: Mapping[Node, Value]) -> dict[int, Value]:
        """The values of a mapping under the numbers of their nodes.

        Raises:
            TypeError: not a mapping, or a key that is neither a name nor a number.
            ValueError: a node that is given twice, or a number that could mean two nodes.
            KeyError, IndexError: a node that the tree does not have.
        """
        if not isinstance(given, Mapping):
            raise TypeError(f"expected a mapping from nodes to values, got {type(given).__name__}")
        keys: dict[int, Node] = {}
        for key in given:
            v = self.node(key)
            if v in keys:
                raise ValueError(
                    f"node {self.names[v]!r} is given twice, as {keys[v]!r} and as {key!r}"
                )
            keys[v] = key
        return {v: given[key] for v, key in keys.items()}

    def nodes(self, nodes: Nodes) -> np.ndarray:
        """The numbers of several nodes, or of one, as an int64 array; a `range` holds numbers."""
        if is_single(nodes):
            return np.array([self._number(nodes)], dtype=np.int64)
        if isinstance(nodes, (range, NodeRange)):
            for end in (*nodes[:1], *nodes[-1:]):
                self._number(NodeNumber(end))
            return np.arange(nodes.start, nodes.stop, nodes.step, dtype=np.int64)
        if not hasattr(nodes, "__iter__"):
            raise TypeError(
                f"nodes are given by name or by number, one or several, got {nodes!r:.80}"
            )
        return np.array([self._number(v) for v in nodes], dtype=np.int64)

    def ancestors(self, node: Node) -> list[int]:
        """The nodes above one node, nearest first, root last; arguments and errors are those of `node`."""
        found: list[int] = []
        v = self._number(node)
        while (v := int(self.parent[v])) >= 0:
            found.append(NodeNumber(v))
        return found

    def with_ancestors(self, nodes: np.ndarray) -> np.ndarray:
        """`(V,)` bool: which nodes are among `nodes` or lie above one of them."""
        found, parent = bytearray(len(self)), self.parent.tolist()
        for v in nodes.tolist():
            while v >= 0 and not found[v]:
                found[v] = True
                v = parent[v]
        return np.frombuffer(found, dtype=bool)

    def descendants(self, node: Node) -> np.ndarray:
        """A node and all nodes below it, in storage order."""
        v = self._number(node)
        below = np.zeros(len(self), dtype=bool)
        below[v] = True
        for level in range(int(self.level[v]) - 1, -1, -1):
            nodes = self.at_level(level)
            below[nodes.start : nodes.stop] = below[self.parent[nodes.start : nodes.stop]]
        return np.flatnonzero(below)

    def subtree(self, node: Node) -> tuple[Topology, np.ndarray]:
        """The tree below (and with) one node, and the numbers its nodes have here."""
        kept = self.descendants(node)
        parent = np.searchsorted(kept, self.parent[kept])
        parent[0] = -1
        return Topology(parent, self.level[kept], tuple(self.names[v] for v in kept)), kept


def _place(parent: int | str | None, label: str, place_of: Mapping[str, int]) -> int:
    """The place of a node's parent, -1 for the root."""
    if parent is None:
        return -1
    label, shown = brief(repr(label)), brief(repr(parent))
    if isinstance(parent, str):
        if parent not in place_of:
            raise ValueError(f"node {label} has parent {shown}, which is no node's name")
        return place_of[parent]
    if isinstance(parent, bool) or not hasattr(parent, "__index__"):
        raise TypeError(
            f"node {label} has parent {shown}, expected a place, a name, or None for the root"
        )
    place = int(parent)
    if not -1 <= place < len(place_of):
        raise ValueError(f"node {label} has parent {shown}, expected 0..{len(place_of) - 1}")
    return place


def _check_places(
    parents: Iterable[object], labels: list[str], place_of: Mapping[str, int]
) -> None:
    """Raise for a place whose text is the name of another node: names were given as numbers, too."""
    for label, p in zip(labels, parents, strict=True):
        if isinstance(p, (int, np.integer)) and place_of.get(str(p), p) != p:
            raise ValueError(
                f"node {brief(repr(label))} has parent {p}, which is ambiguous: it is the place of one "
                "node and the name of another; give names as text"
            )


def _parents_first(parent: np.ndarray, labels: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The storage order of nodes, and the level of every node in the given order.

    Nodes are stored by decreasing level and, within a level, in the order of their parents.
    """
    count = len(parent)
    # Kahn's algorithm from the leaves up, one level a round: a node is ready in the round after the
    # last of its children, so the number of its round is its height above its deepest leaf
    waiting = np.bincount(parent[parent >= 0], minlength=count)  # children without a level yet
    level = np.full(count, -1, dtype=np.int64)
    ready = np.flatnonzero(waiting == 0)
    rounds: list[np.ndarray] = []
    while ready.size:
        level[ready] = len(rounds)
        rounds.append(ready)
        above = parent[ready]
        above = above[above >= 0]
        np.subtract.at(waiting, above, 1)
        above = np.unique(above)
        ready = above[waiting[above] == 0]
    if (level < 0).any():
        stuck = labels[int(np.flatnonzero(level < 0)[0])]
        raise ValueError(f"node {brief(repr(stuck))} is its own ancestor: the parents form a cycle")
    rank = np.zeros(count, dtype=np.int64)
    ordered, placed = [], 0
    for nodes in reversed(rounds):
        nodes = nodes[np.argsort(rank[parent[nodes]], kind="stable")]
        rank[nodes] = np.arange(placed, placed + len(nodes))
        placed += len(nodes)
        ordered.append(nodes)
    return np.concatenate(ordered), level
