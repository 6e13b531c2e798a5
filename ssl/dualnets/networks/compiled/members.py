"""All members of an ensemble in a kernel: their parameters side by side, and their work on threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hltm.sampling.kernels.threads import share


def flatten(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors `(S, …)` side by side into one, `(S, P)`.

    Example:
        >>> flatten([torch.zeros(2, 3, 4), torch.zeros(2, 5)]).shape
        torch.Size([2, 17])
    """
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1)


def unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the numbers of `flatten(tensors)` back into these tensors, in place."""
    at = 0
    for tensor in tensors:
        size = tensor[0].numel()
        tensor.copy_(flat[:, at : at + size].view_as(tensor))
        at += size


def train_all(kernel: Callable[..., Any], arguments: Sequence[Any], members: int) -> None:
    """Call `kernel(*arguments, low, high)` for shares low .. high - 1 of all members, on torch's threads.

    Each member is trained through all steps by one thread.
    """

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            kernel(*arguments, low, high)

    share(work, members, threads=torch.get_num_threads())
