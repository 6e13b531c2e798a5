"""What methods compute of each sample alone, compiled for the CPU: directions, cosines, losses of pairs.

All are a few passes over `(U, B)` numbers of a member, whose inner loops run over samples side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualnets.methods._plain import SMALLEST, plain_cosine_similarity, plain_direction
from dualnets.methods.compiled.operation import (
    KERNELS,
    NAMESPACE,
    Kernel,
    new_gradient,
    register_gradient,
)
from hltm._compile import compiled

_FAST = {"reassoc", "contract", "nsz"}  # NaN and infinity keep their meaning
_SQUARE = SMALLEST**2
_SHORTEST = 1e-12  # shorter vectors are divided by this, as in `plain_direction`


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


@torch.library.custom_op(f"{NAMESPACE}::cosines", mutates_args=(), device_types="cpu")
def cosines(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines `(S, B)`, and their gradients with respect to both."""
    found, slopes = a.new_empty(a.shape[:2]), (new_gradient(a), new_gradient(b))
    KERNELS["cosines"](4 * a[0].numel(), a, b, found, *slopes)
    return found, *slopes


@cosines.register_fake
def _(a, b):  # type: ignore[no-untyped-def]
    return a.new_empty(a.shape[:2]), new_gradient(a), new_gradient(b)


register_gradient(cosines, plain_cosine_similarity, 2)


@compiled(fastmath=_FAST)
def _direction(low, high, values, found, lengths):  # type: ignore[no-untyped-def]
    least = values.dtype.type(_SHORTEST)
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
    least = kind(_SHORTEST)
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


@compiled(fastmath=_FAST)
def _cosines(low, high, a, b, found, d_a, d_b):  # type: ignore[no-untyped-def]
    kind = a.dtype.type
    least, one, zero = kind(_SQUARE), kind(1), kind(0)
    units, batch = a.shape[1:]
    aa, bb, ab = np.empty(batch, a.dtype), np.empty(batch, a.dtype), np.empty(batch, a.dtype)
    for s in range(low, high):
        aa[:], bb[:], ab[:] = zero, zero, zero
        for u in range(units):
            for c in range(batch):
                aa[c] += a[s, u, c] * a[s, u, c]
                bb[c] += b[s, u, c] * b[s, u, c]
                ab[c] += a[s, u, c] * b[s, u, c]
        for c in range(batch):
            inverse_a = one / np.sqrt(least if aa[c] < least else aa[c])
            inverse_b = one / np.sqrt(least if bb[c] < least else bb[c])
            cosine = ab[c] * inverse_a * inverse_b
            found[s, c] = cosine
            # ∂cos/∂a = b / (|a| |b|) - cos a / |a|²; a length that is replaced has no gradient
            ab[c] = inverse_a * inverse_b
            aa[c] = zero if aa[c] < least else cosine * inverse_a * inverse_a
            bb[c] = zero if bb[c] < least else cosine * inverse_b * inverse_b
        for u in range(units):
            for c in range(batch):
                d_a[s, u, c] = ab[c] * b[s, u, c] - aa[c] * a[s, u, c]
                d_b[s, u, c] = ab[c] * a[s, u, c] - bb[c] * b[s, u, c]


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
KERNELS["cosines"] = Kernel(
    _cosines,
    lambda a, b, found, d_a, d_b: (
        a.numpy(), b.numpy(), found.numpy(), _storage(d_a), _storage(d_b),
    ),
    batch_last=(0, 1),
)  # fmt: skip
