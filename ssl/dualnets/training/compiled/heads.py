"""Heads (projectors and predictors) and their gradients, compiled for the CPU: one member at a time.

A layer of a head has weights W, and biases b where the head has them, and computes

    p = W x + b,    y = (p - μ) r,    r = 1 / sqrt(σ² + ε),

with μ and σ² the mean and variance of p over the batch, then a ReLU in all layers but the last.
The mean and the deviation of a BatchNorm are each `on`, `off` (μ = 0 or r = 1), or `stop`, which is `on`
without the gradient that flows through it (Ioffe and Szegedy, arXiv 1502.03167; `networks.normalizations`).

Layout: arrays are batch-last, `(rows, columns)`, as in `blocks`. The columns are one or two passes
side by side, the first and the second view, each of which is normalised by its own batch's moments.
`layout` has a row (U_out, U_in, mean, std) per layer, the last two as places in `PARTS`, and
`coefficients` a row (ε, momentum).

Why it is fast: as in `blocks`, and the norm is applied while a unit's row of pre-activations is
still in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.training.compiled.blocks import FAST, combine, row_products
from hltm._compile import compiled

PARTS = ("off", "on", "stop")
_OFF, _ON = 0, 1


class HeadValues(NamedTuple):
    """What `forward` computes in a head, and `backward` reads.

    Attributes:
        normed, rectified: `(units of all layers, columns)`, y before and behind the ReLU.
        scales, shifts: `(units of all layers, passes)`, r, and r times the mean that was not
            subtracted, so that y = r p - r μ + shift.
        moments: `(2, units of all layers, passes)`, μ, and the sum of squares around it, which is 0
            where the deviation is off.
    """

    normed: np.ndarray
    rectified: np.ndarray
    scales: np.ndarray
    shifts: np.ndarray
    moments: np.ndarray


def is_supported(head: Head) -> bool:
    """Whether a head computes only what is compiled here.

    A subclass of `Head` or `BatchNorm` may compute something else, so classes must be exactly these.
    """
    norms = [norm for norm in (head.norm, head.last_norm) if norm is not None]
    plain = all(type(norm) is BatchNorm and not norm.affine for norm in norms)
    return type(head) is Head and plain and not head.weight_standardization


def head_layout(
    head: Head, inputs: int, kind: DTypeLike = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """`layout` `(layers, 4)` int64 and `coefficients` `(layers, 2)` of a dtype, for a number of inputs.

    Example:
        >>> head_layout(Head((8, 4), norm=BatchNorm(std="stop")), 5)[0].tolist()
        [[8, 5, 1, 2], [4, 8, 0, 0]]
    """
    layout, coefficients = [], []
    for layer, width in enumerate(head.widths):
        norm = head.last_norm if layer == len(head.widths) - 1 else head.norm
        own = norm if isinstance(norm, BatchNorm) else BatchNorm("off", "off")
        layout.append((width, inputs, PARTS.index(own.mean), PARTS.index(own.std)))
        coefficients.append((own.epsilon, own.momentum))
        inputs = width
    found = np.array(coefficients, dtype=kind).reshape(-1, 2)
    return np.array(layout, dtype=np.int64).reshape(-1, 4), found


@compiled(fastmath=FAST)
def new_values(layout, columns, passes, like):  # type: ignore[no-untyped-def]
    """`HeadValues` not yet filled, of the dtype of `like`."""
    units = layout[:, 0].sum()
    return HeadValues(
        np.empty((units, columns), like.dtype),
        np.empty((units, columns), like.dtype),
        np.empty((units, passes), like.dtype),
        np.empty((units, passes), like.dtype),
        np.empty((2, units, passes), like.dtype),
    )


@compiled(fastmath=FAST)
def forward(  # type: ignore[no-untyped-def]
    inputs, weights, biases, layout, coefficients, passes, values
):
    """Compute a head and return its outputs: rows of `values.rectified`, or `inputs` without layers.

    Args:
        inputs: `(U_in, columns)`.
        weights, biases: of all layers, flat; empty `biases` for a head without.
        layout, coefficients: as `head_layout` makes them.
        passes: how many lie side by side.
        values: `HeadValues`, filled.
    """
    normed, rectified, scales, shifts, moments = values
    zero = weights.dtype.type(0)
    batch = inputs.shape[1] // passes
    below = inputs
    row = w = 0  # the next row, the next weight
    for layer in range(len(layout)):
        units, fan_in, mean, std = layout[layer]
        here = rectified[row : row + units]
        for u in range(units):
            y = normed[row + u]
            bias = biases[row + u] if len(biases) else zero
            combine(below, weights[w : w + fan_in], 1, fan_in, bias, y)
            w += fan_in
            if mean != _OFF or std != _OFF:
                for i in range(passes):
                    found = _normalize(
                        y[i * batch : (i + 1) * batch], mean, std, coefficients[layer, 0]
                    )
                    scales[row + u, i], shifts[row + u, i] = found[0], found[1]
                    moments[0, row + u, i], moments[1, row + u, i] = found[2], found[3]
            out = here[u]
            if layer < len(layout) - 1:
                for b in range(len(y)):
                    out[b] = zero if y[b] < zero else y[b]  # NaN stays NaN
            else:
                out[:] = y
        below = here
        row += units
    return below


@compiled(fastmath=FAST)
def _normalize(row, mean, std, epsilon):  # type: ignore[no-untyped-def]
    """Apply BatchNorm to one unit's pass, in place.

    Returns:
        r, r times the mean that was not subtracted, the mean μ, and the sum of squares around it.
    """
    kind = row.dtype.type
    share = kind(1) / kind(len(row))
    centre = kind(0)
    for b in range(len(row)):
        centre += row[b]
    centre *= share
    scale = kind(1)
    variance = kind(0)
    if std != _OFF:
        for b in range(len(row)):
            variance += (row[b] - centre) * (row[b] - centre)
        scale = kind(1) / np.sqrt(variance * share + epsilon)
    subtracted = kind(0) if mean == _OFF else centre
    for b in range(len(row)):
        row[b] = (row[b] - subtracted) * scale
    return scale, (centre - subtracted) * scale, centre, variance


@compiled(fastmath=FAST)
def update_running_moments(  # type: ignore[no-untyped-def]
    layout, coefficients, moments, batch, running, batches
):
    """Move running moments towards those of an update's passes, m <- m + step (new - m).

    The step is 1 / (batches seen) until it is as small as the momentum, as in
    `networks.heads.Head.update_running_stats`.

    Args:
        layout, coefficients: as `head_layout` makes them.
        moments: those of `HeadValues`; their mean over the passes is what counts.
        batch: B of each pass.
        running: `(2, units of all layers)`, changed: mean and unbiased variance.
        batches: `(layers,)` int64, changed: how many updates were seen.
    """
    kind = running.dtype.type
    share = kind(1) / kind(moments.shape[2])
    row = 0
    for layer in range(len(layout)):
        units, _, mean, std = layout[layer]
        if mean != _OFF or std != _OFF:
            batches[layer] += 1
            step = max(kind(1) / kind(batches[layer]), coefficients[layer, 1])
            for u in range(row, row + units):
                centre, squares = kind(0), kind(0)
                for i in range(moments.shape[2]):
                    centre += moments[0, u, i]
                    squares += moments[1, u, i]
                variance = squares / kind(batch - 1)  # unbiased
                running[0, u] += step * (centre * share - running[0, u])
                running[1, u] += step * (variance * share - running[1, u])
        row += units


@compiled(fastmath=FAST)
def backward(  # type: ignore[no-untyped-def]
    inputs, weights, layout, passes, values, gradient, spare, d_weights, d_biases
):
    """Compute a head's gradients; that of its inputs replaces that of its outputs in `gradient`.

    Args:
        inputs, weights, layout, passes, values: as `forward` had and left them.
        gradient: `(rows of the widest layer, columns)`, the outputs' in its first rows; changed.
        spare: of the same shape; changed.
        d_weights, d_biases: filled; empty `d_biases` for a head without.
    """
    normed, rectified, scales, shifts, _ = values
    zero = weights.dtype.type(0)
    batch = inputs.shape[1] // passes
    g, g_below = gradient, spare
    row, w = len(normed), len(weights)
    for layer in range(len(layout) - 1, -1, -1):
        units, fan_in, mean, std = layout[layer]
        row -= units
        w -= units * fan_in
        below = inputs
        if layer > 0:
            below = rectified[row - fan_in : row]
        for u in range(units):
            # 1. through the ReLU, then the norm: ∂L/∂y becomes ∂L/∂p
            own = g[u]
            y = normed[row + u]
            if layer < len(layout) - 1:
                for b in range(len(y)):
                    own[b] = own[b] if y[b] > zero else zero
            if mean == _ON or std != _OFF:
                for i in range(passes):
                    low, high = i * batch, (i + 1) * batch
                    _normalize_backward(
                        own[low:high], y[low:high], mean, std, scales[row + u, i], shifts[row + u, i]
                    )  # fmt: skip
            # 2. ∂L/∂W = g xᵀ, ∂L/∂b = Σ g
            row_products(own, below, d_weights[w + u * fan_in : w + (u + 1) * fan_in])
            if len(d_biases):
                d_biases[row + u] = own.sum()
        for i in range(fan_in):  # 3. ∂L/∂x = Wᵀ g, row i of it from column i of W
            combine(g, weights[w + i :], fan_in, units, zero, g_below[i])
        g, g_below = g_below, g
    if len(layout) % 2 == 1:  # the two arrays have changed places an odd number of times
        for i in range(len(inputs)):
            gradient[i] = g[i]


@compiled(fastmath=FAST)
def _normalize_backward(g, row, mean, std, scale, shift):  # type: ignore[no-untyped-def]
    """Turn ∂L/∂y into ∂L/∂p of one unit's pass through BatchNorm, in place.

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
