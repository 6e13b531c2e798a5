"""States as numbers that a network reads."""

from __future__ import annotations

import torch
from torch import Tensor


def bits(states: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Binary states as 0 and 1, in the shape they have."""
    return states.to(dtype)


def signs(states: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Binary states as -1 and +1, in the shape they have.

    Example:
        >>> signs(torch.tensor([0, 1], dtype=torch.uint8))
        tensor([-1.,  1.])
    """
    return 2 * states.to(dtype) - 1
