"""Gradient descent on a loss of pairs in Triton: all steps of a span for one member in one program.

Losses and gradients are those of `compiled.pairs_kernel`. An anchor's loss needs no other anchor, so a
step goes through the batch in tiles of BLOCK anchors, each with its positives and negatives side by
side, PASSES = 2 + H, and adds up the gradients of the parameters.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

from dualnets.training.fused.layers import (
    backward,
    forward,
    inverse_lengths,
    read_leaves,
    through_lengths,
)


# the steps of a call vary; for none of their numbers is it compiled again
@triton.jit(do_not_specialize=["steps", "first_step"])
def train_pairs(
    anchors, positives, negatives, parameters, gradients, values, rates, losses, frozen_at, table,
    constants, count, rows, layers, features, outputs, top, steps, batch, first_step,
    EXPONENTIAL: tl.constexpr, NORMALIZE: tl.constexpr, UNITS: tl.constexpr, FIRST: tl.constexpr,
    TERMS: tl.constexpr, FAN: tl.constexpr, OUT: tl.constexpr, PASSES: tl.constexpr,
    BLOCK: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Train one member through all steps of the given leaves.

    Args:
        anchors, positives: `(S, X, n * B)` uint8 features of n steps.
        negatives: `(S, X, n * B * H)`, the H negatives of an anchor side by side.
        parameters: `(S, P)`, changed; `gradients` likewise, filled.
        values: `(S, rows, PASSES * BLOCK)`, space for activations.
        rates, losses: `(S,)`, learning rates; the losses of the last step, filled.
        frozen_at: `(S,)` int64, changed: as in `compiled.pairs_kernel`.
        table: the layers.
        constants: τ, the margin, and 1 / B.
        count, rows: P, and the rows of `values`.
        layers, features, outputs, top: their numbers, and the outputs' first row.
        steps, batch, first_step: n, B, and the number of the first step.
    """
    s = tl.program_id(0).to(tl.int64)
    WIDTH: tl.constexpr = PASSES * BLOCK
    MANY: tl.constexpr = PASSES - 2
    kind: tl.constexpr = parameters.dtype.element_ty
    length = steps * batch
    anchors += s * features * length
    positives += s * features * length
    negatives += s * features * length * MANY
    parameters += s * count
    gradients += s * count
    values += s * rows * WIDTH
    rate = tl.load(rates + s)
    temperature = tl.load(constants)
    margin = tl.load(constants + 1)
    share = tl.load(constants + 2)
    b = tl.arange(0, BLOCK)
    last = tl.where(tl.load(frozen_at + s) < 0, steps, 0)
    t = 0
    while t < last:
        total = tl.zeros((BLOCK,), kind)
        for low in range(0, batch, BLOCK):
            left = batch - low
            start = t * batch + low
            # 1. the tile's leaves
            read_leaves(anchors, features, length, start, 1, values, 0, left, WIDTH, BLOCK)
            read_leaves(positives, features, length, start, 1, values, BLOCK, left, WIDTH, BLOCK)
            for h in range(MANY):
                read_leaves(
                    negatives, features, length * MANY, start * MANY + h, MANY, values,
                    (2 + h) * BLOCK, left, WIDTH, BLOCK,
                )  # fmt: skip
            tl.debug_barrier()
            # 2. forward
            forward(
                table, 0, 1, values, parameters, left, UNITS, FIRST, TERMS, PASSES, BLOCK, TILE
            )  # fmt: skip
            forward(
                table, 1, layers, values, parameters, left, UNITS, FAN, 0, PASSES, BLOCK, TILE
            )  # fmt: skip
            # 3. the loss; its gradient replaces the outputs
            total += pair_losses(
                values, top, outputs, b < left, temperature, margin, share, EXPONENTIAL, NORMALIZE, OUT,
                PASSES, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
            # 4. backward
            backward(
                table, 1, layers, values, values, parameters, gradients, left, low, UNITS, FAN, 0,
                PASSES, BLOCK, TILE, False,
            )  # fmt: skip
            backward(
                table, 0, 1, values, values, parameters, gradients, left, low, UNITS, FIRST, TERMS,
                PASSES, BLOCK, TILE, True,
            )  # fmt: skip
        loss = tl.sum(total, 0) * share
        tl.store(losses + s, loss)
        # 5. a number that is not finite, now or after the update, leaves no sum of magnitudes finite
        magnitudes = tl.zeros((CHUNK,), kind)
        for low in range(0, count, CHUNK):
            place = low + tl.arange(0, CHUNK)
            w = tl.load(parameters + place, mask=place < count, other=0)
            g = tl.load(gradients + place, mask=place < count, other=0)
            magnitudes += tl.abs(g) + tl.abs(w - rate * g)
        finite = tl.abs(loss) + tl.sum(magnitudes, 0) < float("inf")
        # 6. gradient descent
        for low in range(0, count, CHUNK):
            place = low + tl.arange(0, CHUNK)
            mask = place < tl.where(finite, count, 0)
            w = tl.load(parameters + place, mask=mask, other=0)
            g = tl.load(gradients + place, mask=mask, other=0)
            tl.store(parameters + place, w - rate * g, mask=mask)
        tl.store(frozen_at + s, first_step + t, mask=finite == 0)
        tl.debug_barrier()
        last = tl.where(finite, last, 0)
        t += 1


@triton.jit
def pair_losses(
    values, top, outputs, valid, temperature, margin, share, EXPONENTIAL: tl.constexpr,
    NORMALIZE: tl.constexpr, OUT: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`(BLOCK,)` losses of a tile's anchors; the gradient of their sum / B replaces the outputs."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    kind: tl.constexpr = values.dtype.element_ty
    o = tl.arange(0, OUT)
    b = tl.arange(0, BLOCK)
    mask = (o < outputs)[:, None] & valid[None, :]
    at = values + top * WIDTH + o[:, None] * WIDTH + b[None, :]
    a = tl.load(at, mask=mask, other=0)
    positive = tl.load(at + BLOCK, mask=mask, other=0)
    a_inverse = inverse_lengths(a, NORMALIZE)
    p_inverse = inverse_lengths(positive, NORMALIZE)
    a = a * a_inverse[None, :]
    positive = positive * p_inverse[None, :]
    near = tl.sum((a - positive) * (a - positive), 0) * 0.5
    # 1. exponents (r_+ - r_k + margin) / τ: the largest, at least the 0 of the 1, so that no exponential
    #    overflows, and the sum of the exponentials less it
    peak = tl.zeros((BLOCK,), kind)
    mass = tl.full((BLOCK,), 1, kind)
    losses = tl.zeros((BLOCK,), kind)
    for h in range(2, PASSES):
        f = tl.load(at + h * BLOCK, mask=mask, other=0)
        f = f * inverse_lengths(f, NORMALIZE)[None, :]
        far = tl.sum((a - f) * (a - f), 0) * 0.5
        if EXPONENTIAL:
            exponent = (near + margin - far) / temperature
            larger = tl.maximum(peak, exponent)
            mass = mass * tl.exp(peak - larger) + tl.exp(exponent - larger)
            peak = larger
        else:
            losses += near - far
    if EXPONENTIAL:
        losses = temperature * (tl.log(mass) + peak)
    # 2. gradients: β_k (f_k - f_+) of the anchor, β_k (f_1 - f_k) of negative k
    da = tl.zeros((OUT, BLOCK), kind)
    betas = tl.zeros((BLOCK,), kind)
    for h in range(2, PASSES):
        f = tl.load(at + h * BLOCK, mask=mask, other=0)
        f_inverse = inverse_lengths(f, NORMALIZE)
        f = f * f_inverse[None, :]
        beta = tl.full((BLOCK,), 1, kind) * share
        if EXPONENTIAL:
            far = tl.sum((a - f) * (a - f), 0) * 0.5
            beta = tl.exp((near + margin - far) / temperature - peak) / mass * share
        betas += beta
        da += beta[None, :] * (f - positive)
        df = through_lengths(f, f_inverse, beta[None, :] * (a - f), NORMALIZE)
        tl.debug_barrier()  # all threads have read f, which lies where df goes
        tl.store(at + h * BLOCK, df, mask=mask)
    dp = through_lengths(positive, p_inverse, betas[None, :] * (positive - a), NORMALIZE)
    tl.store(at, through_lengths(a, a_inverse, da, NORMALIZE), mask=mask)
    tl.store(at + BLOCK, dp, mask=mask)
    return tl.where(valid, losses, 0)
