"""Digests: what determines the states of S trees, as a few bytes each, by which draws are told apart."""

from __future__ import annotations

import copy
import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from hltm.model.tables import Tables


class Digest:
    """The digests of S trees, computed when they are first compared: a second per gigabyte of tables.

    A tree's digest is the SHA-256 hash of its shape (parents and numbers of states) and of its tables,
    bit for bit. These and a draw's address determine its states. The names of nodes do not, so trees
    that differ in names alone have one digest; neither do the addresses of members, which a draw
    carries itself.

    If the tables were changed in place before they were compared, the values that were meant are lost,
    and the digest equals no other.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables: Tables | None = copy.copy(tables)  # what holds this digest is not held by it
        self._version = tables.version
        self._each: tuple[str, ...] = ()

    @property
    def each(self) -> tuple[str, ...]:
        """S texts of 64 hexadecimal digits; one, if S trees share one set of tables."""
        tables = self._tables
        if tables is not None:
            self._each = self._compute(tables)
            self._tables = None  # a draw that outlives its tree does not keep its tables
        return self._each

    def _compute(self, tables: Tables) -> tuple[str, ...]:
        start = hashlib.sha256()
        for part in (tables.topology.parent, tables.cardinality):
            start.update(_bytes(part, "<i8"))
        if tables.version != self._version:
            start.update(f"changed {id(self)}".encode())
        found = []
        for s in range(1 if tables.shared else tables.count):
            made = start.copy()
            # tables that are not stored as one array are made node by node
            stored = "flat" in vars(tables)
            for values in [tables.flat] if stored else map(tables.of, range(len(tables.topology))):
                made.update(_bytes(values[s].detach().cpu().numpy(), "<f8"))
            found.append(made.hexdigest())
        return tuple(found)

    def of(self, index: int) -> str:
        """The digest of one of the S trees."""
        return self.each[index if len(self.each) > 1 else 0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Digest):
            return NotImplemented
        return self is other or self.each == other.each

    def __hash__(self) -> int:
        return hash(self.each)

    def __getstate__(self) -> dict[str, Any]:
        """The digests without the tables."""
        return {"_each": self.each, "_tables": None}

    def __repr__(self) -> str:
        more = ", …" * (len(self.each) > 4)
        return f"Digest({', '.join(each[:8] for each in self.each[:4])}{more})"


def _bytes(values: np.ndarray, dtype: str) -> Any:
    """The memory of an array, least significant byte first, whatever the machine."""
    return np.ascontiguousarray(values, dtype=dtype)


def stored(item: object) -> dict[str, Any]:
    """What an object was made of, for pickle and copies: its attributes without those derived from them."""
    return {
        name: value
        for name, value in vars(item).items()
        if name != "_kept" and not isinstance(getattr(type(item), name, None), cached_property)
    }
