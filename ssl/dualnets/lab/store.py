"""Results on disk: cells and runs, each a folder that appears whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dualnets._checksums import FILES, with_checksums
from dualnets._files import replace_folder, write_json
from dualnets.lab import manifests
from hltm._names import brief, visible
from hltm._paths import local_path, locked, safetensors_errors

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

RESULTS = "results.parquet"
MANIFEST = "manifest.json"  # written last: a cell or a run that has one is whole
VERDICT = "verdict.json"
READ_ATTEMPTS = 3
CELLS = "cells"
NETWORKS = "networks"  # a folder of .safetensors files
# Names of metrics in tables of earlier versions -> today's
RENAMED = {
    "best_abs_correlation": "correlation",
    "best_abs_correlation_post_relu": "correlation_post_relu",
    "best_correlation_ratio": "correlation_ratio",
    "best_correlation_ratio_post_relu": "correlation_ratio_post_relu",
    "blind": "below_null",
    "relay": "rival_baseline",
}

T = TypeVar("T")


def identity(*parts: object) -> str:
    """Twelve hexadecimal digits of a hash: equal parts, which must be JSON, have equal names.

    Example:
        >>> identity("losses", 1, {"units": 10})
        '04a642ef2447'
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def now() -> str:
    """Date and time in UTC to the second, e.g. 2026-11-29T05:30:00Z, as manifests have them."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def versions() -> dict[str, str | None]:
    """Versions of the software that made a result, and the commit of the source tree, if there is one."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from hltm import DRAW_FORMAT

    found: dict[str, str | None] = {"draw_format": str(DRAW_FORMAT)}
    found["python"] = platform.python_version()
    for name in ("hltm", "torch", "numpy", "numba", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["commit"] = _commit()
    return found


@functools.cache  # that of the code that this process has loaded
def _commit() -> str | None:
    """The commit of this package's source tree; None for a package that is installed elsewhere."""
    import subprocess

    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    top, _, commit = answer.stdout.strip().partition("\n")
    # an installed package may lie in somebody else's source tree, e.g. in a virtual environment there
    own = answer.returncode == 0 and Path(top) == here.parents[2]
    return commit if own else None


class Store:
    """The folder of one experiment: `cells/<cell>/`, which its runs share, and `<run>/`."""

    def __init__(self, out: str | os.PathLike[str], experiment: str) -> None:
        self.home = local_path(out) / experiment

    def check_writable(self) -> None:
        """Raise OSError, with the folder's name in its text, unless files can be written here."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.home):
                pass
        except OSError as error:
            raise OSError(f"cannot write to {self.home}: {error.strerror}") from error
        try:
            str(self.home).encode()
        except UnicodeEncodeError as error:  # safetensors files have no other paths
            raise OSError(f"cannot write to {visible(self.home)}: its name is no UTF-8") from error

    def cell(self, name: str) -> Path:
        """The folder of a cell, stored or not."""
        return self.home / CELLS / name

    def run(self, name: str) -> Path:
        """The folder of a run, finished or not."""
        return self.home / name

    def has_cell(self, name: str) -> bool:
        """Whether a cell is stored."""
        return (self.cell(name) / MANIFEST).is_file()

    def check_cell(self, name: str) -> None:
        """Check that a stored cell is what it was when it was written, and the one of this name.

        Raises:
            DamagedError: it is not; its text says why.
        """
        _retried(lambda: _check_cell(self.cell(name)), manifests.DamagedError)

    def check_run(self, name: str) -> None:
        """Check that all files of a finished run are there, and as they were written.

        Raises:
            DamagedError: they are not; its text says why.
        """
        _retried(lambda: _check_run(self.run(name)), manifests.DamagedError)

    def set_aside(self, folder: Path) -> None:
        """Move a damaged run or cell out of the way, to a hidden folder, which `hltm runs clean` removes."""
        with suppress(FileNotFoundError):  # another process has done so
            os.replace(folder, folder.with_name(f".{folder.name}-damaged-{secrets.token_hex(4)}"))

    def misplaced(self, folder: Path) -> str:
        """Why a run or a cell cannot be written where it belongs; empty if it can."""
        return "it is no folder" if os.path.lexists(folder) and not folder.is_dir() else ""

    def in_use(self) -> AbstractContextManager[None]:
        """Keep other processes from removing cells in a block, also those that no finished run needs."""
        return locked(self.home, shared=True)

    def written(self, name: str) -> tuple[int, int] | None:
        """What changes whenever a cell is stored; None if it is not stored."""
        try:
            found = (self.cell(name) / MANIFEST).stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino

    def has_run(self, name: str) -> bool:
        """Whether a run is finished."""
        return (self.run(name) / MANIFEST).is_file()

    def write_cell(
        self, name: str, table: pd.DataFrame, manifest: Mapping[str, Any],
        networks: Mapping[str, Mapping[str, Tensor]],
    ) -> None:  # fmt: skip
        """Store a cell, with networks as name -> parameters by name; an older one is replaced."""
        from safetensors.torch import save_file

        with replace_folder(self.cell(name)) as folder:
            write_table(folder / RESULTS, table)
            (folder / NETWORKS).mkdir()
            for label, tensors in networks.items():
                flat = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
                path = folder / NETWORKS / f"{label}.safetensors"
                with safetensors_errors(path):
                    save_file(flat, path)
            write_json(folder / MANIFEST, with_checksums(folder, manifest))

    def read_cell(self, name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
        """A stored cell's table and manifest.

        Raises:
            DamagedError: it has changed since it was written.
        """
        folder = self.cell(name)

        def read() -> tuple[pd.DataFrame, dict[str, Any]]:
            manifest = dict(_check_cell(folder))
            return _read_table(folder / RESULTS), manifest

        try:
            return _retried(read, FileNotFoundError, manifests.DamagedError)
        except manifests.DamagedError as error:
            raise manifests.DamagedError(f"cell {folder} is damaged: {error}") from None

    def read_run(self, name: str) -> tuple[pd.DataFrame, list[Mapping[str, Any]]]:
        """A finished run's table and verdicts.

        Raises:
            DamagedError: one of them cannot be read, or has changed since it was written.
        """
        folder = self.run(name)
        try:
            manifest = manifests.read_run(folder / MANIFEST)
            manifests.check_files(folder, manifest, (RESULTS, VERDICT))
            verdicts = manifests.read_verdicts(folder / VERDICT)
            return _read_table(folder / RESULTS), verdicts
        except manifests.DamagedError as error:
            raise manifests.DamagedError(
                f"run {folder} is damaged: {error}; the command that made it makes it again from its cells"
            ) from None


def _retried(read: Callable[[], T], *errors: type[Exception]) -> T:
    """Read from a folder that another process may be replacing, so that what is read may not fit together."""
    for _ in range(READ_ATTEMPTS):
        with suppress(*errors):
            return read()
        time.sleep(0.1)
    return read()


def _check_cell(folder: Path) -> Mapping[str, Any]:
    """The manifest of a cell that is undamaged; raises DamagedError for another."""
    manifest = manifests.read_cell(folder / MANIFEST)
    if manifest["cell"] != folder.name:
        raise manifests.DamagedError(f"it is a copy of cell {brief(manifest['cell'])}")
    manifests.check_files(folder, manifest)
    if FILES not in manifest:
        _check_origin(folder / RESULTS, {"cell": [folder.name]})
    return manifest


def _check_run(folder: Path) -> None:
    """Raises DamagedError for a run that is damaged."""
    manifest = manifests.read_run(folder / MANIFEST)
    if manifest["run"] != folder.name:
        raise manifests.DamagedError(f"{MANIFEST} is a copy of that of {brief(manifest['run'])}")
    for name in (RESULTS, VERDICT, *manifest.get("files", ())):
        if not (folder / name).is_file():
            raise manifests.DamagedError(f"{brief(name)} is missing")
    manifests.check_files(folder, manifest)
    if FILES not in manifest:
        cells = [cell["cell"] for cell in manifest["cells"]]
        _check_origin(folder / RESULTS, {"run": [folder.name], "cell": cells})
    manifests.read_verdicts(folder / VERDICT)


def _check_origin(path: Path, expected: Mapping[str, list[str]]) -> None:
    """Raise DamagedError unless a table of an earlier version, without checksum, can be read and is this one.

    Args:
        path: of the table.
        expected: column -> the values that it has, in any order.
    """
    table = _read_table(path)
    for name, values in expected.items():
        if name not in table or {*table[name].unique()} != {*values}:
            raise manifests.DamagedError(f"{path.name} is not of {brief(path.parent.name)}")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as Parquet, whose pages have checksums for those who read it elsewhere."""
    table.to_parquet(path, index=False, write_page_checksum=True)


def _read_table(path: Path) -> pd.DataFrame:
    """A stored table, with its metrics as they are named today."""
    import pandas as pd

    manifests.check_table(path)
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # of many kinds, where a table of an earlier version has changed
        reason = brief(" ".join(str(error).split()), 120)
        raise manifests.DamagedError(f"{path.name} cannot be read: {reason}") from None
    if "metric" in table:
        table["metric"] = table["metric"].replace(RENAMED)
    return table
