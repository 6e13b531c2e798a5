"""Blocks of units compiled for a CPU: one member's layers forward and backward, rows of columns in cache.

An array is `(rows, columns)`: a row is a feature or a unit, a column a sample. A row is the innermost
loop, so that it stays in registers and vectorises; flat weights have a unit's inputs side by side.
A `layout` has a row (blocks, outputs, inputs) per layer.
"""

from __future__ import annotations

import numpy as np

from hltm._compile import compiled

FAST = {"reassoc", "contract", "nsz"}  # sums may be reordered; NaN and infinity keep their meaning


@compiled(fastmath=FAST)
def forward(inputs, weights, biases, activations, layout):  # type: ignore[no-untyped-def]
    """All layers; activations are kept behind the ReLU, the top layer has none."""
    zero = weights.dtype.type(0)
    below = inputs
    at = w = q = 0
    for layer in range(len(layout)):
        blocks, units, fan = layout[layer]
        here = activations[at : at + blocks * units]
        for v in range(blocks):
            share = below[v * fan : (v + 1) * fan]
            for u in range(units):
                row = here[v * units + u]
                shift = biases[q] if len(biases) else zero
                q += 1
                combine(share, weights[w : w + fan], 1, fan, shift, row)
                w += fan
                if layer < len(layout) - 1:
                    for b in range(len(row)):
                        row[b] = max(row[b], zero)
        below = here
        at += blocks * units


@compiled(fastmath=FAST)
def backward(  # type: ignore[no-untyped-def]
    inputs, weights, activations, gradient, spare, layout, d_weights, d_biases
):
    """Gradients of weights and biases from those of the outputs, the first rows of `gradient`."""
    zero = weights.dtype.type(0)
    g, going = gradient, spare
    at, w, q = len(activations), len(weights), len(d_biases)
    for layer in range(len(layout) - 1, -1, -1):
        blocks, units, fan = layout[layer]
        at -= blocks * units
        w -= blocks * units * fan
        below = inputs
        if layer > 0:
            below = activations[at - layout[layer - 1, 0] * layout[layer - 1, 1] : at]
        for v in range(blocks):
            share = below[v * fan : (v + 1) * fan]
            own = g[v * units : (v + 1) * units]
            start = w + v * units * fan
            for u in range(units):
                products(own[u], share, d_weights[start + u * fan : start + (u + 1) * fan])
            if layer > 0:
                for i in range(fan):
                    out = going[v * fan + i]
                    combine(own, weights[start + i :], fan, units, zero, out)
                    seen = share[i]
                    for b in range(len(out)):
                        out[b] = out[b] if seen[b] > zero else zero
        if len(d_biases):
            q -= blocks * units
            for u in range(blocks * units):
                d_biases[q + u] = g[u].sum()
        g, going = going, g


@compiled(fastmath=FAST)
def scale(top, normalize, output, lengths):  # type: ignore[no-untyped-def]
    """Outputs, scaled to length 1 if asked for (as torch's normalize, which never divides by 0)."""
    floor = top.dtype.type(1e-12)
    lengths[:] = 0
    for u in range(len(top)):
        for c in range(len(lengths)):
            output[u, c] = top[u, c]
            lengths[c] += top[u, c] * top[u, c]
    if normalize:
        for c in range(len(lengths)):
            lengths[c] = 1 / max(np.sqrt(lengths[c]), floor)
        for u in range(len(top)):
            for c in range(len(lengths)):
                output[u, c] *= lengths[c]


@compiled(fastmath=FAST)
def unscale(output, inverse_lengths, gradient):  # type: ignore[no-untyped-def]
    """From the gradient of the scaled output to that of the output, in place."""
    along = np.zeros_like(inverse_lengths)
    for u in range(len(output)):
        for c in range(len(along)):
            along[c] += output[u, c] * gradient[u, c]
    for u in range(len(output)):
        for c in range(len(along)):
            gradient[u, c] = (gradient[u, c] - output[u, c] * along[c]) * inverse_lengths[c]


@compiled(fastmath=FAST)
def combine(rows, factors, step, count, shift, out):  # type: ignore[no-untyped-def]
    """out[b] = shift + Σ_i factors[i * step] rows[i, b], four rows at a time."""
    batch = out.shape[0]
    for b in range(batch):
        out[b] = shift
    i = 0
    while i + 4 <= count:
        f0, f1 = factors[i * step], factors[(i + 1) * step]
        f2, f3 = factors[(i + 2) * step], factors[(i + 3) * step]
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for b in range(batch):
            out[b] += f0 * r0[b] + f1 * r1[b] + f2 * r2[b] + f3 * r3[b]
        i += 4
    while i < count:
        f0 = factors[i * step]
        r0 = rows[i]
        for b in range(batch):
            out[b] += f0 * r0[b]
        i += 1


@compiled(fastmath=FAST)
def products(g, share, out):  # type: ignore[no-untyped-def]
    """out[i] = Σ_b g[b] share[i, b], four rows at a time."""
    fan, batch = share.shape
    zero = g.dtype.type(0)
    i = 0
    while i + 4 <= fan:
        s0, s1, s2, s3 = zero, zero, zero, zero
        r0, r1, r2, r3 = share[i], share[i + 1], share[i + 2], share[i + 3]
        for b in range(batch):
            s0 += g[b] * r0[b]
            s1 += g[b] * r1[b]
            s2 += g[b] * r2[b]
            s3 += g[b] * r3[b]
        out[i] = s0
        out[i + 1] = s1
        out[i + 2] = s2
        out[i + 3] = s3
        i += 4
    while i < fan:
        s0 = zero
        r0 = share[i]
        for b in range(batch):
            s0 += g[b] * r0[b]
        out[i] = s0
        i += 1
