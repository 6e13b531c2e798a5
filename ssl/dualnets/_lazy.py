"""torch, imported when it is first used.

Settings of methods, losses, norms and optimisers are dataclasses that the command line shows as flags, and
it must not wait for torch to do so. Modules that hold such dataclasses therefore write
`from dualnets._lazy import torch` and use torch inside functions only: a base class `torch.nn.Module`, a
decorator `@torch.no_grad()` or a default `dtype=torch.float32` would import it at once.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch as torch
else:
    from hltm._lazy import LazyModule

    torch = LazyModule("torch")

Function = TypeVar("Function", bound=Callable[..., Any])


def no_grad(function: Function) -> Function:
    """`@torch.no_grad()` that imports torch only when the function is called."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with torch.no_grad():
            return function(*args, **options)

    return call  # type: ignore[return-value]
