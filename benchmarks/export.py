"""Exporting beside what the Parquet writer alone needs for the same bytes, in one run.

    python benchmarks/export.py                      # 1e7 rows, about two minutes
    python benchmarks/export.py --rows 100_000_000   # about ten minutes and 1 GB of disk

Every way runs in a process of its own, so that the memory is its own; they take their turns, so
that a busy machine slows them alike, and the time is the median of the turns. The writer alone gets
one shard of rows that lie in memory, and writes it again and again, in the same row groups with the
same encoding; it neither syncs to the disk nor takes checksums.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

import hltm
from hltm.data.export.parquet import as_arrow, parquet_options, parquet_schema
from hltm.data.export.recipe import ExportRecipe
from hltm.data.export.settings import make_recipe

EXPORTS: dict[str, dict[str, Any]] = {
    "hltm.export, parquet": {"format": "parquet"},
    "hltm.export, parquet, a column per node": {"format": "parquet", "columns": "nodes"},
    "hltm.export, safetensors": {"format": "safetensors"},
    "hltm.export, npz": {"format": "npz"},
    "hltm.export, csv": {"format": "csv"},
}
for _format in ("parquet", "npz"):
    EXPORTS[f"hltm.export, {_format}, two views"] = {
        "format": _format, "views": 2, "augment": hltm.keep_root(),
    }  # fmt: skip
    EXPORTS[f"hltm.export, {_format}, two views with missing leaves"] = {
        "format": _format, "views": 2, "augment": hltm.drop_leaves(0.2),
    }  # fmt: skip
WAYS = ("generator alone", "Parquet writer alone", "hltm.export, parquet")


def recipe_of(rows: int) -> ExportRecipe:
    """A binary tree of depth 5, all latents beside the leaves."""
    tree = hltm.symmetric_binary(depth=5, polarity=(0.7, 1.0), seed=0)
    return make_recipe(
        tree, rows, seed=1, start=0, views=0, augment=None, nodes="all", file_format="parquet",
        columns=None, rows_per_shard=None,
    )  # fmt: skip


def draw_all(recipe: ExportRecipe) -> None:
    """Draw every row and drop it."""
    for shard in recipe.shards:
        for rows in recipe.pieces(shard):
            recipe.draw(0, rows)


def first_shard(recipe: ExportRecipe) -> list[pa.Table]:
    """The first shard's row groups, in memory."""
    schema = parquet_schema(recipe)
    found = []
    for rows in recipe.pieces(recipe.shards[0]):
        found.append(as_arrow(recipe, recipe.draw(0, rows), schema))
    return found


def write_all(recipe: ExportRecipe, tables: list[pa.Table], folder: Path) -> None:
    """Write as many rows as the recipe has, shard by shard, from tables that lie in memory."""
    for i, shard in enumerate(recipe.shards):
        left = len(shard.rows)
        path = folder / f"{i}.parquet"
        with pq.ParquetWriter(path, parquet_schema(recipe), **parquet_options(recipe)) as writer:
            for table in tables:
                part = table.slice(0, left)
                left -= len(part)
                if len(part):
                    writer.write_table(part, row_group_size=len(part))


def run(way: str, rows: int) -> dict[str, float]:
    """Seconds, bytes and memory of one way, in this process."""
    recipe = recipe_of(rows)
    recipe.draw(0, range(1000))  # compiles
    tables = first_shard(recipe) if way == "Parquet writer alone" else []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = Path(tempfile.mkdtemp(prefix="hltm-export-"))
    try:
        start, busy = time.perf_counter(), time.process_time()
        if way == "generator alone":
            draw_all(recipe)
        elif tables:
            write_all(recipe, tables, folder)
        else:
            hltm.export(recipe.tree, folder, rows, seed=recipe.seed, **EXPORTS[way])
        seconds = time.perf_counter() - start
        processor = time.process_time() - busy
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    finally:
        shutil.rmtree(folder)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = {"before": before * 1024, "memory": most * 1024}
    return {"seconds": seconds, "processor": processor, "bytes": size} | memory


def main() -> None:
    parser = argparse.ArgumentParser(description="Exporting beside the Parquet writer alone.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--all-exports", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(run(options.way, options.rows)))
        return
    ways = tuple(dict.fromkeys((*WAYS, *EXPORTS))) if options.all_exports else WAYS
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way in ways:
            command = [sys.executable, __file__, "--rows", str(options.rows), "--way", way]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[way].append(json.loads(done.stdout))
    middle = {
        way: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for way, turns in found.items()
    }
    writer = middle["Parquet writer alone"]["seconds"]
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, pyarrow {pa.__version__}")
    print(f"{options.rows:,} rows of 63 nodes, median of {options.repeats}\n")
    print(
        "| way | seconds | of the processor | rows/s | against the writer | MB written | "
        "MB of memory, at most |"
    )
    print("|---" * 7 + "|")
    for way, m in middle.items():
        size = f"{m['bytes'] / 1e6:,.0f}" if m["bytes"] else ""
        print(
            f"| {way} | {m['seconds']:.1f} | {m['processor']:.1f} | {options.rows / m['seconds']:,.0f} | "
            f"{m['seconds'] / writer:.2f} | {size} | "
            f"{m['memory'] / 1e6:,.0f} ({m['before'] / 1e6:,.0f} before) |"
        )


if __name__ == "__main__":
    main()
