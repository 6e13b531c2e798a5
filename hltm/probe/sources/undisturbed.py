"""Running others' code without a trace: buffers and modes of a model, and global random states."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@contextlib.contextmanager
def undisturbed(source: Any) -> Iterator[None]:
    """Whatever runs inside leaves global random states, and a module, as they were; without autocast.

    Args:
        source: a module, an object whose `model` is one, or anything else, of which nothing is kept.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> with undisturbed(nn.Dropout()):
        ...     _ = torch.rand(3)
        >>> torch.rand(1).equal(torch.rand(1, generator=torch.Generator().manual_seed(0)))
        True
    """
    model = source if isinstance(source, nn.Module) else getattr(source, "model", None)
    states = random.getstate(), np.random.get_state()  # noqa: NPY002, the state of others' code
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    kept = kept_state(model) if isinstance(model, nn.Module) else contextlib.nullcontext()
    try:
        with torch.random.fork_rng(devices=devices), _full_precision(), kept:
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextlib.contextmanager
def kept_state(model: nn.Module) -> Iterator[None]:
    """Whatever runs inside leaves the modes and buffers of a module as they were, also replaced ones.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with kept_state(norm):
        ...     _ = norm(torch.rand(3, 2))
        >>> int(norm.num_batches_tracked)
        0
    """
    parts = [(part, part.training, dict(part._buffers)) for part in model.modules()]
    lasting = [set(part._non_persistent_buffers_set) for part, _, _ in parts]
    buffers = [b for _, _, own in parts for b in own.values() if b is not None]
    held = {id(b): b for b in buffers if not nn.parameter.is_lazy(b) and not b.is_meta}
    before = {key: buffer.clone() for key, buffer in held.items()}
    try:
        yield
    finally:
        for (part, mode, own), others in zip(parts, lasting, strict=True):
            part.training = mode
            # the dictionary of a module of torch.jit cannot be changed, and shows new objects each time
            if isinstance(part._buffers, dict) and not _same(part._buffers, own):
                part._buffers.clear()
                part._buffers.update(own)
                part._non_persistent_buffers_set = others
        with torch.no_grad():
            for key, buffer in held.items():
                # one that has not changed may be needed as it is by a backward pass to come
                if not torch.equal(buffer, before[key]):
                    buffer.copy_(before[key])


def _same(now: dict[str, Tensor | None], then: dict[str, Tensor | None]) -> bool:
    return now.keys() == then.keys() and all(now[name] is then[name] for name in then)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """No autocast of the caller's."""
    with contextlib.ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
