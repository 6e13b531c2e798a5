"""The files of shards: one writer and one reader per suffix; each file appears whole or not at all.

A shard has `row` and, for stacked trees, `member` (int64), then its groups of states: `leaves`, `latents`,
`view_1`, …, with the states of a row side by side (uint8, or uint16 above 256 states). A leaf that a view
misses has no state in the file: it is null in Parquet, empty in CSV, and -1 in arrays.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hltm.data.export.arrays import (
    names_npz,
    names_safetensors,
    read_npz,
    read_safetensors,
    write_npz,
    write_safetensors,
)
from hltm.data.export.csv import read_csv, write_csv
from hltm.data.export.parquet import names_parquet, read_parquet, write_parquet
from hltm.data.export.recipe import SUFFIXES, Columns, ExportRecipe, Shard

Write = Callable[[Path, ExportRecipe, Shard, Iterator[Columns]], Iterator[int]]
Read = Callable[[Path, ExportRecipe, str], np.ndarray]
FILES: Mapping[str, tuple[Write, Read]] = {
    "npz": (write_npz, read_npz),
    "safetensors": (write_safetensors, read_safetensors),
    "parquet": (write_parquet, read_parquet),
    "csv": (write_csv, read_csv),
}
NAMES: Mapping[str, Callable[[Path], list[str]]] = {
    "npz": names_npz, "safetensors": names_safetensors, "parquet": names_parquet,
}  # fmt: skip


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
    write, _ = FILES[SUFFIXES[recipe.file_format]]
    return write(path, recipe, shard, pieces)


def read_column(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard; missing leaves are -1.

    Raises:
        ValueError: a file that does not hold the column, or that cannot be read.
        FileNotFoundError: no such file.
    """
    _, read = FILES[path.suffix.removeprefix(".")]
    try:
        return read(path, recipe, name)
    except FileNotFoundError:
        raise
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from error


def column_names(path: Path) -> list[str]:
    """The names of the columns of a shard; none of a CSV file, whose reader compares all of them.

    Raises:
        ValueError: a file that cannot be read.
    """
    names = NAMES.get(path.suffix.removeprefix("."))
    try:
        return names(path) if names else []
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from error
