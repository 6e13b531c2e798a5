"""Newick text of a latent tree, from which `hltm.formats.newick` reads its tables back.

A symmetric tree is written with `[&&NHX:polarity=ρ]` after every branch, since a length has neither
the sign of ρ nor its last digit, and more than two states with `[&&NHX:states=K]` at the root. Where ρ
alone would give other last digits, the table's entries `stay` and `change` are added. So tables that
are symmetric to the last digit come back bit for bit; an entry may differ by 1e-12. dendropy, Biopython
and ete3 read these comments as annotations, and R's ape skips them. (ete3 reads names of inner nodes
with `format=1`, and those in quotes with `quoted_node_names=True`.)
"""

from __future__ import annotations

import math
import re
from typing import Literal

import numpy as np

from hltm.formats.branch_lengths import (
    Lengths,
    check_convention,
    entries_of,
    paralinear_lengths,
    symmetric_entries,
    symmetric_lengths,
)
from hltm.formats.newick_syntax import shown
from hltm.model.topology import Topology
from hltm.tree import LatentTree

# names that need no quotes; a blank in them is written as an underscore
PLAIN = re.compile(r"[A-Za-z0-9.+-]+(?: [A-Za-z0-9.+-]+)*")


def to_newick(
    tree: LatentTree,
    *,
    lengths: Lengths | None = "paralinear",
    rate: float = 1.0,
    annotations: bool = True,
    tables: Literal["keep", "drop"] = "keep",
) -> str:
    """The tree as Newick text that `from_newick` reads back: shape, names, branch lengths, polarities.

    Newick holds symmetric tables of one number of states below a uniform root, and no others. A tree
    of other tables is written only with `tables="drop"`: shape, names and, where all nodes have one
    number of states, paralinear lengths. Infinite lengths (polarity 0) are left out. A member's address
    is not in the text.

    Args:
        lengths: `paralinear`, `expected-changes` (of symmetric tables), or None for no lengths.
        rate: lengths are divided by it.
        annotations: whether polarities are written, in comments. Without them a text holds only trees
            of two states with polarities above 0, and not their last digits.
        tables: `keep` refuses a text from which the tables do not come back; `drop` writes it.

    Raises:
        ValueError: stacked trees (choose a member), tables that the text would lose, expected changes
            of tables that are not symmetric, or an argument that is not one of those above.

    Example:
        >>> import hltm
        >>> tree = hltm.balanced(depth=1, transition=[[0.75, 0.25], [0.25, 0.75]])
        >>> to_newick(tree, lengths="expected-changes")
        '(1:0.34657359027997264[&&NHX:polarity=0.5],2:0.34657359027997264[&&NHX:polarity=0.5])0;'
        >>> to_newick(hltm.balanced(depth=2, cardinality=(2, 2, 3), seed=0), tables="drop")
        '((3,4)1,(5,6)2)0;'
    """
    if tree.stacked:
        raise ValueError(f"Newick holds one tree, got {len(tree)}: choose a member, e.g. tree[0]")
    check_convention(lengths or "paralinear", rate)
    if tables not in ("keep", "drop"):
        raise ValueError(f"tables must be 'keep' or 'drop', got {tables!r}")
    entries, states = symmetric_entries(tree.tables), int(tree.tables.cardinality[0])
    found: np.ndarray | None
    if isinstance(entries, str):
        lost = entries
        if lengths == "expected-changes":
            raise ValueError(f"expected changes need symmetric tables of one size, but {entries}")
        found = None if (found := paralinear_lengths(tree.tables)) is None else found / rate
    else:
        known = symmetric_lengths(*entries, lengths or "paralinear", rate, states)
        found = np.concatenate([[math.inf], known])
        lost = "" if annotations else _lost(tree, entries, lengths)
    if lost and tables == "keep":
        raise ValueError(
            f"Newick would lose tables, since {lost}: save as JSON (tree.save), or give tables='drop' "
            "to write without them"
        )
    notes = [""] * len(tree.topology)
    if annotations and not isinstance(entries, str):
        notes = _notes(*entries, states)
    return newick_text(tree.topology, None if lengths is None else found, notes)


def _lost(tree: LatentTree, entries: tuple[np.ndarray, np.ndarray], lengths: str | None) -> str:
    """What of symmetric tables is lost without annotations; nothing is an empty text."""
    names, (stay, change) = tree.topology.names, entries
    if tree.tables.cardinality[0] != 2:
        return f"only an annotation holds the {tree.tables.cardinality[0]} states"
    if lengths is None:
        return "neither lengths nor annotations are written"
    for v in np.flatnonzero(stay <= change)[:1]:
        rho, name = stay[v] - change[v], shown(names[v + 1])
        return f"only an annotation holds the polarity {rho:.6g} of node {name}"
    return ""


def _notes(stay: np.ndarray, change: np.ndarray, states: int) -> list[str]:
    """The annotation of every node of a symmetric tree, from which its table comes back bit for bit."""
    found = ["" if states == 2 else f"[&&NHX:states={states}]"]
    for s, c in zip(stay.tolist(), change.tolist(), strict=True):
        guesses = (s - c, 1 - states * c, (states * s - 1) / (states - 1))
        exact = next((rho for rho in guesses if entries_of(rho, states) == (s, c)), None)
        more = "" if exact is not None else f":stay={s!r}:change={c!r}"
        found.append(f"[&&NHX:polarity={s - c if exact is None else exact!r}{more}]")
    return found


def newick_text(topology: Topology, lengths: np.ndarray | None, notes: list[str]) -> str:
    """Newick text with a length and a note after every name."""
    text: list[str] = []
    waiting: list[int | str] = [0]  # a stack, since a caterpillar is deeper than Python recurses
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            text.append(item)
            continue
        label = _quoted(topology.names[item])
        if lengths is not None and math.isfinite(lengths[item]):
            label += f":{float(lengths[item])!r}"
        label += notes[item]
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


def _quoted(name: str) -> str:
    """A name as Newick writes it."""
    if PLAIN.fullmatch(name):
        return name.replace(" ", "_")
    return "'" + name.replace("'", "''") + "'"
