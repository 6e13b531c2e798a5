"""Checking an exported data set: every checksum, and random rows drawn again from their addresses."""

from __future__ import annotations

import operator
import os
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hltm.data.export.files import checksum, read_column
from hltm.data.export.manifest import MANIFEST, read_manifest
from hltm.data.export.recipe import ExportRecipe, Shard
from hltm.sampling.philox import check_seed

LONGEST_RUN = 1 << 12  # rows drawn again at once


@dataclass(frozen=True)
class Verification:
    """What was found out about a folder of exported data.

    Attributes:
        folder: which.
        files: how many files the export has.
        rows: how many rows it has, members counted.
        rows_checked: how many of them were drawn again and compared.
        problems: what is wrong, a sentence each; empty if nothing is.
    """

    folder: Path
    files: int
    rows: int
    rows_checked: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
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

    Every file is there, has its checksum and nothing beside it; and random rows, drawn again from
    the tree and their addresses, are the same in every column. All rows are, where `rows` is as
    many or more.

    Args:
        folder: of `hltm.export`.
        rows: how many rows to draw again.
        seed: which rows.

    Returns:
        `ok`, `problems` and, as text, a sentence that says it.

    Raises:
        FileNotFoundError: no exported data there.
        ValueError: rows below 0, or a manifest that cannot be read.

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
    if operator.index(rows) < 0:
        raise ValueError(f"rows must be at least 0, got {rows}")
    check_seed(seed)
    home = Path(folder)
    manifest = read_manifest(home)
    try:
        recipe = ExportRecipe.from_settings(manifest)
    except ValueError as error:
        raise ValueError(f"{home / MANIFEST}: {error}") from error
    problems, present = _files(home, manifest, recipe)
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
    """What is wrong with the files as files, and those that are there."""
    entries = {entry["file"]: entry for entry in manifest["shards"]}
    problems, present = [], set()
    for shard in recipe.shards:
        path, entry = home / shard.file, entries.pop(shard.file, None)
        if not path.is_file():
            problems.append(f"{shard.file} is missing")
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
    problems += [f"{name} is in the manifest, but no part of the data set" for name in entries]
    expected = {shard.file for shard in recipe.shards}
    for path in sorted((home / "data").glob("*")):
        if f"data/{path.name}" not in expected:
            problems.append(f"data/{path.name} is no part of the data set")
    return problems, present


def _rows(home: Path, recipe: ExportRecipe, shard: Shard, chosen: np.ndarray) -> list[str]:
    """What is wrong with some rows of a file, counted from its first."""
    names = ["row", *(["member"] if recipe.tree.stacked else []), *recipe.widths]
    try:
        stored = {name: read_column(home / shard.file, name) for name in names}
    except ValueError as error:
        return [f"{shard.file} cannot be read: {error.__cause__ or error}"]
    for name, column in stored.items():
        expected = (len(shard.rows), *([recipe.widths[name]] if name in recipe.widths else []))
        if column.shape != expected:
            return [f"{shard.file}: {name} has shape {column.shape}, expected {expected}"]
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
    return [f"{shard.file}: {what} not what the address gives; the first is row {row}, in {name}"]


def _runs(chosen: np.ndarray) -> list[range]:
    """Sorted numbers as ranges of neighbours, none longer than is drawn at once."""
    found = []
    for _, group in groupby(enumerate(chosen.tolist()), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in group]
        for low in range(0, len(numbers), LONGEST_RUN):
            part = numbers[low : low + LONGEST_RUN]
            found.append(range(part[0], part[-1] + 1))
    return found
