"""CSV files of shards: a line of names, then a line per row; missing leaves are empty."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hltm.data.export.parquet import as_arrow, from_nodes, parquet_schema
from hltm.data.export.recipe import Columns, ExportRecipe, Shard

LONGEST_ROW = 1 << 24  # bytes that pyarrow reads at once, at least those of a row


def write_csv(
    path: Path, recipe: ExportRecipe, shard: Shard, pieces: Iterator[Columns]
) -> Iterator[int]:
    """Write a shard piece by piece, and yield the number of rows of each."""
    from pyarrow.csv import WriteOptions, write_csv

    schema = parquet_schema(recipe)
    with path.open("wb") as file:
        file.write(_header(recipe))
        for piece in pieces:
            write_csv(as_arrow(recipe, piece, schema), file, WriteOptions(include_header=False))
            yield len(piece["row"])


def read_csv(path: Path, recipe: ExportRecipe, name: str) -> np.ndarray:
    """A key `(B,)` or a group `(B, width)` of a shard."""
    import pyarrow as pa
    from pyarrow.csv import ConvertOptions, ReadOptions, read_csv

    content, header = path.read_bytes(), _header(recipe)
    if not content.startswith(header):
        raise ValueError("its first line does not have the names of the columns")
    schema = parquet_schema(recipe)
    wanted = [name] if name in recipe.keys else recipe.node_columns[name]
    table = read_csv(
        pa.BufferReader(pa.py_buffer(content)[len(header) :]),
        read_options=ReadOptions(column_names=schema.names, block_size=LONGEST_ROW),
        convert_options=ConvertOptions(
            column_types={column: schema.field(column).type for column in wanted},
            include_columns=wanted, null_values=[""],
        ),
    )  # fmt: skip
    if name in recipe.keys:
        return table.column(name).to_numpy()
    return from_nodes(recipe, table, name)


def _header(recipe: ExportRecipe) -> bytes:
    """The first line: names that need it are quoted, the same in every version of Python."""
    return (",".join(map(_quoted, parquet_schema(recipe).names)) + "\n").encode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if re.search(r'[,"\r\n]', name) else name
