"""Kernels that cells will run are compiled while the processes start that compute the cells."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def compiling(
    given: Sequence[Any], count: int, cards: Sequence[str], begun: threading.Event
) -> Iterator[None]:
    """Compile in a thread, until the block ends, what cells on the CPU will run.

    Args:
        given: settings of all cells.
        count: how many cells are computed at once.
        cards: the devices that share the cells.
        begun: set when a first cell is done.
    """
    over = threading.Event()  # nothing is left to do
    if list(cards) == ["cpu"]:
        wanted = given, count, begun, over
        threading.Thread(target=compile_kernels, args=wanted, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        begun.set()


def compile_kernels(
    given: Sequence[Any], count: int, begun: threading.Event, over: threading.Event
) -> None:
    """Compile what cells will run, where their settings know it; for the first `count` of them at once.

    What is wrong with settings, the process that computes the cell says.
    """
    for at, settings in enumerate(given):
        if at >= count:
            begun.wait()
        if over.is_set():
            return
        if hasattr(settings, "compile_kernels"):
            with contextlib.suppress(Exception):
                settings.compile_kernels()
