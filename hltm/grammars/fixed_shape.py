"""The latent tree of a grammar all of whose derivations have one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hltm.grammars.rules import Rules, shown
from hltm.tree import LatentTree


@dataclass(frozen=True)
class _Place:
    """A place in the shape: the symbols that can stand there, with the rule that first put each there."""

    parent: int
    child: int
    symbols: dict[str, str]
    above: frozenset[str]


def fixed_shape_tree(rules: Rules, terminals: Sequence[str], start: str) -> LatentTree:
    """See `PCFG.to_tree`.

    Raises:
        ValueError: rules whose derivations differ in shape; the error names the first.
    """
    places = [_Place(-1, 0, {start: ""}, frozenset())]
    states: list[list[tuple[str, int]]] = []  # (symbol, rule) of each inner place
    children: list[list[int]] = []
    for here, place in enumerate(places):  # which grows while it is read
        inner = [x for x in place.symbols if x in rules]
        states.append([(x, r) for x in inner for r in range(len(rules[x]))])
        children.append([])
        if not inner:
            continue
        _check_place(place, rules)
        for j in range(len(rules[inner[0]][0][0])):
            below: dict[str, str] = {}
            for x, r in states[here]:
                below.setdefault(rules[x][r][0][j], shown(x, rules[x][r][0]))
            children[here].append(len(places))
            places.append(_Place(here, j, below, place.above | set(inner)))
    return _tree(places, _names(children), states, rules, terminals)


def _names(children: Sequence[Sequence[int]]) -> list[str]:
    """Places above the leaves by their number, and leaves by theirs in the string."""
    names, tokens, stack = [str(i) for i in range(len(children))], 0, [0]
    while stack:
        here = stack.pop()
        stack.extend(reversed(children[here]))
        if not children[here]:
            names[here], tokens = f"token {tokens}", tokens + 1
    return names


def _check_place(place: _Place, rules: Rules) -> None:
    """Raise unless all symbols at a place are rewritten by as many symbols, and none again below itself."""
    what = "so the grammar is no latent tree: its derivations have no fixed shape"
    first = next(iter(place.symbols))
    for symbol, origin in place.symbols.items():
        if (symbol in rules) != (first in rules):
            raise ValueError(
                f"rule {origin!r} puts {symbol!r} where {place.symbols[first]!r} puts {first!r}, and only "
                f"one of them is a terminal, {what}"
            )
        if symbol in place.above:
            raise ValueError(f"rule {origin!r} puts {symbol!r} below itself, {what}")
    width = len(rules[first][0][0])
    for symbol in place.symbols:
        for right, _ in rules[symbol]:
            if len(right) != width or not right:
                raise ValueError(
                    f"rule {shown(symbol, right)!r} has {len(right)} symbols on its right where "
                    f"{shown(first, rules[first][0][0])!r} has {width}, {what}"
                )


def _tree(
    places: Sequence[_Place],
    names: Sequence[str],
    states: Sequence[list[tuple[str, int]]],
    rules: Rules,
    terminals: Sequence[str],
) -> LatentTree:
    """The tables: a child's symbol follows from its parent's rule, and its rule from its symbol."""
    # a node has at least two states; one that is added never occurs
    sizes = [max(len(own) or len(terminals), 2) for own in states]
    number = {terminal: i for i, terminal in enumerate(terminals)}
    parents: dict[str, str | None] = {}
    tables: dict[str, np.ndarray] = {}
    for here, place in enumerate(places):
        own = states[here]
        if place.parent < 0:
            table = np.zeros(sizes[here])
            table[: len(own)] = [rules[x][r][1] for x, r in own]
        else:
            table = np.zeros((sizes[place.parent], sizes[here]))
            for i, (x, r) in enumerate(states[place.parent]):
                below = rules[x][r][0][place.child]
                if own:
                    table[i, : len(own)] = [rules[y][q][1] if y == below else 0.0 for y, q in own]
                else:
                    table[i, number[below]] = 1.0
            table[len(states[place.parent]) :] = table[0]
        parents[names[here]] = None if place.parent < 0 else names[place.parent]
        tables[names[here]] = table
    return LatentTree.from_parents(parents, tables)
