"""The rules of augmentations, from a topology to a rate per node: values that compare and pickle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hltm.model.nodes import Node
from hltm.model.topology import Topology

Rule = Callable[[Topology], np.ndarray]


def check_rate(rate: object, what: str = "a rate") -> float:
    """A probability as a float.

    Raises:
        ValueError: no number, or none in [0, 1].

    Example:
        >>> check_rate(1.5, "a noise level")
        Traceback (most recent call last):
        ValueError: a noise level must be in [0, 1], got 1.5
    """
    try:
        # a text or a switch would pass for a number
        found = float("nan" if isinstance(rate, str | bool) else rate)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):  # of an array, numpy's and torch's
        found = np.nan
    if not 0 <= found <= 1:
        raise ValueError(f"{what} must be in [0, 1], got {rate!r:.80}")
    return found


@dataclass(frozen=True)
class Either:
    """1 minus the product of 1 - rate: what happens if any of several independent rules makes it."""

    rules: tuple[Rule, ...]

    def __call__(self, topology: Topology) -> np.ndarray:
        found = np.asarray(self.rules[0](topology))
        for rule in self.rules[1:]:
            found = 1 - (1 - found) * (1 - np.asarray(rule(topology)))
        return found


def either(rules: Iterable[Rule]) -> Either:
    """One rule for several; what was combined before is taken apart, so the grouping does not count."""
    return Either(tuple(parts(rules)))


def parts(rules: Iterable[Rule | None]) -> list[Rule]:
    """Rules, those that were combined one by one."""
    return [
        part for rule in rules if rule is not None
        for part in (rule.rules if isinstance(rule, Either) else (rule,))
    ]  # fmt: skip


@dataclass(frozen=True)
class KeepLevel:
    """Redraw the nodes below a level whose parents are at or above it."""

    level: int | None  # None for the root's

    def __call__(self, topology: Topology) -> np.ndarray:
        level = topology.depth if self.level is None else self.level
        topology.at_level(level)
        above = topology.level >= level
        return (~above & of_parent(topology, above)).astype(np.float64)


@dataclass(frozen=True)
class KeepNodes:
    """Redraw the children of some nodes, and of those above them, that are neither."""

    nodes: tuple[Node, ...]

    def __call__(self, topology: Topology) -> np.ndarray:
        kept = topology.with_ancestors(topology.nodes(self.nodes))
        return (~kept & of_parent(topology, kept)).astype(np.float64)


@dataclass(frozen=True)
class AtLevel:
    """One rate for all nodes of a level, 0 for all others."""

    rate: float
    level: int

    def __call__(self, topology: Topology) -> np.ndarray:
        topology.at_level(self.level)
        return self.rate * (topology.level == self.level)


@dataclass(frozen=True)
class Between:
    """`(2, V)`, the least and the largest rate of all nodes of a level, 0 for all others."""

    low: float
    high: float
    level: int

    def __call__(self, topology: Topology) -> np.ndarray:
        return np.stack([AtLevel(rate, self.level)(topology) for rate in (self.low, self.high)])


def at_root(topology: Topology) -> np.ndarray:
    """1 for the root."""
    return (topology.parent < 0).astype(np.float64)


def nowhere(topology: Topology) -> np.ndarray:
    """0 for every node."""
    return np.zeros(len(topology))


def of_parent(topology: Topology, flag: np.ndarray) -> np.ndarray:
    """`(V,)` whether each node's parent has the flag; False for the root."""
    return np.where(topology.parent < 0, False, flag[np.maximum(topology.parent, 0)])
