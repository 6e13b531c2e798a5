"""Cells computed in parallel: a few processes that report to this one.

On a CPU every process has one thread. With several cards every process has a card of its own, and
takes the next cell when its card is free; what a cell gives does not depend on the card.

On Linux processes that compute on a CPU are copies of one that has loaded the libraries (`load`), which
each of them would load for two to three seconds.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dualnets.lab.experiment import ProgressListener

if TYPE_CHECKING:
    import torch

MAX_WORKERS = 16  # by default; every process loads libraries of some hundred megabytes
CHECK_INTERVAL = 0.2  # seconds between two checks that all processes are alive
# environment and folder of the process that has loaded the libraries
_started_with: dict[str, str] = {}


class WorkerError(RuntimeError):
    """A cell failed in another process; the text holds its traceback."""


class WorkerDiedError(WorkerError):
    """A process ended in the middle of a cell: it was killed, perhaps for its memory."""


def cards_of(device: torch.device) -> list[str]:
    """The devices that share the cells: all cards for `cuda` or `xpu` without a number, else the one.

    Example:
        >>> import torch
        >>> cards_of(torch.device("cpu")), cards_of(torch.device("cuda:1"))
        (['cpu'], ['cuda:1'])
    """
    import torch

    several = device.type in ("cuda", "xpu") and device.index is None
    count = getattr(torch, device.type).device_count() if several else 1
    return [f"{device.type}:{i}" for i in range(count)] if count > 1 else [str(device)]


def worker_count(requested: int | None, cells: int, cards: Sequence[str], scale: str) -> int:
    """The number of processes to use.

    Args:
        requested: how many, or None for one per core on a CPU and one per card on GPUs. For a smoke
            run, which is over before a second process has started, None means one.
        cells: how many cells there are to compute.
        cards: the devices that share the cells, e.g. `["cpu"]`.
        scale: of the run.

    Raises:
        ValueError: fewer than one is requested.

    Example:
        >>> worker_count(None, 8, ["cuda:0", "cuda:1"], "default"), worker_count(3, 8, ["cpu"], "smoke")
        (2, 3)
    """
    if requested is not None and requested < 1:
        raise ValueError(f"workers must be at least 1, got {requested}")
    if requested is None:
        many = min(os.cpu_count() or 1, MAX_WORKERS) if cards[0] == "cpu" else len(cards)
        requested = 1 if scale == "smoke" else many
    return max(min(requested, cells), 1)


def load(modules: Sequence[str]) -> None:
    """Start a process that imports these modules, to be copied when cells are computed on the CPU.

    It returns at once. There is one such process, which ends with this one. It must not be asked for where
    a copy of a process may not use what its original has loaded, as on a Mac.
    """
    import multiprocessing
    from multiprocessing import forkserver

    if sys.platform != "linux":
        return
    multiprocessing.get_context("forkserver").set_forkserver_preload([*modules])
    if not _started_with:
        _started_with.update(_surroundings())
    forkserver.ensure_running()


def _surroundings() -> dict[str, str]:
    """What a process has from the one that started it."""
    return {**os.environ, "": os.getcwd()}  # no variable has an empty name


def run(
    work: Callable[..., None],
    cells: Sequence[tuple[Any, ...]],
    workers: int,
    on_event: Callable[[int, str, tuple[Any, ...]], None],
    cards: Sequence[str] = ("cpu",),
) -> None:
    """Call `work(*cell, device, progress)` for every cell, in other processes.

    Args:
        work: a function that another process can import.
        cells: its arguments, which must be picklable.
        workers: how many processes.
        on_event: called in this process with a cell's number, what happened (`started`, `updated`,
            `probed`, `done`) and its details, as it happens.
        cards: the devices; each process has one of them, in turns, for all of its cells.

    Raises:
        ValueError: a cell raised a ValueError, OSError or MemoryError, which a user can mend.
        WorkerError: a cell raised something else. The other processes are ended.
        WorkerDiedError: a process died. The others are ended.
    """
    import multiprocessing

    # not fork: a forked process inherits torch's threads in an undefined state, and this one may have some
    loaded = cards[0] == "cpu" and _started_with == _surroundings()
    context: Any = multiprocessing.get_context("forkserver" if loaded else "spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    for at, cell in enumerate(cells):
        tasks.put((at, cell))
    for _ in range(workers):
        tasks.put(None)
    # on a GPU the threads of a process draw data
    threads = 1 if cards[0] == "cpu" else max((os.cpu_count() or 1) // workers, 1)
    processes = [
        context.Process(
            target=_serve, args=(work, tasks, events, cards[i % len(cards)], threads), daemon=True
        )
        for i in range(workers)
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

    def probed(self, step: int, found: Mapping[int, float] | Mapping[str, float]) -> None:
        self.events.put((self.at, "probed", (step, dict(found))))


def _serve(work: Callable[..., None], tasks: Any, events: Any, device: str, threads: int) -> None:
    """One process: it takes cells from the queue until there are none."""
    import torch

    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches all; the waiting process ends this one
    torch.set_num_threads(threads)
    while True:
        task = tasks.get()
        if task is None:
            return
        at, cell = task
        events.put((at, "started", ()))
        try:
            work(*cell, device, _Sender(events, at))
        except (ValueError, OSError, MemoryError) as error:
            events.put((at, "refused", (str(error),)))
            return
        except BaseException:
            events.put((at, "failed", (traceback.format_exc(),)))
            return
        events.put((at, "done", ()))
