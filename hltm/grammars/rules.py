"""Rules of a context-free grammar: what they must be, and the sizes of what they derive."""

from __future__ import annotations

from collections.abc import Mapping
from math import fsum
from typing import Any

import numpy as np

Sides = tuple[
    tuple[tuple[str, ...], float], ...
]  # right-hand sides of a symbol, and their probabilities
Rules = Mapping[str, Sides]
ROUNDING = 1e-6  # of the probabilities of a symbol's rules, which are divided by their sum


def shown(symbol: str, right: tuple[str, ...]) -> str:
    """A rule for an error."""
    return f"{symbol} -> {' '.join(right) or '(nothing)'}"


def right_sides(symbol: str, given: Any) -> Sides:
    """The right-hand sides of a symbol, from a mapping or pairs; their probabilities sum to 1.

    Raises:
        TypeError, ValueError: as `PCFG`.
    """
    found: dict[tuple[str, ...], float] = {}
    try:
        pairs = given.items() if isinstance(given, Mapping) else given
        chances = [(right, float(chance)) for right, chance in pairs]
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the rules of {symbol!r} must give right-hand sides (tuples of names) their probabilities, got "
            f"{given!r:.60}"
        ) from error
    for right, p in chances:
        if isinstance(right, str) or not all(isinstance(x, str) for x in right):
            raise TypeError(
                f"a right-hand side of {symbol!r} must be a sequence of names, got {right!r:.60}"
            )
        right = tuple(right)
        if right in found:
            raise ValueError(f"rule {shown(symbol, right)!r} is given twice")
        if not 0 < p <= 1:
            raise ValueError(
                f"rule {shown(symbol, right)!r} has probability {p}, expected one in (0, 1]"
            )
        found[right] = p
    total = fsum(found.values())
    if abs(total - 1) > ROUNDING:
        raise ValueError(f"the probabilities of {symbol!r} sum to {total:.8g}, expected 1")
    return tuple((right, p / total) for right, p in found.items())


def least_tokens(rules: Rules) -> dict[str, int]:
    """Symbol or terminal -> the fewest tokens that it derives; 2^60 where it derives no string.

    Example:
        >>> least_tokens({"S": ((("A", "a"), 1.0),), "A": (((), 0.5), (("a",), 0.5))})
        {'a': 1, 'S': 1, 'A': 0}
    """
    every = (x for sides in rules.values() for right, _ in sides for x in right)
    least = {x: 1 for x in every if x not in rules} | dict.fromkeys(rules, 1 << 60)
    changed = True
    while changed:
        changed = False
        for symbol, sides in rules.items():
            fewest = min(sum(least[x] for x in right) for right, _ in sides)
            changed |= fewest < least[symbol]
            least[symbol] = min(least[symbol], fewest)
    return least


def expected_symbols(rules: Rules) -> np.ndarray:
    """`(N, N)`: how many symbols of each kind a rule puts in place of another, on average."""
    place = {symbol: i for i, symbol in enumerate(rules)}
    found = np.zeros((len(place), len(place)))
    for symbol, sides in rules.items():
        for right, p in sides:
            for x in right:
                if x in place:
                    found[place[symbol], place[x]] += p
    return found


def refuse_cycles(rules: Rules) -> None:
    """Raise for rules by which a symbol derives itself alone, since what stands beside it may vanish.

    Raises:
        ValueError: the error names the cycle.
    """
    import networkx as nx

    least = least_tokens(rules)
    edges = [
        (symbol, x)
        for symbol, sides in rules.items()
        for right, _ in sides
        for i, x in enumerate(right)
        if x in rules and not any(least[y] for y in (*right[:i], *right[i + 1 :]))
    ]
    try:
        cycle = nx.find_cycle(nx.DiGraph(edges))
    except nx.NetworkXNoCycle:
        return
    path = " -> ".join([cycle[0][0], *(b for _, b in cycle)])
    raise ValueError(
        f"rules derive {cycle[0][0]!r} from itself alone ({path}), so a string has infinitely many "
        "derivations"
    )


def refuse_infinite(rules: Rules) -> None:
    """Raise where derivations have no finite expected size: `expected_symbols` has an eigenvalue >= 1.

    Raises:
        ValueError: the error names a symbol that is to blame.
    """
    import networkx as nx

    names, expected = list(rules), expected_symbols(rules)
    # eigenvalues of all symbols at once would be imprecise, as those of nilpotent matrices are
    for group in nx.strongly_connected_components(
        nx.from_numpy_array(expected, create_using=nx.DiGraph)
    ):
        own = sorted(group)
        growth = float(np.abs(np.linalg.eigvals(expected[np.ix_(own, own)])).max())
        if growth >= 1 - 1e-9:
            raise ValueError(
                f"what {names[own[0]]!r} derives has no finite expected length: such symbols multiply by "
                f"{growth:.4g} with every rewriting, expected less than 1"
            )
