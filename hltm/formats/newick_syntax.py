"""The syntax of Newick: the nodes of every tree that stands in a text, as written, unchecked.

    tree   = [name] node ";"                    the last semicolon of a text may be missing
    node   = ["(" node {"," node} ")"] [label] [":" length]

Blanks and comments, [in brackets [that may nest]] or <key = value> as Mesquite writes them, may stand
between any two of these. A label in quotes, 'single' or "double", may hold anything; the quote itself
is written twice. In any other label a quote after the first character is an apostrophe, words on one
line are joined by a blank, and an underscore stands for a blank.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

NEWICK = re.compile(
    r"""(?P<space>\s+)|(?P<comment>\[[^\[\]]*\]|<\s*\w+\s*=[^<>]*>)|(?P<mark>[(),:;])
    |(?P<quoted>'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*")
    |(?P<plain>[^\s()\[\]:;,'"](?:[^\s()\[\]:;,<]|<(?!\s*\w+\s*=[^<>]*>))*)""",
    re.VERBOSE,
)

BLANKS = re.compile(r"[^\S\r\n]+")  # on one line


class Token(NamedTuple):
    """A piece of text; kind is `comment`, `mark`, `quoted` or `plain`."""

    kind: str
    text: str
    start: int
    stop: int

    def label(self, keep_underscores: bool) -> str:
        """The name that a quoted or plain token stands for."""
        if self.kind == "quoted":
            quote = self.text[0]
            return self.text[1:-1].replace(quote + quote, quote)
        return self.text if keep_underscores else self.text.replace("_", " ")


@dataclass(slots=True)
class NewickNode:
    """One node as it is written.

    Attributes:
        parent: its parent's place in the list of nodes; None for the root.
        start: the character at which the node begins.
        notes: what our own annotations in comments say of it, see `notes_of`.
    """

    parent: int | None
    start: int
    name: str | None = None
    length: str | None = None
    notes: dict[str, str] = field(default_factory=dict)


def where(text: str, place: int) -> str:
    """A character's line and column, from 1, as a message says them."""
    lines = re.split(r"\r\n|\r|\n", text[:place])
    return f"line {len(lines)}, column {len(lines[-1]) + 1}"


def shown(name: str | None) -> str:
    """A name as a message shows it, not longer than a line."""
    return repr(name) if name is None or len(name) <= 40 else f"{name[:40]!r}…"


def refuse(text: str, place: int, reason: str, what: str = "Newick") -> ValueError:
    """The error that says where and why a text is not what it should be."""
    return ValueError(f"not {what} at {where(text, place)}: {reason}")


def tokens(text: str, place: int, pattern: re.Pattern[str] = NEWICK) -> Iterator[Token]:
    """The tokens from a place on, without blanks.

    Raises:
        ValueError: a comment or quotes that do not end, or a bracket that closes no comment.
    """
    while place < len(text):
        match = pattern.match(text, place)
        if match is None:
            stop = _end_of_comment(text, place)
            yield Token("comment", text[place:stop], place, stop)
        else:
            stop = match.end()
            if match.lastgroup != "space":
                yield Token(str(match.lastgroup), match.group(), place, stop)
        place = stop


def _end_of_comment(text: str, start: int) -> int:
    """Where a comment with comments in it ends."""
    if text[start] in "'\"":
        raise refuse(text, start, f"the label that begins with {text[start]} has no closing quote")
    depth = 0
    for match in re.compile(r"[\[\]]").finditer(text, start):
        depth += 1 if match.group() == "[" else -1
        if depth <= 0:
            break
    if depth:
        reason = "']' closes no comment" if depth < 0 else "the comment has no closing ']'"
        raise refuse(text, start, reason)
    return match.end()


def notes_of(comment: str) -> dict[str, str]:
    """Our annotations in a comment `[&&NHX:key=value:...]`, or the polarity of `[&key=value,...]`.

    Keys are `polarity`, `stay` and `change` of a branch and `states` of the root; those of other
    programs are left out.
    """
    if comment.startswith("[&&NHX:"):
        items, keys = comment[7:-1].split(":"), {"polarity", "stay", "change", "states"}
    else:
        items, keys = comment[2:-1].split(","), {"polarity"}
    pairs = (item.partition("=") for item in items)
    return {key.strip(): value.strip() for key, _, value in pairs if key.strip() in keys}


def read_tree(
    text: str, place: int = 0, *, keep_underscores: bool = False
) -> tuple[list[NewickNode], int] | None:
    """The next tree's nodes, parents before their children and siblings in order, and where it ends.

    None if there are only blanks, comments and semicolons left.

    Raises:
        ValueError: text that is not a tree, saying where and why.
    """
    parts = [NewickNode(None, place)]
    # `after` is what the last token of this node was: start (none yet), children, label, colon, length
    node, after, closed = 0, "start", place
    last = Token("mark", "", place, place)
    for token in tokens(text, place):
        kind, word = token.kind, token.text
        part = parts[node]
        if kind == "comment":
            if word.startswith("[&"):
                part.notes.update(notes_of(word))
            continue
        begins = len(parts) == 1 and after == "label"  # so that label may be the tree's name
        if kind == "mark" and word == "(" and (after == "start" or begins):
            part.name, part.start = None, token.start
            parts.append(NewickNode(node, token.stop))
            node, after = len(parts) - 1, "start"
        elif kind == "mark" and word == "," and after != "colon" and part.parent is not None:
            parts.append(NewickNode(part.parent, token.stop))
            node, after = len(parts) - 1, "start"
        elif kind == "mark" and word == ")" and after != "colon" and part.parent is not None:
            node, after, closed = part.parent, "children", token.stop
        elif kind == "mark" and word == ";" and after != "colon" and node == 0:
            if len(parts) > 1:
                return parts, token.stop
            if after != "start":
                reason = f"expected a leaf below a root, got the single node {shown(part.name)}"
                raise refuse(text, part.start, reason)
        elif kind == "mark" and word == ":" and after in ("start", "children", "label"):
            after = "colon"
        elif kind in ("plain", "quoted") and after in ("start", "children"):
            part.name, after = token.label(keep_underscores), "label"
            part.start = token.start if node == len(parts) - 1 else part.start
        elif kind == "plain" and after == "label" and _continues(text, last, token):
            part.name = f"{part.name} {token.label(keep_underscores)}"
        elif kind == "plain" and after == "colon":
            part.length, after = word, "length"
        else:
            raise refuse(text, token.start, _reason(text, parts, node, after, token))
        last = token
    if after == "start" and len(parts) == 1:
        return None
    if len(parts) == 1:
        reason = f"expected a tree, which begins with '(', got {shown(text[parts[0].start :])}"
        hint = "" if "(" in text else " (hltm.load_tree reads files)"
        raise refuse(text, parts[0].start, reason + hint)
    if node != 0 or after == "colon":
        raise refuse(
            text, len(text), "the text ends" + (_inside(text, parts, node) or " after ':'")
        )
    if re.search(r"[\r\n]", text[closed : last.start]):
        raise refuse(text, last.start, "the tree has no ';', and other text follows it")
    return parts, len(text)


def _continues(text: str, last: Token, token: Token) -> bool:
    """Whether a word goes on with the label before it: nothing but blanks between, on one line."""
    return last.kind == "plain" and bool(BLANKS.fullmatch(text, last.stop, token.start))


def _inside(text: str, parts: list[NewickNode], node: int) -> str:
    """Which parenthesis a node stands in, as a message says it."""
    above = parts[node].parent
    return "" if above is None else f" inside the '(' of {where(text, parts[above].start)}"


def _reason(text: str, parts: list[NewickNode], node: int, after: str, token: Token) -> str:
    """Why a token cannot stand where it does."""
    if after == "colon":
        return f"expected a length after ':', got {shown(token.text)}"
    if token.kind in ("plain", "quoted") and after == "label":
        return (
            f"a second label {shown(token.text)} after the label {shown(parts[node].name)}: a comma is "
            "missing, or quotes around the whole label, in which '' is an apostrophe"
        )
    if token.text == "(":
        return "unexpected '(': a comma or a semicolon is missing before it"
    if token.text == ")":
        return "')' has no '(' before it"
    inside = _inside(text, parts, node) if token.text == ";" else ""
    return f"unexpected {shown(token.text)}{inside}"
