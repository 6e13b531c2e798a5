"""Whether Triton can train a network, and calls of its kernels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet

import torch
from torch import nn

# of the compiler: one stage, as no load may move before the barriers of an earlier iteration
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
_failed: set[tuple[Any, ...]] = set()  # kernels and their settings that do not compile or start
_refused: WeakSet[nn.Module] = WeakSet()  # networks for which they would have been


class LaunchError(RuntimeError):
    """A kernel could not be compiled or started; nothing was changed."""


def is_available(network: nn.Module) -> bool:
    """Whether the network is on CUDA in float32, there is Triton, and no launch for it has failed.

    Products of float64 are not in every version of Triton.
    """
    single = next(network.parameters()).dtype == torch.float32
    return single and device_type(network) == "cuda" and network not in _refused and has_triton()


def device_type(network: nn.Module) -> str:
    """The type of the network's device."""
    return next(network.parameters()).device.type


@cache
def has_triton() -> bool:
    """Whether Triton is installed."""
    return find_spec("triton") is not None


def launch(network: nn.Module, kernel: Callable[[], Any], arguments: Mapping[str, Any]) -> None:
    """Run a kernel with one program per member.

    Args:
        network: what it trains.
        kernel: imports and returns it.
        arguments: by name; those in capitals are settings for which it is compiled.

    Raises:
        LaunchError: it could not be compiled or started, about which one warning was given. From then on
            it is not available for the network; for other settings it may be.
    """
    device = next(network.parameters()).device
    setting = (kernel, device, *(own for name, own in arguments.items() if name.isupper()))
    if setting in _failed:
        _refused.add(network)
        raise LaunchError("a kernel of these settings failed before")
    try:
        # Triton's interpreter, which the tests use, runs on the CPU
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel()[(len(arguments["parameters"]),)](**arguments, **OPTIONS)
    except Exception as error:  # of many kinds: Triton's, LLVM's, the driver's
        _failed.add(setting)
        _refused.add(network)
        warnings.warn(
            f"Triton could not compile or start a kernel, so training runs in plain torch: {error}",
            stacklevel=2,
        )
        raise LaunchError(str(error)) from error
