"""The recipe of an exported data set: everything its files follow from, and the rows drawn by it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hltm.sampling.philox import Stream
from hltm.sampling.sample import views
from hltm.tree import LatentTree

# format -> the suffix of its files, and its layouts of columns, the default first
FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {
    "npz": ("npz", ("arrays",)),
    "parquet": ("parquet", ("arrays", "nodes")),
    "safetensors": ("safetensors", ("arrays",)),
    "huggingface": ("parquet", ("arrays", "nodes")),
    "csv": ("csv", ("nodes",)),
}
SUFFIXES = {name: suffix for name, (suffix, _) in FORMATS.items()}
LAYOUTS = {name: layouts for name, (_, layouts) in FORMATS.items()}
STREAM = Stream.DATA
PIECE_ROWS, PIECE_BYTES = 1 << 17, 1 << 24  # the most that is drawn at once and held in memory
BLOCK = 1 << 12  # rows transposed at once, so that they stay in the cache


Columns = dict[str, np.ndarray]  # the keys and the groups of some rows


@dataclass(frozen=True)
class Shard:
    """One file of a data set: consecutive rows of one member.

    Attributes:
        file: its path below the folder.
        place: the place of the member among those of the tree, counted from 0.
        member: the address of the member.
        rows: the numbers of its rows.
    """

    file: str
    place: int
    member: int
    rows: range


@dataclass(frozen=True, eq=False)
class ExportRecipe:
    """Everything that the files of a data set follow from; equal recipes give equal files.

    The states of a row come in groups: `leaves`, `latents` and the leaves of `view_1`, `view_2`, ….

    Attributes:
        tree: one tree, or several.
        seed, start, samples: rows start .. start + samples - 1 of the endless data set of `seed`.
        views: the number of views of each row, numbered from 1.
        augment: the name of the augmentation; None without views.
        rates: `(V,)` the redraw rate of each node in a view; None without views.
        missing_rates: `(V,)` the missing rate of each node in a view, or `(2, V)` the least and the largest;
            None without views.
        flip_rates: `(V,)` the flip rate of each leaf in a view; None without views.
        latents: numbers of the latents that are exported beside the leaves.
        file_format: a key of `SUFFIXES`.
        columns: the layout of the files' columns: `arrays`, one for each group, or `nodes`, one for
            each node of each group.
        rows_per_shard: rows of every shard but a member's last.
    """

    tree: LatentTree
    seed: int
    start: int
    samples: int
    views: int
    augment: str | None
    rates: np.ndarray | None
    missing_rates: np.ndarray | None
    flip_rates: np.ndarray | None
    latents: tuple[int, ...]
    file_format: str
    columns: str
    rows_per_shard: int

    @property
    def files(self) -> int:
        """The number of files."""
        return -(-self.samples // self.rows_per_shard) * len(self.tree.members)

    @cached_property
    def shards(self) -> list[Shard]:
        """The files, member after member."""
        every = range(self.start, self.start + self.samples)
        parts = [
            (place, member, every[low : low + self.rows_per_shard])
            for place, member in enumerate(self.tree.members)
            for low in range(0, self.samples, self.rows_per_shard)
        ]
        suffix = SUFFIXES[self.file_format]
        return [
            Shard(f"data/{i:05d}-of-{len(parts):05d}.{suffix}", *part)
            for i, part in enumerate(parts)
        ]

    @property
    def keys(self) -> list[str]:
        """The columns that identify a row: `row` and, for stacked trees, `member`."""
        return ["row", "member"] if self.tree.stacked else ["row"]

    @cached_property
    def widths(self) -> dict[str, int]:
        """The number of states of a row in each group."""
        leaves = len(self.tree.leaves)
        found = {"leaves": leaves}
        if self.latents:
            found["latents"] = len(self.latents)
        return found | {f"view_{i + 1}": leaves for i in range(self.views)}

    @cached_property
    def node_columns(self) -> dict[str, list[str]]:
        """Group -> names of its columns where each node has its own: `ash`, in views `ash_view_1`, ….

        Raises:
            ValueError: two columns of one name, or a name that UTF-8 cannot encode.
        """
        names = self.tree.topology.names
        leaves = [names[v] for v in self.tree.leaves]
        # latents first, as nodes are stored
        found = {"latents": [names[v] for v in self.latents]} if self.latents else {}
        found["leaves"] = leaves
        for i in range(self.views):
            found[f"view_{i + 1}"] = [f"{name}_view_{i + 1}" for name in leaves]
        seen = set(self.keys)
        for name in (name for group in found.values() for name in group):
            if name in seen:
                raise ValueError(
                    f"with one column per node, two columns have the name {name!r:.80}: rename the node, "
                    "or read and write columns='arrays'"
                )
            if any("\ud800" <= c <= "\udfff" for c in name):
                raise ValueError(
                    f"the name {name!r:.100} is no text that can be encoded: rename the node"
                )
            seen.add(name)
        return found

    @property
    def column_names(self) -> list[str]:
        """The names of a file's columns, in order."""
        if self.columns == "arrays":
            return [*self.keys, *self.widths]
        return [*self.keys, *(name for names in self.node_columns.values() for name in names)]

    def hides(self, group: str) -> bool:
        """Whether leaves of the group may be missing."""
        hidden = self.missing_rates is not None and bool(self.missing_rates.any())
        return hidden and group.startswith("view_")

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a state in a file: uint8, or uint16 above 256 states."""
        return np.dtype(str(self.tree.tables.state_dtype).removeprefix("torch."))

    def marked_dtype(self, group: str) -> np.dtype:
        """The dtype of a group whose missing leaves are marked -1: int16 or int32; `dtype` if none can be."""
        if not self.hides(group):
            return self.dtype
        return np.dtype("int16" if self.dtype.itemsize == 1 else "int32")

    def stored(self, name: str, rows: int) -> tuple[tuple[int, ...], np.dtype]:
        """The shape and dtype of rows of a key or a group, as it is read from a file."""
        if name in self.keys:
            return (rows,), np.dtype("int64")
        return (rows, self.widths[name]), self.marked_dtype(name)

    def public_dtype(self, group: str) -> np.dtype:
        """The dtype of a group's tensors: as marked, and int32 for uint16, which torch cannot reduce."""
        found = self.marked_dtype(group)
        return np.dtype("int32") if found == np.uint16 else found

    def pieces(self, shard: Shard) -> Iterator[range]:
        """The rows of a shard in parts small enough to draw at once."""
        row = len(self.tree.topology) * self.dtype.itemsize * (1 + self.views)
        # whole blocks of the generator, which are of 128 rows, where possible
        size = min(PIECE_ROWS, max(PIECE_BYTES // row // 128 * 128, 128))
        for low in range(0, len(shard.rows), size):
            yield shard.rows[low : low + size]

    def draw(self, place: int, rows: range) -> Columns:
        """The rows of a member, drawn from their addresses, by group.

        Returns:
            `row` `(B,)` int64, for stacked trees `member` `(B,)` int64, then `(B, width)` states, where
            missing leaves are -1.
        """
        tree = self.tree[place] if self.tree.stacked else self.tree
        leaves = tree.leaves.start
        first = 0 if self.latents or self.views else leaves
        draw = tree.draw(len(rows), seed=self.seed, start=rows.start, stream=STREAM, first=first)
        columns = {"row": np.arange(rows.start, rows.stop, dtype=np.int64)}
        if self.tree.stacked:
            columns["member"] = np.full(len(rows), tree.members[0], dtype=np.int64)
        states = draw.states_SVB[0].numpy()
        columns["leaves"] = _by_row(states[leaves - first :])
        if self.latents:
            whole = self.latents == tuple(tree.latents)
            columns["latents"] = _by_row(states[:leaves] if whole else states[list(self.latents)])
        if self.rates is not None:
            drawn = views(
                tree.tables, draw, self.rates, missing_rates=self.missing_rates,
                flip_rates=self.flip_rates, count=self.views,
            )  # fmt: skip
            for view in drawn:
                columns[f"view_{view.view}"] = _by_row(view.shown_SXB[0].numpy())
        return columns


def _by_row(states_VB: np.ndarray) -> np.ndarray:
    """`(V, B)` states as a contiguous `(B, V)` array."""
    out = np.empty(states_VB.shape[::-1], dtype=states_VB.dtype)
    for low in range(0, len(out), BLOCK):
        out[low : low + BLOCK] = states_VB[:, low : low + BLOCK].T
    return out
