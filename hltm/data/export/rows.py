"""Rows of an exported data set: of one file, and any in a batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from hltm.data.batch_items import batch_type
from hltm.data.export.column import Column
from hltm.data.export.recipe import Shard

if TYPE_CHECKING:
    from hltm.data.export.read import DataFolder


@batch_type
class FolderBatch(NamedTuple):
    """Some rows of an exported data set, or one row, without the axis B.

    Attributes:
        rows: `(B,)` int64 numbers in the endless data set of the seed; an int for one row.
        leaves: `(B, X)` states of the leaves.
        latents: `(B, V_kept)` states of the latents; `(B, 0)` where the export holds none.
        views: `(B, X)` leaves of each augmented draw, -1 where missing.
    """

    rows: Tensor | int
    leaves: Tensor
    latents: Tensor
    views: list[Tensor]


@dataclass(frozen=True, eq=False)
class ShardRows:
    """The rows of one file.

    Attributes:
        data: the data set.
        shard: its file, member and rows.
    """

    data: DataFolder = field(repr=False)
    shard: Shard

    @property
    def rows(self) -> range:
        """The numbers of its rows."""
        return self.shard.rows

    @property
    def member(self) -> int:
        """The address of its tree."""
        return self.shard.member

    @cached_property
    def leaves(self) -> Tensor:
        """`(B, X)` states of the leaves."""
        return self._of(self.data.leaves)

    @cached_property
    def latents(self) -> Tensor:
        """`(B, V_kept)` states of the latents."""
        return self._of(self.data.latents)

    @cached_property
    def views(self) -> tuple[Tensor, ...]:
        """`(B, X)` leaves of each augmented draw, -1 where missing."""
        return tuple(map(self._of, self.data.views))

    def _of(self, column: Column) -> Tensor:
        """A tensor over the same memory, or over a copy where that is read-only or of another dtype."""
        found = column.read(self.shard).astype(column.dtype, copy=False)
        return torch.from_numpy(found if found.flags.writeable else found.copy())
