"""Parts of an ensemble on threads: members, not single products, are shared among cores.

A product that is split among threads waits for the slowest of them, thousands of times a second; where
another process holds a core, torch's threads then spend their time waiting for each other. Parts meet only
at the end of a span of steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")


def on_threads(work: Callable[[Item], object], items: Iterable[Item], threads: int) -> None:
    """Do `work(item)` for all items on so many threads, among which torch's threads are divided.

    With one thread it is done here, and torch uses as many as before. An error in one of them, or Ctrl-C, is
    raised when all have ended what they are at; no further item is begun.
    """
    if threads <= 1:
        for item in items:
            work(item)
        return
    waiting = deque(items)
    given = torch.get_num_threads()
    each = max(given // threads, 1)

    def work_through() -> None:
        torch.set_num_threads(each)
        while waiting:
            try:
                item = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                work(item)
            except BaseException:
                waiting.clear()
                raise

    torch.set_num_threads(each)  # which threads that start now begin with
    try:
        with ThreadPoolExecutor(threads, thread_name_prefix="dualnets") as pool:
            running = [pool.submit(work_through) for _ in range(threads)]
            try:
                for future in running:
                    future.result()
            except BaseException:  # Ctrl-C arrives here
                waiting.clear()
                raise
    finally:
        torch.set_num_threads(given)
