"""Paths of files on this machine, and folders that one process at a time may write to."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath

SHOWN = 80  # characters of a URL in an error


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path on this machine; `~` is the home folder, which shells leave as it is in `--out=~/runs`.

    Raises:
        ValueError: a URL such as `s3://bucket/data` or `memory://data`, also as a `pathlib.Path`, which
            makes one slash of two.

    Example:
        >>> local_path("runs/a:b")
        PosixPath('runs/a:b')
        >>> local_path("s3://bucket/data")
        Traceback (most recent call last):
        ValueError: 's3://bucket/data' is a URL, expected a path on this machine: copy from or to there
        with another program, e.g. fsspec.filesystem('s3').put(path, url, recursive=True)
    """
    slashes = "/" if isinstance(path, PurePath) else "//"
    # two letters at least: one is a drive of Windows
    url = re.match(rf"([A-Za-z][A-Za-z0-9+.-]+):{slashes}", str(path))
    if url:
        shown = str(path) if len(str(path)) <= SHOWN else f"{str(path)[: SHOWN - 1]}…"
        raise ValueError(
            f"{shown!r} is a URL, expected a path on this machine: copy from or to there with "
            f"another program, e.g. fsspec.filesystem({url[1]!r}).put(path, url, recursive=True)"
        )
    found = Path(path)
    with suppress(RuntimeError):  # there is no such user
        found = found.expanduser()
    return found


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Create a folder and lock it for the block; the lock ends with the process, however that ends.

    Raises:
        OSError: a folder that cannot be written to, or that another process, or this one, has locked.
    """
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder, shared=False))
        except BlockingIOError as error:
            raise OSError(f"another process is writing to {folder}") from error
        except OSError as error:
            raise OSError(f"cannot write to {folder}: {error.strerror}") from error
        yield


@contextmanager
def locked(folder: Path, *, shared: bool) -> Iterator[None]:
    """Lock a folder that exists for the block; the lock ends with the process, however that ends.

    Where a file system has no locks, as some of networks, nothing is locked.

    Args:
        folder: to lock.
        shared: with other processes that share it, for which one waits; or else alone, at once.

    Raises:
        BlockingIOError: it is to be locked alone, and another process, or this one, has locked it.
        OSError: it cannot be opened.
    """
    if os.name == "nt":  # which has no such locks
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(handle)


def check_file(path: Path) -> None:
    """Check that a path is a file itself: to open a named pipe waits for its writer, a link leads elsewhere.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: a link, a folder, a pipe or a device.
    """
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe"}
        kind = kinds.get(stat.S_IFMT(mode), "a device or a socket")
        raise ValueError(f"{path} is {kind}, expected a file")


@contextmanager
def safetensors_errors(path: Path) -> Iterator[None]:
    """Raise what safetensors meets where it writes a file, such as a full disk, as the OSError that it is."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"\(os error ([0-9]+)\)", str(error)):
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error
        raise OSError(f"cannot write {path}: {error}") from error


def checksum(path: Path) -> str:
    """The SHA-256 checksum of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
