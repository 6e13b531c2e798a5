"""Work on the executors of `concurrent.futures`, whose processes may be on other machines."""

from __future__ import annotations

import os
import socket
from concurrent.futures import Executor
from typing import NamedTuple


class Source(NamedTuple):
    """A process, and the hltm that it has.

    Attributes:
        version: of hltm.
        host: the name of its machine.
        process: its number.
    """

    version: str
    host: str
    process: int


def this_process() -> Source:
    """The process that calls this."""
    from hltm import __version__  # at the top this would be a circle

    return Source(__version__, socket.gethostname(), os.getpid())


def check_executor(executor: object) -> None:
    """Raise a TypeError of what is neither None nor a `concurrent.futures.Executor`.

    Example:
        >>> check_executor(4)
        Traceback (most recent call last):
        TypeError: executor must be a concurrent.futures.Executor, got int
    """
    if executor is not None and not isinstance(executor, Executor):
        kind = type(executor).__name__
        raise TypeError(f"executor must be a concurrent.futures.Executor, got {kind}")


def check_version(asking: Source) -> None:
    """Raise a ValueError if the process that asks for some work has another version of hltm than this one.

    Example:
        >>> check_version(Source("0.0.1", "laptop", 7)._replace(version=this_process().version))
    """
    own = this_process()
    if own.version != asking.version:
        raise ValueError(
            f"{own.host} has hltm {own.version}, and {asking.host} has hltm {asking.version}: both need "
            "one version"
        )
