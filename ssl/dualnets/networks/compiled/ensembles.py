"""Forward and backward passes of all members, compiled for the CPU (`blocks`, member by member)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dualnets.networks.compiled import blocks
from dualnets.networks.compiled.addresses import (
    array_at,
    compiled_once,
    copy_rows,
    padded,
    size_of,
)
from dualnets.networks.compiled.norms import FAST, unit_length, unit_length_backward
from hltm._compile import compiled, inner


class Given(NamedTuple):
    """What a pass is given: addresses, and bytes from one to the next.

    Attributes:
        addresses, sizes: `(L, 4)` int64, as `table` in `blocks`, of member 0, and the bytes of one member.
        source: of the features `(S, F, passes * B)`.
        member_step, row_step: between their members and between features.
        is_byte: whether they are uint8, else they are of the parameters' dtype.
        passes, batch: how many passes lie side by side, and B.
        normalize: whether the output is scaled to length 1.
    """

    addresses: np.ndarray
    sizes: np.ndarray
    source: int
    member_step: int
    row_step: int
    is_byte: bool
    passes: int
    batch: int
    normalize: bool


@compiled(fastmath=FAST)
def forward_members(code, like, layers, given, kept, step, statistics, output, low, high):  # type: ignore[no-untyped-def]
    """Compute members low .. high - 1.

    Args:
        code: addresses of the machine code of layers, forward and backward.
        like: any number of the dtype.
        layers, given: `blocks.Layers`, and as above.
        kept: address of `kept_rows` rows, filled.
        step: bytes between members there; 0 where they are not needed again.
        statistics: `(S, 4, units, passes)`, as in `blocks.Values`; filled.
        output: address of `(S, U, passes * B)`, filled.
    """
    count = given.passes * given.batch
    columns = padded(count, size_of(like))
    rows, _, _, outputs, _ = blocks.row_counts(layers)
    table = np.zeros((len(given.addresses), 4), np.int64)
    for s in range(low, high):
        values = kept + s * step
        _own_table(given.addresses, given.sizes, s, table)
        _forward(code, like, layers, given, table, s, values, statistics[s])
        top = array_at(like, values + (rows - outputs) * columns * size_of(like), outputs, columns)
        found = array_at(like, output + s * outputs * count * size_of(like), outputs, count)
        copy_rows(top, found, count)


@compiled(fastmath=FAST)
def backward_members(  # type: ignore[no-untyped-def]
    code,
    like,
    layers,
    given,
    gradients,
    kept,
    step,
    statistics,
    arrived,
    room,
    of_inputs,
    low,
    high,
):
    """Compute the gradients of members low .. high - 1.

    Args:
        code, like, layers, given, kept, step, statistics: as `forward_members` had and left them. Where
            `step` is 0, the forward pass is made again: it takes less time than to fetch what it left from
            beyond the cache.
        gradients: `(L, 4)` int64, addresses of the gradients of what is at `addresses`, filled.
        arrived: address of the gradient of the output, `(S, U, passes * B)`.
        room: address of as many rows as `Passes` counts.
        of_inputs: address of the gradient of the features `(S, F, passes * B)`, filled; 0 for none.
    """
    size = size_of(like)
    count = given.passes * given.batch
    columns = padded(count, size)
    stride = columns * size
    rows, normed, groups, outputs, widest = blocks.row_counts(layers)
    features = layers.features
    table = np.zeros((len(gradients), 4), np.int64)
    own_gradients = np.zeros((len(gradients), 4), np.int64)
    spare = room + widest * stride
    rest = spare + (widest * stride if layers.alternating else 0)
    for s in range(low, high):
        values = kept + s * step
        _own_table(given.addresses, given.sizes, s, table)
        _own_table(gradients, given.sizes, s, own_gradients)
        if step == 0:
            _forward(code, like, layers, given, table, s, values, statistics[s])
        first = 0 if layers.alternating else widest - outputs
        g = array_at(like, room + first * stride, outputs, columns)
        copy_rows(array_at(like, arrived + s * outputs * count * size, outputs, count), g, count)
        inverse = values + (rows + normed) * stride
        if given.normalize:
            top = array_at(like, values + (rows - outputs) * stride, outputs, columns)
            unit_length_backward(top, array_at(like, inverse + groups * stride, 1, columns)[0], g)
        at = blocks.call_backward(
            code[1],
            (like, layers, table, own_gradients, columns, given.passes, given.batch, values,
             values + rows * stride, inverse + groups * stride, statistics[s], room, spare, rest,
             of_inputs != 0),
        )  # fmt: skip
        if of_inputs != 0:
            found = array_at(like, of_inputs + s * features * count * size, features, count)
            copy_rows(array_at(like, at, features, columns), found, count)


@inner(fastmath=FAST)
def _forward(code, like, layers, given, table, s, values, statistics):  # type: ignore[no-untyped-def]
    """Read the features of member s, and compute all rows at `values`."""
    compiled_once()
    size = size_of(like)
    count = given.passes * given.batch
    columns = padded(count, size)
    stride = columns * size
    rows, normed, groups, outputs, _ = blocks.row_counts(layers)
    inputs = array_at(like, values, layers.features, columns)
    for x in range(layers.features):
        at = given.source + s * given.member_step + x * given.row_step
        if given.is_byte:
            own = array_at(np.uint8(0), at, 1, count)[0]
            for b in range(count):
                inputs[x, b] = own[b]
        else:
            numbers = array_at(like, at, 1, count)[0]
            for b in range(count):
                inputs[x, b] = numbers[b]
        for b in range(count, columns):
            inputs[x, b] = 0
    inverse = values + (rows + normed) * stride
    blocks.call_forward(
        code[0],
        (like, layers, table, columns, given.passes, given.batch, values, values + rows * stride,
         inverse, statistics),
    )  # fmt: skip
    if given.normalize:
        top = array_at(like, values + (rows - outputs) * stride, outputs, columns)
        unit_length(top, array_at(like, inverse + groups * stride, 1, columns)[0])


@inner()
def _own_table(addresses, sizes, s, table):  # type: ignore[no-untyped-def]
    """Addresses of the parameters of member s."""
    for layer in range(len(table)):
        for part in range(4):
            if addresses[layer, part] != 0:
                table[layer, part] = addresses[layer, part] + s * sizes[layer, part]
