"""The recipe of an exported data set: everything its files follow from, and the rows drawn by it."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hltm.formats.json import from_json, to_json
from hltm.model.topology import Nodes
from hltm.sampling.augment import Augmentation
from hltm.sampling.philox import DRAW_FORMAT, MAX_VIEWS, Stream, check_seed
from hltm.sampling.sample import check_rows, views
from hltm.tree import LatentTree

FORMAT, VERSION = "hltm.export", 1
# format -> suffix of its files
SUFFIXES = {name: name for name in ("npz", "parquet", "safetensors")} | {"huggingface": "parquet"}
STREAM = Stream.DATA
SHARD_ROWS, SHARD_BYTES = 1 << 20, 1 << 28  # the largest shard unless rows_per_shard is given
PIECE_ROWS, PIECE_BYTES = 1 << 17, 1 << 24  # the most that is drawn at once and held in memory
BLOCK = 1 << 12  # rows transposed at once, so that they stay in the cache


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

    Attributes:
        tree: one tree, or several.
        seed, start, samples: rows start .. start + samples - 1 of the endless data set of `seed`.
        views: the number of views of each row, numbered from 1.
        augment: the name of the augmentation; None without views.
        rates: `(V,)` the redraw rate of each node in a view; None without views.
        latents: numbers of the latents that are exported beside the leaves.
        file_format: a key of `SUFFIXES`.
        rows_per_shard: rows of every shard but a member's last.
    """

    tree: LatentTree
    seed: int
    start: int
    samples: int
    views: int
    augment: str | None
    rates: np.ndarray | None
    latents: tuple[int, ...]
    file_format: str
    rows_per_shard: int

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
        """The number of states of a row in each column of states."""
        leaves = len(self.tree.leaves)
        found = {"leaves": leaves}
        if self.latents:
            found["latents"] = len(self.latents)
        return found | {f"view_{i + 1}": leaves for i in range(self.views)}

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a state: uint8, or uint16 above 256 states."""
        return np.dtype(str(self.tree.tables.state_dtype).removeprefix("torch."))

    def pieces(self, shard: Shard) -> Iterator[range]:
        """The rows of a shard in parts small enough to draw at once."""
        row = len(self.tree.topology) * self.dtype.itemsize * (1 + self.views)
        # whole blocks of the generator, which are of 128 rows, where possible
        size = min(PIECE_ROWS, max(PIECE_BYTES // row // 128 * 128, 128))
        for low in range(0, len(shard.rows), size):
            yield shard.rows[low : low + size]

    def draw(self, place: int, rows: range) -> dict[str, np.ndarray]:
        """The columns of some rows of a member, drawn from their addresses.

        Returns:
            `row` `(B,)` int64, for stacked trees `member` `(B,)` int64, then `(B, width)` states.
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
            for view in views(tree.tables, draw, self.rates, count=self.views):
                columns[f"view_{view.view}"] = _by_row(view.states_SVB[0, leaves:].numpy())
        return columns

    def settings(self) -> dict[str, Any]:
        """The part of the manifest from which `from_settings` makes the recipe again."""
        names = self.tree.topology.names
        augmentation = None
        if self.rates is not None:
            augmentation = {"name": self.augment, "rates": self.rates.tolist()}
        return {
            "file_format": self.file_format, "draw_format": DRAW_FORMAT, "seed": self.seed,
            "stream": STREAM.name.lower(), "start": self.start, "n": self.samples,
            "views": self.views, "augmentation": augmentation,
            "leaves": [names[v] for v in self.tree.leaves],
            "latents": [names[v] for v in self.latents],
            "rows_per_shard": self.rows_per_shard, "tree": json.loads(to_json(self.tree)),
        }  # fmt: skip

    @classmethod
    def from_settings(cls, found: dict[str, Any]) -> ExportRecipe:
        """The recipe that `settings` describes.

        Raises:
            ValueError: a setting that is missing or malformed, or another draw format.
        """
        if found.get("draw_format") != DRAW_FORMAT:
            raise ValueError(f"draw format {found.get('draw_format')}, expected {DRAW_FORMAT}")
        try:
            if found["stream"] != STREAM.name.lower():
                raise ValueError(f"stream {found['stream']!r}, expected {STREAM.name.lower()!r}")
            tree = from_json(json.dumps(found["tree"]))
            held = found["augmentation"]
            made = cls(
                tree=tree,
                seed=check_seed(found["seed"]),
                start=found["start"],
                samples=found["n"],
                views=found["views"],
                augment=held and held["name"],
                rates=np.array(held["rates"], dtype=np.float64) if held else None,
                latents=tuple(tree.topology.node(name) for name in found["latents"]),
                file_format=found["file_format"],
                rows_per_shard=found["rows_per_shard"],
            )
            check_rows(made.start, made.samples)
            if made.file_format not in SUFFIXES:
                raise ValueError(
                    f"file format {made.file_format!r}, expected one of {', '.join(SUFFIXES)}"
                )
            rates = np.zeros(len(tree.topology)) if made.rates is None else made.rates
            if rates.shape != (len(tree.topology),) or not ((rates >= 0) & (rates <= 1)).all():
                raise ValueError("the augmentation's rates must be in [0, 1], one per node")
            if made.rows_per_shard < 1 or (made.views > 0) != (made.rates is not None):
                raise ValueError("rows_per_shard, views and augmentation do not fit")
            for key, value in made.settings().items():
                if found[key] != value:
                    raise ValueError(f"its {key} do not fit the rest")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{error!r} while reading it") from error
        return made


def make_recipe(
    tree: LatentTree,
    samples: int,
    *,
    seed: int,
    start: int,
    views: int,
    augment: Augmentation | None,
    nodes: Nodes,
    file_format: str,
    rows_per_shard: int | None,
) -> ExportRecipe:
    """The recipe of an export; arguments and errors are those of `hltm.export`."""
    if not isinstance(tree, LatentTree):
        raise TypeError(f"tree must be a LatentTree, got {type(tree).__name__}")
    check_rows(start, samples)
    if file_format not in SUFFIXES:
        raise ValueError(f"unknown format {file_format!r}, expected one of {', '.join(SUFFIXES)}")
    if not 0 <= operator.index(views) < MAX_VIEWS:
        raise ValueError(f"views must be in 0..2^24-1, got {views}")
    if views and augment is None:
        raise ValueError(f"views={views} needs augment, e.g. augment=hltm.keep_root()")
    if augment is not None and not views:
        raise ValueError(f"augment={augment} has no effect here: it needs at least 1 view, got 0")
    if rows_per_shard is not None and operator.index(rows_per_shard) < 1:
        raise ValueError(f"rows_per_shard must be at least 1, got {rows_per_shard}")
    made = ExportRecipe(
        tree=tree,
        seed=check_seed(seed),
        start=int(start),
        samples=int(samples),
        views=int(views),
        augment=None if augment is None else augment.name,
        rates=None if augment is None else augment.rates(tree),
        latents=_check_latents(tree, nodes),
        file_format=file_format,
        rows_per_shard=int(rows_per_shard or SHARD_ROWS),
    )
    if rows_per_shard is None:
        row = sum(made.widths.values()) * made.dtype.itemsize
        return replace(made, rows_per_shard=min(SHARD_ROWS, max(SHARD_BYTES // row, 1)))
    return made


def _check_latents(tree: LatentTree, nodes: Nodes) -> tuple[int, ...]:
    """Numbers of the latents to export beside the leaves."""
    if isinstance(nodes, str) and nodes in ("all", "leaves"):
        return tuple(tree.latents) if nodes == "all" else ()
    found = tuple(int(v) for v in tree.topology.nodes(nodes))
    for v in found:
        if v in tree.leaves:
            name = tree.topology.names[v]
            raise ValueError(f"nodes must be latents, got the leaf {name!r}")
    if len(set(found)) < len(found):
        raise ValueError(f"nodes must be distinct, got {nodes!r}")
    return found


def _by_row(states_VB: np.ndarray) -> np.ndarray:
    """`(V, B)` states as a contiguous `(B, V)` array."""
    out = np.empty(states_VB.shape[::-1], dtype=states_VB.dtype)
    for low in range(0, len(out), BLOCK):
        out[low : low + BLOCK] = states_VB[:, low : low + BLOCK].T
    return out
