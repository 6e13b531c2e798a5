"""Heads and their gradients in Triton: layers with a BatchNorm, and its running moments.

The equations are those of `compiled.heads`. A pass is the whole batch, and its BatchNorm is computed for
16 units at once. `statistics` `(4, norm_units, PASSES)` has, of every unit and pass, r, r times the mean
that was not subtracted, μ, and the sum of squares around it, which is 0 where the deviation is off.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

from dualnets.training.fused import layers
from dualnets.training.fused.layers import layer_row


@triton.jit
def forward(
    table, low, high, values, parameters, statistics, norm_units, coefficients, batch,
    UNITS: tl.constexpr, FAN: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Compute layers low .. high - 1."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    b = tl.arange(0, BLOCK)
    valid = (b < batch)[None, :]
    for layer in range(low, high):
        layers.forward(
            table, layer, layer + 1, values, parameters, batch, UNITS, FAN, 0, PASSES, BLOCK, TILE
        )
        _, units, _, _, _, _, above, _, mean, std, unit = layer_row(table, layer)
        epsilon = tl.load(coefficients + 2 * layer)
        for first in range(0, units, 16):
            u = first + tl.arange(0, 16)
            exists = u < units
            for p in range(PASSES):
                y_at = values + (above + u)[:, None] * WIDTH + p * BLOCK + b[None, :]
                y = tl.load(y_at, mask=exists[:, None] & valid, other=0)
                centre = tl.sum(y, 1) / batch
                away = tl.where(valid, y - centre[:, None], 0)
                squares = tl.where(std != 0, tl.sum(away * away, 1), 0)
                scale = tl.where(std != 0, 1 / tl.sqrt(squares / batch + epsilon), 1)
                subtracted = tl.where(mean != 0, centre, 0)
                y = (y - subtracted[:, None]) * scale[:, None]
                tl.debug_barrier()  # all threads have read y
                tl.store(y_at, y, mask=exists[:, None] & valid)
                at = statistics + (unit + u) * PASSES + p
                part = norm_units * PASSES
                tl.store(at, scale, mask=exists)
                tl.store(at + part, (centre - subtracted) * scale, mask=exists)
                tl.store(at + 2 * part, centre, mask=exists)
                tl.store(at + 3 * part, squares, mask=exists)
        tl.debug_barrier()


@triton.jit
def backward(
    table, low, high, values, slopes, parameters, gradients, statistics, norm_units, batch,
    UNITS: tl.constexpr, FAN: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of layers high - 1 .. low, from ∂L/∂y of the last one in its rows of `slopes`.

    ∂L/∂p = r (g_i - mean_j g_j - (y_i - shift) mean_j g_j y_j) replaces g = ∂L/∂y.
    """
    WIDTH: tl.constexpr = PASSES * BLOCK
    b = tl.arange(0, BLOCK)
    valid = (b < batch)[None, :]
    for downwards in range(high - low):
        layer = high - 1 - downwards
        _, units, _, _, _, _, above, _, mean, std, unit = layer_row(table, layer)
        for first in range(0, units, 16):
            u = first + tl.arange(0, 16)
            mask = (u < units)[:, None] & valid
            for p in range(PASSES):
                y_tile = (above + u)[:, None] * WIDTH + p * BLOCK + b[None, :]
                y = tl.load(values + y_tile, mask=mask, other=0)
                g = tl.load(slopes + y_tile, mask=mask, other=0)
                at = statistics + (unit + u) * PASSES + p
                scale = tl.load(at, mask=u < units, other=0)
                shift = tl.load(at + norm_units * PASSES, mask=u < units, other=0)
                level = tl.where(mean == 1, tl.sum(g, 1) / batch, 0)
                along = tl.where(std == 1, tl.sum(g * y, 1) / batch, 0)
                g = g - level[:, None] - along[:, None] * (y - shift[:, None])
                tl.debug_barrier()  # all threads have read g
                tl.store(slopes + y_tile, scale[:, None] * g, mask=mask)
        tl.debug_barrier()
        layers.backward(
            table, layer, layer + 1, values, slopes, parameters, gradients, batch, 0, UNITS, FAN, 0,
            PASSES, BLOCK, TILE, False,
        )  # fmt: skip


@triton.jit
def update_running_moments(
    table, low, high, coefficients, statistics, norm_units, running, batches, batch,
    PASSES: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """Move running moments `(2, norm_units)` towards those of the first COUNTED passes of an update.

    The step is 1 / (batches seen) until it is as small as the momentum, as in
    `networks.heads.Head.update_running_stats`.
    """
    for layer in range(low, high):
        _, units, _, _, _, _, _, _, mean, std, unit = layer_row(table, layer)
        if (mean != 0) | (std != 0):
            momentum = tl.load(coefficients + 2 * layer + 1)
            seen = tl.load(batches + layer - low) + 1
            tl.debug_barrier()  # all threads have read it
            tl.store(batches + layer - low, seen)
            step = tl.maximum(1 / seen.to(momentum.dtype), momentum)
            for first in range(0, units, 16):
                u = first + tl.arange(0, 16)
                mask = u < units
                at = statistics + (unit + u) * PASSES
                part = norm_units * PASSES
                centre = tl.zeros((16,), momentum.dtype)
                squares = tl.zeros((16,), momentum.dtype)
                for p in range(COUNTED):
                    centre += tl.load(at + 2 * part + p, mask=mask, other=0)
                    squares += tl.load(at + 3 * part + p, mask=mask, other=0)
                own = running + unit + u
                old = tl.load(own, mask=mask, other=0)
                tl.store(own, old + step * (centre / COUNTED - old), mask=mask)
                old = tl.load(own + norm_units, mask=mask, other=0)
                variance = squares / (batch - 1) / COUNTED  # unbiased
                tl.store(own + norm_units, old + step * (variance - old), mask=mask)
