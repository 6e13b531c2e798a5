"""The layers of a `BlockNetwork` and their gradients, compiled for the CPU: one member at a time.

Block v of layer l has weights W of shape (U_out, U_in), and biases b where the network has them. It
reads x, the outputs of the blocks below it, joined, and computes

    y = W x + b,    followed by ReLU(y) = max(y, 0) in all layers but the last.

With g = ∂L/∂y summed over the samples of the batch, the gradients are

    ∂L/∂W = g xᵀ,    ∂L/∂b = Σ g,    ∂L/∂x = Wᵀ g, which is 0 where the ReLU below gave x = 0.

Layout: arrays are batch-last, `(rows, columns)`, where a row is a leaf or a unit and a column is a
sample, so that joining the outputs of neighbouring blocks is a slice. Weights are flat: layer after
layer, block after block, unit after unit, the U_in weights of a unit side by side. `layout` has a
row (blocks, U_out, U_in) per layer.

Why it is fast: the innermost loop runs over the samples of one row, which lie side by side, so it
becomes vector instructions; four rows are combined in one pass, so that the sum is loaded and
stored a quarter as often; and all rows of one member fit the cache of one core, where matrix
products this small would be bound by overhead.
"""

from __future__ import annotations

import numpy as np

from hltm._compile import compiled

# sums may be reordered and products joined with sums; NaN and infinity keep their meaning, as
# members whose loss is not finite must be found
FAST = {"reassoc", "contract", "nsz"}


@compiled(fastmath=FAST)
def forward(inputs, weights, biases, activations, layout):  # type: ignore[no-untyped-def]
    """Compute all layers.

    Args:
        inputs: `(X, columns)`, the leaves.
        weights, biases: flat, of all layers; empty `biases` for a network without.
        activations: `(units of all layers, columns)`, filled: behind the ReLU; the last layer has none.
        layout: as above.
    """
    zero = weights.dtype.type(0)
    below = inputs
    row = w = q = 0  # the next row of `activations`, the next weight, the next bias
    for layer in range(len(layout)):
        blocks, units, fan_in = layout[layer]
        here = activations[row : row + blocks * units]
        for v in range(blocks):
            x = below[v * fan_in : (v + 1) * fan_in]
            for u in range(units):
                y = here[v * units + u]
                bias = biases[q] if len(biases) else zero
                q += 1
                combine(x, weights[w : w + fan_in], 1, fan_in, bias, y)
                w += fan_in
                if layer < len(layout) - 1:
                    for b in range(len(y)):
                        y[b] = max(y[b], zero)
        below = here
        row += blocks * units


@compiled(fastmath=FAST)
def backward(  # type: ignore[no-untyped-def]
    inputs, weights, activations, gradient, spare, layout, d_weights, d_biases
):
    """Compute the gradients of all weights and biases.

    Args:
        inputs, weights, activations, layout: as `forward` had and left them.
        gradient: `(rows of the widest layer, columns)`, those of the outputs in its first rows; changed.
        spare: of the same shape; changed.
        d_weights, d_biases: filled; empty `d_biases` for a network without.
    """
    zero = weights.dtype.type(0)
    g, g_below = gradient, spare
    row, w, q = len(activations), len(weights), len(d_biases)
    for layer in range(len(layout) - 1, -1, -1):
        blocks, units, fan_in = layout[layer]
        row -= blocks * units
        w -= blocks * units * fan_in
        below = inputs
        if layer > 0:
            below = activations[row - layout[layer - 1, 0] * layout[layer - 1, 1] : row]
        for v in range(blocks):
            x = below[v * fan_in : (v + 1) * fan_in]
            own = g[v * units : (v + 1) * units]
            start = w + v * units * fan_in
            for u in range(units):  # ∂L/∂W = g xᵀ
                first = start + u * fan_in
                row_products(own[u], x, d_weights[first : first + fan_in])
            if layer > 0:  # leaves need no gradient
                for i in range(fan_in):  # ∂L/∂x = Wᵀ g, row i of it from column i of W
                    out = g_below[v * fan_in + i]
                    combine(own, weights[start + i :], fan_in, units, zero, out)
                    passed = x[i]
                    for b in range(len(out)):
                        out[b] = out[b] if passed[b] > zero else zero
        if len(d_biases):
            q -= blocks * units
            for u in range(blocks * units):
                d_biases[q + u] = g[u].sum()
        g, g_below = g_below, g


@compiled(fastmath=FAST)
def normalize_forward(top, normalize, output, inverse_lengths):  # type: ignore[no-untyped-def]
    """Copy the outputs or, where `normalize`, scale each sample's to length 1: f / max(|f|, 1e-12).

    Args:
        top: `(U, columns)`.
        normalize: whether to scale; the bound is that of torch's `normalize`.
        output: `(U, columns)`, filled.
        inverse_lengths: `(columns,)`, filled with 1 / max(|f|, 1e-12) where `normalize`.
    """
    floor = top.dtype.type(1e-12)
    inverse_lengths[:] = 0
    for u in range(len(top)):
        for c in range(len(inverse_lengths)):
            output[u, c] = top[u, c]
            inverse_lengths[c] += top[u, c] * top[u, c]
    if normalize:
        for c in range(len(inverse_lengths)):
            inverse_lengths[c] = 1 / max(np.sqrt(inverse_lengths[c]), floor)
        for u in range(len(top)):
            for c in range(len(inverse_lengths)):
                output[u, c] *= inverse_lengths[c]


@compiled(fastmath=FAST)
def normalize_backward(output, inverse_lengths, gradient):  # type: ignore[no-untyped-def]
    """Turn the gradient of n = f / |f| into that of f, in place: (g - n (n · g)) / |f|."""
    along = np.zeros_like(inverse_lengths)  # n · g
    for u in range(len(output)):
        for c in range(len(along)):
            along[c] += output[u, c] * gradient[u, c]
    for u in range(len(output)):
        for c in range(len(along)):
            gradient[u, c] = (gradient[u, c] - output[u, c] * along[c]) * inverse_lengths[c]


@compiled(fastmath=FAST)
def combine(rows, factors, step, count, shift, out):  # type: ignore[no-untyped-def]
    """out[b] = shift + Σ_i factors[i * step] rows[i, b], i < count: four rows in one pass."""
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
def row_products(g, rows, out):  # type: ignore[no-untyped-def]
    """out[i] = Σ_b g[b] rows[i, b], for all rows: four of them in one pass, so that g is read less often."""
    count, batch = rows.shape
    zero = g.dtype.type(0)
    i = 0
    while i + 4 <= count:
        s0, s1, s2, s3 = zero, zero, zero, zero
        r0, r1, r2, r3 = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
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
    while i < count:
        s0 = zero
        r0 = rows[i]
        for b in range(batch):
            s0 += g[b] * r0[b]
        out[i] = s0
        i += 1
