"""Folders and files that are written completely or not at all, and JSON that a person can read."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """A new folder that replaces `target` when the block ends; on an error nothing changes.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as home:
        ...     with replace_folder(Path(home) / "results") as folder:
        ...         write_json(folder / "manifest.json", {"seconds": 1.5})
        ...     read_json(Path(home) / "results" / "manifest.json")
        {'seconds': 1.5}
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp lets only its owner read it
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            # a folder that is not empty cannot be replaced in one step, only moved out of the way
            os.replace(target, old / "was")
            os.replace(folder, target)
            shutil.rmtree(old)
        else:
            os.replace(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def add_files(target: Path) -> Iterator[Path]:
    """A new folder whose files move into `target` when the block ends; on an error nothing changes.

    Files in `target` that have the same names are replaced, all others stay.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as home:
        ...     with add_files(Path(home)) as folder:
        ...         write_json(folder / "a.json", {"seconds": 1.5})
        ...     [path.name for path in Path(home).iterdir()]
        ['a.json']
    """
    target.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=target))
    try:
        yield folder
        for path in sorted(folder.iterdir()):
            os.replace(path, target / path.name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write an indented JSON object or array; NaN becomes null, because JSON has no NaN."""
    path.write_text(json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON object or array."""
    return json.loads(path.read_text())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value
