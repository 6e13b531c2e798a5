"""Processes of this machine that compute, as an executor whose tasks report while they work.

On a CPU every process has one thread. With several cards every process has a card of its own, and
takes the next task when its card is free; what a cell gives does not depend on the card.

On Linux processes that compute on a CPU are copies of one that has loaded the libraries (`load`), which
each of them would load for two to three seconds.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAX_WORKERS = 16  # by default; every process loads libraries of some hundred megabytes
# environment and folder of the process that has loaded the libraries
_started_with: dict[str, str] = {}
# of a process that computes: its card, and where it sends reports; None in any other process
_card: str | None = None
_reports: Any = None


class WorkerError(RuntimeError):
    """A cell failed, or could not be computed where it was sent to."""


class WorkerDiedError(WorkerError):
    """A process ended in the middle of a cell: it was killed, perhaps for its memory."""


class ExecutorGoneError(WorkerError):
    """An executor takes no more cells: it was shut down, or the connection to its cluster is lost."""


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
    with interrupts_blocked():
        forkserver.ensure_running()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Let the threads and processes that are started in the block never receive Ctrl-C.

    A terminal sends it to all processes; the one that waits ends the others, and alone says so.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # which would end the blocking if it started later
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _surroundings() -> dict[str, str]:
    """What a process has from the one that started it."""
    return {**os.environ, "": os.getcwd()}  # no variable has an empty name


class LocalProcesses(Executor):
    """An executor of a few processes of this machine, which end when this one does, however it ends.

    Each process is a pool of its own, so that one that is killed takes nobody else's task with it; the next
    task has a new process. When the `with` block ends by an exception, as Ctrl-C, all processes end at once.

    Args:
        workers: how many processes.
        cards: the devices; each process has one of them (`own_card`), in turns, for all of its tasks.
        on_report: called, in threads of this process, with what a task reports (`report`), in order,
            and before the task is done.

    Raises:
        BrokenExecutor: in the future of a task whose process died.

    Example:
        >>> with LocalProcesses(1) as processes:
        ...     list(processes.map(len, ["a", "bb", "ccc"]))
        [1, 2, 3]
    """

    def __init__(
        self,
        workers: int,
        cards: Sequence[str] = ("cpu",),
        on_report: Callable[[Any], None] = lambda report: None,
    ) -> None:
        import multiprocessing

        # not fork: a forked process inherits torch's threads, of which this one may have some, in an
        # undefined state
        loaded = cards[0] == "cpu" and _started_with == _surroundings()
        self._context: Any = multiprocessing.get_context("forkserver" if loaded else "spawn")
        # on a GPU the threads of a process draw data
        self._threads = 1 if cards[0] == "cpu" else max((os.cpu_count() or 1) // workers, 1)
        self._cards, self._on_report = itertools.cycle(cards), on_report
        # a process ends when it reads the end of this pipe, which also comes when this process is killed
        self._watched, self._alive = self._context.Pipe(duplex=False)
        self._pools: list[ProcessPoolExecutor] = []
        self._own = (
            threading.local()
        )  # of a thread: its card, its pool of one process, and their pipe
        self._callers = ThreadPoolExecutor(workers)  # each waits for a process

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call a function, which a process can import, in the next process that is free."""
        return self._callers.submit(self._call, fn, args, kwargs)

    def _call(self, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """In a thread: call a function in the thread's own process, and pass on what it reports."""
        own, task = self._own, (_reporting, fn, args, kwargs)
        try:
            done = own.pool.submit(*task)
        except (AttributeError, BrokenExecutor):  # there is none yet, or its process was killed
            own.card = getattr(own, "card", None) or next(self._cards)
            own.reports, sender = self._context.Pipe(duplex=False)
            given = own.card, self._threads, self._watched, sender
            own.pool = ProcessPoolExecutor(1, self._context, _begin, given)
            self._pools.append(own.pool)
            with (
                interrupts_blocked(),
                sender,
            ):  # then the process alone has it, and its death ends the pipe
                done = own.pool.submit(*task)
        with suppress(EOFError, OSError):
            while (report := own.reports.recv()) is not None:
                self._on_report(report)
        return done.result()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the processes end when their tasks are done, and wait for that."""
        self._callers.shutdown(wait, cancel_futures=cancel_futures)
        for pool in self._pools:
            pool.shutdown(wait)

    def __exit__(self, kind: Any, error: Any, where: Any) -> None:
        if kind is not None:
            self._callers.shutdown(wait=False, cancel_futures=True)
            self._alive.close()  # which ends the processes
        self.shutdown()
        self._alive.close()
        self._watched.close()


def own_card() -> str | None:
    """The device of this process, if it is one of `LocalProcesses`."""
    return _card


def report(content: Any) -> None:
    """Send something, which can be pickled, to the process that waits for this task, if it listens."""
    if _reports is not None:
        _reports.send(content)


def _reporting(fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """In a process: call a function, then report that no more reports follow."""
    try:
        return fn(*args, **kwargs)
    finally:
        report(None)


def _begin(card: str, threads: int, watched: Any, reports: Any) -> None:
    """Prepare a process that computes."""
    global _card, _reports

    def end_with_the_other() -> None:
        with suppress(EOFError, OSError):
            watched.recv()
        os._exit(1)

    threading.Thread(target=end_with_the_other, daemon=True).start()
    # as `interrupts_blocked` does elsewhere than on Windows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch  # last, because it takes seconds where it is not loaded

    torch.set_num_threads(threads)
    _card, _reports = card, reports
