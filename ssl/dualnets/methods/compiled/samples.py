"""Directions of outputs, compiled for the CPU.

They are a few passes over `(U, B)` numbers of a member, whose inner loops run over samples side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualnets.methods._plain import SHORTEST, plain_direction
from dualnets.methods.compiled.operation import (
    KERNELS,
    NAMESPACE,
    Kernel,
    new_gradient,
)
from hltm._compile import compiled

_FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning


def _storage(values: Tensor) -> np.ndarray:
    """`(S, U, B)` memory of an array that `new_gradient` made."""
    return values.transpose(1, 2).numpy()


@torch.library.custom_op(f"{NAMESPACE}::direction", mutates_args=(), device_types="cpu")
def direction(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values `(S, B, U)` scaled to length 1, and their lengths `(S, B)`."""
    found, lengths = new_gradient(values), values.new_empty(values.shape[:2])
    KERNELS["direction"](values[0].numel(), values, found, lengths)
    return found, lengths


@direction.register_fake
def _(values):  # type: ignore[no-untyped-def]
    return new_gradient(values), values.new_empty(values.shape[:2])


@torch.library.custom_op(f"{NAMESPACE}::direction_slope", mutates_args=(), device_types="cpu")
def direction_slope(unit: Tensor, lengths: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of the values, from that of their directions."""
    found = new_gradient(unit)
    KERNELS["direction_slope"](unit[0].numel(), unit, lengths, upstream, found)
    return found


@direction_slope.register_fake
def _(unit, lengths, upstream):  # type: ignore[no-untyped-def]
    return new_gradient(unit)


def _keep(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, upstream: Tensor | None, _: Any) -> Tensor | None:
    values, unit, lengths = ctx.saved_tensors
    if upstream is None:
        return None
    if torch.is_grad_enabled():  # the gradient is to be differentiated itself
        found = plain_direction(values)
        return torch.autograd.grad(found, values, upstream, create_graph=True)[0]
    return direction_slope(unit, lengths, upstream)


direction.register_autograd(_differentiate, setup_context=_keep)


@compiled(fastmath=_FAST)
def _direction(low, high, values, found, lengths):  # type: ignore[no-untyped-def]
    least = values.dtype.type(SHORTEST)
    for s in range(low, high):
        length = lengths[s]
        length[:] = 0
        for u in range(values.shape[1]):
            for b in range(len(length)):
                length[b] += values[s, u, b] * values[s, u, b]
        for b in range(len(length)):
            length[b] = np.nan if np.isinf(length[b]) else np.sqrt(length[b])
        for u in range(values.shape[1]):
            for b in range(len(length)):
                found[s, u, b] = values[s, u, b] / (least if length[b] < least else length[b])


@compiled(fastmath=_FAST)
def _direction_slope(low, high, unit, lengths, upstream, found):  # type: ignore[no-untyped-def]
    kind = unit.dtype.type
    least = kind(SHORTEST)
    along = np.empty(unit.shape[2], unit.dtype)
    for s in range(low, high):
        length = lengths[s]
        along[:] = 0
        for u in range(unit.shape[1]):
            for b in range(len(along)):
                along[b] += unit[s, u, b] * upstream[s, u, b]
        for b in range(len(along)):  # a length that is replaced by another has no gradient
            along[b] = kind(0) if length[b] < least else along[b]
        for u in range(unit.shape[1]):
            for b in range(len(along)):
                rest = upstream[s, u, b] - unit[s, u, b] * along[b]
                found[s, u, b] = rest / (least if length[b] < least else length[b])


KERNELS["direction"] = Kernel(
    _direction,
    lambda values, found, lengths: (values.numpy(), _storage(found), lengths.numpy()),
    batch_last=(0,),
)
KERNELS["direction_slope"] = Kernel(
    _direction_slope,
    lambda unit, lengths, upstream, found: (
        unit.numpy(), lengths.numpy(), upstream.numpy(), _storage(found),
    ),
    batch_last=(0, 2),
)  # fmt: skip
