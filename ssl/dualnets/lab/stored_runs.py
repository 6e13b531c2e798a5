"""The runs and cells in a folder of results: found, checked, and named by what one can type.

A run is a folder `<out>/<experiment>/<run>` with a manifest. One that cannot be read is listed with the
reason and stops nothing; a folder without a manifest is unfinished, and no run.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from dualnets.lab import manifests
from dualnets.lab.experiment import Experiment, Fixed, values_of
from dualnets.lab.grids import as_typed
from dualnets.lab.store import MANIFEST, RESULTS, VERDICT, Store
from hltm._names import brief, listed
from hltm._paths import local_path

NAME = re.compile(r"[0-9a-f]{12}")  # of cells and runs, see `dualnets.lab.store.identity`
SHORTEST = 4  # digits of a name that is shown
DATE = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class StoredRun:
    """A run in a folder of results.

    Attributes:
        experiment, name: of which experiment, and its own name.
        folder: where its files are.
        date: when it was finished, as manifests have it; of earlier versions the time of its file.
        manifest: its manifest; empty if damaged.
        verdicts: its claims, as `Verdict.as_dict` gives them; empty if damaged.
        damage: why it cannot be read; empty if it can.
        cells: the names of its cells; None where its manifest cannot be read or is that of another run.
    """

    experiment: str
    name: str
    folder: Path
    date: str
    manifest: Mapping[str, Any]
    verdicts: Sequence[Mapping[str, Any]]
    damage: str
    cells: Sequence[str] | None

    @property
    def scale(self) -> str:
        """The scale of the run; empty if damaged."""
        return str(self.manifest.get("scale", ""))

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The settings of its cells."""
        return [cell["settings"] for cell in self.manifest.get("cells", ())]

    @property
    def size(self) -> int:
        """Bytes on disk of the run's folder and of its cells."""
        store = Store(self.folder.parent.parent, self.experiment)
        return folder_size(self.folder) + sum(folder_size(store.cell(c)) for c in self.cells or ())


@dataclass(frozen=True)
class StoredCell:
    """A cell that is stored: its settings, what it took, and when its manifest was written."""

    settings: Mapping[str, Any]
    seconds: float
    peak_memory: int | None
    size: int
    modified: float


def find_runs(out: str | os.PathLike[str]) -> list[StoredRun]:
    """All runs in a folder of results, newest first, damaged ones among them.

    Raises:
        ValueError: `out` is no folder.
    """
    home = local_path(out)
    if not home.is_dir():
        problem = "is no folder" if home.exists() else "does not exist"
        raise ValueError(f"{out} {problem}, expected a folder of results")
    found = [
        read_run(folder)
        for experiment in _folders(home)
        for folder in _folders(experiment)
        if NAME.fullmatch(folder.name) and _has_manifest(folder)
    ]
    return sorted(found, key=lambda run: (run.date, run.experiment, run.name), reverse=True)


def read_run(folder: Path) -> StoredRun:
    """A run with a manifest; what is wrong with it, it says itself."""
    experiment, name = folder.parent.name, folder.name
    manifest: Mapping[str, Any] = {}
    verdicts: list[Mapping[str, Any]] = []
    cells = None
    date, damage = run_date({}, folder), ""
    try:
        read = manifests.read_run(folder / MANIFEST)
        date = run_date(read, folder)
        if (read["experiment"], read["run"]) != (experiment, name):
            other = f"{brief(read['experiment'])}/{brief(read['run'])}"
            raise manifests.DamagedError(f"{MANIFEST} is a copy of that of {other}")
        cells = [cell["cell"] for cell in read["cells"]]
        judged = manifests.read_verdicts(folder / VERDICT)
        manifests.check_table(folder / RESULTS)
        manifests.check_files(folder, read, (RESULTS, VERDICT))
        manifest, verdicts = read, judged
    except manifests.DamagedError as error:
        damage = str(error)
    return StoredRun(experiment, name, folder, date, manifest, verdicts, damage, cells)


def stored_cells(store: Store) -> list[StoredCell]:
    """The cells of an experiment that can be read."""
    found = []
    for folder in _folders(store.home / "cells"):
        try:
            manifest = manifests.read_cell(folder / MANIFEST)
        except manifests.DamagedError:
            continue
        peak: Any = manifest.get("peak_memory")  # missing from earlier versions
        found.append(
            StoredCell(
                settings=manifest["settings"],
                seconds=manifest["seconds"],
                peak_memory=int(peak) if manifests.is_number(peak) and peak > 0 else None,
                size=folder_size(folder),
                modified=(folder / MANIFEST).stat().st_mtime,
            )
        )
    return found


# names


def short_names(runs: Iterable[StoredRun]) -> dict[Path, str]:
    """Folder of a run -> the shortest beginning of its name that no other run has, of four digits or more."""
    every = sorted(runs, key=lambda run: run.name)
    names = ["", *(run.name for run in every), ""]
    found = {}
    for run, before, after in zip(every, names, names[2:], strict=False):
        # the names beside it in their order have the longest beginnings in common with it
        shared = max(_shared(run.name, other) for other in (before, after))
        short = run.name[: max(SHORTEST, shared + 1)]
        # only a copy has the whole name of another run
        copy = run.name in (before, after)
        found[run.folder] = f"{flag(run.experiment)}/{short}" if copy else short
    return found


def _shared(a: str, b: str) -> int:
    """The number of characters with which both texts begin."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def named(text: str, runs: Sequence[StoredRun], out: str) -> StoredRun:
    """The run that is meant by the beginning of its name, `experiment/beginning`, or a path.

    Args:
        text: what was typed, e.g. `fa3a`, `losses/fa3a`, `losses` or `runs/losses/fa3a05c8f291`.
        runs: all runs of the folder.
        out: the folder.

    Raises:
        ValueError: no run, or several.
    """
    home = f"{out.rstrip('/')}/"
    is_path = text.startswith(("/", "./", "../", home))
    path = os.path.relpath(text, out) if is_path else text.strip("/")
    experiment, slash, start = path.rpartition("/")
    if not slash and any(run.experiment == path.replace("-", "_") for run in runs):
        experiment, start = path, ""
    experiment = experiment.replace("-", "_")
    found = [
        run
        for run in runs
        if run.name.startswith(start) and (not experiment or run.experiment == experiment)
    ]
    if len(found) == 1 and path:
        return found[0]
    if not runs:
        raise ValueError(f"there is no run '{brief(text)}': {out} holds no runs")
    if not found or not path:
        raise ValueError(f"there is no run '{brief(text)}' in {out}; hltm runs lists them")
    short = short_names(runs)
    several = [f"{flag(run.experiment)}/{short[run.folder]}" for run in found]
    raise ValueError(f"'{brief(text)}' is {len(found)} runs: {listed(several)}")


def flag(experiment: str) -> str:
    """The name of an experiment on the command line."""
    return experiment.replace("_", "-")


def changed_flags(run: StoredRun, experiment: Experiment | None) -> list[str]:
    """The arguments of the run's command that differ from the settings of its scale, e.g. `--lr 0.1`.

    Args:
        run: whose command.
        experiment: as it is today; None if there is no such experiment any more.
    """
    given: dict[str, list[str]] = {}
    try:
        words = shlex.split(str(run.manifest.get("command", "")))
    except ValueError:
        return []
    for word in words:
        if word.startswith("--"):
            given[word] = []
        elif given:
            given[next(reversed(given))].append(word)
    given.pop("--scale", None)
    grids = experiment.grids.get(run.scale, ()) if experiment else ()
    usual = {item.name: item.default for item in fields(experiment.Settings)} if experiment else {}
    found = []
    for name, values in given.items():
        key = name[2:].replace("-", "_")
        axes = [grid.get(key, [usual[key]]) for grid in grids if key in usual]
        own = [as_typed(values_of(axis)) for axis in axes if not isinstance(axis, Fixed)]
        if not own or any(values != each for each in own):
            found.append(shlex.join([name, *values]))
    return found


# files


def folder_size(folder: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    total = 0
    for home, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # it was removed meanwhile
                total += os.lstat(os.path.join(home, name)).st_size
    return total


def shown_size(size: float) -> str:
    """Bytes as one reads them.

    Example:
        >>> shown_size(800), shown_size(1_234_000)
        ('1 kB', '1.2 MB')
    """
    for unit, least in (("GB", 1e9), ("MB", 1e6)):
        if size >= least:
            return f"{size / least:.1f} {unit}"
    return f"{math.ceil(size / 1e3)} kB"


def _folders(home: Path) -> Iterator[Path]:
    """The folders in a folder, by name; hidden ones are being written or were left by killed processes."""
    if home.is_dir() and os.access(home, os.R_OK | os.X_OK):
        yield from sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith("."))


def _has_manifest(folder: Path) -> bool:
    """Whether a folder has a manifest; one that cannot be opened may have one."""
    return (folder / MANIFEST).is_file() if os.access(folder, os.X_OK) else True


def run_date(manifest: Mapping[str, Any], folder: Path) -> str:
    """The date of a run's manifest; without one, as of earlier versions, that of the manifest's file.

    Args:
        manifest: of the run, or an empty one.
        folder: of the run, whose own date counts if it cannot be opened.
    """
    try:
        return datetime.strptime(str(manifest.get("date")), DATE).strftime(DATE)
    except ValueError:
        path = folder / MANIFEST if os.access(folder, os.X_OK) else folder
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime(DATE)
