"""Augmentations: how likely a view is to redraw each node, to miss leaves or subtrees, and to flip leaves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from hltm._integers import as_integer
from hltm.model.nodes import Node, NodeNumber, NodeRange, Nodes, is_single
from hltm.model.topology import Topology
from hltm.sampling.rules import (
    AtLevel,
    Between,
    KeepLevel,
    KeepNodes,
    Rule,
    at_root,
    check_rate,
    either,
    nowhere,
    parts,
)


@dataclass(frozen=True)
class Augmentation:
    """A redraw rate, a flip rate and a missing rate per node, evaluated on a tree when it is used.

    Node v of a view is redrawn, which means drawn again from P(v | parent), with probability
    `rates[v]`, and whenever its parent was redrawn: a redraw carries down to the leaves. The data's
    marginal distribution is unchanged. What is observed of the leaves after that may be noisy: a leaf is
    flipped, which means replaced by any of its states with equal probability, with probability
    `flip_rates[v]`, and node v is missing from a view with probability `missing_rates[v]`, and all leaves
    below it with it. All these decisions are independent, within a view and between views.

    Two augmentations are equal if their names and rules are: those of this module go by their
    arguments, functions of your own by identity. An augmentation pickles if its rules do, as functions
    at the top level of a module and instances of classes there do.

    Attributes:
        name: how it is written on the command line, e.g. `resample-leaves:0.3`.
        rule: from a topology to `(V,)` float64 redraw rates in [0, 1].
        missing: from a topology to `(V,)` or `(2, V)` float64 missing rates; None if no leaf is ever missing.
        flips: from a topology to `(V,)` float64 flip rates, 0 for latents; None if no leaf is ever flipped.

    Example:
        >>> from hltm import Topology
        >>> keep_root().rates(Topology.balanced(depth=2)).tolist()
        [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """

    name: str
    rule: Rule
    missing: Rule | None = None
    flips: Rule | None = None

    def rates(self, tree: Topology | object) -> np.ndarray:
        """`(V,)` float64 redraw rates on a tree (or its topology).

        Raises:
            TypeError: neither a tree nor a topology.
            ValueError, KeyError: a level or node that the tree does not have, or a rule that does
                not give every node a rate in [0, 1].
        """
        topology = _topology_of(tree)
        return self._checked(topology, self.rule(topology), "rate")

    def missing_rates(self, tree: Topology | object) -> np.ndarray:
        """`(V,)` float64 probabilities that each node is missing from a view, with all leaves below it.

        Where they differ from row to row, `(2, V)`: the least and the largest. A row of a view has the
        rates low + t (high - low), with one t for all nodes, uniform in 0..1.

        Raises:
            TypeError, ValueError: as `rates`.

        Example:
            >>> from hltm import Topology
            >>> drop_leaves(0.2).missing_rates(Topology.balanced(depth=1)).tolist()
            [0.0, 0.2, 0.2]
        """
        topology = _topology_of(tree)
        if self.missing is None:
            return np.zeros(len(topology))
        given = np.asarray(self.missing(topology))
        if given.ndim != 2 or len(given) != 2:
            return self._checked(topology, given, "missing rate")
        return np.stack([self._checked(topology, each, "missing rate") for each in given])

    def flip_rates(self, tree: Topology | object) -> np.ndarray:
        """`(V,)` float64 probabilities that each leaf is flipped in a view; 0 for latents.

        Raises:
            TypeError, ValueError: as `rates`; a latent with a flip rate.

        Example:
            >>> from hltm import Topology
            >>> flip_leaves(0.2).flip_rates(Topology.balanced(depth=1)).tolist()
            [0.0, 0.2, 0.2]
        """
        topology = _topology_of(tree)
        if self.flips is None:
            return np.zeros(len(topology))
        rates = self._checked(topology, self.flips(topology), "flip rate")
        for v in np.flatnonzero(rates[: topology.leaves.start]):
            raise ValueError(
                f"augmentation {self.name!r} gives node {topology.names[v]!r} the flip rate {rates[v]}, but "
                "only leaves are flipped"
            )
        return rates

    def _checked(self, topology: Topology, given: np.ndarray, kind: str) -> np.ndarray:
        """Rates as `(V,)` float64, after a check of their shape and range."""
        rates = np.asarray(given, dtype=np.float64)
        if rates.shape != (len(topology),):
            raise ValueError(
                f"augmentation {self.name!r} gives {kind}s of shape {rates.shape}, "
                f"expected ({len(topology)},)"
            )
        for v in np.flatnonzero(~((rates >= 0) & (rates <= 1))):
            raise ValueError(
                f"augmentation {self.name!r} gives node {topology.names[v]!r} the {kind} "
                f"{rates[v]}, expected a number in [0, 1]"
            )
        return rates

    def may_redraw(self, tree: Topology | object) -> np.ndarray:
        """`(V,)` bool: whether a view may redraw each node, by its own rate or that of one above it.

        Leaves that are flipped or missing keep their states; they are observed otherwise.

        Example:
            >>> from hltm import Topology
            >>> resample_subtrees(0.5, 1).may_redraw(Topology.balanced(depth=2)).tolist()
            [False, True, True, True, True, True, True]
        """
        topology = _topology_of(tree)
        found = self.rates(topology) > 0
        for level in range(topology.depth - 1, -1, -1):
            nodes = np.asarray(topology.at_level(level))
            found[nodes] |= found[topology.parent[nodes]]
        return found

    def then(self, other: Augmentation) -> Augmentation:
        """Both: rates a and b combine to 1 - (1 - a)(1 - b), each kind for itself.

        What is observed of a leaf follows from its state: leaves are flipped after all redraws, and missing
        ones are missing, in whatever order the parts are given.

        Raises:
            TypeError: anything else than an augmentation.
            ValueError: two parts whose missing rates differ from row to row.

        Example:
            >>> from hltm import Topology
            >>> both = resample_leaves(0.5).then(drop_leaves(0.5)).then(drop_leaves(0.2))
            >>> tree = Topology.balanced(depth=1)
            >>> both.rates(tree).tolist(), both.missing_rates(tree).tolist()
            ([0.0, 0.5, 0.5], [0.0, 0.6, 0.6])
        """
        check_augmentation(other)
        missing = [a.missing for a in (self, other) if a.missing is not None]
        if sum(isinstance(rule, Between) for rule in parts(missing)) > 1:
            raise ValueError(
                f"only one part may have missing rates that differ from row to row, got {self.name} and "
                f"{other.name}"
            )
        flips = [a.flips for a in (self, other) if a.flips is not None]
        return Augmentation(
            f"{self.name},{other.name}",
            either([self.rule, other.rule]),
            either(missing) if missing else None,
            either(flips) if flips else None,
        )

    def __str__(self) -> str:
        return self.name

    def __copy__(self) -> Augmentation:
        return self

    def __deepcopy__(self, memo: object) -> Augmentation:
        return self  # nothing in it changes, and a lambda as its rule need not pickle

    def __getstate__(self) -> dict[str, object]:
        for rule in parts([self.rule, self.missing, self.flips]):
            if "<" in getattr(rule, "__qualname__", ""):  # <lambda>, or in <locals> of a function
                raise TypeError(
                    f"augmentation {self.name!r} cannot be pickled: its rule {rule.__qualname__!r} is not "
                    "at the top level of a module; define it there with def"
                )
        return vars(self)


def keep_level(level: int) -> Augmentation:
    """Keep the nodes of this level and above; redraw everything below.

    Raises:
        TypeError: a level that is not an integer. On use, ValueError: one that the tree does not have.
    """
    level = as_integer("level", level)
    return Augmentation(f"keep-level:{level}", KeepLevel(level))


def keep_root() -> Augmentation:
    """Keep the root alone: the views that the theory of arXiv 2010.00578 assumes."""
    return Augmentation("keep-root", KeepLevel(None))


def keep_nodes(nodes: Nodes) -> Augmentation:
    """Keep these nodes, given by name or number, and those above them; redraw every other node.

    Raises:
        ValueError: no nodes. On use, KeyError, IndexError or ValueError: a node that the tree does not
            have, or a number that could mean two nodes.
    """
    if isinstance(nodes, range):  # numbers, as everywhere
        nodes = NodeRange(nodes.start, nodes.stop, nodes.step)
    listed: Iterable[Node] = [nodes] if is_single(nodes) else nodes
    wanted = tuple(
        v if isinstance(v, (str, NodeNumber)) else as_integer("a node's number", v) for v in listed
    )
    if not wanted:
        raise ValueError("keep_nodes needs at least one node, got none; use keep_nothing()")
    return Augmentation(f"keep-nodes:{'+'.join(map(str, wanted))}", KeepNodes(wanted))


def keep_nothing() -> Augmentation:
    """Redraw everything, the root too: views that share nothing, the negative control."""
    return Augmentation("keep-nothing", at_root)


def resample_leaves(rate: float) -> Augmentation:
    """Redraw each leaf with this probability, given its parent; latents are kept.

    Raises:
        ValueError: a rate outside [0, 1].
    """
    rate = check_rate(rate)
    return Augmentation(f"resample-leaves:{rate:g}", AtLevel(rate, 0))


def resample_subtrees(rate: float, level: int) -> Augmentation:
    """Redraw each node of a level with this probability, and everything below it, as a crop does.

    Leaves that hang from a higher node, as in trees with leaves at several depths, are never redrawn:
    `may_redraw` shows which are.

    Args:
        rate: the probability, in [0, 1].
        level: 0 = leaves … L = root; a node's height above its deepest leaf.

    Raises:
        TypeError: a level that is not an integer.
        ValueError: a rate outside [0, 1]; on use, a level that the tree does not have.

    Example:
        >>> from hltm import Topology
        >>> resample_subtrees(0.3, level=1).rates(Topology.balanced(depth=2)).tolist()
        [0.0, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0]
    """
    rate, level = check_rate(rate), as_integer("level", level)
    return Augmentation(f"resample-subtrees:{rate:g}:{level}", AtLevel(rate, level))


def drop_leaves(rate: float | tuple[float, float]) -> Augmentation:
    """Miss each leaf of a view with this probability; nothing is redrawn.

    A view's `leaves` are -1 where missing, as `posterior` expects; its `states` are those of the model.

    Args:
        rate: the probability; or two, between which every row of every view has a rate of its own, drawn
            uniformly, as training that is to work at any rate needs it (masked diffusion, arXiv 2406.07524):
            with (0, 1) all numbers of missing leaves are equally likely.

    Raises:
        ValueError: a rate outside [0, 1], or a first one above the second.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> view, _ = tree.views(tree.sample(3, seed=1), drop_leaves(0.5))
        >>> view.leaves
        tensor([[-1, -1, -1,  0],
                [ 0,  0,  1, -1],
                [-1, -1, -1,  1]], dtype=torch.int16)
    """
    if isinstance(rate, tuple | list):
        ends = [check_rate(end) for end in rate]
        if len(ends) != 2 or ends[0] > ends[1]:
            raise ValueError(f"two rates must be a least and a largest one, got {rate}")
        low, high = ends
        return Augmentation(f"drop-leaves:{low:g}-{high:g}", nowhere, Between(low, high, 0))
    rate = check_rate(rate)
    return Augmentation(f"drop-leaves:{rate:g}", nowhere, AtLevel(rate, 0))


def drop_subtrees(rate: float, level: int) -> Augmentation:
    """Miss each subtree under a node of a level with this probability; nothing is redrawn.

    All leaves of a subtree are missing together, as the pixels of a masked patch are.

    Args:
        rate: the probability, in [0, 1].
        level: 0 = leaves … L = root.

    Raises:
        TypeError: a level that is not an integer.
        ValueError: a rate outside [0, 1]; on use, a level that the tree does not have.

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> view, _ = tree.views(tree.sample(3, seed=1), drop_subtrees(0.5, level=1))
        >>> (view.leaves[:, :2] == -1).all(1).equal((view.leaves[:, :2] == -1).any(1))
        True
    """
    rate, level = check_rate(rate), as_integer("level", level)
    return Augmentation(f"drop-subtrees:{rate:g}:{level}", nowhere, AtLevel(rate, level))


def flip_leaves(rate: float) -> Augmentation:
    """Replace each leaf of a view by any of its K states with this probability; nothing is redrawn.

    Unlike a redraw, a flip does not ask the parent, so that a leaf has its own state with probability
    1 - rate + rate / K and any other with rate / K. A view's `leaves` are flipped; its `states` are those of
    the model.

    Raises:
        ValueError: a rate outside [0, 1].

    Example:
        >>> import hltm
        >>> tree = hltm.symmetric_binary(depth=2, polarity=0.9, seed=0)
        >>> draw = tree.sample(10_000, seed=1)
        >>> view, _ = tree.views(draw, flip_leaves(0.3))
        >>> (view.leaves != draw.leaves).double().mean()  # about 0.3 / 2
        tensor(0.1492, dtype=torch.float64)
    """
    rate = check_rate(rate)
    return Augmentation(f"flip-leaves:{rate:g}", nowhere, flips=AtLevel(rate, 0))


def parse(text: str) -> Augmentation:
    """The augmentation of a name: `keep-root`, `resample-subtrees:0.3:2`, ….

    Several names joined by commas are applied one after the other.

    Raises:
        ValueError: an unknown name, or an argument that is missing or malformed.
    """
    found: Augmentation | None = None
    for part in text.split(","):
        name, _, argument = part.strip().partition(":")
        if name not in BY_NAME:
            raise ValueError(f"unknown augmentation {name!r}, expected one of {', '.join(BY_NAME)}")
        convert, make, example = BY_NAME[name]
        wanted = "no argument" if convert is None else f"an argument, e.g. {name}:{example}"
        refused = ValueError(f"augmentation {name!r} takes {wanted}, got {part.strip()!r}")
        if bool(argument) != (convert is not None):
            raise refused
        try:
            given = () if convert is None else (convert(argument),)
        except ValueError:
            raise refused from None
        try:
            made = make(*given)
        except ValueError as error:
            raise ValueError(f"augmentation {part.strip()!r}: {error}") from error
        found = made if found is None else found.then(made)
    assert found is not None
    return found


def _rate_and_level(text: str) -> tuple[float, int]:
    """`RATE:LEVEL` as numbers."""
    rate, _, level = text.partition(":")
    return float(rate), int(level)


def _rate_or_two(text: str) -> float | tuple[float, ...]:
    """`RATE` or `LOW-HIGH` as numbers."""
    ends = re.split(r"(?<=[\d.])-", text)  # not at the sign of a number or of its exponent
    return float(text) if len(ends) == 1 else tuple(map(float, ends))


# by name: how its argument is read (None if it takes none), the function that takes it, an example
BY_NAME: dict[str, tuple[Callable[[str], object] | None, Callable[..., Augmentation], str]] = {
    "keep-root": (None, keep_root, ""),
    "keep-level": (int, keep_level, "2"),
    "keep-nodes": (lambda text: text.split("+"), keep_nodes, "1+2"),
    "keep-nothing": (None, keep_nothing, ""),
    "resample-leaves": (float, resample_leaves, "0.3"),
    "resample-subtrees": (_rate_and_level, lambda given: resample_subtrees(*given), "0.3:2"),
    "drop-leaves": (_rate_or_two, drop_leaves, "0.2"),
    "flip-leaves": (float, flip_leaves, "0.2"),
    "drop-subtrees": (_rate_and_level, lambda given: drop_subtrees(*given), "0.3:2"),
}


def check_augmentation(augment: object) -> Augmentation:
    """The augmentation itself.

    Raises:
        TypeError: anything else, such as its text or a function that has not been called.
    """
    if not isinstance(augment, Augmentation):
        by_name = ", its name on the command line: hltm.sampling.augment.parse makes one of a name"
        hint = by_name if isinstance(augment, str) else ""
        raise TypeError(
            f"augment must be an Augmentation, e.g. hltm.keep_root(), got {augment!r:.100}{hint}"
        )
    return augment


def _topology_of(tree: Topology | object) -> Topology:
    """A tree's topology, or the topology given."""
    topology = tree if isinstance(tree, Topology) else getattr(tree, "topology", None)
    if not isinstance(topology, Topology):
        raise TypeError(f"expected a tree or a topology, got {type(tree).__name__}")
    return topology
