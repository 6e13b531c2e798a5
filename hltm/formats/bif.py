"""Trees as Bayesian networks in BIF text, as pgmpy, pyAgrum, bnlearn and others write and read it."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from itertools import chain, count
from urllib.parse import quote, unquote

from hltm.formats.bif_syntax import Distribution, Variable, read_network, words_of
from hltm.formats.rooted import parents_of
from hltm.model.tables import TOLERANCE
from hltm.tree import LatentTree

# A name that every reader takes as it is: pyAgrum does not write names with . or -, and pgmpy takes
# the letters of property anywhere for one.
IDENTIFIER = re.compile(r"(?!.*property)[A-Za-z][A-Za-z0-9_]*", re.IGNORECASE | re.ASCII)
KEYWORDS = {
    "network", "variable", "probability", "property", "type", "discrete", "table", "default",
}  # fmt: skip
MAX_ROUNDING = (
    0.05  # a row's sum may differ from 1 by this much at most, however few digits are printed
)
NAME = "hltm_name"  # the property with a node's name, where it is not the variable's


def to_bif(tree: LatentTree) -> str:
    """The tree as BIF 0.15: one discrete variable per node, state k called `sk`.

    Numbers are written so that reading them gives the same float64. Readers take identifiers that
    begin with a letter, and some ignore case. A node with another name becomes a variable with
    an identifier made from it, and a line `property hltm_name = …;`, which other readers skip, has
    the name, percent-encoded; so `from_bif` restores every name.

    Raises:
        ValueError: stacked trees (choose a member).

    Example:
        >>> import hltm
        >>> tree = hltm.balanced(depth=1, branching=1, transition=[[0.9, 0.1], [0.2, 0.8]])
        >>> print(to_bif(tree))
        network hltm {
        }
        variable node_0 {
          type discrete [ 2 ] { s0, s1 };
          property hltm_name = 0;
        }
        variable node_1 {
          type discrete [ 2 ] { s0, s1 };
          property hltm_name = 1;
        }
        probability ( node_0 ) {
          table 0.5, 0.5;
        }
        probability ( node_1 | node_0 ) {
          (s0) 0.9, 0.1;
          (s1) 0.2, 0.8;
        }
        >>> from_bif(to_bif(tree)).topology.names
        ('0', '1')
    """
    if tree.stacked:
        raise ValueError(f"BIF holds one tree, got {len(tree)}: choose a member, e.g. tree[0]")
    names = tree.topology.names
    written = _identifiers(names)
    blocks = ["network hltm {\n}"]
    for name, variable, cardinality in zip(names, written, tree.tables.cardinality, strict=True):
        states = ", ".join(f"s{k}" for k in range(cardinality))
        lines = [f"variable {variable} {{", f"  type discrete [ {cardinality} ] {{ {states} }};"]
        if variable != name:
            lines.append(f"  property {NAME} = {quote(name, safe='', errors='surrogatepass')};")
        blocks.append("\n".join([*lines, "}"]))
    for v, (name, variable) in enumerate(zip(names, written, strict=True)):
        table = tree.table(name).tolist()
        if v == 0:
            blocks.append(f"probability ( {variable} ) {{\n  table {_numbers(table)};\n}}")
            continue
        rows = "\n".join(f"  (s{k}) {_numbers(row)};" for k, row in enumerate(table))
        parent = written[tree.topology.parent[v]]
        blocks.append(f"probability ( {variable} | {parent} ) {{\n{rows}\n}}")
    return "\n".join(blocks) + "\n"


def from_bif(text: str) -> LatentTree:
    """The tree of a Bayesian network in BIF text whose edges make a rooted tree.

    A node's states 0..K-1 are the variable's in the order in which they are declared:
    `state_names` has their names. A table comes as rows `(state of the parent) p, …;`, whose
    states may be in any order, as `default p, …;` for the rows that are not given, or as one
    `table` of all values, of which the parent's state changes first: P(0 | 0), P(0 | 1), …,
    P(1 | 0), …. Variables and distributions may stand in any order. Properties are skipped, except
    the names that `to_bif` writes.

    A row is divided by its sum where that differs from 1 by no more than the rounding of its printed
    digits: half a unit of the last digit of every number, and by at most 0.05.

    Raises:
        ValueError: text that is not such a network (saying in which line), a network that is no tree
            with one root (naming the edge that closes a circle, the node with two parents, or the
            roots), a variable without distribution, a row that is missing or has another number
            of values than there are states, or a row that is not a distribution.

    Example:
        >>> tree = from_bif('''
        ... network weather { }
        ... variable rain { type discrete [ 2 ] { no, yes }; }
        ... variable wet  { type discrete [ 2 ] { no, yes }; }
        ... probability ( rain ) { table .8 .2; }
        ... probability ( wet | rain ) { (yes) 0, 1; (no) 0.9, 0.1; }  // in any order
        ... ''')
        >>> tree.table("wet").tolist()
        [[0.9, 0.1], [0.0, 1.0]]
    """
    variables, distributions = read_network(text)
    missing = [name for name in variables if name not in distributions]
    if missing:
        raise ValueError(f"variable {missing[0]!r} has no block `probability ( {missing[0]} … )`")
    edges = [(parent, d.child) for d in distributions.values() for parent in d.parents]
    parents_of(variables, edges)
    names = {identifier: _name(variable) for identifier, variable in variables.items()}
    parents: dict[str, str | None] = {}
    tables = {}
    for identifier, variable in variables.items():
        if names[identifier] in parents:
            raise ValueError(f"two variables have the name {names[identifier]!r}")
        found = distributions[identifier]
        above = variables[found.parents[0]] if found.parents else None
        table = _table(found, variable, above)
        parents[names[identifier]] = None if above is None else names[found.parents[0]]
        tables[names[identifier]] = table[0] if above is None else table
    return LatentTree.from_parents(parents, tables)


def state_names(text: str) -> dict[str, tuple[str, ...]]:
    """The names of the states 0..K-1 of every node of a BIF text.

    Example:
        >>> state_names("network n { } variable rain { type discrete [ 2 ] { no, yes }; }")
        {'rain': ('no', 'yes')}
    """
    return {_name(variable): variable.states for variable in read_network(text)[0].values()}


def _table(found: Distribution, variable: Variable, above: Variable | None) -> list[list[float]]:
    """P(variable | above), one row for each state above, or the one row of the root."""
    states = len(variable.states)
    given: list[str] = [""] if above is None else list(above.states)
    which = f"line {found.line}: P({variable.name}{'' if above is None else f' | {above.name}'})"
    rows: dict[str, list[str]] = {}
    default = found.default
    if found.table is not None:
        if found.rows or default is not None:
            raise ValueError(f"{which} has a table and rows, expected one of them")
        if len(found.table) != len(given) * states:
            raise ValueError(
                f"{which} has a table of {len(found.table)} values, expected {len(given) * states}"
            )
        # the parent's state changes first
        rows = {row: found.table[i :: len(given)] for i, row in enumerate(given)}
        which += ", whose table has the parent's state change first," * bool(above)
    for line, groups, values in found.rows:
        row = ", ".join(words_of(groups, given))
        if row == "*" and "*" not in given and default is None:
            default = values
        elif row not in given:
            expected = "(), the root's only row" if above is None else f"a state of {above.name!r}"
            raise ValueError(f"line {line}: a row for ({row}), expected {expected}")
        elif row in rows:
            raise ValueError(f"line {line}: a second row for ({row})")
        else:
            rows[row] = values
    missing = [row for row in given if row not in rows]
    if missing and default is None:
        raise ValueError(f"{which} has no row" + f" for ({missing[0]})" * bool(above))
    made = []
    for row in given:
        values = rows.get(row, default) or []
        own = which if above is None else f"{which} has a row for ({row}) that"
        if len(values) != states:
            raise ValueError(f"{own} holds {len(values)} values, expected {states}, one per state")
        made.append(_row(values, own))
    return made


def _row(printed: list[str], which: str) -> list[float]:
    """The probabilities of a row, divided by their sum where only rounding keeps it from 1."""
    values = [float(text) for text in printed]
    if abs(math.fsum(values) - 1) <= TOLERANCE:
        return values  # as any table; these bits are kept
    bad = [
        text
        for text, value in zip(printed, values, strict=True)
        if not 0 <= value <= 1 + MAX_ROUNDING
    ]
    if bad:
        raise ValueError(f"{which} holds {bad[0]:.30}, expected numbers in [0, 1]")
    exact = [Decimal(text) for text in printed]
    decimals = max(-int(x.as_tuple().exponent) for x in exact)
    digits = max(len(x.as_tuple().digits) for x in exact)
    # a program prints its numbers with as many decimals, or as many digits, but may leave zeros out
    units = [10.0 ** -min(decimals, digits - x.adjusted() - 1 if x else decimals) for x in exact]
    if abs(float(sum(exact) - 1)) > min(math.fsum(units) / 2, MAX_ROUNDING) + 1e-12:
        raise ValueError(f"{which} sums to {float(sum(exact)):.6g}, expected 1")
    total = math.fsum(values)
    return [value / total for value in values]


def _name(variable: Variable) -> str:
    """The name that `to_bif` put into a property, or else the variable's."""
    for text in variable.properties:
        key, equals, value = text.strip('"').partition("=")
        if key.strip() == NAME and equals:
            return unquote(value.strip(), errors="surrogatepass")
    return variable.name


def _identifiers(names: tuple[str, ...]) -> list[str]:
    """A distinct identifier for every name: the name itself where it is one, else one made from it."""
    taken: set[str] = set(KEYWORDS)
    plain: list[str | None] = []
    for name in names:
        free = IDENTIFIER.fullmatch(name) is not None and name.lower() not in taken
        plain.append(name if free else None)
        taken.add(name.lower())
    return [
        _new_identifier(v, name, taken) if kept is None else kept
        for v, (name, kept) in enumerate(zip(names, plain, strict=True))
    ]


def _new_identifier(node: int, name: str, taken: set[str]) -> str:
    """An identifier like the name of a node that is not taken yet, and that is taken now."""
    like = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:60]
    base = like if like[:1].isalpha() else f"node_{like or node}"
    base = base if IDENTIFIER.fullmatch(base) and base.lower() not in KEYWORDS else f"node_{node}"
    tries = chain([base], (f"{base}_{i}" for i in count(node)))
    found = next(identifier for identifier in tries if identifier.lower() not in taken)
    taken.add(found.lower())
    return found


def _numbers(row: list[float]) -> str:
    """Numbers separated by commas, each with the digits that give the same float64 when read."""
    return ", ".join(map(repr, row))
