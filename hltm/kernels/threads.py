"""Compiled work split over plain threads, as many as torch uses.

Compiled kernels release the interpreter's lock, so plain threads run them side by side. They follow
`torch.set_num_threads`, hence run single-threaded inside a DataLoader's workers; and there is no
threading layer that a fork would break: a forked process starts threads of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def split(work: Callable[[int, int], None], tasks: int, parallel: bool = True) -> None:
    """Call work(low, high) for consecutive shares of range(tasks), side by side.

    Args:
        work: does tasks low .. high - 1; shares must not write to the same places.
        tasks: how many.
        parallel: False runs everything in this thread: small work is not worth a second one.
    """
    threads = min(torch.get_num_threads(), tasks) if parallel else 1
    if threads <= 1:
        work(0, tasks)
        return
    edges = np.linspace(0, tasks, threads + 1).astype(int).tolist()
    shares = list(pairwise(edges))
    others = [_pool(threads).submit(work, low, high) for low, high in shares[1:]]
    work(*shares[0])
    for other in others:
        other.result()


def _pool(threads: int) -> ThreadPoolExecutor:
    """This process's pool for so many threads."""
    key = os.getpid(), threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads - 1, thread_name_prefix="hltm")
    return _pools[key]
