"""All members of an ensemble in a kernel: their parameters side by side, and their work on threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualnets.networks.compiled.code import layer_code
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


def train_all(kernel: Callable[..., Any], arguments: Sequence[Any], losses: np.ndarray) -> None:
    """Call a kernel with `layer_code`, arguments, and shares low, high of all members, on torch's threads.

    Each member low .. high - 1 is trained through all steps by one thread.

    Args:
        losses: `(S,)`, of the parameters' dtype.
    """
    code = layer_code(losses.dtype, kernel, [*arguments, 0, 0])

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            kernel(code, *arguments, low, high)

    share(work, len(losses), threads=torch.get_num_threads())
