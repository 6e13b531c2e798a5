"""Compiled work split over plain threads, as many as torch uses.

Compiled kernels release the interpreter's lock, so plain threads run them side by side. Kernels ask
for as many as `torch.get_num_threads()`, hence run single-threaded inside a DataLoader's workers; and
there is no threading layer that a fork would break: a forked process starts threads of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def share(
    work: Callable[[Iterator[tuple[int, int]]], None], tasks: int, *, threads: int, grain: int = 1
) -> None:
    """Do tasks 0 .. tasks - 1 in this thread and others, each taking the next `grain` when it is free.

    Args:
        work: called once per thread with an iterator of (low, high): it does tasks low .. high - 1
            of each, and makes the memory that its thread needs before the first. Tasks must not
            write to the same places.
        threads: how many at most; with one, all tasks come as a single share.
        grain: tasks per share.
    """
    threads = min(threads, -(-tasks // grain))
    if threads <= 1:
        work(iter([(0, tasks)]))
        return
    # all threads take from one iterator; the interpreter's lock gives each share to one of them
    rest = iter([(low, min(low + grain, tasks)) for low in range(0, tasks, grain)])
    others = [_pool(threads).submit(work, rest) for _ in range(threads - 1)]
    work(rest)
    for other in others:
        other.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    """This process's pool for so many threads."""
    key = os.getpid(), threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="hltm")
    return _pools[key]
