"""Removing runs: what may go without harm to any other run, and its removal.

Only what is surely ours is removed: a folder of a run or a cell with a manifest and with no file that runs
do not write, or a hidden folder of the kind that a run writes into before it is complete. Links are neither
followed nor removed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dualnets.lab.store import CELLS, MANIFEST, NETWORKS, RESULTS, VERDICT
from dualnets.lab.stored_runs import NAME, StoredRun, find_runs
from hltm._names import brief
from hltm._paths import local_path, locked

# a folder that is not complete yet, or one that is being replaced or removed
HIDDEN = re.compile(rf"\.{NAME.pattern}-(old-|removed-|damaged-)?\w{{8}}")
OURS = {MANIFEST, RESULTS, VERDICT, "index.html"}
PICTURES = (".png", ".svg")  # of a run, named after its experiment
DAY = 86_400.0  # seconds; no run writes one cell for so long without a change to its folder


@dataclass(frozen=True)
class Removal:
    """What would be removed.

    Attributes:
        runs: folders of runs.
        cells: folders of cells that no remaining run needs.
        leftovers: hidden folders that killed processes left.
        kept: why something stays that one would expect to go.
    """

    runs: list[Path] = field(default_factory=list)
    cells: list[Path] = field(default_factory=list)
    leftovers: list[Path] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """All that would go."""
        return [*self.runs, *self.cells, *self.leftovers]

    def remove(self) -> None:
        """Remove it; a folder that changed its nature meanwhile stays, as do cells that a run uses by now.

        Every folder is renamed before its files go, so that an interruption leaves no damaged run.
        """
        for folder in (*self.runs, *self.leftovers):
            _remove(folder)
        for home in dict.fromkeys(cell.parent.parent for cell in self.cells):
            with suppress(BlockingIOError), locked(home, shared=False):
                for folder in self.cells:
                    if folder.parent.parent == home:
                        _remove(folder)


def _remove(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        return
    if folder.name.startswith("."):
        shutil.rmtree(folder)
        return
    hidden = tempfile.mkdtemp(prefix=f".{folder.name}-removed-", dir=folder.parent)
    os.replace(folder, Path(hidden) / "was")
    shutil.rmtree(hidden)


def of_runs(out: str | os.PathLike[str], chosen: Sequence[StoredRun]) -> Removal:
    """What goes with runs: their folders, and the cells that no other run needs.

    Raises:
        ValueError: a folder is a link, or has a file that is not of the run.
    """
    for run in chosen:
        if problem := _not_ours(run.folder, run.experiment, run.manifest.get("files", ())):
            raise ValueError(f"{run.folder} {problem}; nothing is removed")
    found = Removal(runs=[run.folder for run in chosen])
    others = [run for run in find_runs(out) if run.folder not in found.runs]
    for experiment in dict.fromkeys(run.experiment for run in chosen):
        used = {c for r in chosen if r.experiment == experiment for c in r.cells or ()}
        _add_cells(found, local_path(out) / experiment, sorted(used), others)
    return found


def unused(out: str | os.PathLike[str]) -> Removal:
    """The cells that no run needs, and what killed processes left more than a day ago."""
    found, runs = Removal(), find_runs(out)
    for home in _own_folders(local_path(out).resolve()):  # the folder itself may be a link
        cells = sorted(p.name for p in _own_folders(home / CELLS) if NAME.fullmatch(p.name))
        _add_cells(found, home, cells, runs)
        for place in (home, home / CELLS):
            for folder in _own_folders(place):
                ours = HIDDEN.fullmatch(folder.name) and not _foreign(folder, home.name)
                if ours and time.time() - _changed(folder) > DAY:
                    found.leftovers.append(folder)
    return found


def _add_cells(
    found: Removal, home: Path, names: Iterable[str], remaining: Sequence[StoredRun]
) -> None:
    """Add those cells of an experiment that no remaining run needs."""
    own = [run for run in remaining if run.experiment == home.name]
    unknown = [run for run in own if run.cells is None]
    if unknown:
        found.kept.append(
            f"the cells of {home.name} stay, since run {unknown[0].name} may need them, whose "
            f"manifest cannot be read: {unknown[0].damage}"
        )
        return
    if _in_use(home):
        found.kept.append(
            f"the cells of {home.name} stay, since a run of it is being computed and may need them"
        )
        return
    needed = {cell for run in own for cell in run.cells or ()}
    for name in names:
        folder = home / CELLS / name
        # a manifest may name anything
        if name in needed or not NAME.fullmatch(name) or not (folder / MANIFEST).is_file():
            continue
        if problem := _not_ours(folder, home.name):
            found.kept.append(f"{folder} stays, since it {problem}")
        else:
            found.cells.append(folder)


def _in_use(home: Path) -> bool:
    """Whether a run of an experiment is being computed, in this process or another of this machine."""
    try:
        with locked(home, shared=False):
            return False
    except BlockingIOError:
        return True


def _not_ours(folder: Path, experiment: str, known: Collection[str] = ()) -> str:
    """Why a folder is not surely ours; empty if it is. `known`: files that its manifest names."""
    above = folder.parents[: 2 if folder.parent.name == CELLS else 1]
    links = [path for path in (folder, *above) if path.is_symlink()]
    if links:
        return "is a link" if links[0] == folder else f"is reached by the link {links[0].name}"
    foreign = _foreign(folder, experiment, known)
    return f"has {brief(foreign)}, which no run writes: move it away first" if foreign else ""


def _foreign(folder: Path, experiment: str, known: Collection[str] = ()) -> str:
    """A file or folder inside that no run writes; empty if there is none."""
    ours = {*OURS, *known, *(f"{experiment}{suffix}" for suffix in PICTURES)}
    for home, folders, files in os.walk(folder):
        inner = Path(home).relative_to(folder).as_posix()
        networks = inner.rpartition("/")[2] == NETWORKS
        for name in [*folders, *files]:
            path, shown = Path(home) / name, f"{inner}/{name}".removeprefix("./")
            if path.is_symlink():
                return shown
            if name in folders:
                allowed = (name == NETWORKS and not networks) or (inner == "." and name == "was")
            else:
                own = not known or shown in known  # a cell's manifest names no files
                allowed = name.endswith(".safetensors") and own if networks else name in ours
            if not allowed and shown not in ours:
                return shown
    return ""


def _changed(folder: Path) -> float:
    """The time of the last change in a folder."""
    times = [folder.stat().st_mtime]
    for home, folders, files in os.walk(folder):
        times += [os.lstat(os.path.join(home, name)).st_mtime for name in [*folders, *files]]
    return max(times)


def _own_folders(home: Path) -> Iterator[Path]:
    """The folders in a folder that are no links."""
    if home.is_dir() and not home.is_symlink():
        yield from sorted(p for p in home.iterdir() if p.is_dir() and not p.is_symlink())
