"""Heads compiled for a CPU: linear layers, BatchNorm in parts and ReLU of one member, and their gradients.

Arrays are `(units, columns)`; the columns are one or more passes side by side, each with batch
statistics of its own. A head is described by rows (outputs, inputs, mean, std) of its layers, the
last two as places in `PARTS`, both `off` where there is no norm, and by rows (epsilon, momentum).
"""

from __future__ import annotations

import numpy as np

from dualnets.networks.heads import Head
from dualnets.networks.normalizations import BatchNorm
from dualnets.training.compiled.blocks import FAST, combine, products
from hltm._compile import compiled

PARTS = ("off", "on", "stop")
_OFF, _ON = 0, 1


def can(head: Head) -> bool:
    """Whether a head is nothing but what is compiled here."""
    norms = [norm for norm in (head.norm, head.last_norm) if norm is not None]
    plain = all(type(norm) is BatchNorm and not norm.affine for norm in norms)
    return type(head) is Head and plain and not head.weight_standardization


def described(head: Head, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """`(layers, 4)` int64 and `(layers, 2)` float64, epsilon and momentum: a head on so many inputs.

    Example:
        >>> described(Head((8, 4), norm=BatchNorm(std="stop")), 5)[0].tolist()
        [[8, 5, 1, 2], [4, 8, 0, 0]]
    """
    rows, numbers = [], []
    for layer, width in enumerate(head.widths):
        norm = head.last_norm if layer == len(head.widths) - 1 else head.norm
        given = norm if isinstance(norm, BatchNorm) else BatchNorm("off", "off")
        rows.append((width, inputs, PARTS.index(given.mean), PARTS.index(given.std)))
        numbers.append((given.epsilon, given.momentum))
        inputs = width
    return np.array(rows, dtype=np.int64).reshape(-1, 4), np.array(numbers).reshape(-1, 2)


@compiled(fastmath=FAST)
def forward(  # type: ignore[no-untyped-def]
    inputs, weights, biases, layout, numbers, passes, normed, rectified, scales, shifts, seen
):
    """Run a head; what it says is the last rows of `rectified`, or `inputs` if it has no layers.

    Args:
        inputs: `(inputs, columns)`.
        weights, biases: of all layers, flat; no biases at all for none.
        layout, numbers: as `described`.
        passes: how many lie side by side.
        normed, rectified: `(units of all layers, columns)`, filled: behind the norm, behind the ReLU.
        scales, shifts: `(units of all layers, passes)`, filled: what a norm multiplied with, and
            times that the mean that it did not subtract.
        seen: `(2, units of all layers, passes)`, filled: the mean before a norm, and the sum of
            squares around it where the norm's deviation is not off.
    """
    zero = weights.dtype.type(0)
    size = inputs.shape[1] // passes
    below = inputs
    at = w = 0
    for layer in range(len(layout)):
        units, fan, mean, std = layout[layer]
        here = rectified[at : at + units]
        for u in range(units):
            row = normed[at + u]
            shift = biases[at + u] if len(biases) else zero
            combine(below, weights[w : w + fan], 1, fan, shift, row)
            w += fan
            if mean != _OFF or std != _OFF:
                for i in range(passes):
                    found = _normalize(row[i * size : (i + 1) * size], mean, std, numbers[layer, 0])
                    scales[at + u, i], shifts[at + u, i] = found[0], found[1]
                    seen[0, at + u, i], seen[1, at + u, i] = found[2], found[3]
            out = here[u]
            if layer < len(layout) - 1:
                for b in range(len(row)):
                    out[b] = zero if row[b] < zero else row[b]  # NaN stays NaN
            else:
                out[:] = row
        below = here
        at += units


@compiled(fastmath=FAST)
def _normalize(row, mean, std, epsilon):  # type: ignore[no-untyped-def]
    """BatchNorm of one unit's pass in place; see `normalizations.BatchNorm`.

    Returns what it multiplied with, times that the mean it did not subtract, the mean, and the sum of
    squares around it.
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
    taken = kind(0) if mean == _OFF else centre
    for b in range(len(row)):
        row[b] = (row[b] - taken) * scale
    return scale, (centre - taken) * scale, centre, variance


@compiled(fastmath=FAST)
def remember(layout, numbers, seen, samples, moments, batches):  # type: ignore[no-untyped-def]
    """Move running moments towards those of an update's passes; see `Head.moved`.

    Args:
        layout, numbers: as `described`.
        seen: as `forward` left it.
        samples: B of each pass.
        moments: `(2, units of all layers)`, changed: mean and variance.
        batches: `(layers,)` int64, changed.
    """
    kind = moments.dtype.type
    share = kind(1) / kind(seen.shape[2])
    at = 0
    for layer in range(len(layout)):
        units, _, mean, std = layout[layer]
        if mean != _OFF or std != _OFF:
            batches[layer] += 1
            step = max(kind(1) / kind(batches[layer]), numbers[layer, 1])
            for u in range(at, at + units):
                centre, squares = kind(0), kind(0)
                for i in range(seen.shape[2]):
                    centre += seen[0, u, i]
                    squares += seen[1, u, i]
                variance = squares / kind(samples - 1)  # unbiased
                moments[0, u] += step * (centre * share - moments[0, u])
                moments[1, u] += step * (variance * share - moments[1, u])
        at += units


@compiled(fastmath=FAST)
def backward(  # type: ignore[no-untyped-def]
    inputs, weights, layout, passes, normed, rectified, scales, shifts,
    gradient, spare, d_weights, d_biases,
):  # fmt: skip
    """Gradients of a head; its inputs' take the place of its outputs' in the first rows of `gradient`.

    Args:
        inputs, weights, layout, passes, normed, rectified, scales, shifts: as `forward` left them.
        gradient: the outputs' in its first rows; changed.
        spare: of the same shape; changed.
        d_weights, d_biases: filled.
    """
    zero = weights.dtype.type(0)
    size = inputs.shape[1] // passes
    g, going = gradient, spare
    at, w = len(normed), len(weights)
    for layer in range(len(layout) - 1, -1, -1):
        units, fan, mean, std = layout[layer]
        at -= units
        w -= units * fan
        below = inputs
        if layer > 0:
            below = rectified[at - fan : at]
        for u in range(units):
            own = g[u]
            row = normed[at + u]
            if layer < len(layout) - 1:
                for b in range(len(row)):
                    own[b] = own[b] if row[b] > zero else zero
            if mean == _ON or std != _OFF:
                for i in range(passes):
                    low, high = i * size, (i + 1) * size
                    _unnormalize(
                        own[low:high], row[low:high], mean, std,
                        scales[at + u, i], shifts[at + u, i],
                    )  # fmt: skip
            products(own, below, d_weights[w + u * fan : w + (u + 1) * fan])
            if len(d_biases):
                d_biases[at + u] = own.sum()
        for i in range(fan):
            combine(g, weights[w + i :], fan, units, zero, going[i])
        g, going = going, g
    if len(layout) % 2 == 1:
        for i in range(len(inputs)):
            gradient[i] = g[i]


@compiled(fastmath=FAST)
def _unnormalize(g, row, mean, std, scale, shift):  # type: ignore[no-untyped-def]
    """From the gradient above BatchNorm to that below, of one unit's pass, in place.

    With y what the norm made and r what it multiplied with, g_i becomes r (g_i - mean_j g_j -
    (y_i - r m) mean_j g_j y_j), m the mean where it was not subtracted; the second term is there
    with the mean's gradient, the third with the deviation's.
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
