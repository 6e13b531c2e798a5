"""Joining: folders whose rows follow each other become one, as if they had been exported at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from hltm._paths import local_path
from hltm.data.export.manifest import difference
from hltm.data.export.read import DataFolder, load
from hltm.data.export.settings import check_size, settings
from hltm.data.export.write import Progress, Sources, write


def join(
    folders: Sequence[str | os.PathLike[str]],
    folder: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> DataFolder:
    """Join exports of consecutive rows, e.g. made on several machines, into a new folder.

    The folder has the same content, to the last byte, as one export of all rows. Files are copied where
    the joined folder has a file of the same rows, as where every part but the last has a multiple of
    `rows_per_shard` rows; the rows of other files are drawn again from their addresses. A call that was
    interrupted is continued by the same call.

    Args:
        folders: the parts, in any order: finished exports of one tree, seed, augmentation, selection of
            nodes, format, layout of columns, and `rows_per_shard`.
        folder: the new folder; it is created if missing.
        progress: called with the number of rows written and their total, over all members.

    Returns:
        The folder, as `hltm.load` reads it.

    Raises:
        ValueError: no parts, parts that do not belong together, with what differs, or whose rows leave a
            gap or overlap; a part that is not finished, or whose file was changed; or a new folder that
            holds anything else.
        TypeError: a single path in place of a list.
        FileNotFoundError: a part that holds no exported data.
        OSError: a folder that cannot be written, or that another process is writing.

    Example:
        >>> import hltm, tempfile
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> place = tempfile.TemporaryDirectory()
        >>> one, two = f"{place.name}/one", f"{place.name}/two"
        >>> _ = hltm.export(tree, one, 600, seed=1, rows_per_shard=300)
        >>> _ = hltm.export(tree, two, 400, seed=1, rows_per_shard=300, start=600)
        >>> joined = hltm.join([one, two], f"{place.name}/joined")
        >>> len(joined), hltm.verify(joined.folder).ok
        (1000, True)
        >>> place.cleanup()
    """
    if isinstance(folders, str | os.PathLike):
        raise TypeError(f"folders must be a list of folders, got {folders!r}")
    if not folders:
        raise ValueError("folders must be at least one folder, got none")
    home = local_path(folder)
    parts = sorted((load(each) for each in folders), key=lambda part: part.recipe.start)
    first = parts[0]
    expected = settings(first.recipe)
    for part in parts[1:]:
        own = {key: expected[key] for key in expected if key not in ("start", "n")}
        if what := difference(part.manifest, own):
            raise ValueError(f"{part.folder} does not belong to {first.folder}: {what}")
    for part in parts:
        if part.folder.resolve() in home.resolve().parents:
            raise ValueError(
                f"the new folder {home} is inside {part.folder}, which would be changed"
            )
    for one, two in pairwise(parts):
        _check_consecutive(one, two)
    recipe = replace(first.recipe, samples=parts[-1].rows.stop - first.rows.start)
    check_size(recipe)
    sources: dict[tuple[int, range], tuple[Path, str]] = {}
    for part in parts:
        for entry in part.manifest["shards"]:
            rows = range(entry["start"], entry["start"] + entry["rows"])
            sources[entry["member"], rows] = part.folder / entry["file"], entry["sha256"]
    found: Sources = sources
    return write(home, recipe, progress, sources=found)


def _check_consecutive(one: DataFolder, two: DataFolder) -> None:
    """Raise a ValueError if the rows of the second do not follow those of the first."""
    end, begin = one.rows.stop, two.rows.start
    if begin > end:
        raise ValueError(
            f"rows {end:,} to {begin - 1:,} are missing between {one.folder} and {two.folder}"
        )
    if begin < end:
        last = min(end, two.rows.stop) - 1
        raise ValueError(f"rows {begin:,} to {last:,} are in both {one.folder} and {two.folder}")
