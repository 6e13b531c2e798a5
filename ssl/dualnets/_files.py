"""Folders and files that are written completely or not at all, and JSON that a person can read."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """A new folder that replaces `target` when the block ends; on an error nothing changes.

    Several processes, also of several machines, may write the same target at once: each ends well, and the
    folder of one of them stays. There is a whole folder at any moment; only where a file system cannot
    exchange two folders, as NFS, there is none for an instant when an older one is replaced. When the block
    has ended, the folder is on the disk.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as home:
        ...     with replace_folder(Path(home) / "results") as folder:
        ...         write_json(folder / "manifest.json", {"seconds": 1.5})
        ...     read_json(Path(home) / "results" / "manifest.json")
        {'seconds': 1.5}
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # what mkdtemp makes only its owner can read, whatever the umask is
    folder = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    folder.mkdir()
    try:
        yield folder
        for path in (*folder.rglob("*"), folder):
            flush(path)
        _put(folder, target)
        flush(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # what failed, or what was replaced


def flush(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk, so that a power cut does not lose it."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(folder: Path, target: Path) -> None:
    """Give a folder the name of another, whatever other processes put there at the same time."""
    while True:
        try:
            os.replace(folder, target)
            return
        except OSError as error:
            # what systems say of a target that is not empty, which may be gone by now
            taken = (errno.EACCES,) if os.name == "nt" else (errno.ENOTEMPTY, errno.EEXIST)
            if error.errno not in taken:
                raise
        # a folder that is not empty cannot be replaced; it can be exchanged, or moved out of the way
        if _exchange(folder, target):
            return
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        with suppress(FileNotFoundError):  # another process has just moved it
            os.replace(target, old / "was")
        shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot, or one is gone."""
    if os.name != "posix":
        return False
    libc = ctypes.CDLL(None)
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux: both paths relative to AT_FDCWD, with RENAME_EXCHANGE
        done = libc.renameat2(-100, paths[0], -100, paths[1], 2)
    elif hasattr(libc, "renamex_np"):  # a Mac: with RENAME_SWAP
        done = libc.renamex_np(*paths, 2)
    else:
        return False
    return bool(done == 0)


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
    path.write_text(json.dumps(plain(content), indent=2, allow_nan=False) + "\n", "utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON object or array."""
    return json.loads(path.read_text("utf-8"))


def plain(value: Any) -> Any:
    """What JSON can hold: texts as keys, lists, and null in place of NaN."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value
