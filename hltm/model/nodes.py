"""How nodes are given: by name, or by number; and what tells a tree's own numbers from a user's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import TypeIs

Node = int | str
Nodes = Node | Iterable[Node]


class NodeNumber(int):
    """The number of a node as a tree itself gives it, so it is never mistaken for a name.

    In all else it is an int. A result of arithmetic with it is a plain int.

    Example:
        >>> import hltm
        >>> chain = hltm.Topology.from_parents([1, 2, None])  # stored as the nodes '2', '1', '0'
        >>> [chain.names[v] for v in chain.leaves], chain.node(chain.leaves[0])
        (['0'], 2)
        >>> chain.node(2)
        Traceback (most recent call last):
        ...
        ValueError: node 2 is ambiguous: the node of number 2 is named '0', and the node named '2' \
has number 0; give the name as text
    """

    __slots__ = ()


class NodeRange(Sequence[int]):
    """Consecutive nodes, as `range` but of `NodeNumber`s; it equals the `range` of the same numbers.

    Example:
        >>> nodes = NodeRange(3, 7)
        >>> nodes, nodes[1:], list(nodes), nodes == range(3, 7)
        (range(3, 7), range(4, 7), [3, 4, 5, 6], True)
    """

    __slots__ = ("_range",)

    def __init__(self, start: int, stop: int, step: int = 1) -> None:
        self._range = range(start, stop, step)

    @property
    def start(self) -> int:
        """The first number."""
        return self._range.start

    @property
    def stop(self) -> int:
        """The number after the last."""
        return self._range.stop

    @property
    def step(self) -> int:
        """The difference of neighbours: 1, unless the range was sliced."""
        return self._range.step

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> NodeRange: ...

    def __getitem__(self, index: SupportsIndex | slice) -> int | NodeRange:
        if isinstance(index, slice):
            part = self._range[index]
            return NodeRange(part.start, part.stop, part.step)
        return NodeNumber(self._range[index])

    def __iter__(self) -> Iterator[int]:
        return map(NodeNumber, self._range)

    def __contains__(self, node: object) -> bool:
        return node in self._range

    def __eq__(self, other: object) -> bool:
        if isinstance(other, NodeRange):
            return self._range == other._range
        return self._range == other if isinstance(other, range) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._range)

    def __repr__(self) -> str:
        return repr(self._range)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.arange(self.start, self.stop, self.step, dtype=dtype)


def is_single(nodes: Nodes) -> TypeIs[Node]:
    """Whether one node is given by itself, by number or name, and not in a list."""
    return isinstance(nodes, (int, str, np.integer)) or getattr(nodes, "ndim", None) == 0


def drop_single(found: Tensor, *asked: Nodes) -> Tensor:
    """`(S, A, B, ...)`, an axis for each of `asked`, without the axes of nodes given singly."""
    return found[:, *(0 if is_single(nodes) else slice(None) for nodes in asked)]
