"""The files of shards: one writer and one reader per format; each file appears whole or not at all.

A shard has `row` and, for stacked trees, `member` (int64), then its groups of states: `leaves`, `latents`,
`view_1`, …, with the states of a row side by side (uint8, or uint16 above 256 states).

A leaf that a view misses has no state in the file: it is null in Parquet and empty in CSV. npz and
safetensors store plain arrays, uncompressed: larger files, much faster to write and to read. They have no
null, so views with missing leaves are int16 (int32 above 256 states) there, and -1 where missing, as in
`draw.leaves`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hltm.data.export.csv import read_csv, write_csv
from hltm.data.export.parquet import read_parquet, write_parquet
from hltm.data.export.recipe import SUFFIXES, ExportRecipe, Shard

Columns = dict[str, np.ndarray]


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, whose file replaces `target` at the end.

    The file and its folder are flushed to the disk first, so that a power cut leaves either the old
    file or the new one.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)


def checksum(path: Path) -> str:
    """The SHA-256 checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shard(
    path: Path, recipe: ExportRecipe, shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    """Write a shard piece by piece, and yield the number of rows of each piece written."""
    suffix = SUFFIXES[recipe.file_format]
    if suffix in ("parquet", "csv"):
        yield from (write_parquet if suffix == "parquet" else write_csv)(path, recipe, pieces)
        return
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
    if suffix == "npz":
        with path.open("wb") as file:
            np.savez(file, **held)  # type: ignore[arg-type]  # numpy's stubs mistake columns for its flag
    else:
        from safetensors.numpy import save_file

        save_file(held, path)


def read_column(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard; missing leaves are -1.

    Raises:
        ValueError: a file that does not hold the column, or that cannot be read.
        FileNotFoundError: no such file.
    """
    try:
        return READERS[path.suffix.removeprefix(".")](path, recipe, name)
    except FileNotFoundError:
        raise
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from error


def column_names(path: Path) -> list[str]:
    """The names of the columns of a shard.

    Raises:
        ValueError: a file that cannot be read.
    """
    try:
        return COLUMNS[path.suffix.removeprefix(".")](path)
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from error


def _columns_npz(path: Path) -> list[str]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
        return list(columns.files)


def _columns_parquet(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def _columns_safetensors(path: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return list(file.keys())


def _read_npz(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    # opened here, because numpy leaves a file open if it cannot read it
    with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
        return columns[name]


def _read_safetensors(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


READERS: Mapping[str, Callable[[Path, ExportRecipe, str], np.ndarray]] = {
    "npz": _read_npz,
    "safetensors": _read_safetensors,
    "parquet": read_parquet,
    "csv": read_csv,
}

COLUMNS: Mapping[str, Callable[[Path], list[str]]] = {
    "npz": _columns_npz,
    "safetensors": _columns_safetensors,
    "parquet": _columns_parquet,
    "csv": lambda path: [],  # its reader compares the whole line of names
}
