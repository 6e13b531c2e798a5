"""Whether Triton can train a network, and calls of its kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

# of the compiler: one stage, as no load may move before the barriers of an earlier iteration
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
_failed: set[str] = set()  # names of kernels that could not be compiled or started


class LaunchError(RuntimeError):
    """A kernel could not be compiled or started; nothing was changed."""


def is_available(network: nn.Module, name: str) -> bool:
    """Whether the network is on CUDA in float32, there is Triton, and its kernel `name` has not failed.

    Products of float64 are not in every version of Triton.
    """
    single = next(network.parameters()).dtype == torch.float32
    return single and device_type(network) == "cuda" and name not in _failed and has_triton()


def device_type(network: nn.Module) -> str:
    """The type of the network's device."""
    return next(network.parameters()).device.type


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def launch(
    name: str, kernel: Callable[[], Any], arguments: Mapping[str, Any], members: int
) -> None:
    """Run a kernel with one program per member.

    Args:
        name: of the kernel, in the warning.
        kernel: imports and returns it.
        arguments: by name.
        members: S.

    Raises:
        LaunchError: it could not be compiled or started, about which one warning was given. From then on
            it is not available.
    """
    device = next(given.device for given in arguments.values() if isinstance(given, torch.Tensor))
    try:
        # Triton's interpreter, which the tests use, runs on the CPU
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel()[(members,)](**arguments, **OPTIONS)
    except Exception as error:  # of many kinds: Triton's, LLVM's, the driver's
        _failed.add(name)
        warnings.warn(
            f"Triton could not compile or start {name}, so training runs in plain torch: {error}",
            stacklevel=2,
        )
        raise LaunchError(str(error)) from error
