"""Trees as Bayesian networks in the BIF text that pgmpy, bnlearn and others read."""

from __future__ import annotations

import re

from hltm.tree import LatentTree

IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
KEYWORDS = {
    "network", "variable", "probability", "property", "type", "discrete", "table", "default",
}  # fmt: skip


def to_bif(tree: LatentTree) -> str:
    """The tree as BIF 0.15: one discrete variable per node, state k called `sk`.

    Numbers are written so that reading them gives the same float64.

    Raises:
        ValueError: stacked trees (choose a member), or a name that BIF cannot hold: anything but
            letters, digits, `_`, `.` and `-`, a keyword, or two names that differ only in case.

    Example:
        >>> import hltm
        >>> print(to_bif(hltm.balanced(depth=1, branching=1, transition=[[0.9, 0.1], [0.2, 0.8]])))
        network hltm {
        }
        variable 0 {
          type discrete [ 2 ] { s0, s1 };
        }
        variable 1 {
          type discrete [ 2 ] { s0, s1 };
        }
        probability ( 0 ) {
          table 0.5, 0.5;
        }
        probability ( 1 | 0 ) {
          (s0) 0.9, 0.1;
          (s1) 0.2, 0.8;
        }
    """
    if tree.stacked:
        raise ValueError(f"BIF holds one tree, got {len(tree)}: choose a member, e.g. tree[0]")
    names = tree.topology.names
    _check_names(names)
    blocks = ["network hltm {\n}"]
    for name, cardinality in zip(names, tree.tables.cardinality, strict=True):
        states = ", ".join(f"s{k}" for k in range(cardinality))
        blocks.append(f"variable {name} {{\n  type discrete [ {cardinality} ] {{ {states} }};\n}}")
    for v, name in enumerate(names):
        table = tree.table(name).tolist()
        if v == 0:
            blocks.append(f"probability ( {name} ) {{\n  table {_numbers(table)};\n}}")
            continue
        rows = "\n".join(f"  (s{k}) {_numbers(row)};" for k, row in enumerate(table))
        parent = names[tree.topology.parent[v]]
        blocks.append(f"probability ( {name} | {parent} ) {{\n{rows}\n}}")
    return "\n".join(blocks) + "\n"


def _numbers(row: list[float]) -> str:
    """Numbers separated by commas, each with the digits that give the same float64 when read."""
    return ", ".join(map(repr, row))


def _check_names(names: tuple[str, ...]) -> None:
    """Raise ValueError unless BIF can hold all names."""
    seen: dict[str, str] = {}
    for name in names:
        if not IDENTIFIER.fullmatch(name) or name.lower() in KEYWORDS:
            raise ValueError(
                f"BIF cannot hold the name {name!r}, expected letters, digits, '_', '.' and '-', "
                "other than a keyword of BIF"
            )
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                f"names must differ in more than case, which BIF readers ignore, got {other!r} and "
                f"{name!r}"
            )
