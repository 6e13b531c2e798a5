"""Parquet files of shards, whose missing leaves are null.

The states of a group are lists of fixed length, which pandas, polars, DuckDB and Hugging Face datasets
read without conversion, or, with `columns="nodes"`, one column of integers for each node. Random states
do not compress below their entropy, so the aim is to reach it: a dictionary and bit-packing reduce a
binary state from the four bytes of Parquet's smallest integer to one bit, and zstd removes the regular
markers of where each list begins. `row` is stored as differences and takes almost no space.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hltm.data.export.recipe import Columns, ExportRecipe, Shard


def write_parquet(
    path: Path, recipe: ExportRecipe, shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    """Write a shard piece by piece, each a row group, and yield the number of rows of each."""
    import pyarrow.parquet as pq

    schema = parquet_schema(recipe)
    with pq.ParquetWriter(path, schema, **parquet_options(recipe)) as writer:
        for piece in pieces:
            rows = len(piece["row"])
            writer.write_table(as_arrow(recipe, piece, schema), row_group_size=rows)
            yield rows


def parquet_schema(recipe: ExportRecipe) -> Any:
    """The Arrow schema of a shard; only states of leaves that may be missing can be null."""
    import pyarrow as pa

    state = pa.from_numpy_dtype(recipe.dtype)
    found = [pa.field(name, pa.int64(), nullable=False) for name in recipe.keys]
    if recipe.columns == "nodes":
        for group, names in recipe.node_columns.items():
            found += [pa.field(name, state, nullable=recipe.hides(group)) for name in names]
    else:
        for group, width in recipe.widths.items():
            element = pa.field("element", state, nullable=recipe.hides(group))
            found.append(pa.field(group, pa.list_(element, width), nullable=False))
    return pa.schema(found)


def parquet_options(recipe: ExportRecipe) -> dict[str, Any]:
    """The options of the Parquet writer for a shard; see the top of this file."""
    if recipe.columns == "nodes":
        states = [name for names in recipe.node_columns.values() for name in names]
    else:
        states = [f"{group}.list.element" for group in recipe.widths]
    return {
        "compression": "zstd",
        "use_dictionary": states,
        "column_encoding": dict.fromkeys(recipe.keys, "DELTA_BINARY_PACKED"),
        "write_statistics": recipe.keys,
        "write_page_checksum": True,  # without, a changed bit gives other states
    }


def as_arrow(recipe: ExportRecipe, piece: Columns, schema: Any) -> Any:
    """Rows as an Arrow table of the schema."""
    import pyarrow as pa

    arrays = [pa.array(piece[name]) for name in recipe.keys]
    if recipe.columns == "nodes":
        for group in recipe.node_columns:
            arrays += [_states(recipe, piece[group][:, i]) for i in range(recipe.widths[group])]
    else:
        for group in recipe.widths:
            flat = _states(recipe, piece[group].reshape(-1))
            arrays.append(pa.FixedSizeListArray.from_arrays(flat, type=schema.field(group).type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _states(recipe: ExportRecipe, states: np.ndarray) -> Any:
    """States as an Arrow array, over the same memory where none can be missing; -1 becomes null."""
    import pyarrow as pa

    if states.dtype == recipe.dtype:
        return pa.array(np.ascontiguousarray(states))
    return pa.array(np.maximum(states, 0).astype(recipe.dtype), mask=states < 0)


def read_parquet(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # not read_table, which finds partitions in the folders' names
    file = pq.ParquetFile(path, page_checksum_verification=True)
    wide = recipe.columns == "nodes" and name not in recipe.keys
    if wide:
        return from_nodes(recipe, file.read(columns=recipe.node_columns[name]), name)
    column = file.read(columns=[name]).column(name).combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    flat = marked(recipe, name, column.flatten())
    return flat.reshape(-1, column.type.list_size)


def names_parquet(path: Path) -> list[str]:
    """The names of the columns of a shard."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def from_nodes(recipe: ExportRecipe, table: Any, group: str) -> np.ndarray:
    """`(B, width)` states of a group from an Arrow table with a column for each of its nodes."""
    names = recipe.node_columns[group]
    found = np.empty((len(table), len(names)), dtype=recipe.marked_dtype(group))
    for i, name in enumerate(names):
        column = marked(recipe, group, table.column(name).combine_chunks())
        if column.dtype != found.dtype:
            raise ValueError(f"{name} is of {column.dtype}, expected {found.dtype}")
        found[:, i] = column
    return found


def marked(recipe: ExportRecipe, group: str, states: Any) -> np.ndarray:
    """An Arrow array of states in numpy, with null as -1."""
    import pyarrow as pa

    if states.null_count or recipe.hides(group):
        # where no leaf of the group can be missing, nulls are a fault, which the dtype shows
        kind = pa.int16() if pa.types.is_uint8(states.type) else pa.int32()
        states = states.cast(kind).fill_null(-1)
    return states.to_numpy(zero_copy_only=False)
