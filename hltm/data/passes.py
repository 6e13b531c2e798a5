"""In which pass over a data set a row is read: counted from the reads, for every loader, worker and rank.

Torch does not call a data set when a new pass begins, but every pass of a loader reads through a new
fetcher: one in the process of the loader, or one in each worker, also in workers that outlive a pass. So
a fetcher that has not read before begins a pass, and all workers of one loader begin the same one.

The fetcher is not an argument of a read, so `current_reader` looks for it among the functions that are
running: from `__getitem__` up to one of torch's module of fetchers, whose `self` it is. That finds it
through subsets, data sets that wrap ours, and other trainers, which all use torch's loaders; it takes a
few microseconds a batch. What reads without such a fetcher (code of one's own, a loader that is not
torch's) is a direct read: it gets the views of the present epoch, which then only `set_epoch` changes.
Where a version of torch has its fetchers elsewhere every loader would be such a reader, so
`check_loaders` tries one and warns.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import sys
import threading
import warnings
from functools import cache
from multiprocessing.context import get_spawning_popen
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import fetch

HOMES, GROUPS, WORKERS = 64, 8, 64
# the columns of a home; numbers of passes and epochs are stored plus 1, so that 0 means none
PID, RESETS, PINNED = 0, 1, 2  # RESETS: how often the count was set
ENTRY = 3  # pass << 32 | group, of the home itself (0) and of the groups of workers that began last
FIRST = ENTRY + 1 + GROUPS  # pass << STEPS | the first step of the pass, of the last passes
READ = FIRST + GROUPS  # pass << STEPS | the steps that have been read, of every worker
WIDTH = READ + WORKERS
MASK = (1 << 32) - 1
STEPS = 36  # bits of a number of steps: there are at most 2^34 rows
STEP_MASK = (1 << STEPS) - 1


class Beginning:
    """The lock of the threads of this process; a forked process has a new one, which nobody holds."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Make the lock."""
        self.lock = threading.Lock()


beginning = Beginning()


class PassCounter:
    """The number of the pass in which each reader of a data set reads, and its first step.

    The state is a table in shared memory, so that workers see it however they were started. A row of it
    belongs to one home: the process whose loaders are counted together. Ranks that share the memory,
    because a data set was made before they were started, are different homes and count alike.

    No lock is needed: workers that begin one pass at the same time compute the same number from the
    pass before, and each writes the same words. What is not settled is the order of two loaders whose
    workers begin in the same microseconds, and a pass of persistent workers in which one reads first
    that had nothing to read in the pass before: it joins that pass.

    Example:
        >>> passes, reader = PassCounter(), type("Reader", (), {})
        >>> first, second = reader(), reader()
        >>> passes.of(first), passes.of(second), passes.of(first)
        (0, 1, 0)
    """

    def __init__(self) -> None:
        # anonymous memory, which forked processes share: unlike a shared tensor it keeps no file open
        memory = mmap.mmap(-1, HOMES * WIDTH * 8)
        self._table = torch.frombuffer(memory, dtype=torch.int64).view(HOMES, WIDTH)
        self._creator = os.getpid()
        self._forget()

    def _forget(self) -> None:
        """Nothing has been read in this process."""
        self._passes: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._joined = (0, -1)  # RESETS and the pass that this worker began last
        self._resume: tuple[int, int | None] | None = None  # where this worker goes on

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None and not self._table.is_shared():
            # a process that is started anew finds the memory by its file
            self._table = self._table.clone().share_memory_()
        return {"table": self._table, "creator": self._creator}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        table, self._creator = state["table"], state["creator"]
        if table.is_shared():
            self._table = table
            return
        # a copy counts for itself; processes are numbered anew elsewhere
        self._table.copy_(table)
        last = table[:, ENTRY:FIRST].amax(1) >> 32 << 32
        self._table[:, ENTRY:FIRST] = 0
        self._table[:, ENTRY] = last

    @property
    def pinned(self) -> int | None:
        """The epoch that was set; None where passes are counted."""
        return int(self._home()[PINNED]) - 1 if self._home()[PINNED] else None

    @property
    def current(self) -> int:
        """The pass that began last, or the epoch that was set; 0 before both."""
        home = self._home()
        return max(int(home[PINNED]) or _last(home), 1) - 1

    @property
    def next(self) -> int:
        """The number of the next pass."""
        home = self._home()
        return int(home[PINNED]) or _last(home)

    def pin(self, epoch: int | None, *, goes_on: bool = False) -> None:
        """Read in one epoch from now on; None to count passes again, from the one after it.

        Args:
            goes_on: whether steps are counted on; otherwise the next pass begins at step 0.
        """
        home = self._home()
        if epoch is not None and not goes_on:
            self._reset(home, epoch + 1)
        home[PINNED] = 0 if epoch is None else epoch + 1

    def start_at(self, number: int, step: int | None = None) -> None:
        """Let the next pass be this one, and begin it at this step.

        In a worker, this one alone goes on from there: each has its own place. Without a step, the
        workers of a loader begin the last of their passes together, since the states of those that
        had not read are of the pass before.
        """
        home = self._home()
        if get_worker_info() is None:
            self._reset(home, number)
            home[FIRST + number % GROUPS] = (number + 1) << STEPS | (step or 0)
        else:
            self._resume = number, step
            if step is None:
                group, worker = _group()
                home[READ + worker % WORKERS] = number << 32 | group
            if _last(home) < number:  # the passes after this one are counted from here
                home[ENTRY] = number << 32

    def _reset(self, home: np.ndarray, number: int) -> None:
        """Forget what has been read; the next pass is this one."""
        home[RESETS] += 1
        home[PINNED:] = 0
        home[ENTRY] = number << 32

    def of(self, reader: object | None) -> int:
        """The pass of a reader, which begins one with its first read; of None, the current pass."""
        if reader is None or self.pinned is not None:
            return self.current
        found = self._passes.get(reader)
        if found is None:
            with beginning.lock:  # of several threads that read for it, one begins the pass
                found = self._passes.get(reader)
                if found is None:
                    found = self._passes[reader] = self.begin()[0]
        return found

    def begin(self, goes_on: bool = False) -> tuple[int, int]:
        """Begin a pass: its number, and the first step of it that this process reads.

        Args:
            goes_on: whether a pass begins after the last step of the one before, and not at 0.
        """
        home, (group, worker) = self._home(), _group()
        if self._resume is not None:
            (number, step), self._resume = self._resume, None
            if step is None:
                states = home[READ:]
                number = max(number, int(states[states & MASK == group].max(initial=0)) >> 32)
            self._enter(home, group, number)
            return number, step or 0
        if home[PINNED] and not goes_on:
            number = int(home[PINNED]) - 1
        else:
            entries = home[ENTRY:FIRST].copy()
            own = int(entries[entries & MASK == group].max(initial=0)) >> 32 if group else 0
            resets, joined = self._joined
            number = own - 1
            if number <= (joined if resets == home[RESETS] else -1):
                number = int(entries.max()) >> 32  # the first of its group to begin the next pass
            self._enter(home, group, number)
        slot = FIRST + number % GROUPS
        first = int(home[slot])
        if first >> STEPS != number + 1:
            reached = int(home[READ:].max()) if goes_on else 0
            first = int(home[slot])  # another worker may have begun to read since
            if first >> STEPS != number + 1:
                first = home[slot] = (number + 1) << STEPS | reached & STEP_MASK
        return number, (first & STEP_MASK) + worker

    def _enter(self, home: np.ndarray, group: int, number: int) -> None:
        """Record that a group of workers, or the home itself, reads in a pass."""
        entries, place = home[ENTRY:FIRST], 0
        if group:
            self._joined = int(home[RESETS]), number
            own = np.flatnonzero(entries & MASK == group)
            place = int(own[0]) if own.size else 1 + int(entries[1:].argmin())
        entries[place] = (number + 1) << 32 | group

    def has_read(self, number: int, steps: int) -> None:
        """Record that the first so many steps of a pass have been read, as far as this process knows."""
        info = get_worker_info()
        worker = 0 if info is None else info.id % WORKERS
        home, place = self._home(), READ + worker
        # a worker that still reads ahead for a loop that was left must not hide a later pass
        home[place] = max(int(home[place]), (number + 1) << STEPS | steps)

    @property
    def position(self) -> tuple[int, int]:
        """The pass that is read now, and how many steps of it have been read."""
        read = int(self._home()[FIRST:].max())
        return max((read >> STEPS) - 1, 0), read & STEP_MASK

    def _home(self) -> np.ndarray:
        """The row of the process whose loaders read."""
        table, pid = self._table.numpy(), _home_pid()
        for i in range(pid, pid + HOMES):
            home = table[i % HOMES]
            if home[PID] == pid:
                return home
            if home[PID] == 0:
                break
        else:
            home = table[pid % HOMES]  # all are taken, most of them by processes that ended
        creator = table[table[:, PID] == self._creator]
        home[1:] = creator[0, 1:] if len(creator) else 0
        last, home[ENTRY:FIRST] = _last(home) << 32, 0  # its groups are not ours
        home[ENTRY], home[PID] = last, pid
        return home


def current_reader() -> object | None:
    """The fetcher of a loader on whose behalf this function is called; None for a direct call.

    In a worker, threads that the data set around ours has started read for the fetcher that waits for
    them in the main thread.
    """
    found, main = _reader_above(sys._getframe(1)), threading.main_thread()
    if found is None and get_worker_info() is not None and threading.current_thread() is not main:
        return _reader_above(sys._current_frames().get(main.ident or 0))
    return found


def _reader_above(frame: FrameType | None) -> object | None:
    """The fetcher in whose call a frame is."""
    while frame is not None:
        if frame.f_globals is fetch.__dict__:
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


class _Readers(Dataset[bool]):
    """One item: whether the loader that reads it is found."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> bool:
        return current_reader() is not None


@cache
def check_loaders() -> None:
    """Warn, once in a process, where the passes of this torch's loaders cannot be counted."""
    # on the CPU whatever the default is; with a generator of its own, which spares the global one
    with torch.device("cpu"):
        (found,) = DataLoader(_Readers(), None, generator=torch.Generator())
    if not found:
        warnings.warn(
            f"the passes of loaders of torch {torch.__version__} cannot be counted, so views do not "
            "change by themselves: call set_epoch before each pass",
            stacklevel=4,
        )


def _last(home: np.ndarray) -> int:
    """The number of the last pass, plus 1."""
    return int(home[ENTRY:FIRST].max() >> 32)


def _home_pid() -> int:
    """The process whose loaders are counted together: of a worker, the one that started it."""
    parent = multiprocessing.parent_process()
    if get_worker_info() is None or parent is None or parent.pid is None:
        return os.getpid()
    return parent.pid


def _group() -> tuple[int, int]:
    """A number that the workers of one loader share, and this worker's; 0 and 0 outside of workers.

    Processes are numbered by the one that starts them, in the order in which it does, whatever the
    random seeds are.
    """
    info = get_worker_info()
    if info is None:
        return 0, 0
    identity = getattr(multiprocessing.current_process(), "_identity", ())
    number = identity[-1] if identity else info.seed
    return (number - info.id) & MASK, info.id
