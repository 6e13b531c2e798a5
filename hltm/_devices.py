"""Devices by name: what a machine has, and what a device can hold."""

from __future__ import annotations

import torch

KINDS = ("cpu", "cuda", "mps", "xpu")


def check_device(device: torch.device | str, dtype: torch.dtype | None = None) -> torch.device:
    """The device by name; `auto` is CUDA if the machine has it, else the CPU.

    Args:
        device: `auto`, or as torch names it: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`.
        dtype: of numbers that the device has to hold.

    Raises:
        ValueError: an unknown name, a device that this machine does not have, or one that cannot hold
            numbers of the dtype.

    Example:
        >>> check_device("cpu")
        device(type='cpu')
        >>> check_device("gpu")
        Traceback (most recent call last):
        ValueError: unknown device 'gpu', expected auto, cpu, cuda, cuda:1, mps or xpu
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = device_named(device)
    count = _count(found.type)
    if count == 0 or (found.index or 0) >= count:
        here = [f"{kind}:{i}" for kind in KINDS[1:] for i in range(_count(kind))]
        raise ValueError(
            f"there is no device {str(device)!r}; this machine has {', '.join(['cpu', *here])}"
        )
    if dtype == torch.float64 and not has_float64(found):
        raise ValueError(
            f"device {str(device)!r} has no float64, use dtype=torch.float32 or the CPU"
        )
    return found


def device_named(device: torch.device | str) -> torch.device:
    """The device of a name, on whatever machine that has it.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> device_named("cuda:7")
        device(type='cuda', index=7)
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in KINDS:
        raise ValueError(
            f"unknown device {str(device)!r}, expected auto, cpu, cuda, cuda:1, mps or xpu"
        )
    return found


def has_float64(device: torch.device) -> bool:
    """Whether tensors of float64 can lie on the device."""
    if device.type == "xpu":
        return bool(getattr(torch.xpu.get_device_properties(device), "has_fp64", True))
    return device.type != "mps"


def float64_device(device: torch.device | str) -> torch.device:
    """The device, or the CPU in place of one without float64."""
    found = torch.device(device)
    return found if has_float64(found) else torch.device("cpu")


def _count(kind: str) -> int:
    """How many devices of a kind the machine has."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind)
    return module.device_count() if module.is_available() else 0
