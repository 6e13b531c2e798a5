"""torch, imported when it is first used.

Settings of methods, losses, norms and optimisers are dataclasses that the command line shows as flags,
and it must not wait for torch to do so.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch as torch
else:
    from hltm._lazy import LazyModule

    torch = LazyModule("torch")
