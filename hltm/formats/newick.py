"""Trees as Newick text, both ways: shape and names, and branch lengths that add up along paths."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from hltm.model.moments import marginals
from hltm.model.tables import symmetric_table
from hltm.model.topology import Topology
from hltm.tree import LatentTree

# names that need no quotes; an unquoted _ stands for a blank, so it is quoted too
PLAIN = re.compile(r"[A-Za-z0-9.+-]+")
TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<comment>\[[^\]]*\])|(?P<quoted>'(?:[^']|'')*')"
    r"|(?P<mark>[(),:;])|(?P<plain>[^\s()\[\]':;,]+)"
)
POLARITY = re.compile(r"\[&(?:.*,)?polarity=([^,\]]+)(?:,.*)?\]", re.DOTALL)


def to_newick(tree: LatentTree) -> str:
    """The tree's shape and names, with a length on every branch where one is defined.

    The length is the paralinear distance between a node and its parent (Lake 1994, PNAS 91:1455),
    -log |det(D_parent^1/2 P D_child^-1/2)| with D the diagonal of prior probabilities. Along a
    path lengths add up to the distance of its ends. For binary nodes it is -log |correlation|, so
    -log |ρ| in a symmetric binary tree. It is defined if all nodes have the same number of states;
    otherwise no lengths are written. An infinite length is left out.

    A symmetric binary tree also has `[&polarity=ρ]` on every branch, because the length does not
    have the sign; other programs read it as a comment. Tables of other trees are not in the text.

    Raises:
        ValueError: stacked trees (choose a member).

    Example:
        >>> import hltm
        >>> to_newick(hltm.balanced(depth=2, cardinality=(2, 2, 3), seed=0))
        '((3,4)1,(5,6)2)0;'
        >>> to_newick(hltm.symmetric_binary(depth=1, polarity=1.0, signs="positive", seed=0))
        '(1:0.0[&polarity=1.0],2:0.0[&polarity=1.0])0;'
    """
    if tree.stacked:
        raise ValueError(f"Newick holds one tree, got {len(tree)}: choose a member, e.g. tree[0]")
    topology, lengths, polarity = tree.topology, _lengths(tree), _polarities(tree)
    text: list[str] = []
    waiting: list[int | str] = [0]  # a stack, since a caterpillar is deeper than Python recurses
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            text.append(item)
            continue
        label = _quoted(topology.names[item])
        if lengths is not None and math.isfinite(lengths[item]):
            label += f":{lengths[item]!r}"
        if polarity is not None and item > 0:
            label += f"[&polarity={polarity[item]!r}]"
        children = topology.children[item].tolist()
        if not children:
            text.append(label)
            continue
        text.append("(")
        waiting.append(f"){label}")
        for i, child in enumerate(reversed(children)):
            waiting.extend([","] if i else [])
            waiting.append(child)
    return "".join(text) + ";"


def topology_from_newick(text: str) -> Topology:
    """The shape and names of a Newick text; nodes without a name get the smallest free numbers.

    Raises:
        ValueError: text that is not one Newick tree (saying where), or a name used twice.

    Example:
        >>> topology_from_newick("((human, chimp)'great apes', lemur)primates;").names
        ('primates', 'great apes', 'lemur', 'human', 'chimp')
    """
    return _topology(_read(text))[0]


def from_newick(text: str) -> LatentTree:
    """The symmetric binary tree of a Newick text with branch lengths.

    A branch's polarity is its `[&polarity=ρ]`, or else exp(-length): the
    Cavender-Farris-Neyman model of two-state evolution, whose lengths -log ρ add up along paths.
    So any phylogeny is a latent tree. A length of the root is ignored.

    Raises:
        ValueError: text that is not one Newick tree, a name used twice, a branch without length or
            polarity, a length that is negative, a polarity outside [-1, 1].

    Example:
        >>> tree = from_newick("((human:0.1, chimp:0.1)apes:0.3, lemur:0.5)primates;")
        >>> round(float(tree.correlation("human", "chimp")), 6) == round(math.exp(-0.2), 6)
        True
    """
    parts = _read(text)
    topology, place = _topology(parts)
    rho = torch.ones(len(topology), dtype=torch.float64)
    for part, v in zip(parts, place, strict=True):
        if v > 0:
            rho[v] = _polarity_of(part, topology.names[v])
    prior = torch.full((2,), 0.5, dtype=torch.float64)
    return LatentTree.from_tables(topology, [prior, *symmetric_table(rho[1:])])


class NewickNode(NamedTuple):
    """One node of a Newick text."""

    parent: int | None
    name: str | None
    length: str | None
    polarity: str | None


def _lengths(tree: LatentTree) -> list[float] | None:
    """Per node the paralinear distance to its parent; infinite for the root and where singular."""
    tables, parent = tree.tables, tree.topology.parent
    if len(set(tables.cardinality.tolist())) > 1:
        return None
    prior = [found[0] for found in marginals(tables)]
    found = [math.inf]
    for v in range(1, len(parent)):
        above, own, table = prior[int(parent[v])], prior[v], tables.of(v)[0]
        if bool((above <= 0).any() or (own <= 0).any()):
            found.append(math.inf)
            continue
        log_det = torch.linalg.slogdet(table).logabsdet + (above.log() - own.log()).sum() / 2
        found.append(max(0.0, -float(log_det)))  # rounding may put a copy just below 0
    return found


def _polarities(tree: LatentTree) -> list[float] | None:
    """Per node the polarity of its branch, if the tree is symmetric binary."""
    if not tree.tables.binary:
        return None
    flat = tree.tables.flat[0]
    same, other = flat[2::4], flat[3::4]
    expected = torch.stack([same, other, other, same], dim=-1).flatten()
    if not torch.allclose(flat[2:], expected, rtol=0, atol=1e-12) or bool(flat[0] != 0.5):
        return None
    rho: Tensor = same - other
    return [1.0, *rho.tolist()]


def _quoted(name: str) -> str:
    """A name as Newick writes it."""
    return name if PLAIN.fullmatch(name) else "'" + name.replace("'", "''") + "'"


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind (a group of TOKEN), text and place of every token, blanks left out."""
    place = 0
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"not Newick at character {place}: got {text[place : place + 20]!r}")
        if match.lastgroup != "space":
            yield str(match.lastgroup), match.group(), place
        place = match.end()


def _read(text: str) -> list[NewickNode]:
    """The nodes of one Newick tree, parents before their children, siblings in order."""
    parts = [NewickNode(None, None, None, None)]
    # `after` is what the last token of this node was: start (none yet), children, name, colon, length
    node, after, done = 0, "start", False
    for kind, token, place in _tokens(text):
        where = f"not Newick at character {place}: unexpected {token[:20]!r}"
        if kind == "comment":
            found = POLARITY.fullmatch(token)
            if found:
                parts[node] = parts[node]._replace(polarity=found.group(1))
        elif done:
            raise ValueError(where)
        elif token == "(" and after == "start":
            parts.append(NewickNode(node, None, None, None))
            node = len(parts) - 1
        elif token in (",", ")") and kind == "mark" and after != "colon" and node > 0:
            above = parts[node].parent
            assert above is not None  # only node 0 has none
            if token == ",":
                parts.append(NewickNode(above, None, None, None))
            node, after = (len(parts) - 1, "start") if token == "," else (above, "children")
        elif token == ";" and kind == "mark" and after != "colon" and node == 0:
            done = True
        elif token == ":" and kind == "mark" and after in ("start", "children", "name"):
            after = "colon"
        elif kind in ("plain", "quoted") and after in ("start", "children"):
            name = token[1:-1].replace("''", "'") if kind == "quoted" else token.replace("_", " ")
            parts[node], after = parts[node]._replace(name=name), "name"
        elif kind == "plain" and after == "colon":
            parts[node], after = parts[node]._replace(length=token), "length"
        else:
            raise ValueError(where)
    if not done:
        raise ValueError("not Newick: the text ends before its semicolon")
    return parts


def _topology(parts: list[NewickNode]) -> tuple[Topology, list[int]]:
    """The topology, and the number that each part has in it."""
    given = {part.name for part in parts}
    free = (name for name in map(str, count()) if name not in given)
    names = [next(free) if part.name is None else part.name for part in parts]
    topology = Topology.from_parents([part.parent for part in parts], names)
    return topology, [topology.node(name) for name in names]


def _polarity_of(part: NewickNode, name: str) -> float:
    """ρ of the branch above a node: its polarity, or exp(-length)."""
    what, written = ("polarity", part.polarity) if part.polarity else ("length", part.length)
    if written is None:
        raise ValueError(f"the branch to node {name!r} has neither a length nor a polarity")
    try:
        value = float(written)
    except ValueError as error:
        raise ValueError(f"node {name!r} has {what} {written!r}, expected a number") from error
    rho = value if what == "polarity" else math.exp(-value)
    if not (abs(rho) <= 1):
        expected = "a number in [-1, 1]" if what == "polarity" else "a number that is not negative"
        raise ValueError(f"node {name!r} has {what} {written}, expected {expected}")
    return rho
