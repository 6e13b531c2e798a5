"""One member's steps of a method that foretells, compiled for a CPU: both branches, loss and update."""

from __future__ import annotations

import numpy as np

from dualnets.training.compiled import blocks, heads
from dualnets.training.compiled.blocks import FAST
from hltm._compile import compiled

_SMALLEST = 1e-16  # squared lengths below count as this, as in the methods' cosine


@compiled(fastmath=FAST)
def train(  # type: ignore[no-untyped-def]
    first, second, weights, velocity, target, rates, decays, momenta, clips, factors, ema_decay,
    losses, frozen_at, moments, batches, ends, layout, projector, projector_numbers, predictor,
    predictor_numbers, linear, batch, switches, nesterov, first_step, low, high,
):  # fmt: skip
    """Train members low..high-1 through the whole span; see `fused_foretelling.run`.

    Args:
        first, second: `(S, X, n * B)` leaves of the two views.
        weights, velocity: `(S, P)`, changed: parameters of network, projector and predictor, weights
            then biases of each, and their velocities.
        target: `(S, Q)`, changed: the first of these, of the target; Q = 0 where it is the online
            network.
        rates, decays: `(S, 2)`, of all parameters and of the predictor's.
        momenta, clips: `(S,)`.
        factors, ema_decay: `(n,)`, what rates are multiplied with, and what the target keeps of itself.
        losses, frozen_at: `(S,)`, changed.
        moments, batches: `(S, 2, units of both heads)` and `(S, layers of both heads)`, changed: the
            running moments, projector first.
        ends: where the six parts begin, and P.
        layout: as in `fused_blocks`.
        projector, projector_numbers, predictor, predictor_numbers: as in `fused_heads`.
        linear: scale and offset of the loss.
        batch: B.
        switches: normalize, stop_gradient, normalized, symmetric.
        nesterov: of the optimiser.
        first_step: the number of the first step.
    """
    normalize, stop_gradient, normalized, symmetric = switches
    kind = weights.dtype
    slow = target.shape[1] > 0
    compared = 2 * batch if symmetric else batch
    passes = 2 if symmetric or not slow else 1
    columns = passes * batch
    outputs = layout[-1, 0] * layout[-1, 1]
    rows = 0
    widest = 0
    for layer in range(len(layout)):
        rows += layout[layer, 0] * layout[layer, 1]
        widest = max(widest, layout[layer, 0] * max(layout[layer, 1], layout[layer, 2]))
    for head in (projector, predictor):
        for layer in range(len(head)):
            widest = max(widest, max(head[layer, 0], head[layer, 1]))
    inputs = np.empty((first.shape[1], columns), kind)
    activations = np.empty((rows, columns), kind)
    output = np.empty((outputs, columns), kind)
    lengths = np.empty(columns, kind)
    gradient = np.empty((widest, columns), kind)
    spare = np.empty((widest, columns), kind)
    projected = projector[:, 0].sum()
    predicted = predictor[:, 0].sum()
    f_normed = np.empty((projected, columns), kind)
    f_rectified = np.empty((projected, columns), kind)
    f_seen = np.empty((2, projected, passes), kind)
    p_seen = np.empty((2, predicted, passes), kind)
    f_scales = np.empty((projected, passes), kind)
    f_shifts = np.empty((projected, passes), kind)
    p_normed = np.empty((predicted, columns), kind)
    p_rectified = np.empty((predicted, columns), kind)
    p_scales = np.empty((predicted, passes), kind)
    p_shifts = np.empty((predicted, passes), kind)
    units = projector[-1, 0] if len(projector) else outputs
    foretold = np.empty((units, columns), kind)
    upward = np.empty((units, columns), kind)  # gradients of what is foretold
    d_weights = np.empty(weights.shape[1], kind)
    e0, e1, e2, e3, e4, e5, e6 = ends
    for s in range(low, high):
        own, slower, moving = weights[s], target[s], velocity[s]
        for t in range(len(factors)):
            if frozen_at[s] >= 0:
                break
            at = t * batch
            if slow:
                _read(second[s], at, batch, inputs, 0)
                if passes == 2:
                    _read(first[s], at, batch, inputs, batch)
                blocks.forward(inputs, slower[e0:e1], slower[e1:e2], activations, layout)
                blocks.scale(activations[rows - outputs :], normalize, output, lengths)
                heads.forward(
                    output, slower[e2:e3], slower[e3:e4], projector, projector_numbers, passes,
                    f_normed, f_rectified, f_scales, f_shifts, f_seen,
                )  # fmt: skip
                foretold[:] = f_rectified[projected - units :] if projected else output
            _read(first[s], at, batch, inputs, 0)
            if passes == 2:
                _read(second[s], at, batch, inputs, batch)
            blocks.forward(inputs, own[e0:e1], own[e1:e2], activations, layout)
            blocks.scale(activations[rows - outputs :], normalize, output, lengths)
            heads.forward(
                output, own[e2:e3], own[e3:e4], projector, projector_numbers, passes,
                f_normed, f_rectified, f_scales, f_shifts, f_seen,
            )  # fmt: skip
            projections = f_rectified[projected - units :] if projected else output
            heads.forward(
                projections, own[e4:e5], own[e5:e6], predictor, predictor_numbers, passes,
                p_normed, p_rectified, p_scales, p_shifts, p_seen,
            )  # fmt: skip
            predictions = p_rectified[predicted - units :] if predicted else projections
            if not slow:
                _exchange(projections, batch, foretold)
            losses[s] = linear[1] + _compare(
                predictions, foretold, compared, normalized, linear[0] / weights.dtype.type(batch),
                gradient, upward,
            )  # fmt: skip
            heads.backward(
                projections, own[e4:e5], predictor, passes, p_normed, p_rectified,
                p_scales, p_shifts, gradient, spare, d_weights[e4:e5], d_weights[e5:e6],
            )  # fmt: skip
            if not stop_gradient:
                _exchange(upward, batch, foretold)
                gradient[:units] += foretold
            heads.backward(
                output, own[e2:e3], projector, passes, f_normed, f_rectified,
                f_scales, f_shifts, gradient, spare, d_weights[e2:e3], d_weights[e3:e4],
            )  # fmt: skip
            if normalize:
                blocks.unscale(output, lengths, gradient)
            blocks.backward(
                inputs, own[e0:e1], activations, gradient, spare, layout,
                d_weights[e0:e1], d_weights[e1:e2],
            )  # fmt: skip
            total = losses[s]
            for p in range(len(d_weights)):
                total += abs(d_weights[p])
            if not np.isfinite(total):
                frozen_at[s] = first_step + t
                break
            clipped = _clipping(d_weights, clips[s])
            for group in range(2):
                start, stop = (e0, e4) if group == 0 else (e4, e6)
                _update(
                    own[start:stop], d_weights[start:stop], moving[start:stop], clipped,
                    rates[s, group] * factors[t], decays[s, group], momenta[s], nesterov,
                )  # fmt: skip
            _follow(slower, own, ema_decay[t])
            heads.remember(
                projector, projector_numbers, f_seen, batch,
                moments[s, :, :projected], batches[s, : len(projector)],
            )  # fmt: skip
            # a predictor of one direction has read the first pass alone
            heads.remember(
                predictor, predictor_numbers, p_seen[:, :, : compared // batch], batch,
                moments[s, :, projected:], batches[s, len(projector) :],
            )  # fmt: skip


@compiled(fastmath=FAST)
def _read(leaves, at, batch, inputs, column):  # type: ignore[no-untyped-def]
    """Leaves of one step into B columns."""
    for x in range(len(inputs)):
        for b in range(batch):
            inputs[x, column + b] = leaves[x, at + b]


@compiled(fastmath=FAST)
def _exchange(values, batch, out):  # type: ignore[no-untyped-def]
    """Two passes side by side, the other one first."""
    for u in range(len(values)):
        for b in range(batch):
            out[u, b] = values[u, batch + b]
            out[u, batch + b] = values[u, b]


@compiled(fastmath=FAST)
def _compare(a, b, compared, normalized, weight, gradient, upward):  # type: ignore[no-untyped-def]
    """weight * sum over the first columns of 2 - 2 cos(a, b), or of half the squared distance.

    Gradients with respect to a and b are filled, 0 for columns that are not compared.
    """
    kind = a.dtype.type
    smallest = kind(_SMALLEST)
    columns = a.shape[1]
    if not normalized:
        half = kind(0)
        for u in range(len(a)):
            for c in range(compared):
                d = a[u, c] - b[u, c]
                half += d * d
                gradient[u, c] = weight * d
                upward[u, c] = -weight * d
            gradient[u, compared:columns] = 0
            upward[u, compared:columns] = 0
        return weight * half / kind(2)
    aa = np.zeros(columns, a.dtype)
    bb = np.zeros(columns, a.dtype)
    ab = np.zeros(columns, a.dtype)
    for u in range(len(a)):
        for c in range(compared):
            aa[c] += a[u, c] * a[u, c]
            bb[c] += b[u, c] * b[u, c]
            ab[c] += a[u, c] * b[u, c]
    total = kind(0)
    for c in range(compared):
        inverse_a = kind(1) / np.sqrt(smallest if aa[c] < smallest else aa[c])
        inverse_b = kind(1) / np.sqrt(smallest if bb[c] < smallest else bb[c])
        cosine = ab[c] * inverse_a * inverse_b
        total += kind(2) - kind(2) * cosine
        # -2 cos' = along * b - back * a; a length that counts as another has no gradient
        ab[c] = -kind(2) * weight * inverse_a * inverse_b
        back = -kind(2) * weight * cosine
        aa[c] = kind(0) if aa[c] < smallest else back * inverse_a * inverse_a
        bb[c] = kind(0) if bb[c] < smallest else back * inverse_b * inverse_b
    for u in range(len(a)):
        for c in range(columns):
            gradient[u, c] = ab[c] * b[u, c] - aa[c] * a[u, c] if c < compared else kind(0)
            upward[u, c] = ab[c] * a[u, c] - bb[c] * b[u, c] if c < compared else kind(0)
    return weight * total


@compiled(fastmath=FAST)
def _clipping(gradients, limit):  # type: ignore[no-untyped-def]
    """The factor that keeps a gradient's length within its limit."""
    kind = gradients.dtype.type
    if np.isinf(limit):
        return kind(1)
    square = kind(0)
    for p in range(len(gradients)):
        square += gradients[p] * gradients[p]
    return min(limit / max(np.sqrt(square), kind(1e-12)), kind(1))


@compiled(fastmath=FAST)
def _update(  # type: ignore[no-untyped-def]
    parameters, gradients, velocity, clipped, rate, decay, momentum, nesterov
):
    """Stochastic gradient descent; see `optim.SGD`."""
    for p in range(len(parameters)):
        g = gradients[p] * clipped + decay * parameters[p]
        velocity[p] = momentum * velocity[p] + g
        change = g + momentum * velocity[p] if nesterov else velocity[p]
        parameters[p] -= rate * change


@compiled(fastmath=FAST)
def _follow(target, online, ema_decay):  # type: ignore[no-untyped-def]
    """target <- ema_decay * target + (1 - ema_decay) * online."""
    if ema_decay == 0:
        target[:] = online[: len(target)]
    elif ema_decay < 1:
        moves = target.dtype.type(1) - ema_decay
        for p in range(len(target)):
            target[p] += moves * (online[p] - target[p])
