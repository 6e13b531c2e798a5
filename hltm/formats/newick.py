"""Trees from Newick text, and from NEXUS: shape, names and what branch lengths say.

The syntax is in `hltm.formats.newick_syntax` and `hltm.formats.nexus`, what lengths mean in
`hltm.formats.branch_lengths`, and the other way in `hltm.formats.newick_writing`. A text that begins
with `#NEXUS` is read as NEXUS.

**Names.** Leaves keep their labels, which must be distinct. Labels of inner nodes are often support
values and need not be: the first node of the text that has one keeps it, and the others get the first
free names of `100-2`, `100-3`, …; so does an inner node with a leaf's label. Nodes without a label get
the smallest free numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np
import torch

from hltm.formats.branch_lengths import (
    NEGLIGIBLE,
    NUMBER,
    Lengths,
    change_of,
    check_convention,
    entries_of,
    symmetric_tables,
)
from hltm.formats.newick_syntax import NewickNode, read_tree, shown, where
from hltm.formats.nexus import is_nexus, nexus_trees
from hltm.model.topology import Topology
from hltm.tree import LatentTree

HYBRID = re.compile(r".*#[A-Za-z]*\d+")  # the label of a node with two parents, in extended Newick


def topology_from_newick(text: str, *, keep_underscores: bool = False) -> Topology:
    """The shape and names of the one tree in a Newick or NEXUS text; lengths are not looked at.

    Raises:
        ValueError: text that is not Newick (saying where and why), that holds several trees, a single
            node or a network, or two leaves of one name.
        TypeError: not text.

    Example:
        >>> topology_from_newick("((human, chimp)'great apes', lemur)primates;").names
        ('primates', 'great apes', 'lemur', 'human', 'chimp')
        >>> topology_from_newick("((A,B)100,(C,D)100)95;").names
        ('95', '100', '100-2', 'A', 'B', 'C', 'D')
    """
    text, trees = _read(text, keep_underscores)
    return _topology(text, _only(trees, "topologies_from_newick"))[0]


def topologies_from_newick(text: str, *, keep_underscores: bool = False) -> list[Topology]:
    """The shapes and names of all trees in a text, in order; as `topology_from_newick` reads one.

    Example:
        >>> [len(topology) for topology in topologies_from_newick("(A,B); ((A,B),C);")]
        [3, 5]
    """
    text, trees = _read(text, keep_underscores)
    return [_topology(text, parts)[0] for parts in trees]


def from_newick(
    text: str,
    *,
    lengths: Lengths = "paralinear",
    rate: float = 1.0,
    states: int | None = None,
    negative: Literal["refuse", "zero"] = "refuse",
    keep_underscores: bool = False,
) -> LatentTree:
    """The symmetric latent tree of the one tree in a Newick or NEXUS text with branch lengths.

    A branch has the polarity of its annotation, or else the one that its length says: exp(-t) for two
    states and paralinear lengths, exp(-2 t) for expected changes per site. The root is uniform, and a
    length of its own is ignored. The model is reversible, so where an unrooted tree is rooted does not
    matter to the leaves.

    Args:
        lengths: what they mean, `paralinear`, or `expected-changes` as phylogenies have them; the
            formulas are in `hltm.formats.branch_lengths`.
        rate: lengths are multiplied by it: changes per unit of time, where lengths are times.
        states: K of every node; by default what an annotation of the root says, or else 2.
        negative: `refuse` lengths below -1e-6 / rate, or take them as `zero`; those from there to 0 are
            due to rounding and always taken as 0.
        keep_underscores: whether underscores in labels without quotes stay; otherwise they are blanks.

    Raises:
        ValueError: what `topology_from_newick` refuses, a branch with neither length nor polarity, a
            length that is negative or no number, a polarity outside [-1/(K - 1), 1], another number
            of states than the annotation's, or an argument that is not one of those above.
        TypeError: not text.

    Example:
        >>> import math
        >>> text = "((human:0.1, chimp:0.1)apes:0.3, lemur:0.5)primates;"
        >>> tree = from_newick(text, lengths="expected-changes")
        >>> round(float(tree.table("human")[0, 1]), 6) == round((1 - math.exp(-2 * 0.1)) / 2, 6)
        True
        >>> round(float(from_newick(text).polarity[4]), 6) == round(math.exp(-0.1), 6)
        True
        >>> from_newick(text, lengths="expected-changes", states=4)
        LatentTree(5 nodes, 3 leaves, depth 2, 4 states, names 'primates', 'apes', 'lemur', …)
    """
    convention = _Convention(lengths, rate, states, negative)
    text, trees = _read(text, keep_underscores)
    return convention.tree(text, _only(trees, "trees_from_newick"))


def trees_from_newick(
    text: str,
    *,
    lengths: Lengths = "paralinear",
    rate: float = 1.0,
    states: int | None = None,
    negative: Literal["refuse", "zero"] = "refuse",
    keep_underscores: bool = False,
) -> list[LatentTree]:
    """The symmetric latent trees of all trees in a text, in order; as `from_newick` reads one.

    Example:
        >>> trees_from_newick("(A:1,B:1); ((A:1,B:1):1,C:1);")[1]
        LatentTree(5 nodes, 3 leaves, depth 2, 2 states)
    """
    convention = _Convention(lengths, rate, states, negative)
    text, trees = _read(text, keep_underscores)
    return [convention.tree(text, parts) for parts in trees]


def _read(text: str, keep_underscores: bool) -> tuple[str, list[list[NewickNode]]]:
    """The text without a byte order mark, and the nodes of every tree in it, at least one."""
    if not isinstance(text, str):
        raise TypeError(f"expected Newick text as str, got {type(text).__name__}")
    text = text.removeprefix("\ufeff")
    if is_nexus(text):
        return text, list(nexus_trees(text, keep_underscores=keep_underscores))
    trees, place = [], 0
    while found := read_tree(text, place, keep_underscores=keep_underscores):
        parts, place = found
        trees.append(parts)
    if not trees:
        raise ValueError("the text has no tree: expected Newick, e.g. '(A:0.1,B:0.2)root;'")
    return text, trees


def _only(trees: list[list[NewickNode]], reader: str) -> list[NewickNode]:
    """The one tree of a text."""
    if len(trees) > 1:
        raise ValueError(
            f"the text holds {len(trees)} trees, expected one: hltm.{reader} reads all"
        )
    return trees[0]


def _topology(text: str, parts: list[NewickNode]) -> tuple[Topology, list[int]]:
    """The topology, and the number that each part has in it."""
    names = _distinct_names(text, parts)
    topology = Topology.from_parents([part.parent for part in parts], names)
    return topology, [topology.node(name) for name in names]


def _distinct_names(text: str, parts: list[NewickNode]) -> list[str]:
    """A distinct name for every node; the top of this file has the rules.

    Raises:
        ValueError: two leaves of one name, or a network.
    """
    inner = {part.parent for part in parts}
    given = {part.name for part in parts}
    start: dict[str | None, int] = {}  # where a name was first used
    for v, part in enumerate(parts):
        if v in inner or part.name is None:
            continue
        if part.name in start:
            _check_tree(text, part)
            both = f"{where(text, start[part.name])} and {where(text, part.start)}"
            raise ValueError(
                f"leaves must have distinct names, got {shown(part.name)} twice: {both}"
            )
        start[part.name] = part.start
    numbers, suffixes = map(str, count()), dict[str, Iterator[int]]()
    names = []
    for v, part in enumerate(parts):
        name = part.name
        if name is None:
            name = next(number for number in numbers if number not in given)
        elif v in inner and name in start:
            _check_tree(text, part)
            numbered = (f"{part.name}-{k}" for k in suffixes.setdefault(name, count(2)))
            name = next(each for each in numbered if each not in given)
        start.setdefault(name, part.start)
        names.append(name)
    return names


def _check_tree(text: str, part: NewickNode) -> None:
    """Raise a ValueError if a repeated name is that of a hybrid node."""
    if HYBRID.fullmatch(part.name or ""):
        at = where(text, part.start)
        raise ValueError(
            f"{shown(part.name)} occurs twice ({at}), as extended Newick writes a node with two parents: "
            "a network, not a tree"
        )


@dataclass(frozen=True)
class _Convention:
    """How the branches of a text become tables: the arguments of `from_newick`."""

    lengths: Lengths
    rate: float
    states: int | None
    negative: str

    def __post_init__(self) -> None:
        check_convention(self.lengths, self.rate, self.states)
        if self.negative not in ("refuse", "zero"):
            raise ValueError(f"negative must be 'refuse' or 'zero', got {self.negative!r}")

    def tree(self, text: str, parts: list[NewickNode]) -> LatentTree:
        """The latent tree of the nodes of a text."""
        topology, place = _topology(text, parts)
        states = self._count(parts[0])
        entries = np.ones((2, len(topology)))
        for part, v in zip(parts, place, strict=True):
            if v > 0:
                try:
                    entries[:, v] = self._entries(part, states)
                except ValueError as error:
                    name, at = topology.names[v], where(text, part.start)
                    raise ValueError(f"the branch to node {shown(name)} {error} ({at})") from None
        prior = torch.full((states,), 1 / states, dtype=torch.float64)
        stay, change = entries[:, 1:]
        return LatentTree.from_tables(topology, [prior, *symmetric_tables(stay, change, states)])

    def _count(self, root: NewickNode) -> int:
        """The number of states."""
        noted = root.notes.get("states")
        if noted is None:
            return 2 if self.states is None else int(self.states)
        if not noted.isdecimal():
            raise ValueError(f"the root's annotation says states={shown(noted)}, expected a number")
        check_convention(self.lengths, self.rate, int(noted))
        if self.states not in (None, int(noted)):
            raise ValueError(f"states is {self.states}, but the root's annotation says {noted}")
        return int(noted)

    def _entries(self, part: NewickNode, states: int) -> tuple[float, float]:
        """`stay` and `change` of the branch above a node."""
        notes = part.notes
        if "polarity" in notes:
            rho, lowest = _number("polarity", notes["polarity"]), -1 / (states - 1)
            if not lowest <= rho <= 1:
                low = "-1" if states == 2 else f"-1/{states - 1}"
                raise ValueError(f"has polarity {rho}, expected a number in [{low}, 1]")
            if "stay" in notes and "change" in notes:
                return _number("stay", notes["stay"]), _number("change", notes["change"])
            return entries_of(rho, states)
        if part.length is None:
            raise ValueError(
                "has neither a length nor a polarity (hltm.topology_from_newick reads shapes alone)"
            )
        length = _number("length", part.length)
        if length < 0 and (self.negative == "zero" or self.rate * length >= -NEGLIGIBLE):
            length = 0.0
        if not length >= 0:
            hint = "; negative='zero' takes it as 0" if length < 0 else ""
            raise ValueError(
                f"has length {part.length:.40}, expected a number that is not negative{hint}"
            )
        change = change_of(length, self.lengths, self.rate, states)
        return 1 - (states - 1) * change, change


def _number(what: str, written: str) -> float:
    if not NUMBER.fullmatch(written):
        raise ValueError(f"has {what} {shown(written)}, expected a number")
    return float(written)
