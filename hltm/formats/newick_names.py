"""Distinct names for the nodes of a Newick text, in which labels may be missing or repeated.

Leaves keep their labels, which must be distinct. Labels of inner nodes are often support values and
need not be: the first node of the text that has one keeps it, and the others get the first free names
of `100-2`, `100-3`, …; so does an inner node with a leaf's label. Nodes without a label get the smallest
free numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from hltm.formats.newick_syntax import NewickNode, shown, where

HYBRID = re.compile(r".*#[A-Za-z]*\d+")  # the label of a node with two parents, in extended Newick


def distinct_names(text: str, parts: list[NewickNode]) -> list[str]:
    """A distinct name for every node; the module's docstring has the rules.

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
