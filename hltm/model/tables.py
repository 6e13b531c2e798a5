"""Conditional tables P(child | parent) of a whole tree, as one flat array; making and checking them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hltm.model.digest import Digest, stored
from hltm.model.topology import Parents, Topology

Kept = TypeVar("Kept")
MAX_STATES = 1 << 16
TOLERANCE = 1e-6  # the sum of a row may differ from 1 by this much; the row is then normalised
LARGE = 1 << 16  # entries of a table whose rows are compared, since fewer rows are worth the time
ONE = 1 << 32  # probability 1 in units of 2^-32


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of S trees over one topology. The root's prior is a table with one row.

    Tables with the same values are equal. What is derived from the values (thresholds, digests) is
    kept, and made again after `flat` was changed in place, as by an optimiser; changes that torch does
    not see (through `flat.data`, or an array that shares the memory) are not noticed.

    Attributes:
        topology: the shared shape.
        cardinality: `(V,)` int64, the number of states of every node.
        flat: `(S, N)` float64, all tables one after the other, rows of each contiguous.
    """

    topology: Topology
    cardinality: np.ndarray
    flat: Tensor

    @property
    def count(self) -> int:
        """S, the number of trees."""
        return len(self.flat)

    @property
    def shared(self) -> bool:
        """Whether all S trees have one set of tables, stored once."""
        return self.flat.stride(0) == 0

    @cached_property
    def rows(self) -> np.ndarray:
        """`(V,)` the number of rows of every node's table: its parent's states, 1 for the root."""
        parent = self.topology.parent
        return np.where(parent < 0, 1, self.cardinality[np.maximum(parent, 0)])

    @cached_property
    def start(self) -> np.ndarray:
        """`(V,)` where in `flat` every node's table begins."""
        return np.cumsum(self.rows * self.cardinality) - self.rows * self.cardinality

    @property
    def binary(self) -> bool:
        """Whether every node has two states."""
        return bool((self.cardinality == 2).all())

    def check_binary(self, need: str, remedy: str = "") -> None:
        """Raise a ValueError of the need, the first node that is not binary, and the remedy."""
        for v in np.flatnonzero(self.cardinality != 2):
            raise ValueError(
                f"{need}, but node {self.topology.names[v]!r} has {self.cardinality[v]} states"
                + (remedy and f"; {remedy}")
            )

    @property
    def state_dtype(self) -> torch.dtype:
        """uint8, or uint16 where some node has more than 256 states."""
        return torch.uint8 if int(self.cardinality.max()) <= 256 else torch.uint16

    @cached_property
    def groups(self) -> tuple[np.ndarray, ...]:
        """The nodes, parents first, in groups that share a level and the shape of their table.

        What is done node by node is done for a whole group at once: its tables are one array.
        """
        key = np.stack([self.cardinality, self.rows, -self.topology.level])
        order = np.lexsort(key)  # the last key counts first; ties keep storage order
        changes = (np.diff(key[:, order], axis=1) != 0).any(0)
        return tuple(np.split(order, np.flatnonzero(changes) + 1))

    def of(self, nodes: int | np.ndarray) -> Tensor:
        """`(S, rows, K)` for one node, `(S, G, rows, K)` for G nodes whose tables have one shape."""
        many = np.atleast_1d(np.asarray(nodes))
        rows, states = int(self.rows[many[0]]), int(self.cardinality[many[0]])
        index = self.start[many][:, None] + np.arange(rows * states)
        found = self.flat[:, torch.as_tensor(index, device=self.flat.device)]
        found = found.unflatten(-1, (rows, states))
        return found if np.ndim(nodes) else found[:, 0]

    def distinct_rows(self, node: int) -> tuple[Tensor, Tensor]:
        """`(S, D, K)` the distinct rows of a node's table, and `(S, rows)` the number of each row's.

        Rows of small tables are not compared: all count as distinct. Where members have different
        numbers of distinct rows, the last ones of some are not used.
        """
        table = self.of(node).detach()
        members, rows, states = table.shape
        if rows * states < LARGE:
            return table, torch.arange(rows).expand(members, -1)
        rank = torch.empty(members, rows, dtype=torch.int64)
        first: list[list[int]] = []  # of each member, where its distinct rows occur first
        for s, member in enumerate(table.cpu().numpy()):
            number: dict[bytes, int] = {}
            rank[s] = torch.tensor(
                [number.setdefault(row.tobytes(), len(number)) for row in member]
            )
            first.append(np.unique(rank[s].numpy(), return_index=True)[1].tolist())
        most = max(map(len, first))
        at = torch.tensor([found + found[:1] * (most - len(found)) for found in first])
        return table.gather(1, at[:, :, None].expand(-1, -1, states)), rank

    @property
    def thresholds(self) -> Tensor:
        """`(S, M)` int64: the cumulative probabilities of every row in units of 2^-32, the last left out.

        With u a uniform 32-bit number, a node's state is the number of thresholds <= u in the row of
        its parent's state. So a state of probability 0 is never drawn, and one of probability 1
        always.
        """
        return self.kept("thresholds", Tables._make_thresholds)

    def _make_thresholds(self) -> Tensor:
        size = int((self.rows * (self.cardinality - 1)).sum())
        found = self.flat.new_empty((self.count, size), dtype=torch.int64)
        for nodes in self.groups:
            units = row_thresholds(self.of(nodes)).flatten(2)
            index = self.threshold_start[nodes][:, None] + np.arange(units.shape[-1])
            found[:, torch.as_tensor(index)] = units
        return found

    @cached_property
    def threshold_start(self) -> np.ndarray:
        """`(V,)` where in `thresholds` every node's rows begin."""
        size = self.rows * (self.cardinality - 1)
        return np.cumsum(size) - size

    def take(self, index: slice | Sequence[int]) -> Tables:
        """The tables of some of the S trees."""
        return Tables(self.topology, self.cardinality, self.flat[index])

    # identity

    @property
    def digest(self) -> Digest:
        """What determines the states of draws, in a few bytes per tree."""
        return self.kept("digest", Digest)

    def __eq__(self, other: object) -> bool:
        """Whether both have the same topology, names included, and the same tables bit for bit."""
        if not isinstance(other, Tables):
            return NotImplemented
        return self is other or (
            self.count == other.count
            and self.topology == other.topology
            and np.array_equal(self.cardinality, other.cardinality)
            and all(self.digest.of(s) == other.digest.of(s) for s in range(self.count))
        )

    def __hash__(self) -> int:
        return hash((self.topology, self.digest.of(0)))

    def __getstate__(self) -> dict[str, Any]:
        return stored(self)

    def __repr__(self) -> str:
        return f"Tables({self.count} x {self.topology})"

    @property
    def version(self) -> int:
        """How often `flat` was changed in place; 0 for what does not count it, as in inference mode."""
        flat = vars(self).get("flat")
        return 0 if flat is None or flat.is_inference() else flat._version

    def kept(self, name: str, make: Callable[[Tables], Kept]) -> Kept:
        """What `make` derives from these tables: made once, and again after `flat` was changed in place."""
        now, held = self.version, vars(self).setdefault("_kept", {})
        if name not in held or held[name][0] != now:
            held[name] = now, make(self)
        found: Kept = held[name][1]
        return found


def row_thresholds(rows: Tensor) -> Tensor:
    """`(..., K)` probabilities to `(..., K - 1)` int64 thresholds, see `Tables.thresholds`."""
    return (rows.cumsum(-1)[..., :-1] * ONE).round().to(torch.int64).clamp(0, ONE)


Table = Tensor | np.ndarray | Sequence[Any]
GivenTables = Sequence[Table] | Mapping[str, Table]


def name_tables(
    parents: Parents, names: Sequence[str] | None, tables: GivenTables
) -> Mapping[str, Table]:
    """Tables that stand in the order of `parents`, by name; a mapping is returned as it is.

    `parents` and `names` are those of `Topology.from_parents`.

    Raises:
        ValueError: another number of tables than of nodes.
    """
    if isinstance(tables, Mapping):
        return tables
    if len(tables) != len(parents):
        raise ValueError(f"expected {len(parents)} tables, one per node, got {len(tables)}")
    given = list(parents) if isinstance(parents, Mapping) else names
    labels = range(len(parents)) if given is None else given
    return {str(name): table for name, table in zip(labels, tables, strict=True)}


def make_tables(topology: Topology, tables: GivenTables, *, normalise: bool = False) -> Tables:
    """Check and pack one table per node, in storage order or by name; the root's is its prior.

    A row that sums to 1 up to float64 rounding is kept bit for bit; one whose sum differs by up to
    1e-6 is normalised.

    Args:
        normalise: divide rows by their sums, whatever these are: rows may be rounded probabilities,
            counts or weights.
        tables: for the root `(K,)` or `(S, K)`; for any other node `(K_parent, K)` or
            `(S, K_parent, K)`. A table without the S axis is shared by all trees.

    Raises:
        ValueError: a table that is missing, unknown or not an array of numbers, sizes that
            disagree, fewer than 2 or more than 65536 states, rows that do not sum to one, negative
            or NaN probabilities.

    Example:
        >>> pair = Topology.from_parents({"weather": None, "mood": "weather"})
        >>> made = make_tables(pair, {"weather": [0.7, 0.3], "mood": [[0.9, 0.1], [0.4, 0.6]]})
        >>> made.of(pair.node("mood"))
        tensor([[[0.9000, 0.1000],
                 [0.4000, 0.6000]]], dtype=torch.float64)
        >>> counts = {"weather": [7, 3], "mood": [[0.333, 0.333], [2, 3]]}
        >>> make_tables(pair, counts, normalise=True).of(pair.node("mood"))
        tensor([[[0.5000, 0.5000],
                 [0.4000, 0.6000]]], dtype=torch.float64)
    """
    if isinstance(tables, Mapping):
        tables = _by_name(topology, tables)
    if len(tables) != len(topology):
        raise ValueError(f"expected {len(topology)} tables, one per node, got {len(tables)}")
    found = [_as_tensor(name, table) for name, table in zip(topology.names, tables, strict=True)]
    if found[0].ndim not in (1, 2):
        raise ValueError(
            f"the prior of root {topology.names[0]!r} has shape {tuple(found[0].shape)}, "
            "expected (K,) or (S, K)"
        )
    found[0] = found[0].unsqueeze(-2)
    cardinality = np.array([t.shape[-1] if t.ndim else 0 for t in found], dtype=np.int64)
    members = max([table.shape[0] for table in found if table.ndim == 3], default=1)
    for name, table, parent in zip(topology.names, found, topology.parent.tolist(), strict=True):
        _check_shape(name, table, 1 if parent < 0 else int(cardinality[parent]), members)
    if members == 1:
        flat = torch.cat([table.reshape(-1) for table in found])[None]
    else:
        flat = torch.cat([t.expand(members, *t.shape[-2:]).flatten(1) for t in found], dim=1)
    return check_probabilities(Tables(topology, cardinality, flat), normalise=normalise)


def check_probabilities(tables: Tables, *, normalise: bool = False) -> Tables:
    """The same tables with rows that sum to one.

    Args:
        normalise: whether rows may have any positive and finite sum.

    Raises:
        ValueError: an entry that is not a probability, or a row whose sum differs from 1 by more
            than 1e-6; the message names the first such node and value.
    """
    flat, names = tables.flat, tables.topology.names
    highest = torch.finfo(flat.dtype).max if normalise else 1 + TOLERANCE
    bad = (~((flat >= 0) & (flat <= highest))).any(0).nonzero()
    if len(bad):
        place = int(bad[0])
        name = names[int(np.searchsorted(tables.start, place, side="right")) - 1]
        column = flat[:, place]
        value = float(column[~((column >= 0) & (column <= highest))][0])
        wanted = "finite numbers that are at least 0" if normalise else "numbers in [0, 1]"
        raise ValueError(f"the table of node {name!r} holds {value}, expected {wanted}")
    width = np.repeat(tables.cardinality, tables.rows)  # states of every row
    row = torch.from_numpy(np.repeat(np.arange(len(width)), width)).to(flat.device)
    total = flat.new_zeros(len(flat), len(width)).index_add(1, row, flat)
    miss = (total - 1).abs()
    wrong = ~((total > 0) & (total < torch.inf)) if normalise else miss > TOLERANCE
    off = wrong.any(0).nonzero()
    if len(off):
        first = int(off[0])
        name = names[int(np.searchsorted(np.cumsum(tables.rows), first, side="right"))]
        value = float(total[:, first][wrong[:, first]][0])
        expected = "a positive and finite sum" if normalise else "1"
        remedy = "" if normalise or not 0 < value < np.inf else (
            "; normalise=True, where a tree is made of tables, divides rows by their sums"
        )  # fmt: skip
        raise ValueError(
            f"a row of the table of node {name!r} sums to {value}, expected {expected}{remedy}"
        )
    # Dividing would change the last bits of rows that sum to 1 up to rounding, and a table that is
    # saved and read again must stay the same. Their total is set to 1, written as 1 + (x - x) so that
    # the gradient of the normalisation stays.
    rounding = torch.from_numpy(width * 2.0**-52).to(flat.device)
    total = torch.where(miss <= rounding, 1 + (total - total.detach()), total)
    return Tables(tables.topology, tables.cardinality, flat / total[:, row])


def _by_name(topology: Topology, tables: Mapping[str, Table]) -> list[Table]:
    given = {str(name): table for name, table in tables.items()}
    unknown = given.keys() - set(topology.names)
    if unknown:
        raise ValueError(f"a table is given for {min(unknown)!r}, which is not the name of a node")
    missing = [name for name in topology.names if name not in given]
    if missing:
        raise ValueError(f"node {missing[0]!r} has no table")
    return [given[name] for name in topology.names]


def _as_tensor(name: str, table: Table) -> Tensor:
    try:
        return torch.as_tensor(table, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        rows = table if isinstance(table, (list, tuple)) else []
        widths = sorted({len(row) for row in rows if isinstance(row, (list, tuple))})
        ragged = (
            f"its rows have {' and '.join(map(str, widths))} entries, expected one number of them"
        )
        reason = ragged if len(widths) > 1 else error
        raise ValueError(f"table of node {name!r} is not an array of numbers: {reason}") from error


def _check_shape(name: str, table: Tensor, rows: int, members: int) -> None:
    shape = tuple(table.shape)
    if table.ndim not in (2, 3) or table.shape[-2] != rows:
        raise ValueError(
            f"the table of node {name!r} has shape {shape}, expected {rows} row(s), "
            "one per state of its parent"
        )
    if not 2 <= table.shape[-1] <= MAX_STATES:
        raise ValueError(f"node {name!r} has {table.shape[-1]} state(s), expected 2..{MAX_STATES}")
    if table.ndim == 3 and (table.shape[0] == 0 or table.shape[0] not in (1, members)):
        raise ValueError(
            f"the table of node {name!r} is for {table.shape[0]} trees, expected 1 or {members} as "
            "for the other tables"
        )


def symmetric_table(polarity: Tensor) -> Tensor:
    """`(..., 2, 2)` tables P(s' | s) = (1 + ρ s s') / 2 over s = -1, +1 (docs/theory.md, Section 4)."""
    same, other = (1 + polarity) / 2, (1 - polarity) / 2
    return torch.stack([torch.stack([same, other], -1), torch.stack([other, same], -1)], -2)
