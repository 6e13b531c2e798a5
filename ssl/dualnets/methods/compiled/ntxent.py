"""NT-Xent compiled for the CPU: all pairs of a member's 2B outputs, LANES anchors at a time.

With x the outputs less their mean, over sqrt(τ), r_ik = ½ |x_i - x_k|², h_i = 1 less the positive's share and
g_ik = h_i exp(-r_ik) / Σ_k' exp(-r_ik') the share of negative k, the gradient is

    ∂L/∂x_i  ∝  (h_i + h_i+) (x_i - x_i+) - Σ_k (g_ik + g_ki) (x_i - x_k).

A first pass over the pairs finds what normalises g. A second one computes the pairs again, since the
distances are symmetric: lane i then has both g_ik and g_ki, and no sum crosses lanes. Distances and sums are
in float64, so that they are as exact far from 0 as near it; exponentials are in the outputs' dtype.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dualnets._vectors import LANES, convert, exponential, load, maximum, multiply, spread, store
from dualnets.methods._plain import plain_ntxent
from dualnets.methods.compiled.matching import combine, largest, softplus
from dualnets.methods.compiled.operation import (
    KERNELS,
    NAMESPACE,
    Kernel,
    new_gradient,
    register_gradient,
)
from hltm._compile import compiled

_LOWEST = np.finfo(np.float64).min


@torch.library.custom_op(f"{NAMESPACE}::ntxent", mutates_args=(), device_types="cpu")
def ntxent(anchor: Tensor, positive: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Losses `(S,)` and their gradients with respect to anchor and positive `(S, B, U)`."""
    losses, slopes = anchor.new_empty(len(anchor)), (new_gradient(anchor), new_gradient(anchor))
    KERNELS["ntxent"](4 * anchor.shape[1] ** 2, anchor, positive, temperature, losses, *slopes)
    return losses, *slopes


@ntxent.register_fake
def _(anchor, positive, temperature):  # type: ignore[no-untyped-def]
    return anchor.new_empty(len(anchor)), new_gradient(anchor), new_gradient(anchor)


register_gradient(ntxent, plain_ntxent, 2)


@compiled()
def _ntxent_members(  # type: ignore[no-untyped-def]
    low, high, anchor, positive, temperature, losses, d_anchor, d_positive
):
    """Members low .. high - 1."""
    for s in range(low, high):
        losses[s] = _ntxent(anchor[s], positive[s], temperature, d_anchor[s], d_positive[s])


KERNELS["ntxent"] = Kernel(
    _ntxent_members,
    lambda anchor, positive, temperature, losses, d_anchor, d_positive: (
        anchor.numpy(), positive.numpy(), temperature, losses.numpy(), d_anchor.mT.numpy(),
        d_positive.mT.numpy(),
    ),
    batch_last=(0, 1),
)  # fmt: skip


@compiled()
def _ntxent(anchor, positive, temperature, d_anchor, d_positive):  # type: ignore[no-untyped-def]
    """The loss of one member; its gradients `(U, B)` are filled. Numbers of padding reach no result."""
    units, batch = anchor.shape
    count = 2 * batch
    width, height = (units + 3) // 4 * 4, (count + 7) // 8 * 8
    padded = (count + LANES - 1) // LANES * LANES
    # 1. x, a row and a column per output, ½ |x|² and r_i+
    rows, columns = np.zeros((height, width)), np.zeros((units, padded))
    near, square = np.zeros(padded), np.zeros(padded)
    _centre(anchor, positive, 1 / math.sqrt(temperature), rows, columns, near, square)
    # 2. of every anchor: its largest x_i x_k - ½ |x_k|², h_i, and h_i over the sum of exponentials less that
    pairs, sums = np.empty((height, LANES)), np.empty((width, LANES))
    peaks, shares, scales = np.zeros(padded), np.zeros(padded), np.zeros(padded)
    loss = 0.0
    for start in range(0, count, LANES):
        _multiply_pairs(rows, columns, start, pairs)
        _normalize(pairs, square, count, start, peaks, scales, anchor)
        for i in range(start, min(start + LANES, count)):
            if scales[i] > 0 or scales[i] != scales[i]:
                total = peaks[i] + math.log(scales[i]) + near[i] - square[i]
                each, shares[i] = softplus(total, 1.0)
                loss += each
                scales[i] = shares[i] / scales[i]
    # 3. the gradient
    factor = math.sqrt(temperature) / count
    for start in range(0, count, LANES):
        _multiply_pairs(rows, columns, start, pairs)
        _weigh(pairs, square, count, start, peaks, scales, near, anchor)
        combine(rows, count, pairs, sums)
        for u in range(units):
            for i in range(start, min(start + LANES, count)):
                other = (i + batch) % count
                pulled = (shares[i] + shares[other]) * (columns[u, i] - columns[u, other])
                pushed = near[i] * columns[u, i] - sums[u, i - start]
                if i < batch:
                    d_anchor[u, i] = factor * (pulled - pushed)
                else:
                    d_positive[u, i - batch] = factor * (pulled - pushed)
    return temperature * loss / count


@compiled()
def _centre(anchor, positive, scale, rows, columns, near, square):  # type: ignore[no-untyped-def]
    """Fill x in both layouts, r_i+ and ½ |x_i|²."""
    units, batch = anchor.shape
    for u in range(units):
        mean = 0.0
        for b in range(batch):
            mean += np.float64(anchor[u, b]) + np.float64(positive[u, b])
        mean /= 2 * batch
        for b in range(batch):
            x = (np.float64(anchor[u, b]) - mean) * scale
            y = (np.float64(positive[u, b]) - mean) * scale
            columns[u, b], columns[u, batch + b] = x, y
            rows[b, u], rows[batch + b, u] = x, y
            square[b] += x * x / 2
            square[batch + b] += y * y / 2
            near[b] += (x - y) * (x - y) / 2
    for b in range(batch):
        near[batch + b] = near[b]


@compiled()
def _multiply_pairs(rows, columns, start, pairs):  # type: ignore[no-untyped-def]
    """pairs[k, lane] = x_k x_i, i = start + lane."""
    (height, width), (units, padded) = rows.shape, columns.shape
    for k in range(0, height, 8):
        multiply(8, rows, k * width, width, 1, columns, start, padded, units, pairs, k * LANES)


@compiled()
def _leave_out(pairs, count, start):  # type: ignore[no-untyped-def]
    """-infinity where k is i or its positive."""
    for i in range(start, min(start + LANES, count)):
        pairs[i, i - start] = -np.inf
        pairs[(i + count // 2) % count, i - start] = -np.inf


@compiled()
def _normalize(pairs, square, count, start, peaks, totals, like):  # type: ignore[no-untyped-def]
    """Fill the anchors' largest x_i x_k - ½ |x_k|² and their sum of exponentials, less the largest."""
    _leave_out(pairs, count, start)
    for k in range(count):
        store(pairs, k * LANES, load(pairs, k * LANES) - spread(square[k]))
    peak = largest(pairs, count, spread(_LOWEST))
    total = spread(like.dtype.type(0))
    for k in range(count):
        total = total + exponential(_bounded(load(pairs, k * LANES) - peak, like))
    store(peaks, start, peak)
    store(totals, start, convert(total, totals))


@compiled()
def _weigh(pairs, square, count, start, peaks, scales, weights, like):  # type: ignore[no-untyped-def]
    """Replace x_i x_k by g_ik + g_ki, and fill `weights` with their sums over k."""
    _leave_out(pairs, count, start)
    of_peaks, of_scales, of_squares = load(peaks, start), load(scales, start), load(square, start)
    total = spread(0.0)
    for k in range(count):
        pair = load(pairs, k * LANES)
        ours = exponential(_bounded(pair - spread(square[k]) - of_peaks, like))
        theirs = exponential(_bounded(pair - of_squares - spread(peaks[k]), like))
        weight = convert(ours, pairs) * of_scales + convert(theirs, pairs) * spread(scales[k])
        store(pairs, k * LANES, weight)
        total = total + weight
    store(weights, start, total)


@compiled()
def _bounded(logits, like):  # type: ignore[no-untyped-def]
    """In the dtype of `like`, and not below what an exponential needs; NaN stays NaN."""
    return convert(maximum(spread(-1e4), logits), like)
