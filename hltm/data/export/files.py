"""The files of shards: one writer and one reader per suffix; each file appears whole or not at all.

A shard has `row` and, for stacked trees, `member` (int64), then its groups of states: `leaves`, `latents`,
`view_1`, …, with the states of a row side by side (uint8, or uint16 above 256 states). A leaf that a view
misses has no state in the file: it is null in Parquet, empty in CSV, and -1 in arrays.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hltm._names import brief
from hltm._paths import check_file
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
Names = Callable[[Path], list[str]]
FILES: Mapping[str, tuple[Write, Read, Names]] = {
    "npz": (write_npz, read_npz, names_npz),
    "safetensors": (write_safetensors, read_safetensors, names_safetensors),
    "parquet": (write_parquet, read_parquet, names_parquet),
    "csv": (write_csv, read_csv, lambda path: []),  # its reader compares the whole line of names
}


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, whose file replaces `target` at the end.

    The file and its folder are flushed to the disk first, so that a power cut leaves either the old
    file or the new one. Several processes may write it at once; with equal contents all are right.
    """
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
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


def write_shard(
    path: Path, recipe: ExportRecipe, shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    """Write a shard piece by piece, and yield the number of rows of each piece written."""
    write, *_ = FILES[SUFFIXES[recipe.file_format]]
    return write(path, recipe, shard, pieces)


def read_column(home: Path, recipe: ExportRecipe, shard: Shard, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard in its folder; missing leaves are -1.

    Raises:
        ValueError: a file that does not hold the column in its shape, or that cannot be read.
        FileNotFoundError: no such file.
    """
    path = home / shard.file
    check_file(path)
    _, read, _ = FILES[SUFFIXES[recipe.file_format]]
    try:
        found = read(path, recipe, name)
    except FileNotFoundError:
        raise
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {brief(str(error).strip(), 120)}") from error
    shape, dtype = recipe.stored(name, len(shard.rows))
    if (found.shape, found.dtype) != (shape, dtype):
        raise ValueError(
            f"{path}: {name} has shape {found.shape} of {found.dtype}, expected {shape} of {dtype}"
        )
    return found


def column_names(home: Path, recipe: ExportRecipe, shard: Shard) -> list[str]:
    """The names of the columns of a shard.

    Raises:
        ValueError: a file that cannot be read.
    """
    path = home / shard.file
    *_, names = FILES[SUFFIXES[recipe.file_format]]
    try:
        return names(path)
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {brief(str(error).strip(), 120)}") from error
