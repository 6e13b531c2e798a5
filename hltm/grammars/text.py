"""Probabilistic context-free grammars as text, in the notation of NLTK: `S -> NP VP [0.7] | 'go' [0.3]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Given = dict[str, list[tuple[tuple[str, ...], float]]]
PIECE = re.compile(r"""\s*(?:(->|\|)|\[([^\]]*)\]|'([^']*)'|"([^"]*)"|([^\s|\[\]'"]+)|(\S))""")
START = re.compile(r"%\s*start\s+(\S+)")


def parse_rules(text: str) -> tuple[Given, str]:
    """Rules by symbol, in order, and the start symbol: that of a line `%start S`, or the first one.

    A line has a symbol, an arrow, and right-hand sides with their probabilities in brackets, apart by `|`;
    terminals are in quotes. `#` begins a comment, and a backslash at its end continues a line.

    Raises:
        ValueError: a line that is none of these, or a symbol without quotes that has no rule; the error
            names the line.

    Example:
        >>> parse_rules("S -> A S [0.25] | 'b' [0.75]  # a comment\\nA -> 'a' [1]")
        ({'S': [(('A', 'S'), 0.25), (('b',), 0.75)], 'A': [(('a',), 1.0)]}, 'S')
    """
    rules: Given = {}
    start, bare, quoted = "", dict[str, int](), dict[str, int]()
    joined = re.sub(r"\\[ \t]*\n", lambda _: " \v", text)  # so that lines keep their numbers
    line = 1
    for content in joined.split("\n"):
        number, line = line, line + 1 + content.count("\v")
        content = _without_comment(content.replace("\v", " ")).strip()
        if found := START.fullmatch(content):
            start = found[1]
        elif content:
            symbol, sides = _line(content, number, bare, quoted)
            rules.setdefault(symbol, []).extend(sides)
    if not rules:
        raise ValueError("the grammar has no rules")
    for symbol, number in bare.items():
        if symbol not in rules:
            raise ValueError(
                f"line {number}: {symbol!r} has no rule; a terminal stands in quotes, '{symbol}'"
            )
    for symbol, number in quoted.items():
        if symbol in rules:
            raise ValueError(f"line {number}: the terminal {symbol!r} is also a symbol with rules")
    return rules, start or next(iter(rules))


def write_rules(rules: Mapping[str, Sequence[tuple[tuple[str, ...], float]]], start: str) -> str:
    """The text of rules, which `parse_rules` reads back to the last bit.

    Raises:
        ValueError: a symbol that the notation cannot hold.

    Example:
        >>> write_rules({"S": [(("S", "S"), 0.25), (("a",), 0.75)]}, "S")
        "%start S\\nS -> S S [0.25] | 'a' [0.75]\\n"
    """
    lines = [f"%start {start}"]
    for symbol, sides in rules.items():
        if not re.fullmatch(r"""[^\s|\[\]'"#%]+""", symbol) or symbol == "->":
            raise ValueError(f"the symbol {symbol!r} cannot stand in a grammar's text")
        parts = [
            " ".join([*(x if x in rules else _quoted(x) for x in right), f"[{p!r}]"])
            for right, p in sides
        ]
        lines.append(f"{symbol} -> {' | '.join(parts)}")
    return "\n".join(lines) + "\n"


def _quoted(terminal: str) -> str:
    if "\n" in terminal or ("'" in terminal and '"' in terminal):
        raise ValueError(f"the terminal {terminal!r} cannot stand in a grammar's text")
    return f'"{terminal}"' if "'" in terminal else f"'{terminal}'"


def _without_comment(content: str) -> str:
    """A line up to the first # that is not in quotes."""
    found = re.match(r"""(?:[^'"#]|'[^']*'|"[^"]*")*""", content)
    assert found is not None
    rest = content[found.end() :]
    return found[0] if rest.startswith("#") else content


def _line(
    content: str, number: int, bare: dict[str, int], quoted: dict[str, int]
) -> tuple[str, list[tuple[tuple[str, ...], float]]]:
    """The symbol and the right-hand sides of one line; new names are added with their line's number."""
    expected = (
        f"line {number}: expected a line like S -> NP VP [0.7] | 'go' [0.3], got {content!r:.80}"
    )
    pieces = list(PIECE.finditer(content))
    if len(pieces) < 2 or pieces[0][5] is None or pieces[1][1] != "->":
        raise ValueError(expected)
    sides: list[tuple[tuple[str, ...], float]] = []
    right: list[str] | None = []
    for piece in pieces[2:]:
        mark, chance, single, double, name, _ = piece.groups()
        if mark == "|" and right is None:
            right = []
        elif chance is not None and right is not None:
            sides.append((tuple(right), _probability(chance, number)))
            right = None
        elif right is None or mark or (name is None and single is None and double is None):
            raise ValueError(expected)
        elif name is not None:
            right.append(name)
            bare.setdefault(name, number)
        else:
            terminal = single if single is not None else double
            right.append(terminal)
            quoted.setdefault(terminal, number)
    if right is not None:
        raise ValueError(f"line {number}: the last right-hand side has no probability in brackets")
    return pieces[0][5], sides


def _probability(text: str, number: int) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"line {number}: {text!r:.40} in brackets is no probability") from error
