"""Numbers of 16 bits, which networks may have, and the precision in which they are computed with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dualnets._lazy import torch

if TYPE_CHECKING:
    from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """The values, in float32 where their dtype is shorter.

    In 16 bits a mean is too coarse, a sum of squares overflows, and an epsilon of 1e-12 is 0.

    Example:
        >>> import torch
        >>> at_least_float32(torch.zeros(1, dtype=torch.float16)).dtype
        torch.float32
    """
    return values.float() if values.dtype.itemsize < 4 else values


def with_bounded_slopes(values: Tensor) -> Tensor:
    """`at_least_float32`, and slopes on their way back to 16 bits are cut off at 1/64 of the largest number.

    The slope of a direction at an output of 0 is up to 1e12, and the zeros that it is multiplied with make it
    0. In 16 bits it would be infinite, and the product NaN; 1/64 leaves room for products with weights.

    Example:
        >>> import torch
        >>> output = torch.zeros(1, 1, dtype=torch.float16, requires_grad=True)
        >>> torch.nn.functional.normalize(with_bounded_slopes(output)).sum().backward()
        >>> output.grad.item()
        1023.5
    """
    if values.dtype.itemsize >= 4:
        return values
    found, largest = values.float(), torch.finfo(values.dtype).max / 64
    if found.requires_grad:
        found.register_hook(lambda slope: slope.clamp(-largest, largest))
    return found
