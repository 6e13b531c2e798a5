"""`methods.swav.sinkhorn` and the cross-entropy with its assignments, compiled for the CPU.

Both work on `(K, N)` numbers of a member, a sample per lane. Sinkhorn's scalings multiply exponentials in
float64, each sample's largest being 1, in place of sums in logarithms. That is exact as long as no
prototype's exponentials all come near the smallest number; where they do, the plain function is called.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dualnets._vectors import LANES, exponential, load, spread, store
from dualnets.methods._plain import plain_cross_entropies, plain_sinkhorn
from dualnets.methods.compiled.matching import copy_tile, largest
from dualnets.methods.compiled.operation import (
    KERNELS,
    NAMESPACE,
    Kernel,
    new_gradient,
    register_gradient,
)
from hltm._compile import compiled

_LEAST = -600.0  # exponentials are 0 below -693; the rest is room for what the scalings may add


@torch.library.custom_op(f"{NAMESPACE}::sinkhorn", mutates_args=(), device_types="cpu")
def sinkhorn(scores: Tensor, epsilon: float, iterations: int, used: Tensor) -> Tensor:
    """Assignments `(S, N, K)`; `used` `(S, N)` bool."""
    found = new_gradient(scores)
    each = (iterations + 2) * scores[0].numel()
    exact = KERNELS["sinkhorn"](each, scores, epsilon, iterations, used, found)[SINKHORN_EXACT]
    if not exact.all():
        rest = torch.from_numpy(~exact)
        found[rest] = plain_sinkhorn(scores[rest], epsilon, iterations, used[rest])
    return found


@sinkhorn.register_fake
def _(scores, epsilon, iterations, used):  # type: ignore[no-untyped-def]
    return new_gradient(scores)


@torch.library.custom_op(f"{NAMESPACE}::cross_entropies", mutates_args=(), device_types="cpu")
def cross_entropies(scores: Tensor, assigned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Losses `(S, N)` and their gradients with respect to the scores `(S, N, K)`."""
    losses, gradient = scores.new_empty(scores.shape[:2]), new_gradient(scores)
    KERNELS["cross_entropies"](
        2 * scores[0].numel(), scores, assigned, temperature, losses, gradient
    )
    return losses, gradient


@cross_entropies.register_fake
def _(scores, assigned, temperature):  # type: ignore[no-untyped-def]
    return scores.new_empty(scores.shape[:2]), new_gradient(scores)


register_gradient(cross_entropies, plain_cross_entropies, 1)


@compiled()
def _sinkhorn_members(low, high, scores, used, epsilon, iterations, exact, found):  # type: ignore[no-untyped-def]
    """Members low .. high - 1; `exact` says of which."""
    for s in range(low, high):
        exact[s] = _sinkhorn(scores[s], used[s], epsilon, iterations, found[s])


SINKHORN_EXACT = 4
KERNELS["sinkhorn"] = Kernel(
    _sinkhorn_members,
    lambda scores, epsilon, iterations, used, found: (
        scores.numpy(), used.contiguous().numpy(), epsilon, iterations,
        np.zeros(len(scores), dtype=np.bool_), found.transpose(1, 2).numpy(),
    ),
    batch_last=(0,),
    exact=SINKHORN_EXACT,
)  # fmt: skip


@compiled()
def _sinkhorn(scores, used, epsilon, iterations, found):  # type: ignore[no-untyped-def]
    """Fill the assignments `(K, N)` of one member, unless exponentials are too small; whether they are not.

    Samples of padding are copies of the last one and never count.
    """
    kinds, samples = scores.shape
    padded = (samples + LANES - 1) // LANES * LANES
    shares, own = np.empty((kinds, padded)), np.empty((kinds, LANES))
    highest, counted, weights = np.empty(padded), np.zeros(padded), np.empty(padded)
    # 1. exponentials, the largest of each sample 1
    for i in range(0, padded, LANES):
        copy_tile(scores, i, 1 / epsilon, own)
        peak = largest(own, kinds, load(own, 0))
        store(highest, i, peak)
        for k in range(kinds):
            store(shares[k], i, exponential(load(own, k * LANES) - peak))
    # 2. scalings: prototypes' sums over the samples that count to 1, then samples' sums to 1. The first
    #    time a sample's exponentials are as large as they were
    top = -np.inf
    for i in range(samples):
        if used[i]:
            counted[i] = 1
            top = max(top, highest[i])
    for i in range(0, padded, LANES):
        store(weights, i, exponential(load(highest, i) - spread(top)) * load(counted, i))
    least = math.exp(_LEAST + iterations * math.log(kinds * samples))
    factors = np.ones(kinds)
    for step in range(max(iterations, 1)):
        for k in range(kinds if iterations > 0 else 0):
            total = _sum_of_products(shares[k], counted if step else weights)
            if not total > least:
                return False
            factors[k] = 1 / total
        for i in range(0, padded, LANES):
            sums = spread(0.0)
            for k in range(kinds):
                sums = sums + load(shares[k], i) * spread(factors[k])
            inverse = spread(1.0) / sums
            for k in range(kinds):
                store(shares[k], i, load(shares[k], i) * spread(factors[k]) * inverse)
    found[:] = shares[:, :samples]
    return True


@compiled()
def _sum_of_products(a, b):  # type: ignore[no-untyped-def]
    """Σ_i a_i b_i of whole vectors."""
    total, parts = spread(0.0), np.empty(LANES)
    for i in range(0, len(a), LANES):
        total = total + load(a, i) * load(b, i)
    store(parts, 0, total)
    return parts.sum()


@compiled()
def _cross_entropy_members(low, high, scores, assigned, temperature, losses, gradient):  # type: ignore[no-untyped-def]
    """Members low .. high - 1."""
    for s in range(low, high):
        _cross_entropies(scores[s], assigned[s], temperature, losses[s], gradient[s])


KERNELS["cross_entropies"] = Kernel(
    _cross_entropy_members,
    lambda scores, assigned, temperature, losses, gradient: (
        scores.numpy(), assigned.numpy(), temperature, losses.numpy(), gradient.transpose(1, 2).numpy(),
    ),
    batch_last=(0, 1),
)  # fmt: skip


@compiled()
def _cross_entropies(scores, assigned, temperature, losses, gradient):  # type: ignore[no-untyped-def]
    """Fill the losses `(N,)` of one member and their gradients `(K, N)`."""
    kinds, samples = scores.shape
    kind = scores.dtype.type
    inverse = spread(kind(1 / temperature))
    logits, wanted = np.empty((kinds, LANES), scores.dtype), np.empty((kinds, LANES), scores.dtype)
    totals, of_lanes = np.empty(LANES, scores.dtype), np.empty(LANES, scores.dtype)
    for start in range(0, samples, LANES):
        count = min(LANES, samples - start)
        copy_tile(scores, start, kind(1 / temperature), logits)
        copy_tile(assigned, start, kind(1), wanted)
        # -Σ_k q_k log p_k with log p_k = x_k - log Σ exp(x), x less the largest
        peak = largest(logits, kinds, load(logits, 0))
        total = cross = mass = spread(kind(0))
        for k in range(kinds):
            x, q = load(logits, k * LANES) - peak, load(wanted, k * LANES)
            each = exponential(x)
            store(logits, k * LANES, each)
            total, cross, mass = total + each, cross + q * x, mass + q
        store(totals, 0, total)
        for lane in range(LANES):
            of_lanes[lane] = math.log(totals[lane])
        store(of_lanes, 0, load(of_lanes, 0) * mass - cross)
        losses[start : start + count] = of_lanes[:count]
        scale = mass / total
        for k in range(kinds):
            slope = load(logits, k * LANES) * scale - load(wanted, k * LANES)
            store(logits, k * LANES, slope * inverse)
            gradient[k, start : start + count] = logits[k, :count]
