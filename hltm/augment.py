"""Augmentations: how likely a view is to draw each node again, given its parent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hltm.topology import Node, Topology


@dataclass(frozen=True)
class Augmentation:
    """A redraw rate per node, bound to a tree on use.

    Node v of a view is drawn again from P(v | parent) when its own coin, of chance `rates[v]`,
    comes up, or when its parent was drawn again: a redraw carries down to the leaves. The data's
    marginal distribution is unchanged.

    Attributes:
        name: how it is written on the command line, e.g. `resample-leaves:0.3`.
        rule: from a topology to `(V,)` float64 rates in [0, 1].

    Example:
        >>> from hltm.topology import Topology
        >>> keep_root().rates(Topology.balanced(depth=2)).tolist()
        [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    name: str
    rule: Callable[[Topology], np.ndarray]

    def rates(self, tree: Topology | object) -> np.ndarray:
        """`(V,)` float64 redraw rates on a tree (or its topology).

        Raises:
            TypeError: neither a tree nor a topology.
            ValueError, KeyError: a level or node that the tree does not have, or a rule that does
                not give every node a rate in [0, 1].
        """
        topology = tree if isinstance(tree, Topology) else getattr(tree, "topology", None)
        if not isinstance(topology, Topology):
            raise TypeError(f"expected a tree or a topology, got {type(tree).__name__}")
        rates = np.asarray(self.rule(topology), dtype=np.float64)
        if rates.shape != (len(topology),):
            raise ValueError(
                f"augmentation {self.name!r} gives rates of shape {rates.shape}, "
                f"expected ({len(topology)},)"
            )
        for v in np.flatnonzero(~((rates >= 0) & (rates <= 1))):
            raise ValueError(
                f"augmentation {self.name!r} gives node {topology.names[v]!r} the rate {rates[v]}, "
                "expected one in [0, 1]"
            )
        return rates

    def then(self, other: Augmentation) -> Augmentation:
        """Both, one after the other: rates combine as 1 - (1 - a)(1 - b)."""
        return Augmentation(
            f"{self.name},{other.name}",
            lambda topology: 1 - (1 - self.rule(topology)) * (1 - other.rule(topology)),
        )

    def __str__(self) -> str:
        return self.name


def keep_level(level: int) -> Augmentation:
    """Keep the nodes of this level and above; draw everything below again."""

    def rule(topology: Topology) -> np.ndarray:
        topology.at_level(level)
        above = topology.level >= level
        return (~above & _of_parent(topology, above)).astype(np.float64)

    return Augmentation(f"keep-level:{level}", rule)


def keep_root() -> Augmentation:
    """Keep the root alone: the views the paper's theory assumes."""
    return Augmentation("keep-root", lambda topology: keep_level(topology.depth).rule(topology))


def keep_nodes(nodes: Iterable[Node]) -> Augmentation:
    """Keep these nodes and those above them; draw every other node again."""
    wanted = [nodes] if isinstance(nodes, (int, str)) else list(nodes)
    if not wanted:
        raise ValueError("keep_nodes needs at least one node; to keep none use keep_nothing()")

    def rule(topology: Topology) -> np.ndarray:
        kept = np.zeros(len(topology), dtype=bool)
        for v in topology.nodes(wanted):
            kept[[v, *topology.ancestors(int(v))]] = True
        return (~kept & _of_parent(topology, kept)).astype(np.float64)

    return Augmentation(f"keep-nodes:{'+'.join(map(str, wanted))}", rule)


def keep_nothing() -> Augmentation:
    """Draw everything again, the root too: views that share nothing, the negative control."""
    return Augmentation("keep-nothing", lambda topology: (topology.parent < 0).astype(np.float64))


def resample_leaves(rate: float) -> Augmentation:
    """Draw each leaf again with this chance, given its own parent; latents stay.

    Raises:
        ValueError: a rate outside [0, 1].
    """
    _check_rate(rate)
    return Augmentation(f"resample-leaves:{rate:g}", lambda topology: rate * (topology.level == 0))


def parse(text: str) -> Augmentation:
    """The augmentation a name stands for: `keep-root`, `keep-level:2`, `resample-leaves:0.3`, ….

    Several joined by commas are applied one after the other.

    Raises:
        ValueError: an unknown name, or an argument that is missing or malformed.
    """
    found: Augmentation | None = None
    for part in text.split(","):
        name, _, argument = part.strip().partition(":")
        if name not in BY_NAME:
            raise ValueError(f"unknown augmentation {name!r}, expected one of {', '.join(BY_NAME)}")
        convert, make = BY_NAME[name]
        if bool(argument) != (convert is not None):
            wanted = "no argument" if convert is None else f"an argument, e.g. {EXAMPLES[name]}"
            raise ValueError(f"augmentation {name!r} takes {wanted}, got {part.strip()!r}")
        try:
            made = make() if convert is None else make(convert(argument))
        except ValueError as error:
            raise ValueError(f"augmentation {part.strip()!r}: {error}") from error
        found = made if found is None else found.then(made)
    assert found is not None
    return found


EXAMPLES = {
    "keep-level": "keep-level:2",
    "keep-nodes": "keep-nodes:1+2",
    "resample-leaves": "resample-leaves:0.3",
}
BY_NAME: dict[str, tuple[Callable[[str], object] | None, Callable[..., Augmentation]]] = {
    "keep-root": (None, keep_root),
    "keep-level": (int, keep_level),
    "keep-nodes": (lambda text: text.split("+"), keep_nodes),
    "keep-nothing": (None, keep_nothing),
    "resample-leaves": (float, resample_leaves),
}


def _of_parent(topology: Topology, flag: np.ndarray) -> np.ndarray:
    """`(V,)` whether each node's parent has the flag; False for the root."""
    return np.where(topology.parent < 0, False, flag[np.maximum(topology.parent, 0)])


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate must be in [0, 1], got {rate}")
