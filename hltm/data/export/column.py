"""A column of an exported data set: states that are read shard by shard when they are indexed."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from hltm.data.dataset import find_places
from hltm.data.export.files import read_column
from hltm.data.export.recipe import Shard

if TYPE_CHECKING:
    from hltm.data.export.read import DataFolder

KEPT_BYTES = 1 << 28  # of shards that a column keeps in memory; the last one read is always kept


@dataclass(frozen=True, eq=False)
class Column:
    """States of all rows, read shard by shard when they are indexed; -1 where a leaf is missing.

    Index it with a row, a slice, integers (0 is the export's first row) or a boolean for each row, to
    get a tensor. For stacked trees the member comes first: `column[member]` or `column[member, rows]`.
    `np.asarray(column)` reads everything.

    Attributes:
        data: the data set.
        name: of the column: `leaves`, `latents`, `view_1`, …
        members: the shards of each member.
        member: the place of the member that was chosen; None for all.
    """

    data: DataFolder
    name: str
    members: list[list[Shard]]
    member: int | None = None
    _kept: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # by file, oldest first

    @property
    def stacked(self) -> bool:
        """Whether there is an axis of members."""
        return self.data.recipe.tree.stacked and self.member is None

    @property
    def shape(self) -> tuple[int, ...]:
        """`(B, width)` or `(S, B, width)`."""
        found = (self.data.recipe.samples, self.data.recipe.widths[self.name])
        return (len(self.members), *found) if self.stacked else found

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a state: uint8, int32 above 256 states; int16 or int32 where leaves may be missing."""
        return self.data.recipe.public_dtype(self.name)

    def __repr__(self) -> str:
        return f"Column({self.name}, shape {self.shape}, {self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """A tensor of rows; for stacked trees a member's column, or a tensor of its rows."""
        if not self.stacked:
            return self._rows(index)
        place, *rest = index if isinstance(index, tuple) else (index,)
        of_member = self.of_member(range(len(self.members))[operator.index(place)])
        return of_member[rest[0] if len(rest) == 1 else tuple(rest)] if rest else of_member

    def of_member(self, place: int | None) -> Column:
        """The column of the member at a place; what is kept in memory is shared."""
        return Column(self.data, self.name, self.members, place, self._kept)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a column is read from files: copy=False is not possible")
        if self.stacked:
            found = np.stack([np.asarray(self[i]) for i in range(len(self.members))])
        else:
            found = self._rows(slice(None)).numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def read(self, shard: Shard) -> np.ndarray:
        """The column of one file, in the dtype in which it is stored.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: a file that is damaged, of another shape, or that holds other rows.
        """
        kept = self._kept
        if shard.file in kept:
            kept[shard.file] = kept.pop(shard.file)  # it is the newest now
            return kept[shard.file]
        self.data.check_rows(shard)
        found = read_column(self.data.folder, self.data.recipe, shard, self.name)
        while kept and found.nbytes + sum(each.nbytes for each in kept.values()) > KEPT_BYTES:
            del kept[next(iter(kept))]
        kept[shard.file] = found
        return found

    def _rows(self, index: Any) -> Tensor:
        """`(rows, width)`, or `(width,)` for a single row; each shard concerned is read once."""
        shards, size = self.members[self.member or 0], self.data.recipe.rows_per_shard
        wanted = find_places(index, self.data.recipe.samples)
        if wanted.ndim == 0:
            return self._rows([int(wanted)])[0]
        if len(wanted) == 0:
            return torch.empty((0, self.shape[-1]), dtype=getattr(torch, str(self.dtype)))
        first, last = int(wanted.min()) // size, int(wanted.max()) // size
        if first == last:  # most often; no search for the rows of each shard
            found = self.read(shards[first])[wanted - first * size]
            return torch.from_numpy(found.astype(self.dtype, copy=False))
        out = np.empty((len(wanted), self.shape[-1]), dtype=self.dtype)
        for i in np.unique(wanted // size):
            here = wanted // size == i
            out[here] = self.read(shards[i])[wanted[here] - i * size]
        return torch.from_numpy(out)
