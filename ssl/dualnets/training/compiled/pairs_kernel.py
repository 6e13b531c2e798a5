"""Training on a loss of pairs, compiled for the CPU: many steps of one member at a time.

For an anchor f_1, its positive f_+ and H negatives f_k, with r = ½ |f_1 - f|² for each of the
others, the loss of a batch is the mean over its B anchors of one of (`dualnets.methods.losses`;
docs/theory.md, Section 3)

    r_+ - r_1                                        with β_1 = 1
    τ log(1 + Σ_k exp((r_+ - r_k + margin) / τ))     with β_k = exp(…_k) / (1 + Σ_j exp(…_j))

where β_k = -∂L/∂r_k. For all of these ∂L/∂r_+ = Σ_k β_k, so the gradients of one anchor's loss are

    ∂L/∂f_1 = Σ_k β_k (f_k - f_+),    ∂L/∂f_+ = Σ_k β_k (f_+ - f_1),    ∂L/∂f_k = β_k (f_1 - f_k).

Layout: arrays are batch-last. The columns of one step are its anchors, positives, and H groups of B
negatives, so that the network sees all of them in one pass, and column b of each group belongs to
anchor b.
"""

from __future__ import annotations

import numpy as np

from dualnets.networks.compiled import blocks
from dualnets.networks.compiled.addresses import aligned, compiled_once, padded, size_of
from dualnets.networks.compiled.norms import FAST, unit_length, unit_length_backward
from dualnets.optim.update_kernel import commit, new_numbers, propose
from dualnets.training.compiled.tables import point_to_member, side_by_side
from hltm._compile import compiled, inner
from hltm._separate import address_of


@compiled(fastmath=FAST)
def train_members(  # type: ignore[no-untyped-def]
    code, anchors, positives, negatives, rules, places, factors, losses, frozen_at, layers, batch,
    exponential, constants, normalize, first_step, low, high,
):  # fmt: skip
    """Train members low .. high - 1 through all steps of the given leaves.

    Args:
        code: addresses of the machine code of layers, forward and backward.
        anchors, positives: `(S, X, n * B)` leaves of n steps.
        negatives: `(S, X, n * B * H)`, the H negatives of an anchor side by side.
        rules: `optim.update_kernel.Rules` of the parameters and their memory, which change.
        places: `(T,)`, of every parameter in the table of the layers.
        factors: `(n,)`, of the schedule.
        losses: `(S,)`, filled: of the last step of each member.
        frozen_at: `(S,)` int64, changed: a member is frozen, before the update, at the step of which
            any number is not finite.
        layers: of the network, as in `blocks`.
        batch: B.
        exponential: whether β_k has exponentials, else it is 1.
        constants: τ and the margin.
        normalize: whether outputs are scaled to length 1.
        first_step: the number of the first step.
    """
    steps = len(factors)
    many = negatives.shape[2] // (steps * batch)  # H
    kind = losses.dtype
    like = kind.type(0)
    columns = padded(batch * (2 + many), size_of(like))
    # arrays of this thread, used again for every member and step, so that they stay in the cache
    own = blocks.new_values(like, layers, columns, 1)
    rows, _, _, outputs, widest = blocks.row_counts(layers)
    inputs, output = own.values[: layers.features], own.values[rows - outputs :]
    inverse_lengths = np.empty(columns, kind)
    gradient = aligned(like, widest, columns)
    spare = aligned(like, widest, columns)
    room = aligned(like, blocks.room_rows(layers, columns), columns)
    table = np.zeros((len(layers.layout), 4), np.int64)
    d_table = np.zeros((len(layers.layout), 4), np.int64)
    starts = rules.table[:, 0].copy()
    new = new_numbers(rules, losses)
    numbers = np.empty_like(new[0])  # gradients
    for s in range(low, high):
        gradients = side_by_side(rules, numbers)  # here, so that numba keeps them until the end
        point_to_member(like, rules, gradients, places, 0, d_table)
        point_to_member(like, rules, starts, places, s, table)
        for t in range(steps):
            if frozen_at[s] >= 0:
                break
            # 1. the step's leaves
            at = t * batch
            for x in range(anchors.shape[1]):
                for b in range(batch):
                    inputs[x, b] = anchors[s, x, at + b]
                    inputs[x, batch + b] = positives[s, x, at + b]
                for h in range(many):
                    for b in range(batch):
                        inputs[x, (2 + h) * batch + b] = negatives[s, x, (at + b) * many + h]
            # 2. forward
            blocks.call_forward(
                code[0],
                (like, layers, table, columns, 1, batch, address_of(own.values),
                 address_of(own.normed), address_of(own.inverse), own.statistics),
            )  # fmt: skip
            if normalize:
                unit_length(output, inverse_lengths)
            losses[s] = _pair_loss(output, batch, many, exponential, constants, gradient)
            # 3. backward
            if normalize:
                unit_length_backward(output, inverse_lengths, gradient)
            blocks.call_backward(
                code[1],
                (like, layers, table, d_table, columns, 1, batch, address_of(own.values),
                 address_of(own.normed), address_of(own.inverse), own.statistics,
                 address_of(gradient), address_of(spare), address_of(room), False),
            )  # fmt: skip
            # 4. the update
            if not propose(rules, gradients, factors[t], losses[s], s, new):
                frozen_at[s] = first_step + t
                break
            commit(rules, s, new)


@inner(fastmath=FAST)
def _pair_loss(output, batch, many, exponential, constants, gradient):  # type: ignore[no-untyped-def]
    """The mean loss of a batch; its gradient with respect to `output` fills the rows of `gradient`."""
    compiled_once()
    units = len(output)
    kind = output.dtype.type
    for u in range(units):  # columns of no sample
        for c in range(batch * (2 + many), output.shape[1]):
            gradient[u, c] = 0
    temperature, margin = constants
    # 1. distances r_+ and r_k
    near = np.zeros(batch, output.dtype)
    far = np.zeros((many, batch), output.dtype)
    half = kind(0.5)
    for u in range(units):
        for b in range(batch):
            d = output[u, b] - output[u, batch + b]
            near[b] += half * d * d
        for h in range(many):
            for b in range(batch):
                d = output[u, b] - output[u, (2 + h) * batch + b]
                far[h, b] += half * d * d
    # 2. the loss; `far` becomes β / B, the gradient of the mean
    total = kind(0)
    share = kind(1 / batch)
    for b in range(batch):
        if not exponential:
            total += near[b] - far[0, b]
            far[0, b] = share
            continue
        # the largest exponent, at least the 0 of the 1: with it subtracted no exponential overflows
        peak = (near[b] + margin - far[0, b]) / temperature
        for h in range(1, many):
            peak = max(peak, (near[b] + margin - far[h, b]) / temperature)
        peak = max(peak, kind(0))
        mass = np.exp(-peak)
        for h in range(many):
            far[h, b] = np.exp((near[b] + margin - far[h, b]) / temperature - peak)
            mass += far[h, b]
        total += temperature * (np.log(mass) + peak)
        for h in range(many):
            far[h, b] *= share / mass
    # 3. gradients, as above
    for u in range(units):
        for b in range(batch):
            gradient[u, b] = 0
            gradient[u, batch + b] = 0
        for h in range(many):
            for b in range(batch):
                beta = far[h, b]
                anchor, positive = output[u, b], output[u, batch + b]
                negative = output[u, (2 + h) * batch + b]
                gradient[u, b] += beta * (negative - positive)
                gradient[u, batch + b] += beta * (positive - anchor)
                gradient[u, (2 + h) * batch + b] = beta * (anchor - negative)
    return total * share
