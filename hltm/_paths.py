"""Paths of files on this machine; a URL is refused, because no folder may be made of its name."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePath

SHOWN = 80  # characters of a URL in an error


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path on this machine.

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
    return Path(path)
