"""Errors about memory, of which there are several kinds, as one."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator


@contextlib.contextmanager
def name_memory_errors(what: str = "a cell") -> Iterator[None]:
    """Turn every error about memory into a MemoryError with one line of text, that `what` needs more.

    Example:
        >>> with name_memory_errors("this"):
        ...     raise RuntimeError("can't allocate memory: you tried to allocate 28800000000 bytes.")
        Traceback (most recent call last):
        MemoryError: this needs more memory than there is: 28.8 GB at once
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        # on a CPU torch raises a plain RuntimeError, and numpy a MemoryError, which only their texts
        # tell from our own
        known = type(error).__name__ == "OutOfMemoryError" or "allocate" in text
        if not known and (text or isinstance(error, RuntimeError)):
            raise
        size = re.search(r"allocate ([\d.,]+) ?(\w+)", text)
        at_once = ""
        if size:
            many = (
                f"{float(size[1]) / 1e9:,.1f} GB" if size[2] == "bytes" else f"{size[1]} {size[2]}"
            )
            at_once = f": {many} at once"
        raise MemoryError(f"{what} needs more memory than there is{at_once}") from error
