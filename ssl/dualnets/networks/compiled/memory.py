"""Memory that is used again: a buffer that a graph of autograd has kept returns when the graph is gone.

Memory that is given back to the system after every step has to be mapped again, page by page, in the
next one, which took a tenth of a training step.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

KEPT = 4  # free buffers of one size; more are given back

SIZES = 64  # for so many sizes; with one more, all that is free is given back

# No lock: each change is one operation of a list. The garbage collector may delete a buffer at any time,
# also while this thread makes another one, and would wait for ever for a lock that it holds itself.
_free: defaultdict[int, list[Tensor]] = defaultdict(list)


class Buffer:
    """Memory of at least so many bytes, on a boundary of 64, that is free again when this object is gone."""

    __slots__ = ("memory",)

    def __init__(self, size: int) -> None:
        try:
            self.memory = _free[size].pop()
        except IndexError:
            self.memory = torch.empty(size + 64, dtype=torch.uint8)

    @property
    def address(self) -> int:
        """Of its first byte."""
        return -(-self.memory.data_ptr() // 64) * 64

    def __del__(self) -> None:
        if len(_free) > SIZES:
            _free.clear()
        own = _free[self.memory.numel() - 64]
        if len(own) < KEPT:
            own.append(self.memory)
