"""Cells computed in parallel: a few processes, each with one thread, that report to this one."""

from __future__ import annotations

import os
import queue
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dualnets.lab.experiment import ProgressListener

MAX_WORKERS = 16  # by default; every process loads libraries of some hundred megabytes
CHECK_INTERVAL = 0.2  # seconds between two checks that all processes are alive


class WorkerError(RuntimeError):
    """A cell failed in another process; the text holds its traceback."""


class WorkerDiedError(WorkerError):
    """A process ended in the middle of a cell: it was killed, perhaps for its memory."""


def worker_count(requested: int | None, cells: int, device: str, scale: str) -> int:
    """The number of processes to use.

    Args:
        requested: how many, or None for one per core on a CPU. On a GPU, and for a smoke run, which
            is over before a second process has started, None means one.
        cells: how many cells there are to compute.
        device: type of the device, e.g. `cpu`.
        scale: of the run.

    Raises:
        ValueError: fewer than one is requested.

    Example:
        >>> worker_count(None, 8, "cuda", "default"), worker_count(3, 8, "cpu", "smoke")
        (1, 3)
    """
    if requested is not None and requested < 1:
        raise ValueError(f"workers must be at least 1, got {requested}")
    if requested is None:
        one = device != "cpu" or scale == "smoke"
        requested = 1 if one else min(os.cpu_count() or 1, MAX_WORKERS)
    return max(min(requested, cells), 1)


def run(
    work: Callable[..., None],
    cells: Sequence[tuple[Any, ...]],
    workers: int,
    on_event: Callable[[int, str, tuple[Any, ...]], None],
) -> None:
    """Call `work(*cell, progress)` for every cell, in other processes.

    Args:
        work: a function that another process can import.
        cells: its arguments, which must be picklable.
        workers: how many processes.
        on_event: called in this process with a cell's number, what happened (`started`, `updated`,
            `probed`, `done`) and its details, as it happens.

    Raises:
        ValueError: a cell raised a ValueError, OSError or MemoryError, which a user can mend.
        WorkerError: a cell raised something else. The other processes are ended.
        WorkerDiedError: a process died. The others are ended.
    """
    import multiprocessing

    # not fork: a forked process inherits torch's threads in an undefined state
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
                at, kind, details = events.get(timeout=CHECK_INTERVAL)
            except queue.Empty:
                _check_alive(processes)
                continue
            if kind == "refused":
                raise ValueError(details[0])
            if kind == "failed":
                raise WorkerError(details[0])
            on_event(at, kind, details)
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
    """Sends a cell's progress to the process that waits for it."""

    def __init__(self, events: Any, at: int) -> None:
        self.events, self.at = events, at

    def updated(self, steps: int) -> None:
        self.events.put((self.at, "updated", (steps,)))

    def probed(self, step: int, alignment: Mapping[int, float]) -> None:
        self.events.put((self.at, "probed", (step, dict(alignment))))


def _serve(work: Callable[..., None], tasks: Any, events: Any) -> None:
    """One process: it takes cells from the queue until there are none."""
    import torch

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all; the waiting process ends this one
    torch.set_num_threads(1)
    while True:
        task = tasks.get()
        if task is None:
            return
        at, cell = task
        events.put((at, "started", ()))
        try:
            work(*cell, _Sender(events, at))
        except (ValueError, OSError, MemoryError) as error:
            events.put((at, "refused", (str(error),)))
            return
        except BaseException:
            events.put((at, "failed", (traceback.format_exc(),)))
            return
        events.put((at, "done", ()))
