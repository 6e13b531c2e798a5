"""`methods._plain.plain_losses` compiled for the CPU: one query per lane, so no sum crosses lanes.

A tile is LANES samples. Its logits, `(M, LANES)`, are one product with all M candidates, stay in the
cache, become exponentials and then weights in place, and a second product makes the gradient of them.
Per member that is 4 M B U floating-point operations and M B exponentials; no array of `(S, B, M)` exists.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dualnets._vectors import LANES, convert, exponential, load, maximum, multiply, spread, store
from dualnets.methods._plain import plain_losses
from dualnets.methods.compiled.operation import (
    KERNELS,
    NAMESPACE,
    Kernel,
    new_gradient,
    register_gradient,
)
from hltm._compile import compiled


@torch.library.custom_op(f"{NAMESPACE}::match", mutates_args=(), device_types="cpu")
def match(
    queries: Tensor, positives: Tensor, candidates: Tensor, own: Tensor, labels: Tensor,
    temperature: float, classify: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Losses `(S, B)` and their gradients with respect to the queries `(S, B, U)`."""
    losses, gradient = queries.new_empty(queries.shape[:2]), new_gradient(queries)
    KERNELS["match"](
        candidates.shape[1] * queries.shape[1],
        queries, positives, candidates, own, labels, temperature, classify, losses, gradient,
    )  # fmt: skip
    return losses, gradient


@match.register_fake
def _(queries, positives, candidates, own, labels, temperature, classify):  # type: ignore[no-untyped-def]
    return queries.new_empty(queries.shape[:2]), new_gradient(queries)


register_gradient(match, plain_losses, 1)


@compiled()
def _match_members(  # type: ignore[no-untyped-def]
    low, high, queries, positives, candidates, own, labels, temperature, classify, losses, gradient
):
    """Members low .. high - 1."""
    for s in range(low, high):
        _match(
            queries[s], positives[s], candidates[s], own, labels[s], temperature, classify,
            losses[s], gradient[s],
        )  # fmt: skip


KERNELS["match"] = Kernel(
    _match_members,
    lambda queries, positives, candidates, own, labels, temperature, classify, losses, gradient: (
        queries.numpy(), positives.numpy(), candidates.detach().contiguous().numpy(), own.numpy(),
        labels.contiguous().numpy(), temperature, classify, losses.numpy(),
        gradient.transpose(1, 2).numpy(),
    ),
    batch_last=(0, 1),
)  # fmt: skip


@compiled()
def _match(  # type: ignore[no-untyped-def]
    queries, positives, candidates, own, labels, temperature, classify, losses, gradient
):
    """All tiles of one member.

    Args:
        queries, positives: `(U, B)`.
        candidates: `(M, U)`.
        own, labels: `(B,)` and `(M,)`; a candidate with a sample's own label is left out. Both may be empty.
        temperature, classify: as in `methods._plain.plain_losses`.
        losses, gradient: `(B,)` and `(U, B)`, filled.
    """
    units, batch = queries.shape
    many, kind = len(candidates), queries.dtype.type
    inverse, zero, one = kind(1 / temperature), kind(0), kind(1)
    lowest = kind(np.finfo(queries.dtype).min)
    width, rows = (units + 3) // 4 * 4, (many + 7) // 8 * 8
    table = np.zeros((rows, width), queries.dtype)  # candidates, padded
    table[:many, :units] = candidates
    query = np.empty((units, LANES), queries.dtype)
    weights = np.empty((rows, LANES), queries.dtype)
    sums = np.empty((width, LANES), queries.dtype)
    # of each lane: largest logit, sum of exponentials, h and the scale of the gradient
    of_lanes = np.empty((4, LANES), queries.dtype)
    peaks, totals, shares, scales = of_lanes[0], of_lanes[1], of_lanes[2], of_lanes[3]
    logs = np.empty(LANES)  # of the negatives' 1 + h(n), and its sum
    for start in range(0, batch, LANES):
        count = min(LANES, batch - start)
        # 1. logits, less their largest
        copy_tile(queries, start, inverse, query)
        for j in range(0, rows, 8):
            multiply(8, table, j * width, width, 1, query, 0, LANES, units, weights, j * LANES)
        for j in range(len(labels)):
            for lane in range(count):
                if labels[j] == own[start + lane]:
                    weights[j, lane] = -np.inf
        peak = largest(weights, many, spread(lowest))
        total = spread(zero)
        for j in range(many):
            each = exponential(load(weights, j * LANES) - peak)
            store(weights, j * LANES, each)
            total = total + each
        store(peaks, 0, peak)
        store(totals, 0, total)
        # 2. the loss -log h(m), h = 1 / (1 + exp(mass - near))
        for lane in range(LANES):
            column = start + min(lane, count - 1)
            near = zero
            for u in range(units):
                near += query[u, lane] * positives[u, column]
            loss, shares[lane] = softplus(peaks[lane] + math.log(totals[lane]) - near, one)
            scales[lane] = one / totals[lane] if totals[lane] != zero else zero
            if lane < count:
                losses[column] = loss
        # 3. the losses -log(1 - h(n)) of negatives, h(n) = p / (1 + p) with p the share among negatives
        if classify:
            _classify(weights, many, scales, shares, logs)
            for lane in range(count):
                losses[start + lane] += kind(math.log(logs[lane]))
                scales[lane] = one
        else:
            for lane in range(LANES):
                scales[lane] *= shares[lane]
        # 4. the gradient: weights times candidates, less the positive's part
        combine(table, many, weights, sums)
        for u in range(units):
            for lane in range(count):
                pull = shares[lane] * positives[u, start + lane]
                gradient[u, start + lane] = (sums[u, lane] * scales[lane] - pull) * inverse


@compiled()
def _classify(weights, many, scales, shares, products):  # type: ignore[no-untyped-def]
    """Weights of exponentials replaced by slopes of both losses; the product of all 1 + p by lane."""
    one, long = spread(weights.dtype.type(1)), spread(1.0)
    inverse = load(scales, 0)
    product, total = long, one - one
    for j in range(many):
        share = load(weights, j * LANES) * inverse
        store(weights, j * LANES, share)
        total = total + share / (one + share)
        product = product * (long + convert(share, products))  # at most e, since shares sum to 1
    store(products, 0, product)
    rest = load(shares, 0) - total
    for j in range(many):
        share = load(weights, j * LANES)
        store(weights, j * LANES, share * (rest + one / (one + share)))


@compiled()
def copy_tile(values, start, scale, tile):  # type: ignore[no-untyped-def]
    """Columns from `start` on, times a scale, a lane each; lanes beyond the last column repeat it."""
    count = min(LANES, values.shape[1] - start)
    for row in range(len(values)):
        for lane in range(count):
            tile[row, lane] = values[row, start + lane] * scale
        for lane in range(count, LANES):
            tile[row, lane] = tile[row, count - 1]


@compiled()
def largest(rows, many, lowest):  # type: ignore[no-untyped-def]
    """The largest number of each lane over rows, at least `lowest`: four chains, as each waits for itself."""
    a = b = c = d = lowest
    j = 0
    while j + 4 <= many:
        a = maximum(load(rows, j * LANES), a)
        b = maximum(load(rows, (j + 1) * LANES), b)
        c = maximum(load(rows, (j + 2) * LANES), c)
        d = maximum(load(rows, (j + 3) * LANES), d)
        j += 4
    while j < many:
        a = maximum(load(rows, j * LANES), a)
        j += 1
    return maximum(maximum(a, b), maximum(c, d))


@compiled()
def combine(table, many, weights, sums):  # type: ignore[no-untyped-def]
    """sums[u] = Σ_j table[j, u] weights[j]."""
    width = table.shape[1]
    u = 0
    while u + 16 <= width:
        multiply(16, table, u, 1, width, weights, 0, LANES, many, sums, u * LANES)
        u += 16
    if u + 12 <= width:
        multiply(12, table, u, 1, width, weights, 0, LANES, many, sums, u * LANES)
    elif u + 8 <= width:
        multiply(8, table, u, 1, width, weights, 0, LANES, many, sums, u * LANES)
    elif u + 4 <= width:
        multiply(4, table, u, 1, width, weights, 0, LANES, many, sums, u * LANES)


@compiled()
def softplus(x, one):  # type: ignore[no-untyped-def]
    """log(1 + exp(x)) and its slope, the logistic function; `one` gives the dtype."""
    if x > 0:
        tail = math.exp(-x)
        return x + math.log1p(tail), one / (one + tail)
    tail = math.exp(x)
    return math.log1p(tail), tail / (one + tail)
