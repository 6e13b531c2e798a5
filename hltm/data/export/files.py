"""The files of shards: one writer and one reader per format; each file appears whole or not at all.

A shard's columns are the same in every format: `row` and, for stacked trees, `member` (int64), then
`leaves`, `latents`, `view_1`, … with the states of a row side by side (uint8, or uint16 above 256
states).

Parquet stores them as lists of fixed length, which pandas, polars, DuckDB and Hugging Face datasets
read without conversion. Random states do not compress below their entropy, so the aim is to reach
it: a dictionary and bit-packing reduce a binary state from the four bytes of Parquet's smallest
integer to one bit, and zstd removes the regular markers of where each list begins. `row` is stored as
differences and takes almost no space. npz and safetensors store plain arrays, one or two bytes per
state and uncompressed: larger files, much faster to write and to read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

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
    if suffix == "parquet":
        yield from _write_parquet(path, recipe, pieces)
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


def _write_parquet(path: Path, recipe: ExportRecipe, pieces: Iterator[Columns]) -> Iterator[int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = parquet_schema(recipe)
    with pq.ParquetWriter(path, schema, **parquet_options(recipe)) as writer:
        for piece in pieces:
            arrays = [as_arrow(piece[field.name], field.type) for field in schema]
            rows = len(piece["row"])
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=rows)
            yield rows


def parquet_schema(recipe: ExportRecipe) -> Any:
    """The Arrow schema of a shard; nothing is ever null."""
    import pyarrow as pa

    state = pa.field("element", pa.from_numpy_dtype(recipe.dtype), nullable=False)
    kinds = dict.fromkeys(recipe.keys, pa.int64())
    kinds |= {name: pa.list_(state, width) for name, width in recipe.widths.items()}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in kinds.items()])


def parquet_options(recipe: ExportRecipe) -> dict[str, Any]:
    """The options of the Parquet writer for a shard; see the top of this file."""
    states = [f"{name}.list.element" for name in recipe.widths]
    return {
        "compression": "zstd",
        "use_dictionary": states,
        "column_encoding": dict.fromkeys(recipe.keys, "DELTA_BINARY_PACKED"),
        "write_statistics": recipe.keys,
    }


def as_arrow(column: np.ndarray, kind: Any) -> Any:
    """A column as an Arrow array of type `kind`, over the same memory."""
    import pyarrow as pa

    if column.ndim == 1:
        return pa.array(column)
    return pa.FixedSizeListArray.from_arrays(pa.array(column.reshape(-1)), type=kind)


def read_column(path: Path, name: str) -> np.ndarray:
    """One column of a shard, `(B,)` or `(B, width)`.

    Raises:
        ValueError: a file that does not hold the column, or that cannot be read.
        FileNotFoundError: no such file.
    """
    try:
        return READERS[path.suffix.removeprefix(".")](path, name)
    except FileNotFoundError:
        raise
    except Exception as error:  # each format has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_npz(path: Path, name: str) -> np.ndarray:
    # opened here, because numpy leaves a file open if it cannot read it
    with path.open("rb") as file, np.load(file, allow_pickle=False) as columns:
        return columns[name]


def _read_safetensors(path: Path, name: str) -> np.ndarray:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def _read_parquet(path: Path, name: str) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # not read_table, which would look for a partitioned data set in the folders' names
    column = pq.ParquetFile(path).read(columns=[name]).column(name).combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, column.type.list_size)


READERS: Mapping[str, Callable[[Path, str], np.ndarray]] = {
    "npz": _read_npz,
    "safetensors": _read_safetensors,
    "parquet": _read_parquet,
}
