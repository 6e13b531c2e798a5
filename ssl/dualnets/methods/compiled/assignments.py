"""`methods.swav.sinkhorn`, compiled for the CPU: `(K, N)` numbers of a member, a sample per lane.

Sinkhorn's scalings multiply exponentials in float64, each sample's largest being 1, in place of sums in
logarithms. That is exact as long as no prototype's exponentials all come near the smallest number; where
they do, the plain function is called.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from dualnets._vectors import LANES, exponential, load, spread, store
from dualnets.methods._plain import plain_sinkhorn
from dualnets.methods.compiled.matching import copy_tile, largest
from dualnets.methods.compiled.operation import (
    KERNELS,
    NAMESPACE,
    Kernel,
    new_gradient,
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
