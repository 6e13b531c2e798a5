"""Which kernel draws for a device that is not the CPU; the states are the same whichever it is.

On a GPU with CUDA its own kernel draws, where numba can compile it. Elsewhere the CPU kernel draws and
the states are copied, since the reference moves 4,700 to 6,800 bytes of the device's memory for a
state (counted over its operations; more than 256 states: 20,000): at 3e12 bytes/s that is at most 0.4e9
binary states or 0.6e9 of many states a second, which the CPU kernel exceeds with one thread (3e9) or
two (0.45e9 each). With one thread and many states the reference draws, if the device has CUDA.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from hltm.model.tables import Tables
from hltm.sampling.kernels import reference
from hltm.sampling.kernels.request import DrawRequest

_failed: set[str] = set()  # types of devices whose own kernel failed in this process


def draw(tables: Tables, request: DrawRequest) -> list[Tensor]:
    """Draw states; one `(S, V - first, B)` tensor per view on the request's device."""
    if draws_itself(tables, request.device):
        kernel = _cuda_kernel()
        if kernel is None:
            return reference.draw(tables, request)
        try:
            return kernel.draw(tables, request)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # numba's own, of many kinds, when it compiles or launches
            _give_up(error)
            return draw(tables, request)
    from hltm.sampling.kernels import cpu  # compiles: at the first draw, not at import

    base = None if request.base is None else request.base.cpu()
    states = cpu.draw(tables, replace(request, device=torch.device("cpu"), base=base))
    return [view.to(request.device) for view in states]


def draws_itself(tables: Tables, device: torch.device) -> bool:
    """Whether the device draws, rather than the CPU for it."""
    if device.type != "cuda":
        return False
    return _cuda_kernel() is not None or (not tables.binary and torch.get_num_threads() == 1)


def _cuda_kernel() -> ModuleType | None:
    """The module of the kernel for CUDA; None where numba cannot compile it."""
    return None if "cuda" in _failed else _usable_cuda_kernel()


@cache
def _usable_cuda_kernel() -> ModuleType | None:
    try:
        from hltm.sampling.kernels import cuda  # numba's part for CUDA: at the first draw

        return cuda if cuda.usable() else None
    except Exception:  # of many kinds: a version of numba without CUDA, a driver that does not fit
        return None


def _give_up(error: Exception) -> None:
    """From now on draw without the kernel for CUDA, and say so once."""
    _failed.add("cuda")
    first_line = (str(error).splitlines() or [""])[0]
    # in angle brackets, which no file has, Python shows one line, without the source beneath it
    warnings.warn_explicit(
        f"the CPU draws for the GPU, since numba cannot use it ({type(error).__name__}: {first_line}); "
        "the states are the same",
        RuntimeWarning,
        filename="<hltm>",
        lineno=1,
    )
