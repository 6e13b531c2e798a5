"""Verifying an exported data set: every checksum, and random rows drawn again from their addresses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hltm._integers import as_integer
from hltm._paths import check_file, checksum, local_path
from hltm.data.export.files import column_names, read_column
from hltm.data.export.manifest import NAMES, manifest_path, read_recipe
from hltm.data.export.recipe import SUFFIXES, ExportRecipe, Shard
from hltm.data.export.settings import lost_marks
from hltm.sampling.philox import check_seed

LONGEST_RUN = 1 << 12  # rows drawn again at once


@dataclass(frozen=True)
class Verification:
    """The result of verifying a folder of exported data.

    Attributes:
        folder: its path.
        files: the number of files of the export.
        rows: the number of its rows, over all members.
        rows_checked: the number of rows that were drawn again and compared.
        problems: one sentence for each problem; empty if there is none.
    """

    folder: Path
    files: int
    rows: int
    rows_checked: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def __str__(self) -> str:
        if self.problems:
            return f"{self.folder} is NOT what it claims:\n" + "\n".join(
                f"- {problem}" for problem in self.problems
            )
        files = f"{self.files:,} file{'s' * (self.files != 1)}"
        return (
            f"{self.folder} is what it claims: {files}, {self.rows:,} rows; every checksum fits, "
            f"and {self.rows_checked:,} rows drawn again from their addresses are the same"
        )


def verify(folder: str | os.PathLike[str], rows: int = 1000, seed: int = 0) -> Verification:
    """Check that a folder holds what its manifest claims.

    Every file exists and has its checksum, there are no other files, and random rows are drawn again
    from the tree and their addresses and compared in every column, missing leaves included.

    Args:
        folder: written by `hltm.export`.
        rows: the number of random rows to draw again; all rows if it is that large.
        seed: of the choice of rows.

    Returns:
        A `Verification`; as text, it is a sentence or a list of the problems.

    Raises:
        FileNotFoundError: there is no exported data.
        ValueError: rows below 0, a URL, or a manifest that cannot be read.

    Example:
        >>> import hltm, tempfile, pathlib
        >>> tree = hltm.symmetric_binary(depth=3, seed=0)
        >>> place = tempfile.TemporaryDirectory()
        >>> data = hltm.export(tree, place.name, 1000, seed=1, rows_per_shard=500)
        >>> (pathlib.Path(place.name) / "data/00001-of-00002.npz").unlink()
        >>> verify(place.name).problems
        ('data/00001-of-00002.npz is missing',)
        >>> place.cleanup()
    """
    as_integer("rows", rows, 0)
    check_seed(seed)
    home = local_path(folder)
    manifest, recipe = read_recipe(home)
    problems, present = _files(home, manifest, recipe)
    problems += filter(None, [lost_marks(recipe)])
    total = sum(len(shard.rows) for shard in recipe.shards)
    chosen = np.random.default_rng(seed).choice(total, size=min(rows, total), replace=False)
    chosen.sort()
    checked = low = 0
    for shard in recipe.shards:
        mine = chosen[(chosen >= low) & (chosen < low + len(shard.rows))] - low
        low += len(shard.rows)
        if shard.file in present and len(mine):
            checked += len(mine)
            problems += _rows(home, recipe, shard, mine)
    return Verification(home, len(recipe.shards), total, checked, tuple(problems))


def _files(
    home: Path, manifest: dict[str, Any], recipe: ExportRecipe
) -> tuple[list[str], set[str]]:
    """Problems with the files as a whole, and the files that exist."""
    entries = {entry["file"]: entry for entry in manifest["shards"]}
    problems, present = [], set()
    for shard in recipe.shards:
        path, entry = home / shard.file, entries.pop(shard.file, None)
        try:
            check_file(path)
        except FileNotFoundError:
            problems.append(f"{shard.file} is missing")
            continue
        except ValueError as error:
            problems.append(str(error).removeprefix(f"{home}/"))
            continue
        present.add(shard.file)
        if entry is None:
            problems.append(f"{shard.file} is not in the manifest: the export is not finished")
            continue
        if (entry["member"], entry["start"], entry["rows"]) != (
            shard.member, shard.rows.start, len(shard.rows),
        ):  # fmt: skip
            problems.append(f"{shard.file}: the manifest gives it rows of other addresses")
        if path.stat().st_size != entry["bytes"]:
            size = path.stat().st_size
            problems.append(f"{shard.file} has {size:,} bytes, not {entry['bytes']:,}")
        elif checksum(path) != entry["sha256"]:
            problems.append(f"{shard.file} was changed: its SHA-256 checksum does not fit")
    problems += [f"{name} is in the manifest, but not part of the data set" for name in entries]
    expected = {shard.file for shard in recipe.shards}
    found = {*(home / "data").glob("*"), *home.rglob(f"*.{SUFFIXES[recipe.file_format]}")}
    found |= {home / name for name in NAMES if (home / name).is_file()} - {manifest_path(home)}
    names = sorted(path.relative_to(home).as_posix() for path in found)
    problems += [f"{name} is not part of the data set" for name in names if name not in expected]
    return problems, present


def _rows(home: Path, recipe: ExportRecipe, shard: Shard, chosen: np.ndarray) -> list[str]:
    """Problems with some rows of a file, by their places in it."""
    names = [*recipe.keys, *recipe.widths]
    try:
        held = set(column_names(home, recipe, shard))
        if more := held - set(recipe.column_names):
            return [
                f"{shard.file} holds a column that the manifest does not name: {min(more)!r:.100}"
            ]
        stored = {name: read_column(home, recipe, shard, name) for name in names}
    except ValueError as error:
        return [str(error).removeprefix(f"{home}/")]
    wrong = []
    for run in _runs(chosen):
        drawn = recipe.draw(shard.place, shard.rows[run.start : run.stop])
        for name in names:
            same = stored[name][run.start : run.stop] == drawn[name]
            same = same.reshape(len(run), -1).all(1)
            wrong += [(int(shard.rows[run.start + i]), name) for i in np.flatnonzero(~same)]
    if not wrong:
        return []
    row, name = min(wrong)
    count = len({row for row, _ in wrong})
    what = "1 row is" if count == 1 else f"{count:,} rows are"
    return [
        f"{shard.file}: {what} not what the address determines; the first is row {row}, in {name}"
    ]


def _runs(chosen: np.ndarray) -> list[range]:
    """Sorted numbers as ranges of consecutive numbers, none longer than LONGEST_RUN."""
    found = []
    # consecutive numbers have the same difference to their places
    for _, group in groupby(enumerate(chosen.tolist()), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        for low in range(0, len(numbers), LONGEST_RUN):
            part = numbers[low : low + LONGEST_RUN]
            found.append(range(part[0], part[-1] + 1))
    return found
