"""npz and safetensors files of shards: plain arrays, uncompressed.

Files are larger than Parquet's, and much faster to write and to read. Arrays have no null, so views with
missing leaves are int16 (int32 above 256 states), and -1 where missing, as in `draw.leaves`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hltm._paths import safetensors_errors
from hltm.data.export.recipe import Columns, ExportRecipe, Shard


def write_npz(
    path: Path, recipe: ExportRecipe, shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    """Write a shard at its end, and yield the number of rows of each piece."""

    def save(held: dict[str, Any]) -> None:
        with path.open("wb") as file:  # given a name, numpy would add a suffix to it
            np.savez(file, **held)

    return _write(save, shard, pieces)


def write_safetensors(
    path: Path, recipe: ExportRecipe, shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    """Write a shard at its end, and yield the number of rows of each piece."""
    from safetensors.numpy import save_file

    def save(held: dict[str, Any]) -> None:
        with safetensors_errors(path):
            save_file(held, path)

    return _write(save, shard, pieces)


def _write(
    save: Callable[[Columns], None], shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    held: Columns = {}
    done = 0
    for piece in pieces:
        for name, column in piece.items():
            if name not in held:
                shape = (len(shard.rows), *column.shape[1:])
                held[name] = np.empty(shape, dtype=column.dtype)
            held[name][done : done + len(column)] = column
        done += len(piece["row"])
        yield len(piece["row"])
    save(held)


def read_npz(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard."""
    # opened here, because numpy leaves a file open if it cannot read it
    with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
        return columns[name]


def read_safetensors(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def names_npz(path: Path) -> list[str]:
    """The names of the columns of a shard."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
        return list(columns.files)


def names_safetensors(path: Path) -> list[str]:
    """The names of the columns of a shard."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return list(file.keys())
