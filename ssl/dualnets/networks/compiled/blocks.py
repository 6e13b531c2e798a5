"""The layers of a network or a head and their gradients, compiled for the CPU: one member at a time.

Block v of layer l has weights W of shape (U_out, U_in), and biases b where there are any. It reads x,
outputs of the layers below it, and computes

    p = W x + b,    y = the norm of p, where there is one, times its gain, plus its shift,

followed by ReLU(y) = max(y, 0) in all layers but the last. With g = ∂L/∂p summed over the samples of
the batch, the gradients are

    ∂L/∂W = g xᵀ,    ∂L/∂b = Σ g,    ∂L/∂x = Wᵀ g, which is 0 where the ReLU below gave x = 0.

Arrays are batch-last, `(rows, columns)`, where a row is a feature or a unit and a column is a
sample, and are given by their addresses (`products`). The columns are passes of B samples side by
side, which a BatchNorm normalises by moments of their own.

All rows that a layer may read are in one array, `values`: the input features, then the outputs of the
layers behind the ReLU; those of the last layer have none. All of one member fits the cache of one core,
where products this small would be bound by overhead if they were made for all members together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import typeof, types

from dualnets.networks.compiled import norms
from dualnets.networks.compiled.addresses import aligned, array_at, size_of, zero_of
from dualnets.networks.compiled.norms import FAST
from dualnets.networks.compiled.products import combine_rows, row_products
from dualnets.networks.compiled.tiles import MASKED, PLAIN, RELU
from hltm._compile import inner
from hltm._separate import address_of, separate

NO_NORM, BATCH_NORM, GROUP_NORM = 0, 1, 2
WEIGHT, BIAS, GAIN, SHIFT = 0, 1, 2, 3  # columns of `table`


class Layers(NamedTuple):
    """What all members of a network or a head have in common.

    Attributes:
        layout: `(L, 8)` int64 per layer: blocks, U_out, U_in, kind of the norm, its two numbers (mean
            and deviation of a BatchNorm as places in `norms.PARTS`; the number of groups), whether all
            blocks have the same parameters, and where its blocks begin in `places`.
        places: int64: 0, 1, 2, … as many as any block has rows; then for every block the number of its
            inputs, which may be less than U_in, and their rows in `values`.
        epsilons: `(L,)` float64, of the norms.
        features: number of input features.
        alternating: whether each layer reads the one below it alone, so that two arrays, used in turns,
            hold the gradients of all layers.
    """

    layout: np.ndarray
    places: np.ndarray
    epsilons: np.ndarray
    features: int
    alternating: bool


class Values(NamedTuple):
    """What `forward` computes for one member, and `backward` reads.

    Attributes:
        values: `(features + units of all layers, columns)`, the features given, the rest filled.
        normed: `(units of all layers, columns)`, filled in layers with a norm, before its gain.
        inverse: a row for each group of a LayerNorm or GroupNorm, filled with their r.
        statistics: `(4, units of all layers, passes)`, filled in layers with a BatchNorm, as
            `norms.batch_norm` returns them.
    """

    values: np.ndarray
    normed: np.ndarray
    inverse: np.ndarray
    statistics: np.ndarray


def _types(like, addresses):  # type: ignore[no-untyped-def]
    """Types of what `forward` and `backward` both take."""
    table, numbers = np.zeros((1, 8), np.int64), np.zeros(1, np.int64)
    layers = typeof(Layers(table, numbers, np.zeros(1), 1, True))
    statistics = types.Array(like, 3, "C")
    return like, layers, *[typeof(table)] * addresses, *[types.int64] * 6, statistics


def _forward_types(like):  # type: ignore[no-untyped-def]
    return types.void(*_types(like, 1))


def _backward_types(like):  # type: ignore[no-untyped-def]
    return types.int64(*_types(like, 2), *[types.int64] * 3, types.boolean)


def count_rows(layers: Layers) -> tuple[int, int, int, int, int]:
    """Rows of `values`, `normed` and `inverse`, of the outputs, and of each array of gradients."""
    units = normed = groups = 0
    widest = outputs = layers.features
    for layer in range(len(layers.layout)):
        blocks, width, fan_in, norm, first, _, _, _ = layers.layout[layer]
        outputs = blocks * width
        units += outputs
        widest = max(widest, blocks * max(width, fan_in))
        if norm == GROUP_NORM:
            groups += blocks * first
    for layer in range(len(layers.layout)):
        if layers.layout[layer, 3] != NO_NORM:
            normed = units
    rows = layers.features + units
    return rows, normed, groups, outputs, widest if layers.alternating else rows


def count_room(layers: Layers, columns: int) -> int:
    """Rows of `room` in `backward`."""
    rows = 2
    for layer in range(len(layers.layout)):
        _, units, fan_in, _, _, _, shared, _ = layers.layout[layer]
        if shared:
            rows = max(rows, (units * fan_in + columns - 1) // columns)
    return rows


row_counts, room_rows = inner()(count_rows), inner()(count_room)


@inner()
def new_values(like, layers, columns, passes):  # type: ignore[no-untyped-def]
    """`Values` of zeros, of the dtype of `like`."""
    rows, normed, groups, _, _ = row_counts(layers)
    return Values(
        aligned(like, rows, columns),
        aligned(like, normed, columns),
        aligned(like, groups, columns),
        np.zeros((4, normed, passes), type(like)),
    )


@separate(_forward_types, fastmath=FAST)
def forward(like, layers, table, columns, passes, batch, values, normed, inverse, statistics):  # type: ignore[no-untyped-def]
    """Compute all layers.

    Args:
        like: any number of the dtype.
        layers: `Layers`.
        table: `(L, 4)` int64, addresses of every layer's weights, biases, gains and shifts; 0 for none.
        columns: of all arrays: passes * batch, rounded up to whole vectors.
        passes, batch: how many passes, and B.
        values, normed, inverse: addresses of those arrays of `Values`.
        statistics: that of `Values`.
    """
    size = size_of(like)
    stride = columns * size
    layout, places = layers.layout, layers.places
    unit = 0  # the number of the layer's first unit
    for layer in range(len(layout)):
        blocks, units, fan_in, norm, first, second, shared, place = layout[layer]
        last = layer == len(layout) - 1
        here = values + (layers.features + unit) * stride
        out = here if norm == NO_NORM else normed + unit * stride
        then = PLAIN if last or norm != NO_NORM else RELU
        for v in range(blocks):
            own = 0 if shared else v * units  # the block's first unit among those with parameters
            bias, bias_row = zero_of(like), 0
            if table[layer, BIAS] != 0:
                bias, bias_row = table[layer, BIAS] + own * size, size
            at = place + v * (fan_in + 1)
            combine_rows(
                like, units, columns, table[layer, WEIGHT] + own * fan_in * size, fan_in * size, size,
                places[at], bias, bias_row, values, address_of(places) + 8 * (at + 1),
                out + v * units * stride, address_of(places), 0, then,
            )  # fmt: skip
        if norm == BATCH_NORM:
            rows = array_at(like, out, blocks * units, columns)
            for u in range(blocks * units):
                for i in range(passes):
                    found = norms.batch_norm(
                        rows[u, i * batch : (i + 1) * batch], first, second, layers.epsilons[layer]
                    )
                    for j in range(4):
                        statistics[j, unit + u, i] = found[j]
        elif norm == GROUP_NORM:
            each = units // first
            for group in range(blocks * first):
                rows = array_at(like, out + group * each * stride, each, columns)
                norms.group_norm(
                    rows, layers.epsilons[layer], array_at(like, inverse, 1, columns)[0]
                )
                inverse += stride
        if norm != NO_NORM:
            rows, behind = (
                array_at(like, out, blocks * units, columns),
                array_at(like, here, blocks * units, columns),
            )
            factor, shift = type(like)(1), type(like)(0)
            for u in range(blocks * units):
                if table[layer, GAIN] != 0:
                    own = u % units if shared else u
                    factor = array_at(like, table[layer, GAIN] + own * size, 1, 1)[0, 0]
                    shift = array_at(like, table[layer, SHIFT] + own * size, 1, 1)[0, 0]
                norms.gain(rows[u], factor, shift, not last, behind[u])
        unit += blocks * units


@separate(_backward_types, fastmath=FAST)
def backward(  # type: ignore[no-untyped-def]
    like, layers, table, gradients, columns, passes, batch, values, normed, inverse, statistics, gradient,
    spare, room, of_inputs,
):  # fmt: skip
    """Compute the gradients of all parameters.

    Args:
        like, layers, table, columns, passes, batch, values, normed, inverse, statistics: as `forward` had
            and left them; `inverse` is the address behind its last row.
        gradients: `(L, 4)` int64, addresses of the gradients of what is in `table`, filled.
        gradient, spare: addresses of two arrays with as many rows as the widest layer has units or
            inputs, changed; the gradients of the outputs are in the first rows of `gradient`. Unless
            `layers.alternating`, `gradient` has rows as `values` has, those of the outputs last.
        room: address of `count_room` rows; changed.
        of_inputs: whether the gradient of the input features is computed, too, where alternating.

    Returns:
        The address of the gradient of the input features.
    """
    size = size_of(like)
    stride = columns * size
    layout, places = layers.layout, layers.places
    unit = 0
    for layer in range(len(layout)):
        unit += layout[layer, 0] * layout[layer, 1]
    g = gradient
    if not layers.alternating:
        g += (layers.features + unit - layout[-1, 0] * layout[-1, 1]) * stride
    for layer in range(len(layout) - 1, -1, -1):
        blocks, units, fan_in, norm, _, _, shared, place = layout[layer]
        unit -= blocks * units
        if norm != NO_NORM:
            inverse = _norm_backward(
                like, layers, layer, table, gradients, columns, passes, batch, normed, inverse, statistics,
                g, room, unit,
            )  # fmt: skip
        wanted = layer > 0 or of_inputs
        base = gradient  # row n of `values` has its gradient in row n of what begins here
        if layers.alternating:
            base = spare
            if layer > 0:
                below = layout[layer - 1, 0] * layout[layer - 1, 1]
                base -= (layers.features + unit - below) * stride
        for v in range(blocks):
            own = 0 if shared else v * units
            at = place + v * (fan_in + 1)
            count, rows = places[at], address_of(places) + 8 * (at + 1)
            of_block = g + v * units * stride
            weights = own * fan_in * size
            # 1. ∂L/∂W = g xᵀ
            repeated = shared and v > 0
            target = room if repeated else gradients[layer, WEIGHT] + weights
            row_products(like, units, of_block, count, values, rows, columns, target, fan_in * size)
            if repeated:
                total = array_at(like, gradients[layer, WEIGHT], units, fan_in)
                more = array_at(like, room, units, fan_in)
                for u in range(units):
                    for i in range(fan_in):
                        total[u, i] += more[u, i]
            elif count < fan_in:  # padding
                total = array_at(like, target, units, fan_in)
                for u in range(units):
                    for i in range(count, fan_in):
                        total[u, i] = 0
            # 2. ∂L/∂b = Σ g
            if gradients[layer, BIAS] != 0:
                sums = array_at(like, gradients[layer, BIAS] + own * size, 1, units)[0]
                arrived = array_at(like, of_block, units, columns)
                for u in range(units):
                    sum_u = sums[u] if repeated else type(like)(0)
                    for c in range(columns):
                        sum_u += arrived[u, c]
                    sums[u] = sum_u
            # 3. ∂L/∂x = Wᵀ g
            if wanted:
                combine_rows(
                    like, count, columns, table[layer, WEIGHT] + weights, size, fan_in * size, units,
                    zero_of(like), 0, of_block, address_of(places), base, rows, values,
                    MASKED if layer > 0 else PLAIN,
                )  # fmt: skip
        if layers.alternating:
            g, gradient, spare = spare, spare, gradient
        elif layer > 0:
            g -= layout[layer - 1, 0] * layout[layer - 1, 1] * stride
    return g


call_forward, call_backward = forward.call, backward.call


@inner(fastmath=FAST)
def _norm_backward(  # type: ignore[no-untyped-def]
    like,
    layers,
    layer,
    table,
    gradients,
    columns,
    passes,
    batch,
    normed,
    inverse,
    statistics,
    g,
    room,
    unit,
):
    """Turn a layer's ∂L/∂y into ∂L/∂p; return the address of the rows left in `inverse`."""
    size = size_of(like)
    stride = columns * size
    blocks, units, _, norm, first, second, shared, _ = layers.layout[layer]
    rows = array_at(like, normed + unit * stride, blocks * units, columns)
    arrived = array_at(like, g, blocks * units, columns)
    if table[layer, GAIN] != 0:
        for u in range(blocks * units):
            own = u % units if shared else u
            factor = array_at(like, table[layer, GAIN] + own * size, 1, 1)[0, 0]
            found = norms.gain_backward(arrived[u], rows[u], factor)
            of_gain = array_at(like, gradients[layer, GAIN] + own * size, 1, 1)
            of_shift = array_at(like, gradients[layer, SHIFT] + own * size, 1, 1)
            again = shared and u >= units
            of_gain[0, 0] = found[0] + (of_gain[0, 0] if again else type(like)(0))
            of_shift[0, 0] = found[1] + (of_shift[0, 0] if again else type(like)(0))
    if norm == BATCH_NORM:
        for u in range(blocks * units):
            for i in range(passes):
                low, high = i * batch, (i + 1) * batch
                norms.batch_norm_backward(
                    arrived[u, low:high], rows[u, low:high], first, second, statistics[0, unit + u, i],
                    statistics[1, unit + u, i],
                )  # fmt: skip
    else:
        each = units // first
        inverse -= blocks * first * stride
        level = array_at(like, room, 2, columns)
        for group in range(blocks * first):
            low, high = group * each, (group + 1) * each
            norms.group_norm_backward(
                arrived[low:high], rows[low:high],
                array_at(like, inverse + group * stride, 1, columns)[0], level[0], level[1],
            )  # fmt: skip
    return inverse
