"""Reading an exported data set: the tree, and columns and rows that are read when they are used."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hltm._integers import as_integer
from hltm._paths import checksum, local_path
from hltm.data.batch_items import BatchItems
from hltm.data.dataset import find_places
from hltm.data.export.column import Column
from hltm.data.export.files import read_column
from hltm.data.export.manifest import read_recipe
from hltm.data.export.recipe import ExportRecipe, Shard
from hltm.data.export.rows import FolderBatch, ShardRows
from hltm.data.export.settings import lost_marks
from hltm.sampling.draw import Draw
from hltm.tree import LatentTree

if TYPE_CHECKING:
    import pandas as pd

READ_AT_ONCE = 1 << 12  # rows, in a loop over single ones
HASHED = 16 << 20  # bytes: the checksum of a larger file takes longer than a user would wait


def load(folder: str | os.PathLike[str]) -> DataFolder:
    """Open a folder that `hltm.export` wrote; only the manifest is read at once.

    Raises:
        FileNotFoundError: there is no exported data.
        ValueError: a URL, a manifest that is damaged or of another version, or an unfinished export.

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
        >>> batch = next(iter(torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)))
        >>> batch
        FolderBatch(rows=(64,) int64, leaves=(64, 8) uint8, latents=(64, 7) uint8, views=[])
        >>> place.cleanup()
    """
    home = local_path(folder)
    manifest, recipe = read_recipe(home)
    if len(manifest["shards"]) < recipe.files:
        raise ValueError(
            f"{home} is not finished: {len(manifest['shards'])} of {recipe.files} files are "
            "written; call the same export again to continue"
        )
    return DataFolder(home, manifest, recipe)


@dataclass(frozen=True, eq=False, repr=False)
class DataFolder(Dataset[FolderBatch]):
    """An exported data set: whole columns, a table, or rows, for a torch loader among others.

    `data[5]` is a row, `data[5:9]` and `data[[7, 3]]` are several, as a `FolderBatch`; a loop goes over
    single rows. If the trees are stacked, choose a member first: `data[member]` is the folder of one,
    `data[member, rows]` has rows of it, and a loop goes over the members.

    Attributes:
        folder: its path.
        manifest: the content of the manifest.
        place: the place of the member that was chosen; None for all, and for a single tree.
    """

    folder: Path
    manifest: dict[str, Any]
    recipe: ExportRecipe
    place: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:  # a loader's new processes read files for themselves
        return DataFolder, (self.folder, self.manifest, self.recipe, self.place)

    @property
    def stacked(self) -> bool:
        """Whether there is an axis of members."""
        return self.recipe.tree.stacked and self.place is None

    @property
    def tree(self) -> LatentTree:
        """The tree that the rows were drawn from."""
        return self.recipe.tree if self.place is None else self.recipe.tree[self.place]

    @property
    def rows(self) -> range:
        """The numbers of the rows in the endless data set of the seed."""
        return range(self.recipe.start, self.recipe.start + self.recipe.samples)

    def __len__(self) -> int:
        return self.recipe.samples

    # columns

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
        """The leaves of each augmented draw, shaped as `leaves`, -1 where missing.

        Raises:
            ValueError: views of leaves that may be missing, by a version that did not leave them out.
        """
        if reason := lost_marks(self.recipe):
            raise ValueError(f"{self.folder}: {reason}")
        return tuple(self._column(f"view_{i + 1}") for i in range(self.recipe.views))

    def check_rows(self, shard: Shard) -> None:
        """Check, once for each file, that it holds the rows of its address, and is no copy of another.

        Its checksum is compared if it is small; that of a large one takes `hltm.verify`.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: it holds other rows, was changed, or cannot be read.
        """
        if shard.file in self._checked:
            return
        path = self.folder / shard.file
        for name, wanted in ("row", np.asarray(shard.rows)), ("member", shard.member):
            if name in self.recipe.keys:
                found = read_column(self.folder, self.recipe, shard, name)
                if not (found == wanted).all():
                    raise ValueError(
                        f"{path} holds other rows than its address has, e.g. {name} "
                        f"{found[found != wanted][0]}: it was replaced; remove it and export again"
                    )
        if path.stat().st_size <= HASHED and checksum(path) != self._checksums.get(shard.file):
            raise ValueError(
                f"{path} was changed: its SHA-256 checksum does not fit; remove it and export again"
            )
        self._checked.add(shard.file)

    @cached_property
    def _checksums(self) -> dict[str, str]:
        return {entry["file"]: entry["sha256"] for entry in self.manifest["shards"]}

    @cached_property
    def _checked(self) -> set[str]:
        """The files whose rows were compared with their addresses."""
        return set()

    def _column(self, name: str) -> Column:
        members: list[list[Shard]] = [[] for _ in self.recipe.tree.members]
        for shard in self.recipe.shards:
            members[shard.place].append(shard)
        return Column(self, name, members, self.place)

    # rows

    def __getitem__(self, index: Any) -> Any:
        if not self.stacked:
            return self._read(index)
        place, *rest = index if isinstance(index, tuple) else (index,)
        chosen = range(len(self.tree.members))[operator.index(place)]
        member = DataFolder(self.folder, self.manifest, self.recipe, chosen)
        return member[rest[0] if len(rest) == 1 else tuple(rest)] if rest else member

    def __getitems__(self, indices: Sequence[int]) -> BatchItems[FolderBatch]:
        """Several rows, read in one call; a torch loader uses this where it exists."""
        self._check_single()
        return BatchItems(self._read(list(indices)), len(indices))

    def __iter__(self) -> Iterator[Any]:
        if self.stacked:
            yield from (self[place] for place in range(len(self.tree.members)))
            return
        for low in range(0, len(self), READ_AT_ONCE):
            yield from self.__getitems__(range(low, min(low + READ_AT_ONCE, len(self))))

    def batches(self, size: int) -> Iterator[FolderBatch]:
        """All rows in order, `size` at a time, as `data[low:high]` has them; the last may be fewer.

        Raises:
            TypeError, ValueError: no integer, a size below 1, or stacked trees.
        """
        size = as_integer("the size of a batch", size, 1)
        self._check_single()
        return (self._read(slice(low, low + size)) for low in range(0, len(self), size))

    def draw(self, rows: slice = slice(None)) -> Draw:
        """The states of all nodes in consecutive rows, drawn again by the recipe; no file is read.

        Raises:
            ValueError: rows with a step, or none.
            TypeError: no slice.

        Example:
            >>> import hltm, tempfile
            >>> tree = hltm.symmetric_binary(depth=2, seed=0)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     data = hltm.export(tree, folder, 9, seed=1, nodes="leaves", start=5)
            ...     data.draw(slice(2, 6)).leaves.equal(data[2:6].leaves), data.draw().states.shape
            (True, torch.Size([9, 7]))
        """
        if not isinstance(rows, slice):
            raise TypeError(f"rows must be a slice, e.g. slice(0, 100), got {rows!r:.60}")
        chosen = self.rows[rows]
        if chosen.step != 1 or not chosen:
            raise ValueError(f"rows must be consecutive and at least one, got {rows}")
        return self.tree.sample(len(chosen), seed=self.recipe.seed, start=chosen.start)

    def _read(self, index: Any) -> FolderBatch:
        """Some rows of a single tree, or one."""
        wanted = find_places(index, len(self))
        numbers = wanted + self.recipe.start
        none = torch.empty((*wanted.shape, 0), dtype=torch.uint8)
        return FolderBatch(
            torch.from_numpy(numbers) if wanted.ndim else int(numbers),
            self.leaves[wanted],
            self.latents[wanted] if self.recipe.latents else none,
            [view[wanted] for view in self.views],
        )

    def _check_single(self) -> None:
        if self.stacked:
            raise ValueError(
                f"{self.folder} holds {len(self.tree.members)} members; choose one, e.g. data[0]"
            )

    def shards(self) -> Iterator[ShardRows]:
        """The files one after the other, each read when its columns are used."""
        for shard in self.recipe.shards:
            if self.place in (None, shard.place):
                yield ShardRows(self, shard)

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a table: `row`, for stacked trees `member`, then a column for each node.

        Columns have the names of the nodes, latents first; in views, of the leaves with `_view_1`, ….
        States are uint8 (int32 above 256 states). Where leaves may be missing they are pandas' Int16
        (Int32), and NA is a missing leaf: `table.fillna(-1)` has -1 there, as `posterior` expects.

        Raises:
            ValueError: two columns of one name, such as a node that is called `row`.

        Example:
            >>> import hltm, tempfile
            >>> tree = hltm.LatentTree.from_parents(
            ...     {"genus": None, "ash": "genus", "elm": "genus"},
            ...     {"genus": [0.5, 0.5], "ash": [[0.9, 0.1], [0.2, 0.8]], "elm": [[1, 0], [0, 1]]},
            ... )
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     hltm.export(tree, folder, 3, seed=1).to_pandas()
               row  genus  ash  elm
            0    0      0    0    0
            1    1      1    0    1
            2    2      0    0    0
        """
        import pandas as pd

        if self.stacked:
            return pd.concat([member.to_pandas() for member in self], ignore_index=True)
        found: dict[str, Any] = {"row": np.asarray(self.rows)}
        if self.place is not None:
            found["member"] = np.full(len(self), self.tree.members[0])
        _ = self.views  # raises if they are not what they claim to be
        for group, names in self.recipe.node_columns.items():
            states = np.asarray(self._column(group))
            if self.recipe.hides(group):
                for i, name in enumerate(names):
                    column = states[:, i].copy()
                    found[name] = pd.arrays.IntegerArray(column, column < 0)
            else:
                found |= {name: states[:, i] for i, name in enumerate(names)}
        return pd.DataFrame(found)

    # displays

    def _summary(self) -> str:
        members = f"{len(self.tree.members)} members x " if self.stacked else ""
        return f"{members}{len(self):,} rows from {self.recipe.start:,}"

    def __repr__(self) -> str:
        held = ", ".join(f"{name} {width}" for name, width in self.recipe.widths.items())
        return f"DataFolder({str(self.folder)!r}, {self._summary()}: {held}; {self.recipe.file_format})"

    def _repr_html_(self) -> str:
        lines = [
            f"<tr><td>{name}</td><td>{width}</td><td>{self.recipe.public_dtype(name)}</td></tr>"
            for name, width in self.recipe.widths.items()
        ]
        return (
            f"<b>DataFolder</b> {escape(str(self.folder))}<br>{self._summary()}, "
            f"{self.recipe.file_format}<table><tr><th>column</th><th>states of a row</th>"
            f"<th>dtype</th></tr>{''.join(lines)}</table>"
        )
