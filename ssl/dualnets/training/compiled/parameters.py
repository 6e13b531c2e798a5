"""Parameters of an ensemble side by side in one array, as kernels read them, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
