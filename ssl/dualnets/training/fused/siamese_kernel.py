"""Training of a Siamese method by SGD in Triton: all steps of a span for one member in one program.

The steps and their order are those of `compiled.siamese_kernel`, which has the equations. A pass is one
view of the whole batch, since a BatchNorm needs all of it. `values` has the rows of the leaves, of the
network's layers, of its output (scaled to length 1 or not), of the projector's and of the predictor's
layers; then the gradients of the rows from the output on; then the targets.
"""
# mypy: ignore-errors

import triton
import triton.language as tl

from dualnets.training.fused import heads, layers
from dualnets.training.fused.layers import (
    inverse_lengths,
    read_leaves,
    sum_of_magnitudes,
    through_lengths,
)


# the steps of a call vary; for none of their numbers is it compiled again
@triton.jit(do_not_specialize=["steps", "first_step"])
def train_siamese(
    first, second, parameters, velocity, gradients, values, statistics, rates, decays, momenta,
    clips, factors, ema_decays, losses, frozen_at, running, batches, table, coefficients, constants,
    count, target_count, predictor_at, rows, features, outputs, units, top, output, projections,
    predictions, slopes_at, targets_at, network_end, projector_end, predictor_end, norm_units, steps,
    batch, first_step,
    NORMALIZE: tl.constexpr, SEPARATE: tl.constexpr, STOP: tl.constexpr, COSINE: tl.constexpr,
    SYMMETRIC: tl.constexpr, VELOCITY: tl.constexpr, NESTEROV: tl.constexpr, UNITS: tl.constexpr,
    FIRST: tl.constexpr, TERMS: tl.constexpr, FAN: tl.constexpr, HEAD_UNITS: tl.constexpr,
    HEAD_FAN: tl.constexpr, OUT: tl.constexpr, PASSES: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """Train one member through all steps of the given leaves.

    Args:
        first, second: `(S, X, n * B)` uint8 leaves of the two views in n steps.
        parameters, velocity: `(S, P + Q)`, those of the target behind the others, and `(S, P)`, changed.
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
    kind: tl.constexpr = parameters.dtype.element_ty
    length = steps * batch
    first += s * features * length
    second += s * features * length
    parameters += s * (count + target_count)
    velocity += s * count
    gradients += s * count
    values += s * rows * WIDTH
    statistics += s * 4 * norm_units * PASSES
    running += s * 2 * norm_units
    batches += s * (predictor_end - network_end)
    target = parameters + count
    slopes = values + (slopes_at - output) * WIDTH  # the gradient of row r is row r of `slopes`
    scale = tl.load(constants)
    offset = tl.load(constants + 1)
    share = tl.load(constants + 2)
    valid = tl.arange(0, BLOCK) < batch
    last = tl.where(tl.load(frozen_at + s) < 0, steps, 0)
    t = 0
    while t < last:
        # 1. the target branch f' on x2, then x1; then the online branch f on x1, then x2
        for online in range(1 - SEPARATE, 2):
            own = parameters + tl.where(online == 0, count, 0)
            # of one pass, the second column is left out
            at_first = tl.where(online == 0, BLOCK, 0)
            at_second = BLOCK - at_first
            read_leaves(
                first, features, length, t * batch, 1, values, at_first,
                tl.where(at_first < WIDTH, batch, 0), WIDTH, BLOCK,
            )  # fmt: skip
            read_leaves(
                second, features, length, t * batch, 1, values, at_second,
                tl.where(at_second < WIDTH, batch, 0), WIDTH, BLOCK,
            )  # fmt: skip
            tl.debug_barrier()
            layers.forward(
                table, 0, 1, values, own, batch, UNITS, FIRST, TERMS, PASSES, BLOCK, TILE
            )
            layers.forward(
                table, 1, network_end, values, own, batch, UNITS, FAN, 0, PASSES, BLOCK, TILE
            )
            copy_rows(values, top, output, outputs, valid, NORMALIZE, OUT, PASSES, BLOCK)
            heads.forward(
                table, network_end, projector_end, values, own, statistics, norm_units, coefficients,
                batch, HEAD_UNITS, HEAD_FAN, PASSES, BLOCK, TILE,
            )  # fmt: skip
            if online == 0:
                copy_rows(values, projections, targets_at, units, valid, False, OUT, PASSES, BLOCK)
        # 2. the predictions p(f)
        heads.forward(
            table, projector_end, predictor_end, values, parameters, statistics, norm_units, coefficients,
            batch, HEAD_UNITS, HEAD_FAN, PASSES, BLOCK, TILE,
        )  # fmt: skip
        # 3. the loss, and its gradients with respect to predictions and targets
        loss = offset + compare(
            values, slopes, predictions, projections, targets_at, units, valid, scale * share, SEPARATE,
            COSINE, SYMMETRIC, OUT, PASSES, BLOCK,
        )  # fmt: skip
        tl.store(losses + s, loss)
        # 4. backward through predictor, projector and network
        heads.backward(
            table, projector_end, predictor_end, values, slopes, parameters, gradients, statistics,
            norm_units, batch, HEAD_UNITS, HEAD_FAN, PASSES, BLOCK, TILE,
        )  # fmt: skip
        if not SEPARATE and not STOP:
            add_exchanged(values, slopes, projections, targets_at, units, valid, OUT, PASSES, BLOCK)
        heads.backward(
            table, network_end, projector_end, values, slopes, parameters, gradients, statistics,
            norm_units, batch, HEAD_UNITS, HEAD_FAN, PASSES, BLOCK, TILE,
        )  # fmt: skip
        output_backward(values, slopes, top, output, outputs, valid, NORMALIZE, OUT, PASSES, BLOCK)
        layers.backward(
            table, 1, network_end, values, values, parameters, gradients, batch, 0, UNITS, FAN, 0, PASSES,
            BLOCK, TILE, False,
        )  # fmt: skip
        layers.backward(
            table, 0, 1, values, values, parameters, gradients, batch, 0, UNITS, FIRST, TERMS, PASSES,
            BLOCK, TILE, True,
        )  # fmt: skip
        # 5. what SGD takes, with rates of its own for the predictor
        magnitude, square = sum_of_magnitudes(gradients, count, CHUNK)
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
        # 6. a number that is not finite, now or after the update, leaves no sum of magnitudes finite
        part = 2 * norm_units * PASSES
        moments, _ = sum_of_magnitudes(statistics + part, part, CHUNK)
        magnitudes = tl.zeros((CHUNK,), kind)
        for low in range(0, count, CHUNK):
            place = low + tl.arange(0, CHUNK)
            w, v = updated(
                parameters, velocity, gradients, place, place < count, place < predictor_at, clipping,
                rate, predictor_rate, decay, predictor_decay, momentum, VELOCITY, NESTEROV,
            )  # fmt: skip
            magnitudes += tl.abs(w) + tl.abs(v)
        finite = tl.abs(loss) + magnitude + moments + tl.sum(magnitudes, 0) < float("inf")
        # 7. the update, and the target's moving average
        for low in range(0, count, CHUNK):
            place = low + tl.arange(0, CHUNK)
            mask = place < tl.where(finite, count, 0)
            w, v = updated(
                parameters, velocity, gradients, place, mask, place < predictor_at, clipping, rate,
                predictor_rate, decay, predictor_decay, momentum, VELOCITY, NESTEROV,
            )  # fmt: skip
            if VELOCITY:
                tl.store(velocity + place, v, mask=mask)
            tl.store(parameters + place, w, mask=mask)
            averaged = place < tl.where(finite & (step_to > 0), target_count, 0)
            average = tl.load(target + place, mask=averaged, other=0)
            average = tl.where(step_to < 1, average + step_to * (w - average), w)
            tl.store(target + place, average, mask=averaged)
        # 8. the running moments; the predictor counts the passes whose predictions enter the loss
        if finite:
            heads.update_running_moments(
                table, network_end, projector_end, coefficients, statistics, norm_units, running, batches,
                batch, PASSES, PASSES,
            )  # fmt: skip
            heads.update_running_moments(
                table, projector_end, predictor_end, coefficients, statistics, norm_units, running,
                batches + (projector_end - network_end), batch, PASSES,
                PASSES if SYMMETRIC else 1,
            )  # fmt: skip
        tl.store(frozen_at + s, first_step + t, mask=finite == 0)
        tl.debug_barrier()
        last = tl.where(finite, last, 0)
        t += 1


@triton.jit
def updated(
    parameters, velocity, gradients, place, mask, common, clipping, rate, predictor_rate, decay,
    predictor_decay, momentum, VELOCITY: tl.constexpr, NESTEROV: tl.constexpr,
):  # fmt: skip
    """Some parameters and velocities after the update; `common` marks those that are not the predictor's."""
    w = tl.load(parameters + place, mask=mask, other=0)
    g = tl.load(gradients + place, mask=mask, other=0) * clipping
    v = g + tl.where(common, decay, predictor_decay) * w
    change = v
    if VELOCITY:
        v += momentum * tl.load(velocity + place, mask=mask, other=0)
        change = change + momentum * v if NESTEROV else v
    return w - tl.where(common, rate, predictor_rate) * change, v


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
    values, source, goal, units, valid, NORMALIZE: tl.constexpr, OUT: tl.constexpr,
    PASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy all passes of some rows to others, where NORMALIZE scaled to length 1."""
    WIDTH: tl.constexpr = PASSES * BLOCK
    o = tl.arange(0, OUT)
    b = tl.arange(0, BLOCK)
    mask = (o < units)[:, None] & valid[None, :]
    tile = o[:, None] * WIDTH + b[None, :]
    for p in range(PASSES):
        found = tl.load(values + source * WIDTH + p * BLOCK + tile, mask=mask, other=0)
        found *= inverse_lengths(found, NORMALIZE)[None, :]
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
