"""Exporting: shard after shard, each whole or not at all; a shard that exists is not written again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from hltm._executors import Source, check_executor, check_version, this_process
from hltm._paths import alone, checksum, local_path
from hltm.data.export.card import dataset_card
from hltm.data.export.files import replacing, write_shard
from hltm.data.export.manifest import (
    NAMES,
    check_same,
    describe,
    manifest_path,
    read_manifest,
    shard_entry,
    write_manifest,
)
from hltm.data.export.read import DataFolder, load
from hltm.data.export.recipe import Columns, ExportRecipe, Shard
from hltm.data.export.settings import make_recipe, settings
from hltm.model.nodes import Nodes
from hltm.sampling.augment import Augmentation
from hltm.tree import LatentTree

CARD = "README.md"
Progress = Callable[[int, int], None]
Sources = Mapping[tuple[int, range], tuple[Path, str]]  # member and rows -> a file and its checksum


def export(
    tree: LatentTree,
    folder: str | os.PathLike[str],
    samples: int,
    *,
    seed: int,
    start: int = 0,
    views: int = 0,
    augment: Augmentation | None = None,
    nodes: Nodes = "all",
    format: str = "npz",  # noqa: A002 - the word that users look for
    columns: str | None = None,
    rows_per_shard: int | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
) -> DataFolder:
    """Write rows start .. start + samples - 1 of the endless data set of `seed` to a folder.

    Every file has the columns `row` (int64), `leaves` `(X,)`, `latents` `(V_kept,)` and `view_1`,
    `view_2`, … `(X,)`; states are uint8 (uint16 above 256 states). Stacked trees share the folder:
    each file holds rows of one member, and a column `member` (int64) has its address.
    The manifest holds the tree, and the address and the SHA-256 checksum of each file.

    A leaf that a view misses (`hltm.drop_leaves`) has no state in the file: it is null in Parquet and
    empty in CSV; in npz and safetensors, views are int16 (int32 above 256 states) with -1 there.

    A file appears whole or not at all. If a call is interrupted, even by a kill -9, the same call
    continues it, and the folder ends up the same to the last byte.

    Args:
        folder: its path; it is created if missing.
        samples: B, the number of rows of each member.
        views: the number of views of the leaves, numbers 1 .. views of `tree.views`.
        augment: the augmentation of the views.
        nodes: `all` latents beside the leaves, the `leaves` alone, or the latents to keep, by
            number or name.
        format: `npz`, `parquet`, `safetensors`, `csv`, or `huggingface`: Parquet and a dataset card.
        columns: `arrays`, or `nodes` for a column of integers per node: latents and leaves by their
            names, and the leaves of view 1 by names that end in `_view_1`. CSV has columns of nodes
            only, npz and safetensors have arrays only; by default arrays where the format has them.
        rows_per_shard: rows of a file; by default 2^20, or fewer where these exceed 256 MiB.
        progress: called with the number of rows written and their total, over all members.
        executor: writes the files, each in a task of its own: any `concurrent.futures.Executor` whose
            processes see the folder. It is not shut down.

    Returns:
        The folder, as `hltm.load` reads it.

    Raises:
        ValueError: an argument outside its range, a URL for the folder, two columns of one name, or
            a folder that holds anything else; the error names what differs.
        TypeError: no tree, numbers that are not integers, or no executor.
        KeyError, IndexError: a node that the tree does not have.
        OSError: a folder that cannot be written, or that another process is writing; or an executor that
            did not write a file. The same call continues from there.

    Example:
        >>> import hltm, tempfile
        >>> tree = hltm.symmetric_binary(depth=3, polarity=(0.7, 1.0), seed=0)
        >>> place = tempfile.TemporaryDirectory()
        >>> data = hltm.export(tree, place.name, 1000, seed=1, views=2, augment=hltm.keep_root())
        >>> data.leaves[:100].equal(tree.sample(100, seed=1).leaves)
        True
        >>> hltm.verify(place.name).ok
        True
        >>> place.cleanup()
    """
    home = local_path(folder)
    check_executor(executor)
    recipe = make_recipe(
        tree, samples, seed=seed, start=start, views=views, augment=augment, nodes=nodes,
        file_format=format, columns=columns, rows_per_shard=rows_per_shard,
    )  # fmt: skip
    return write(home, recipe, progress, executor)


def write(
    home: Path,
    recipe: ExportRecipe,
    progress: Progress | None,
    executor: Executor | None = None,
    sources: Sources | None = None,
) -> DataFolder:
    """Create a folder, and write those files of a recipe that do not exist yet, alone in the folder.

    Args:
        home: the folder.
        recipe, progress, executor: as in `export`.
        sources: the files of other folders, by member and rows, which are copied.
    """
    with alone(home):
        content = describe(recipe)
        entries = _written(home, recipe)
        total = sum(len(shard.rows) for shard in recipe.shards)
        done = sum(entry["rows"] for entry in entries.values())
        if progress is not None:
            progress(done, total)
        if len(entries) < len(recipe.shards):
            # the manifest comes first: a folder without one is refused as someone else's
            _enter(home, recipe, content, entries)
            (home / "data").mkdir(exist_ok=True)
        if recipe.file_format == "huggingface" and not (home / CARD).is_file():
            with replacing(home / CARD) as partial:
                partial.write_text(dataset_card(recipe), encoding="utf-8")

        def count(rows: int) -> None:
            nonlocal done
            done += rows
            if progress is not None:
                progress(done, total)

        left = [shard for shard in recipe.shards if shard.file not in entries]
        if executor is None:
            written: Iterator[dict[str, Any]] = (
                _write_shard(home, recipe, shard, count, sources) for shard in left
            )
        else:
            written = _written_by(executor, home, recipe, left, count)
        for entry in written:
            entries[entry["file"]] = entry
            _enter(home, recipe, content, entries)
    return load(home)


def _write_shard(
    home: Path, recipe: ExportRecipe, shard: Shard, count: Callable[[int], None],
    sources: Sources | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write a shard, and return its entry in the manifest; `count` is called with numbers of rows."""
    source = (sources or {}).get((shard.member, shard.rows))
    with replacing(home / shard.file) as partial:
        if source is None:
            for rows in write_shard(partial, recipe, shard, _drawn_ahead(recipe, shard)):
                count(rows)
        else:
            path, sha256 = source
            shutil.copyfile(path, partial)
            if checksum(partial) != sha256:
                raise ValueError(f"{path} was changed: its SHA-256 checksum does not fit")
            count(len(shard.rows))
    return shard_entry(home, shard)


def _written_by(
    executor: Executor, home: Path, recipe: ExportRecipe, shards: list[Shard],
    count: Callable[[int], None],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The entries of shards that an executor writes, as they are finished."""
    bare = replace(recipe)  # without the list of all shards, which it has made meanwhile
    asking, place = this_process(), home.absolute()
    tasks: dict[Future[dict[str, Any]], Shard] = {}
    try:
        for shard in shards:
            try:
                tasks[executor.submit(_write_elsewhere, asking, place, bare, shard)] = shard
            except Exception as error:  # a pool that is broken, or an executor that was shut down
                reason = str(error) or type(error).__name__
                raise OSError(f"the executor takes no more files: {reason}") from error
        for task in as_completed(tasks):
            shard = tasks[task]
            try:
                entry = task.result()
            except (ValueError, OSError, MemoryError):
                raise
            except Exception as error:  # executors have errors of their own for a process that died
                reason = f"{type(error).__name__}: {error}".rstrip(": ")
                raise OSError(f"{shard.file} was not written: {reason}") from error
            if not (home / shard.file).is_file():
                raise OSError(
                    f"{shard.file} was written by another machine, but is not in {home} here: all must see "
                    "the same folder"
                )
            count(len(shard.rows))
            yield entry
    finally:
        for task in tasks:
            task.cancel()


def _write_elsewhere(
    asking: Source, home: Path, recipe: ExportRecipe, shard: Shard
) -> dict[str, Any]:
    """Write a shard in the process of an executor."""
    check_version(asking)
    return _write_shard(home, recipe, shard, lambda rows: None)


def _enter(
    home: Path, recipe: ExportRecipe, content: dict[str, Any], entries: dict[str, dict[str, Any]]
) -> None:
    """Write the manifest with the entries of the shards so far, in their order."""
    shards = [entries[shard.file] for shard in recipe.shards if shard.file in entries]
    complete = len(shards) == len(recipe.shards)
    write_manifest(home, content | {"complete": complete, "shards": shards})


def _written(home: Path, recipe: ExportRecipe) -> dict[str, dict[str, Any]]:
    """File -> manifest entry, of the shards that an earlier call has written, and that nothing has changed.

    Others are written again, to the same bytes: a file without an entry, or whose checksum does not fit.
    """
    if not manifest_path(home).is_file():
        strangers = {path.name for path in home.iterdir()} - {path.name for path in _partial(home)}
        if strangers:
            raise ValueError(
                f"{home} is not empty and holds no exported data: there is {min(strangers)!r}; "
                "choose another folder"
            )
        _remove(_partial(home))
        return {}
    found = read_manifest(home)
    check_same(home, found, settings(recipe))
    _remove([*_partial(home), *(home / "data").glob(".*.partial")])
    planned = {shard.file for shard in recipe.shards}
    return {
        entry["file"]: entry
        for entry in found["shards"]
        if entry["file"] in planned
        and (home / entry["file"]).is_file()
        and not (home / entry["file"]).is_symlink()
        and (home / entry["file"]).stat().st_size == entry["bytes"]
        and checksum(home / entry["file"]) == entry["sha256"]
    }


def _partial(home: Path) -> list[Path]:
    """What a call that was killed left of the files beside the data."""
    return [path for name in (*NAMES, CARD) for path in home.glob(f".{name}.*partial")]


def _remove(files: list[Path]) -> None:
    for path in files:
        path.unlink(missing_ok=True)


def _drawn_ahead(recipe: ExportRecipe, shard: Shard) -> Iterator[Columns]:
    """The pieces of a shard; a thread draws the next one while this one is written."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for rows in recipe.pieces(shard):
            following = pool.submit(recipe.draw, shard.place, rows)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
