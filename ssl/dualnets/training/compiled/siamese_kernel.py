"""Training of a Siamese method, compiled for the CPU: many steps of one member at a time.

Both branches, the loss of a `SiameseSpec` and the update are here. With f the network behind the
projector, p the predictor, f' the target, and D(a, b) = 2 - 2 cos(a, b) or, where outputs are not
normalised, ½ |a - b|², the loss is

    offset + scale * mean over the batch of D(p(f(x1)), f'(x2)) [+ D(p(f(x2)), f'(x1)) if symmetric].

The target either has parameters of its own, which have no gradient and follow f' <- m f' + (1 - m)
f, or it is f itself, with or without the gradient that flows through it.

Layout: arrays are batch-last. The columns of a pass are the B samples of one view; passes lie side
by side. The online branch computes x1 and then x2 where both are needed; the target branch computes
x2 and then x1, so that the column of a prediction and that of its target are the same. Tables have
the addresses of the layers' parameters: of the network, then of the projector, then of the predictor.
"""

from __future__ import annotations

import numpy as np

from dualnets.networks.compiled import blocks
from dualnets.networks.compiled.addresses import aligned, array_at, copy_rows, padded, size_of
from dualnets.networks.compiled.norms import FAST, unit_length, unit_length_backward
from dualnets.optim.update_kernel import SIZE, commit, is_finite, member_of, new_numbers, propose
from dualnets.training.compiled.running_moments import update_running_moments
from dualnets.training.compiled.tables import point_to_member, side_by_side
from hltm._compile import compiled, inner
from hltm._separate import address_of

_SMALLEST = 1e-16  # squared lengths below this count as this, as in the methods' cosine


@compiled(fastmath=FAST)
def train_members(  # type: ignore[no-untyped-def]
    code, first, second, rules, averages, places, factors, ema_decay, losses, frozen_at, running, batches,
    network, projector, predictor, steps, linear, batch, switches, first_step, low, high,
):  # fmt: skip
    """Train members low .. high - 1 through all steps of the given leaves.

    Args:
        code: addresses of the machine code of layers, forward and backward.
        first, second: `(S, X, n * B)` leaves of the two views in n steps.
        rules: `optim.update_kernel.Rules` of all trained tensors and their memory, which change.
        averages: `(T,)` int64, addresses of the target's tensors of all members beside the trained
            ones, changed; 0 for none, and for all where the target is the online network.
        places: `(T,)`, of every trained tensor in the table of all layers.
        factors, ema_decay: `(n,)`, what rates are multiplied with, and m, at each step.
        losses: `(S,)`, changed: of the last step of each member.
        frozen_at: `(S,)` int64, changed: a member is frozen, before the update, at the step of which
            any number is not finite.
        running, batches: `(S, 2, units of both heads)` and `(S, layers of both heads)`, changed:
            running moments and how many updates they have seen, projector first.
        network, projector, predictor: their layers, as in `blocks`.
        steps: of both heads, the smallest step of the running moments of each layer.
        linear: scale and offset of the loss.
        batch: B.
        switches: whether the network normalises its outputs, whether gradients stop at the target,
            whether D is the cosine form, whether the loss is symmetric.
        first_step: the number of the first step.
    """
    normalize, stop_gradient, normalized, symmetric = switches
    kind = losses.dtype
    separate = averages.max() > 0  # the target has parameters of its own
    compared = 2 * batch if symmetric else batch  # columns that enter the loss
    passes = 2 if symmetric or not separate else 1
    like = kind.type(0)
    columns = padded(passes * batch, size_of(like))
    # arrays of this thread, used again for every member and step, so that they stay in the cache
    f_values = blocks.new_values(like, network, columns, passes)
    g_values = blocks.new_values(like, projector, columns, passes)
    p_values = blocks.new_values(like, predictor, columns, passes)
    rows, _, _, outputs, widest = blocks.row_counts(network)
    inputs, output = f_values.values[: network.features], f_values.values[rows - outputs :]
    rows, _, _, units, wide = blocks.row_counts(projector)
    projections = g_values.values[rows - units :]
    widest = max(widest, wide)
    rows, _, _, units, wide = blocks.row_counts(predictor)
    predictions = p_values.values[rows - units :]
    widest = max(widest, wide)
    inverse_lengths = np.empty(columns, kind)
    gradients = aligned(like, 2 * widest, columns)  # two arrays, used in turns
    room = aligned(like, blocks.room_rows(network, columns), columns)
    targets = aligned(like, units, columns)
    d_targets = aligned(like, units, columns)
    new = new_numbers(rules, losses)
    numbers = np.empty_like(new[0])  # gradients
    kept_running, kept_batches = np.empty_like(running[0]), np.empty_like(batches[0])
    # layers begin in the tables here
    g0 = len(network.layout)
    p0 = g0 + len(projector.layout)
    end = p0 + len(predictor.layout)
    table, target = np.zeros((end, 4), np.int64), np.zeros((end, 4), np.int64)
    d_table = np.zeros((end, 4), np.int64)
    starts = rules.table[:, 0].copy()
    for s in range(low, high):
        gradients_at = side_by_side(rules, numbers)  # here, so that numba keeps them until the end
        point_to_member(like, rules, gradients_at, places, 0, d_table)
        point_to_member(like, rules, starts, places, s, table)
        point_to_member(like, rules, averages, places, s, target)
        for t in range(len(factors)):
            if frozen_at[s] >= 0:
                break
            at = t * batch
            # 1. the target branch f': x2, then x1
            if separate:
                _read(second[s], at, batch, inputs, 0)
                if passes == 2:
                    _read(first[s], at, batch, inputs, batch)
                _forward(code, like, network, target[:g0], columns, passes, batch, f_values)
                if normalize:
                    unit_length(output, inverse_lengths)
                copy_rows(output, g_values.values, columns)
                _forward(code, like, projector, target[g0:p0], columns, passes, batch, g_values)
                copy_rows(projections, targets, columns)
            # 2. the online branch f: x1, then x2; and its predictions p(f)
            _read(first[s], at, batch, inputs, 0)
            if passes == 2:
                _read(second[s], at, batch, inputs, batch)
            _forward(code, like, network, table[:g0], columns, passes, batch, f_values)
            if normalize:
                unit_length(output, inverse_lengths)
            copy_rows(output, g_values.values, columns)
            _forward(code, like, projector, table[g0:p0], columns, passes, batch, g_values)
            copy_rows(projections, p_values.values, columns)
            _forward(code, like, predictor, table[p0:], columns, passes, batch, p_values)
            if not separate:
                _exchange(projections, batch, targets)
            # 3. the loss, and its gradients with respect to predictions and targets
            losses[s] = linear[1] + _compare(
                predictions, targets, compared, normalized, linear[0] / kind.type(batch),
                gradients, d_targets,
            )  # fmt: skip
            # 4. backward through predictor, projector and network
            at_g = address_of(gradients)
            at_g = _backward(
                code, like, predictor, table[p0:], d_table[p0:], columns, passes, batch, p_values, at_g,
                gradients, room, True,
            )  # fmt: skip
            if not stop_gradient:  # the target of one pass is the projection of the other
                _exchange(d_targets, batch, targets)
                total = array_at(like, at_g, units, columns)
                for u in range(units):
                    for c in range(columns):
                        total[u, c] += targets[u, c]
            at_g = _backward(
                code, like, projector, table[g0:p0], d_table[g0:p0], columns, passes, batch, g_values, at_g,
                gradients, room, True,
            )  # fmt: skip
            if normalize:
                unit_length_backward(
                    output, inverse_lengths, array_at(like, at_g, outputs, columns)
                )
            _backward(
                code, like, network, table[:g0], d_table[:g0], columns, passes, batch, f_values, at_g,
                gradients, room, False,
            )  # fmt: skip
            # 5. the update and the running moments, all or nothing
            finite = propose(rules, gradients_at, factors[t], losses[s], s, new)
            if finite:
                kept_running[:], kept_batches[:] = running[s], batches[s]
                projected = len(g_values.values) - projector.features
                update_running_moments(
                    projector, steps[: p0 - g0], g_values.statistics[2:], batch,
                    running[s, :, :projected], batches[s, : p0 - g0],
                )  # fmt: skip
                # the predictor counts the passes whose predictions enter the loss
                update_running_moments(
                    predictor, steps[p0 - g0 :], p_values.statistics[2:, :, : compared // batch],
                    batch, running[s, :, projected:], batches[s, p0 - g0 :],
                )  # fmt: skip
                finite = is_finite(running[s].ravel())
                if not finite:
                    running[s], batches[s] = kept_running, kept_batches
            if not finite:
                frozen_at[s] = first_step + t
                break
            commit(rules, s, new)
            # 6. the moving average follows
            if separate:
                _update_averages(rules, averages, s, ema_decay[t], new)


@inner()
def _forward(code, like, layers, table, columns, passes, batch, own):  # type: ignore[no-untyped-def]
    blocks.call_forward(
        code[0],
        (like, layers, table, columns, passes, batch, address_of(own.values), address_of(own.normed),
         address_of(own.inverse), own.statistics),
    )  # fmt: skip


@inner()
def _backward(  # type: ignore[no-untyped-def]
    code, like, layers, table, d_table, columns, passes, batch, own, at, gradients, room, of_inputs
):
    """The address of the gradient of the inputs, in one half of `gradients`; that of the outputs is `at`."""
    half = gradients.nbytes // 2
    start = address_of(gradients)
    other = start + half if at == start else start
    return blocks.call_backward(
        code[1],
        (like, layers, table, d_table, columns, passes, batch, address_of(own.values),
         address_of(own.normed), address_of(own.inverse), own.statistics, at, other,
         address_of(room), of_inputs),
    )  # fmt: skip


@inner(fastmath=FAST)
def _read(leaves, at, batch, inputs, column):  # type: ignore[no-untyped-def]
    """Copy the leaves of one step, which begin at `at`, into B columns of `inputs`."""
    for x in range(len(inputs)):
        for b in range(batch):
            inputs[x, column + b] = leaves[x, at + b]


@inner(fastmath=FAST)
def _exchange(values, batch, out):  # type: ignore[no-untyped-def]
    """Copy two passes side by side, the second one first."""
    for u in range(len(values)):
        for b in range(batch):
            out[u, b] = values[u, batch + b]
            out[u, batch + b] = values[u, b]


@inner(fastmath=FAST)
def _compare(a, b, compared, normalized, weight, d_a, d_b):  # type: ignore[no-untyped-def]
    """weight * Σ D(a, b) over the first `compared` columns, and its gradients.

    Args:
        a, b: `(U, columns)`.
        compared: how many columns count; the gradient of the others is 0.
        normalized: whether D = 2 - 2 cos(a, b), else ½ |a - b|².
        weight: the factor.
        d_a, d_b: `(at least U, columns)`, their first U rows filled.
    """
    kind = a.dtype.type
    smallest = kind(_SMALLEST)
    columns = a.shape[1]
    if not normalized:
        total = kind(0)
        for u in range(len(a)):
            for c in range(compared):
                d = a[u, c] - b[u, c]
                total += d * d
                d_a[u, c] = weight * d
                d_b[u, c] = -weight * d
            d_a[u, compared:columns] = 0
            d_b[u, compared:columns] = 0
        return weight * total / kind(2)
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
        # ∂D/∂a = -2 (b / (|a| |b|) - cos a / |a|²), and the same for b; from here on ab, aa and bb
        # are the factors of the two terms. A length that is replaced by another has no gradient
        ab[c] = -kind(2) * weight * inverse_a * inverse_b
        back = -kind(2) * weight * cosine
        aa[c] = kind(0) if aa[c] < smallest else back * inverse_a * inverse_a
        bb[c] = kind(0) if bb[c] < smallest else back * inverse_b * inverse_b
    for u in range(len(a)):
        for c in range(columns):
            d_a[u, c] = ab[c] * b[u, c] - aa[c] * a[u, c] if c < compared else kind(0)
            d_b[u, c] = ab[c] * a[u, c] - bb[c] * b[u, c] if c < compared else kind(0)
    return weight * total


@inner(fastmath=FAST)
def _update_averages(rules, averages, s, ema_decay, like):  # type: ignore[no-untyped-def]
    """target <- m target + (1 - m) online, with m = `ema_decay`: exact for m = 0 and m = 1."""
    step = like.dtype.type(1) - ema_decay
    for k in range(len(averages)):
        if averages[k] != 0:
            size = rules.table[k, SIZE]
            target = member_of(averages[k], size, s, like)
            online = member_of(rules.table[k, 0], size, s, like)
            for p in range(size):
                target[p] = online[p] if step == 1 else target[p] + step * (online[p] - target[p])
