"""Normalisations of rows and their gradients, compiled for the CPU (`networks.normalizations`).

Arrays are batch-last, `(rows, columns)`, a row for each unit. The columns are passes of B samples
side by side, and then columns of no sample, up to whole vectors.

BatchNorm takes the moments μ and σ² of a row over the samples of one pass, and computes
y = (p - μ) r with r = 1 / sqrt(σ² + ε). Mean and deviation are each `on`, `off` (μ = 0 or r = 1), or
`stop`, which is `on` without the gradient that flows through it (Ioffe and Szegedy, arXiv 1502.03167).
LayerNorm and GroupNorm take the moments over neighbouring rows, for each column.
"""

from __future__ import annotations

import numpy as np

from hltm._compile import inner

# sums may be reordered and products joined with sums; NaN and infinity keep their meaning, as
# members whose loss is not finite must be found
FAST = {"reassoc", "contract", "nsz"}
PARTS = ("off", "on", "stop")
_OFF, _ON = 0, 1


@inner(fastmath=FAST)
def batch_norm(row, mean, std, epsilon):  # type: ignore[no-untyped-def]
    """Normalise one pass of one row, in place.

    Returns:
        r, r times the mean that was not subtracted, the mean μ, and the sum of squares around it.
    """
    kind = row.dtype.type
    share = kind(1) / kind(len(row))
    centre = kind(0)
    for b in range(len(row)):
        centre += row[b]
    centre *= share
    squares = kind(0)
    for b in range(len(row)):
        squares += (row[b] - centre) * (row[b] - centre)
    scale = kind(1)
    if std != _OFF:
        scale = kind(1) / np.sqrt(squares * share + kind(epsilon))
    subtracted = kind(0) if mean == _OFF else centre
    for b in range(len(row)):
        row[b] = (row[b] - subtracted) * scale
    return scale, (centre - subtracted) * scale, centre, squares


@inner(fastmath=FAST)
def batch_norm_backward(g, row, mean, std, scale, shift):  # type: ignore[no-untyped-def]
    """Turn ∂L/∂y into ∂L/∂p of one pass of one row, in place.

    With y what the norm made and r what it multiplied with, g_i becomes r (g_i - mean_j g_j -
    (y_i - r m) mean_j g_j y_j), m the mean where it was not subtracted (r m is `shift`). The second
    term is there where the mean has a gradient, the third where the deviation has one.
    """
    kind = g.dtype.type
    share = kind(1) / kind(len(g))
    level, along = kind(0), kind(0)
    for b in range(len(g)):
        level += g[b]
        along += g[b] * row[b]
    level = level * share if mean == _ON else kind(0)
    along = along * share if std == _ON else kind(0)
    for b in range(len(g)):
        g[b] = scale * (g[b] - level - along * (row[b] - shift))


@inner(fastmath=FAST)
def group_norm(rows, epsilon, inverse):  # type: ignore[no-untyped-def]
    """Normalise every column of one group of rows, in place; `inverse` is filled with its r."""
    kind = rows.dtype.type
    share = kind(1) / kind(len(rows))
    columns = rows.shape[1]
    for b in range(columns):
        inverse[b] = 0
    for u in range(len(rows)):
        for b in range(columns):
            inverse[b] += rows[u, b] * share
    for u in range(len(rows)):
        for b in range(columns):
            rows[u, b] -= inverse[b]
    for b in range(columns):
        inverse[b] = 0
    for u in range(len(rows)):
        for b in range(columns):
            inverse[b] += rows[u, b] * rows[u, b]
    for b in range(columns):
        inverse[b] = kind(1) / np.sqrt(inverse[b] * share + kind(epsilon))
    for u in range(len(rows)):
        for b in range(columns):
            rows[u, b] *= inverse[b]


@inner(fastmath=FAST)
def group_norm_backward(g, rows, inverse, level, along):  # type: ignore[no-untyped-def]
    """Turn ∂L/∂y into ∂L/∂p of one group of rows, in place: r (g - mean g - y mean g y).

    `level` and `along` are room for a row each.
    """
    share = rows.dtype.type(1) / rows.dtype.type(len(rows))
    columns = rows.shape[1]
    for b in range(columns):
        level[b] = 0
        along[b] = 0
    for u in range(len(rows)):
        for b in range(columns):
            level[b] += g[u, b] * share
            along[b] += g[u, b] * rows[u, b] * share
    for u in range(len(rows)):
        for b in range(columns):
            g[u, b] = inverse[b] * (g[u, b] - level[b] - along[b] * rows[u, b])


@inner(fastmath=FAST)
def gain(row, factor, shift, rectified, out):  # type: ignore[no-untyped-def]
    """out = factor * row + shift, behind a ReLU where `rectified`."""
    zero = row.dtype.type(0)
    for b in range(len(row)):
        value = factor * row[b] + shift
        out[b] = zero if rectified and value < zero else value  # NaN stays NaN


@inner(fastmath=FAST)
def gain_backward(g, row, factor):  # type: ignore[no-untyped-def]
    """Turn the gradient of `gain` into that of its row, in place; return those of factor and shift."""
    of_factor = of_shift = row.dtype.type(0)
    for b in range(len(row)):
        of_factor += g[b] * row[b]
        of_shift += g[b]
        g[b] *= factor
    return of_factor, of_shift


@inner(fastmath=FAST)
def unit_length(top, inverse_lengths):  # type: ignore[no-untyped-def]
    """Scale every column to length 1: f / max(|f|, 1e-12), the bound of torch's `normalize`.

    Args:
        top: `(U, columns)`, changed.
        inverse_lengths: `(columns,)`, filled with 1 / max(|f|, 1e-12).
    """
    kind = top.dtype.type
    for c in range(len(inverse_lengths)):
        inverse_lengths[c] = 0
    for u in range(len(top)):
        for c in range(len(inverse_lengths)):
            inverse_lengths[c] += top[u, c] * top[u, c]
    for c in range(len(inverse_lengths)):
        inverse_lengths[c] = kind(1) / max(np.sqrt(inverse_lengths[c]), kind(1e-12))
    for u in range(len(top)):
        for c in range(len(inverse_lengths)):
            top[u, c] *= inverse_lengths[c]


@inner(fastmath=FAST)
def unit_length_backward(output, inverse_lengths, gradient):  # type: ignore[no-untyped-def]
    """Turn the gradient of n = f / |f| into that of f, in place: (g - n (n · g)) / |f|."""
    along = np.zeros(len(inverse_lengths), inverse_lengths.dtype)  # n · g
    for u in range(len(output)):
        for c in range(len(along)):
            along[c] += output[u, c] * gradient[u, c]
    for u in range(len(output)):
        for c in range(len(along)):
            gradient[u, c] = (gradient[u, c] - output[u, c] * along[c]) * inverse_lengths[c]
