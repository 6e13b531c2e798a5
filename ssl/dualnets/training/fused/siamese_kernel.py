"""Training of a Siamese method by SGD in Triton: all steps of a span for one member in one program.

The steps and their order are those of `compiled.siamese_kernel`, which has the equations. A pass is one
view of the whole batch, since a BatchNorm needs all of it. `values` has the rows of the leaves, of the
network's layers, of its output (scaled to length 1 or not), of the projector's and of the predictor's
layers; then the gradients of the rows from the output on; then the targets.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

from dualnets.training.fused.layers import (
    backward,
    forward,
    inverse_lengths,
    layer_row,
    read_leaves,
    sum_of_magnitudes,
    through_lengths,
)


@triton.jit
def train_siamese(
    first, second, parameters, velocity, target, gradients, values, statistics, rates, decays, momenta,
    clips, factors, ema_decays, losses, frozen_at, running, batches, table, coefficients, constants,
    count, target_count, predictor_at, rows, features, outputs, units, top, output, projections,
    predictions, slopes_at, targets_at, network_end, projector_end, predictor_end, norm_units, steps,
    batch, first_step,
    NORMALIZE: tl.constexpr, SEPARATE: tl.constexpr, STOP: tl.constexpr, COSINE: tl.constexpr,
    SYMMETRIC: tl.constexpr, VELOCITY: tl.constexpr, NESTEROV: tl.constexpr, UNITS: tl.constexpr,
    FIRST: tl.constexpr, TERMS: tl.constexpr, FAN: tl.constexpr, HEAD_UNITS: tl.constexpr, HEAD_FAN: tl.constexpr,
    OUT: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Train one member through all steps of the given leaves.

    Args:
        first, second: `(S, X, n * B)` uint8 leaves of the two views in n steps.
        parameters, velocity, target: `(S, P)`, `(S, P)`, `(S, Q)`, changed.
        gradients, values, statistics: `(S, P)`, `(S, rows, PASSES * BLOCK)` and
            `(S, 4, norm_units, PASSES)`, space.
        rates, decays, momenta, clips, factors, ema_decays, losses, frozen_at, running, batches: as in
            `compiled.siamese_kernel`; one array `batches` and `running` for both heads.
        table, coefficients: the layers of the network, the projector and the predictor.
        constants: scale and offset of the loss, and 1 / B.
        count, target_count, predictor_at: P, Q, and where the predictor's parameters begin.
        rows: of `values`.
        features, outputs, units: numbers of leaves, of outputs, and of projections.
        top, output, projections, predictions, slopes_at, targets_at: their first rows in `values`.
        network_end, projector_end, predictor_end: the numbers of the layers behind their last ones.
        norm_units: units of both heads.
        steps, batch, first_step: n, B, and the number of the first step.
    """
    s = tl.program_id(0).to(tl.int64)
    WIDTH: tl.constexpr = PASSES * BLOCK
    length = steps * batch
    first += s * features * length
    second += s * features * length
    parameters += s * count
    velocity += s * count
    gradients += s * count
    target += s * target_count
    values += s * rows * WIDTH
    statistics += s * 4 * norm_units * PASSES
    running += s * 2 * norm_units
    batches += s * (predictor_end - network_end)
    slopes = values + (slopes_at - output) * WIDTH  # the gradient of row r is row r of `slopes`
    scale = tl.load(constants)
    offset = tl.load(constants + 1)
    share = tl.load(constants + 2)
    valid = tl.arange(0, BLOCK) < batch
    last = tl.where(tl.load(frozen_at + s) < 0, steps, 0)
    t = 0
    while t < last:
        start = t * batch
        # 1. the target branch f': x2, then x1
        if SEPARATE:
            read_leaves(second, features, length, start, 1, values, 0, valid, WIDTH, BLOCK)
            if PASSES == 2:
                read_leaves(first, features, length, start, 1, values, BLOCK, valid, WIDTH, BLOCK)
            branch(
                table, values, target, statistics, norm_units, coefficients, top, output, outputs,
                network_end, projector_end, valid, batch, NORMALIZE, UNITS, FIRST, TERMS, FAN, HEAD_UNITS,
                HEAD_FAN, OUT, PASSES, BLOCK,
            )  # fmt: skip
            copy_rows(values, projections, targets_at, units, valid, OUT, PASSES, BLOCK)
        # 2. the online branch f: x1, then x2; and its predictions p(f)
        read_leaves(first, features, length, start, 1, values, 0, valid, WIDTH, BLOCK)
        if PASSES == 2:
            read_leaves(second, features, length, start, 1, values, BLOCK, valid, WIDTH, BLOCK)
        branch(
            table, values, parameters, statistics, norm_units, coefficients, top, output, outputs,
            network_end, projector_end, valid, batch, NORMALIZE, UNITS, FIRST, TERMS, FAN, HEAD_UNITS, HEAD_FAN,
            OUT, PASSES, BLOCK,
        )  # fmt: skip
        forward(
            table, projector_end, predictor_end, values, parameters, statistics, norm_units, coefficients,
            valid, batch, HEAD_UNITS, HEAD_FAN, 0, PASSES, BLOCK, True,
        )  # fmt: skip
        # 3. the loss, and its gradients with respect to predictions and targets
        loss = offset + compare(
            values, slopes, predictions, projections, targets_at, units, valid, scale * share, SEPARATE,
            COSINE, SYMMETRIC, OUT, PASSES, BLOCK,
        )  # fmt: skip
        tl.store(losses + s, loss)
        # 4. backward through predictor, projector and network
        backward(
            table, projector_end, predictor_end, values, slopes, parameters, gradients, statistics,
            norm_units, valid, batch, 0, HEAD_UNITS, HEAD_FAN, 0, PASSES, BLOCK, True, False,
        )  # fmt: skip
        if not SEPARATE and not STOP:
            add_exchanged(values, slopes, projections, targets_at, units, valid, OUT, PASSES, BLOCK)
        backward(
            table, network_end, projector_end, values, slopes, parameters, gradients, statistics,
            norm_units, valid, batch, 0, HEAD_UNITS, HEAD_FAN, 0, PASSES, BLOCK, True, False,
        )  # fmt: skip
        output_backward(values, slopes, top, output, outputs, valid, NORMALIZE, OUT, PASSES, BLOCK)
        backward(
            table, 1, network_end, values, values, parameters, gradients, statistics, norm_units, valid,
            batch, 0, UNITS, FAN, 0, PASSES, BLOCK, False, False,
        )  # fmt: skip
        backward(
            table, 0, 1, values, values, parameters, gradients, statistics, norm_units, valid, batch, 0,
            UNITS, FIRST, TERMS, PASSES, BLOCK, False, True,
        )  # fmt: skip
        # 5. a number that is not finite leaves no sum of magnitudes finite
        magnitude, square = sum_of_magnitudes(gradients, count, CHUNK)
        finite = tl.abs(loss) + magnitude < float("inf")
        # 6. SGD, with rates of its own for the predictor; and the target's moving average
        factor = tl.load(factors + t)
        step_to = 1 - tl.load(ema_decays + t)
        rate = tl.load(rates + 2 * s) * factor
        predictor_rate = tl.load(rates + 2 * s + 1) * factor
        decay = tl.load(decays + 2 * s)
        predictor_decay = tl.load(decays + 2 * s + 1)
        momentum = tl.load(momenta + s)
        limit = tl.load(clips + s)
        clipping = tl.minimum(limit / tl.maximum(tl.sqrt(square), 1e-12), 1)
        clipping = tl.where(limit < float("inf"), clipping, 1)
        for low in range(0, count, CHUNK):
            place = low + tl.arange(0, CHUNK)
            mask = place < tl.where(finite, count, 0)
            w = tl.load(parameters + place, mask=mask, other=0)
            g = tl.load(gradients + place, mask=mask, other=0) * clipping
            g += tl.where(place < predictor_at, decay, predictor_decay) * w
            if VELOCITY:
                v = momentum * tl.load(velocity + place, mask=mask, other=0) + g
                tl.store(velocity + place, v, mask=mask)
                g = g + momentum * v if NESTEROV else v
            w -= tl.where(place < predictor_at, rate, predictor_rate) * g
            tl.store(parameters + place, w, mask=mask)
            averaged = place < tl.where(finite & (step_to > 0), target_count, 0)
            average = tl.load(target + place, mask=averaged, other=0)
            average = tl.where(step_to < 1, average + step_to * (w - average), w)
            tl.store(target + place, average, mask=averaged)
        # 7. the running moments; the predictor counts the passes whose predictions enter the loss
        if finite:
            update_running_moments(
                table, network_end, projector_end, coefficients, statistics, norm_units, running, batches,
                batch, HEAD_UNITS, PASSES, PASSES,
            )  # fmt: skip
            update_running_moments(
                table, projector_end, predictor_end, coefficients, statistics, norm_units, running,
                batches + (projector_end - network_end), batch, HEAD_UNITS, PASSES,
                PASSES if SYMMETRIC else 1,
            )  # fmt: skip
        tl.store(frozen_at + s, first_step + t, mask=finite == 0)
        tl.debug_barrier()
        last = tl.where(finite, last, 0)
        t += 1


@triton.jit
def branch(
    table, values, parameters, statistics, norm_units, coefficients, top, output, outputs, network_end,
    projector_end, valid, batch, NORMALIZE: tl.constexpr, UNITS: tl.constexpr, FIRST: tl.constexpr,
    TERMS: tl.constexpr, FAN: tl.constexpr, HEAD_UNITS: tl.constexpr, HEAD_FAN: tl.constexpr, OUT: tl.constexpr,
    PASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The network and its projector on the leaves that `values` has."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    tl.debug_barrier()
    forward(
        table, 0, 1, values, parameters, statistics, norm_units, coefficients, valid, batch, UNITS, FIRST, TERMS,
        PASSES, BLOCK, False,
    )  # fmt: skip
    forward(
        table, 1, network_end, values, parameters, statistics, norm_units, coefficients, valid, batch,
        UNITS, FAN, 0, PASSES, BLOCK, False,
    )  # fmt: skip
    o = tl.arange(0, OUT)
    b = tl.arange(0, BLOCK)
    mask = (o < outputs)[:, None] & valid[None, :]
    tile = o[:, None] * WIDTH + b[None, :]
    for p in range(PASSES):
        f = tl.load(values + top * WIDTH + p * BLOCK + tile, mask=mask, other=0)
        f *= inverse_lengths(f, NORMALIZE)[None, :]
        tl.store(values + output * WIDTH + p * BLOCK + tile, f, mask=mask)
    tl.debug_barrier()
    forward(
        table, network_end, projector_end, values, parameters, statistics, norm_units, coefficients,
        valid, batch, HEAD_UNITS, HEAD_FAN, 0, PASSES, BLOCK, True,
    )  # fmt: skip


@triton.jit
def output_backward(
    values, slopes, top, output, outputs, valid, NORMALIZE: tl.constexpr, OUT: tl.constexpr,
    PASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replace the top layer's rows by their gradient."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    o = tl.arange(0, OUT)
    b = tl.arange(0, BLOCK)
    mask = (o < outputs)[:, None] & valid[None, :]
    tile = o[:, None] * WIDTH + b[None, :]
    for p in range(PASSES):
        at = values + top * WIDTH + p * BLOCK + tile
        f = tl.load(at, mask=mask, other=0)
        g = tl.load(slopes + output * WIDTH + p * BLOCK + tile, mask=mask, other=0)
        inverse = inverse_lengths(f, NORMALIZE)
        found = through_lengths(f * inverse[None, :], inverse, g, NORMALIZE)
        tl.debug_barrier()
        tl.store(at, found, mask=mask)
    tl.debug_barrier()


@triton.jit
def copy_rows(
    values, source, goal, units, valid, OUT: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr
):
    """Copy all passes of some rows to others."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    o = tl.arange(0, OUT)
    b = tl.arange(0, BLOCK)
    mask = (o < units)[:, None] & valid[None, :]
    tile = o[:, None] * WIDTH + b[None, :]
    for p in range(PASSES):
        found = tl.load(values + source * WIDTH + p * BLOCK + tile, mask=mask, other=0)
        tl.store(values + goal * WIDTH + p * BLOCK + tile, found, mask=mask)
    tl.debug_barrier()


@triton.jit
def add_exchanged(
    values, slopes, projections, targets_at, units, valid, OUT: tl.constexpr, PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Add the targets' gradients to those of the projections of the other pass."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    o = tl.arange(0, OUT)
    b = tl.arange(0, BLOCK)
    mask = (o < units)[:, None] & valid[None, :]
    tile = o[:, None] * WIDTH + b[None, :]
    for p in range(PASSES):
        at = slopes + projections * WIDTH + p * BLOCK + tile
        other = values + targets_at * WIDTH + (PASSES - 1 - p) * BLOCK + tile
        found = tl.load(at, mask=mask, other=0) + tl.load(other, mask=mask, other=0)
        tl.debug_barrier()
        tl.store(at, found, mask=mask)
    tl.debug_barrier()


@triton.jit
def compare(
    values, slopes, predictions, projections, targets_at, units, valid, weight, SEPARATE: tl.constexpr,
    COSINE: tl.constexpr, SYMMETRIC: tl.constexpr, OUT: tl.constexpr, PASSES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """weight * Σ D(a, b), D = 2 - 2 cos(a, b) or ½ |a - b|², over the passes that count.

    The gradient of the predictions a goes to their rows of `slopes`, that of targets b which are the
    projections of the other pass to the targets' rows.
    """
    WIDTH: tl.constexpr = PASSES * BLOCK
    kind: tl.constexpr = values.dtype.element_ty
    o = tl.arange(0, OUT)
    c = tl.arange(0, BLOCK)
    mask = (o < units)[:, None] & valid[None, :]
    tile = o[:, None] * WIDTH + c[None, :]
    total = tl.zeros((BLOCK,), kind)
    for p in range(PASSES):
        a = tl.load(values + predictions * WIDTH + p * BLOCK + tile, mask=mask, other=0)
        if SEPARATE:
            b_at = values + targets_at * WIDTH + p * BLOCK + tile
        else:
            b_at = values + projections * WIDTH + (PASSES - 1 - p) * BLOCK + tile
        b = tl.load(b_at, mask=mask, other=0)
        if COSINE:
            aa = tl.sum(a * a, 0)
            bb = tl.sum(b * b, 0)
            inverse_a = 1 / tl.sqrt(tl.where(aa < 1e-16, 1e-16, aa))
            inverse_b = 1 / tl.sqrt(tl.where(bb < 1e-16, 1e-16, bb))
            cosine = tl.sum(a * b, 0) * inverse_a * inverse_b
            distances = 2 - 2 * cosine
            # ∂D/∂a = -2 (b / (|a| |b|) - cos a / |a|²), and the same for b; a length that is replaced
            # by another has no gradient
            across = -2 * weight * inverse_a * inverse_b
            back = -2 * weight * cosine
            own_a = tl.where(aa < 1e-16, 0, back * inverse_a * inverse_a)
            own_b = tl.where(bb < 1e-16, 0, back * inverse_b * inverse_b)
            da = across[None, :] * b - own_a[None, :] * a
            db = across[None, :] * a - own_b[None, :] * b
        else:
            distances = tl.sum((a - b) * (a - b), 0) * 0.5
            da = weight * (a - b)
            db = weight * (b - a)
        if not SYMMETRIC:  # only the first pass counts
            distances = tl.where(p == 0, distances, 0)
            da = tl.where(p == 0, da, 0)
            db = tl.where(p == 0, db, 0)
        total += tl.where(valid, distances, 0)
        tl.store(slopes + predictions * WIDTH + p * BLOCK + tile, da, mask=mask)
        if not SEPARATE:
            tl.store(values + targets_at * WIDTH + p * BLOCK + tile, db, mask=mask)
    tl.debug_barrier()
    return weight * tl.sum(total, 0)


@triton.jit
def update_running_moments(
    table, low, high, coefficients, statistics, norm_units, running, batches, batch, UNITS: tl.constexpr,
    PASSES: tl.constexpr, COUNTED: tl.constexpr,
):  # fmt: skip
    """Move running moments towards those of an update's passes, as in `compiled.heads`."""
    u = tl.arange(0, UNITS)
    for layer in range(low, high):
        _, units, _, _, _, _, _, _, mean, std, unit = layer_row(table, layer)
        if (mean != 0) | (std != 0):
            momentum = tl.load(coefficients + 2 * layer + 1)
            seen = tl.load(batches + layer - low) + 1
            tl.debug_barrier()  # all threads have read it
            tl.store(batches + layer - low, seen)
            step = tl.maximum(1 / seen.to(momentum.dtype), momentum)
            mask = u < units
            at = statistics + (unit + u) * PASSES
            part = norm_units * PASSES
            centre = tl.zeros((UNITS,), momentum.dtype)
            squares = tl.zeros((UNITS,), momentum.dtype)
            for p in range(COUNTED):
                centre += tl.load(at + 2 * part + p, mask=mask, other=0)
                squares += tl.load(at + 3 * part + p, mask=mask, other=0)
            old = tl.load(running + unit + u, mask=mask, other=0)
            tl.store(running + unit + u, old + step * (centre / COUNTED - old), mask=mask)
            variance = squares / (batch - 1) / COUNTED  # unbiased
            old = tl.load(running + norm_units + unit + u, mask=mask, other=0)
            tl.store(running + norm_units + unit + u, old + step * (variance - old), mask=mask)
