"""Reading an exported data set: the tree, and columns that are read shard by shard when they are used."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hltm.data.export.files import read_column
from hltm.data.export.manifest import read_recipe
from hltm.data.export.recipe import ExportRecipe, Shard
from hltm.tree import LatentTree


def load(folder: str | os.PathLike[str]) -> DataFolder:
    """Open a folder that `hltm.export` wrote; only the manifest is read at once.

    Raises:
        FileNotFoundError: there is no exported data.
        ValueError: a manifest that is damaged or of another version, or an unfinished export.

    Example:
        >>> import hltm, tempfile
        >>> tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
        >>> place = tempfile.TemporaryDirectory()
        >>> _ = hltm.export(tree, place.name, 1000, seed=1, rows_per_shard=400)
        >>> data = hltm.load(place.name)
        >>> data.leaves, data.latents[5:8].shape
        (Column(leaves, shape (1000, 8), uint8), torch.Size([3, 7]))
        >>> [len(shard.rows) for shard in data.shards()]
        [400, 400, 200]
        >>> place.cleanup()
    """
    home = Path(folder)
    manifest, recipe = read_recipe(home)
    if len(manifest["shards"]) < len(recipe.shards):
        raise ValueError(
            f"{home} is not finished: {len(manifest['shards'])} of {len(recipe.shards)} files are "
            "written; call the same export again to continue"
        )
    return DataFolder(home, manifest, recipe)


@dataclass(frozen=True, eq=False)
class DataFolder:
    """An exported data set.

    Attributes:
        folder: its path.
        manifest: the content of `manifest.json`.
    """

    folder: Path
    manifest: dict[str, Any] = field(repr=False)
    recipe: ExportRecipe = field(repr=False)

    @property
    def tree(self) -> LatentTree:
        """The tree that the rows were drawn from."""
        return self.recipe.tree

    @property
    def rows(self) -> range:
        """The numbers of the rows in the endless data set of the seed."""
        return range(self.recipe.start, self.recipe.start + self.recipe.samples)

    def __len__(self) -> int:
        return self.recipe.samples

    @cached_property
    def leaves(self) -> Column:
        """`(B, X)` or `(S, B, X)` states of the leaves."""
        return self._column("leaves")

    @cached_property
    def latents(self) -> Column:
        """`(B, V_kept)` or `(S, B, V_kept)` states of the latents that `latent_nodes` names.

        Raises:
            ValueError: the export holds the leaves alone.
        """
        if not self.recipe.latents:
            raise ValueError(f"{self.folder} holds no latents; export with nodes='all'")
        return self._column("latents")

    @property
    def latent_nodes(self) -> tuple[int, ...]:
        """The node numbers of the columns of `latents`."""
        return self.recipe.latents

    @cached_property
    def views(self) -> tuple[Column, ...]:
        """The leaves of each augmented draw, shaped as `leaves`."""
        return tuple(self._column(f"view_{i + 1}") for i in range(self.recipe.views))

    def shards(self) -> Iterator[ShardRows]:
        """The files one after the other, each read when its columns are used."""
        for shard in self.recipe.shards:
            yield ShardRows(self, shard)

    def _column(self, name: str) -> Column:
        members: list[list[Shard]] = [[] for _ in self.tree.members]
        for shard in self.recipe.shards:
            members[shard.place].append(shard)
        return Column(self, name, members)


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
        return _tensor(self.data.leaves.read(self.shard))

    @cached_property
    def latents(self) -> Tensor:
        """`(B, V_kept)` states of the latents."""
        return _tensor(self.data.latents.read(self.shard))

    @cached_property
    def views(self) -> tuple[Tensor, ...]:
        """`(B, X)` leaves of each augmented draw."""
        return tuple(_tensor(column.read(self.shard)) for column in self.data.views)


@dataclass(frozen=True, eq=False)
class Column:
    """States of all rows, read shard by shard when they are indexed.

    Index it with a row, a slice or integers (0 is the export's first row) to get a tensor. For
    stacked trees the member comes first: `column[member]` or `column[member, rows]`.
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
    _last: dict[str, np.ndarray] = field(default_factory=dict, repr=False)  # the shard read last

    @property
    def stacked(self) -> bool:
        """Whether there is an axis of members."""
        return self.data.tree.stacked and self.member is None

    @property
    def shape(self) -> tuple[int, ...]:
        """`(B, width)` or `(S, B, width)`."""
        found = (self.data.recipe.samples, self.data.recipe.widths[self.name])
        return (len(self.members), *found) if self.stacked else found

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a state."""
        return self.data.recipe.dtype

    def __repr__(self) -> str:
        return f"Column({self.name}, shape {self.shape}, {self.dtype})"

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        """A tensor of rows; for stacked trees a member's column, or a tensor of its rows."""
        if not self.stacked:
            return self._rows(index)
        place, *rest = index if isinstance(index, tuple) else (index,)
        chosen = range(len(self.members))[operator.index(place)]
        of_member = Column(self.data, self.name, self.members, chosen, self._last)
        return of_member[rest[0] if len(rest) == 1 else tuple(rest)] if rest else of_member

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a column is read from files: copy=False is not possible")
        if self.stacked:
            found = np.stack([np.asarray(self[i]) for i in range(len(self.members))])
        else:
            found = self._rows(slice(None)).numpy()
        return found if dtype is None else found.astype(dtype, copy=False)

    def read(self, shard: Shard) -> np.ndarray:
        """The column of one file.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: a file that is damaged or of another shape.
        """
        if shard.file not in self._last:
            found = read_column(self.data.folder / shard.file, self.name)
            expected = (len(shard.rows), self.shape[-1])
            if found.shape != expected or found.dtype != self.dtype:
                raise ValueError(
                    f"{self.data.folder / shard.file}: {self.name} has shape {found.shape} of "
                    f"{found.dtype}, expected {expected} of {self.dtype}"
                )
            self._last.clear()
            self._last[shard.file] = found
        return self._last[shard.file]

    def _rows(self, index: Any) -> Tensor:
        """`(rows, width)`, or `(width,)` for a single row; each shard concerned is read once."""
        shards, size = self.members[self.member or 0], self.data.recipe.rows_per_shard
        every = range(self.data.recipe.samples)
        if isinstance(index, slice):
            wanted = np.asarray(every[index], dtype=np.int64)
        else:
            wanted = np.asarray(index)
            if wanted.dtype.kind not in "iu" or wanted.ndim > 1:
                raise TypeError(f"rows must be an integer, a slice or integers, got {index!r}")
            low, high = (wanted.min(), wanted.max()) if wanted.size else (0, -1)
            if low < -len(every) or high >= len(every):
                raise IndexError(f"row {low if low < -len(every) else high} of {len(every)} rows")
            wanted = wanted % len(every)
        flat = np.atleast_1d(wanted)
        out = np.empty((len(flat), self.shape[-1]), dtype=self.dtype)
        for i in np.unique(flat // size):
            here = flat // size == i
            out[here] = self.read(shards[i])[flat[here] - i * size]
        return torch.from_numpy(out if wanted.ndim else out[0])


def _tensor(found: np.ndarray) -> Tensor:
    """A tensor over the same memory, or over a copy where that memory is read-only."""
    return torch.from_numpy(found if found.flags.writeable else found.copy())
