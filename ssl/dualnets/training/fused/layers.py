"""The layers of a network and of its heads, and their gradients, in Triton: one program per member.

A program holds the activations of one member in rows of `values`, PASSES * BLOCK columns each: a pass is
one view of BLOCK samples, of which the first `batch` exist (all of them where it is larger); the others
are read as 0 and are never written. The first rows are the leaves, then come the units of every layer,
block after block, so that the inputs of a block are neighbouring rows. Row `layer` of `table` has the
numbers that `layer_row` returns (`fused.table`). A layer computes

    p = W x + b,    y = (p - μ) r,    x = max(y', 0) of the y' below, or y' itself where nothing is rectified,

and `values` keeps y, from before the ReLU: its sign is what the gradient of the ReLU needs, and the
gradient of a BatchNorm needs y itself.

Threads of a program read what others have written only behind a barrier. Products are computed in tiles
of TILE columns, which bound the registers of a thread. Loops over layers, blocks and tiles are loops at
run time, so that what is compiled does not grow with the network.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

# 32-bit products, rather than those of tensor cores, which round to 10 bits
PRECISION = tl.constexpr("ieee")


@triton.jit
def layer_row(table, layer):
    """Blocks, U_out, U_in; places of weights, biases (or -1), inputs, outputs; rectified; mean, std, unit."""
    at = table + layer * 11
    return (
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3), tl.load(at + 4), tl.load(at + 5),
        tl.load(at + 6), tl.load(at + 7), tl.load(at + 8), tl.load(at + 9), tl.load(at + 10),
    )  # fmt: skip


@triton.jit
def floor_and_biased(rectified, biases, units):
    """The number below which a layer's inputs are cut off, and how many units of a block have a bias."""
    return tl.where(rectified != 0, 0.0, float("-inf")), tl.where(biases >= 0, units, 0)


@triton.jit
def read_leaves(
    leaves, features, length, start, between, values, column, batch,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy a pass of leaves `(X, length)`, every `between`-th from `start` on, to BLOCK columns."""
    b = tl.arange(0, BLOCK)
    for low in range(0, features, 16):
        x = low + tl.arange(0, 16)
        mask = (x < features)[:, None] & (b < batch)[None, :]
        states = tl.load(
            leaves + x[:, None] * length + (start + b * between)[None, :], mask=mask, other=0
        )
        found = states.to(values.dtype.element_ty)
        tl.store(values + x[:, None] * WIDTH + (column + b)[None, :], found, mask=mask)


@triton.jit
def forward(
    table, low, high, values, parameters, batch, UNITS: tl.constexpr, FAN: tl.constexpr,
    TERMS: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Compute p of layers low .. high - 1, whose blocks have at most UNITS units of at most FAN inputs.

    With TERMS, every unit has so many inputs, which are added up one by one: a matrix product needs 16.
    """
    WIDTH: tl.constexpr = PASSES * BLOCK
    u = tl.arange(0, UNITS)
    i = tl.arange(0, FAN)
    c = tl.arange(0, TILE)
    y_tile = u[:, None] * WIDTH + c[None, :]
    x_tile = i[:, None] * WIDTH + c[None, :]
    for layer in range(low, high):
        blocks, units, fan_in, weights, biases, below, above, rectified, _, _, _ = layer_row(
            table, layer
        )
        floor, biased = floor_and_biased(rectified, biases, units)
        for v in range(blocks):
            w_at = parameters + weights + v * units * fan_in
            x_at = values + (below + v * fan_in) * WIDTH
            y_at = values + (above + v * units) * WIDTH + y_tile
            bias = tl.load(parameters + biases + v * units + u, mask=u < biased, other=0)
            if TERMS == 0:
                w = tl.load(
                    w_at + u[:, None] * fan_in + i[None, :],
                    mask=(u < units)[:, None] & (i < fan_in)[None, :], other=0,
                )  # fmt: skip
            for column in range(0, WIDTH, TILE):
                valid = column % BLOCK + c < batch
                if TERMS == 0:
                    x_mask = (i < fan_in)[:, None] & valid[None, :]
                    x = tl.load(x_at + column + x_tile, mask=x_mask, other=0)
                    x = tl.where(x < floor, floor, x)  # NaN stays NaN
                    y = tl.dot(w, x, input_precision=PRECISION) + bias[:, None]
                else:
                    y = tl.zeros((UNITS, TILE), values.dtype.element_ty) + bias[:, None]
                    for k in tl.static_range(TERMS):
                        w_k = tl.load(w_at + u * fan_in + k, mask=u < units, other=0)
                        x_k = tl.load(x_at + k * WIDTH + column + c, mask=valid, other=0)
                        x_k = tl.where(x_k < floor, floor, x_k)
                        y += w_k[:, None] * x_k[None, :]
                tl.store(y_at + column, y, mask=(u < units)[:, None] & valid[None, :])
        tl.debug_barrier()


@triton.jit
def backward(
    table, low, high, values, slopes, parameters, gradients, batch, earlier, UNITS: tl.constexpr,
    FAN: tl.constexpr, TERMS: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr,
    TILE: tl.constexpr, BOTTOM: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of layers high - 1 .. low, from ∂L/∂p of the last one in its rows of `slopes`.

    Those of the inputs go to the inputs' rows of `slopes`, except in the BOTTOM layer, whose inputs are
    leaves. `slopes` may be `values`: a block's inputs are no other block's. Gradients of parameters are
    added to those of `earlier` samples of the batch, if there are any.
    """
    WIDTH: tl.constexpr = PASSES * BLOCK
    kind: tl.constexpr = values.dtype.element_ty
    u = tl.arange(0, UNITS)
    i = tl.arange(0, FAN)
    c = tl.arange(0, TILE)
    y_tile = u[:, None] * WIDTH + c[None, :]
    x_tile = i[:, None] * WIDTH + c[None, :]
    for downwards in range(high - low):
        layer = high - 1 - downwards
        blocks, units, fan_in, weights, biases, below, above, rectified, _, _, _ = layer_row(
            table, layer
        )
        floor, biased = floor_and_biased(rectified, biases, units)
        known = units * tl.minimum(earlier, 1)  # of these units there are sums already
        for v in range(blocks):
            w_offsets = weights + v * units * fan_in + u[:, None] * fan_in + i[None, :]
            w_mask = (u < units)[:, None] & (i < fan_in)[None, :]
            if not BOTTOM:
                w = tl.load(parameters + w_offsets, mask=w_mask, other=0)
            dw = tl.zeros((UNITS, FAN), kind)
            db = tl.zeros((UNITS,), kind)
            g_at = slopes + (above + v * units) * WIDTH + y_tile
            x_at = values + (below + v * fan_in) * WIDTH
            for column in range(0, WIDTH, TILE):
                valid = column % BLOCK + c < batch
                y_mask = (u < units)[:, None] & valid[None, :]
                g = tl.load(g_at + column, mask=y_mask, other=0)
                db += tl.sum(g, 1)
                if TERMS == 0:
                    x_mask = (i < fan_in)[:, None] & valid[None, :]
                    x = tl.load(x_at + column + x_tile, mask=x_mask, other=0)
                    x = tl.where(x < floor, floor, x)
                    dw += tl.dot(g, tl.trans(x), input_precision=PRECISION)
                    if not BOTTOM:
                        dx = tl.dot(tl.trans(w), g, input_precision=PRECISION)
                        dx = tl.where(x > floor, dx, 0)
                        tl.debug_barrier()  # all threads have read x, which may lie where dx goes
                        dx_at = slopes + (below + v * fan_in) * WIDTH + column + x_tile
                        tl.store(dx_at, dx, mask=x_mask)
                else:
                    for k in tl.static_range(TERMS):
                        x_k = tl.load(x_at + k * WIDTH + column + c, mask=valid, other=0)
                        x_k = tl.where(x_k < floor, floor, x_k)
                        dw += tl.where((i == k)[None, :], tl.sum(g * x_k[None, :], 1)[:, None], 0)
            before = tl.load(gradients + w_offsets, mask=w_mask & (u < known)[:, None], other=0)
            tl.store(gradients + w_offsets, before + dw, mask=w_mask)
            b_at = gradients + biases + v * units + u
            before = tl.load(b_at, mask=(u < biased) & (u < known), other=0)
            tl.store(b_at, before + db, mask=u < biased)
        tl.debug_barrier()


@triton.jit
def inverse_lengths(f, NORMALIZE: tl.constexpr):
    """1 / max(|f|, 1e-12) of every column, or 1; the bound is that of torch's `normalize`."""
    square = tl.sum(f * f, 0)
    if NORMALIZE:
        return 1 / tl.maximum(tl.sqrt(square), 1e-12)
    return tl.full(square.shape, 1, square.dtype)


@triton.jit
def through_lengths(n, inverse, g, NORMALIZE: tl.constexpr):
    """The gradient of f from that of n = f / |f|: (g - n (n · g)) / |f|."""
    if NORMALIZE:
        return (g - n * tl.sum(n * g, 0)[None, :]) * inverse[None, :]
    return g


@triton.jit
def sum_of_magnitudes(gradients, count, CHUNK: tl.constexpr):
    """Σ |g| and Σ g² of a member's gradients; neither is finite where one of them is not."""
    kind: tl.constexpr = gradients.dtype.element_ty
    magnitudes = tl.zeros((CHUNK,), kind)
    squares = tl.zeros((CHUNK,), kind)
    for low in range(0, count, CHUNK):
        place = low + tl.arange(0, CHUNK)
        g = tl.load(gradients + place, mask=place < count, other=0)
        magnitudes += tl.abs(g)
        squares += g * g
    return tl.sum(magnitudes, 0), tl.sum(squares, 0)
