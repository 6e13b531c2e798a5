"""Whether tensors can be handed to compiled code: plain ones on a CPU, in plain reverse-mode autograd."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd import forward_ad

DTYPES = (torch.float32, torch.float64)
# attributes of modules and parameters that hold a user's hooks
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)  # fmt: skip
# what takes the place of tensors while a graph is recorded
_KNOWN = (torch.Tensor, torch.nn.Parameter)
_RECORDED = ("FakeTensor", "FunctionalTensor")


def are_known(tensors: Iterable[Tensor]) -> bool:
    """Whether compiled code computes with these tensors what plain torch would, but for autocast.

    It does not under transforms of `torch.func` or forward-mode differentiation, on other devices, in other
    or several dtypes, or with subclasses of `Tensor`.
    """
    dtype = None
    for own in tensors:
        dtype = own.dtype if dtype is None else dtype
        known = type(own) in _KNOWN or type(own).__name__ in _RECORDED
        if not known or own.dtype != dtype or own.device.type != "cpu":
            return False
    return (
        dtype in DTYPES
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def are_plain(parameters: Iterable[Tensor]) -> bool:
    """Whether compiled code may compute with these parameters, now: `are_known`, and without autocast."""
    return are_known(parameters) and not torch.is_autocast_enabled("cpu")


def has_memory(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory.

    Where autograd differentiates for several gradients at once (`is_grads_batched`), one of them is not.
    """
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True
