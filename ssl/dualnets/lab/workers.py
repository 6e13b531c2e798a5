"""Cells computed side by side: a few processes, each with one thread, that report to this one."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualnets.lab.experiment import ProgressListener

MOST = 16  # processes; each holds libraries of some hundred megabytes
WAIT = 0.2  # seconds between two looks at whether all are still alive


class WorkerError(RuntimeError):
    """A cell failed in another process; the text has its traceback."""


class WorkerDiedError(WorkerError):
    """A process ended in the middle of a cell, killed from outside or for its memory."""


def how_many(asked: int | None, cells: int, device: str, scale: str) -> int:
    """How many processes to use: as asked; by default one a core, on a CPU and for more than a smoke test.

    Raises:
        ValueError: fewer than one.

    Example:
        >>> how_many(None, 8, "cuda", "default"), how_many(3, 8, "cpu", "smoke")
        (1, 3)
    """
    if asked is not None and asked < 1:
        raise ValueError(f"workers must be at least 1, got {asked}")
    if asked is None:
        one = device != "cpu" or scale == "smoke"  # over before another process has begun
        asked = 1 if one else min(os.cpu_count() or 1, MOST)
    return max(min(asked, cells), 1)


def run(
    work: Callable[..., None],
    cells: Sequence[tuple[Any, ...]],
    workers: int,
    hear: Callable[[int, str, tuple[Any, ...]], None],
) -> None:
    """Do `work(*cell, progress)` for every cell, in processes of their own.

    Args:
        work: a function that another process can import.
        cells: its arguments, which must be picklable.
        workers: how many processes.
        hear: called here with a cell's number, what happened (`started`, `updated`, `seen`, `done`)
            and its details, as it happens.

    Raises:
        ValueError: a cell was refused with a ValueError, OSError or MemoryError.
        WorkerError: a cell failed otherwise. The other processes are ended.
        WorkerDiedError: its process died, likewise.
    """
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    for at, cell in enumerate(cells):
        tasks.put((at, cell))
    for _ in range(workers):
        tasks.put(None)
    processes = [
        context.Process(target=_serve, args=(work, tasks, events), daemon=True)
        for _ in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        left = len(cells)
        while left:
            try:
                at, kind, details = events.get(timeout=WAIT)
            except queue.Empty:
                _check_alive(processes)
                continue
            if kind == "refused":
                raise ValueError(details[0])
            if kind == "failed":
                raise WorkerError(details[0])
            hear(at, kind, details)
            left -= kind == "done"
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _check_alive(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.exitcode not in (None, 0):
            raise WorkerDiedError(
                f"a process died (exit status {process.exitcode}); was there enough memory?"
            )


class _Sender(ProgressListener):
    """A cell's progress, sent to the process that waits for it."""

    def __init__(self, events: Any, at: int) -> None:
        self.events, self.at = events, at

    def updated(self, steps: int) -> None:
        self.events.put((self.at, "updated", (steps,)))

    def seen(self, step: int, alignment: Mapping[int, float]) -> None:
        self.events.put((self.at, "seen", (step, dict(alignment))))


def _serve(work: Callable[..., None], tasks: Any, events: Any) -> None:
    """One process: cells until there are none."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the waiting process ends this one
    torch.set_num_threads(1)
    while True:
        task = tasks.get()
        if task is None:
            return
        at, cell = task
        events.put((at, "started", ()))
        try:
            work(*cell, _Sender(events, at))
        except (ValueError, OSError, MemoryError) as error:  # what a user can mend
            events.put((at, "refused", (str(error),)))
            return
        except BaseException:
            events.put((at, "failed", (traceback.format_exc(),)))
            return
        events.put((at, "done", ()))
