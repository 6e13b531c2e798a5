"""Gradient descent on a loss of pairs, compiled for the CPU: many steps of one member at a time.

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

from dualnets.training.compiled.blocks import (
    FAST,
    backward,
    forward,
    normalize_backward,
    normalize_forward,
)
from hltm._compile import compiled


@compiled(fastmath=FAST)
def train_members(  # type: ignore[no-untyped-def]
    anchors, positives, negatives, weights, biases, rates, losses, frozen_at, layout, batch, exponential,
    constants, normalize, first_step, low, high,
):  # fmt: skip
    """Train members low .. high - 1 through all steps of the given leaves.

    Args:
        anchors, positives: `(S, X, n * B)` leaves of n steps.
        negatives: `(S, X, n * B * H)`, the H negatives of an anchor side by side.
        weights, biases: `(S, P)` and `(S, Q)` flat parameters, changed; Q = 0 for a network without
            biases.
        rates: `(S,)` learning rates.
        losses: `(S,)`, filled: of the last step of each member.
        frozen_at: `(S,)` int64, changed: a member is frozen, before the update, at the step whose
            loss or gradient is not finite.
        layout: as in `blocks`.
        batch: B.
        exponential: whether β_k has exponentials, else it is 1.
        constants: τ and the margin.
        normalize: whether outputs are scaled to length 1.
        first_step: the number of the first step.
    """
    steps = anchors.shape[2] // batch
    many = negatives.shape[2] // (steps * batch)  # H
    columns = batch * (2 + many)
    kind = weights.dtype
    outputs = layout[-1, 0] * layout[-1, 1]
    rows = 0
    widest = 0
    for layer in range(len(layout)):
        rows += layout[layer, 0] * layout[layer, 1]
        widest = max(widest, layout[layer, 0] * max(layout[layer, 1], layout[layer, 2]))
    # arrays of this thread, used again for every member and step, so that they stay in the cache
    inputs = np.empty((anchors.shape[1], columns), kind)
    activations = np.empty((rows, columns), kind)
    output = np.empty((outputs, columns), kind)
    inverse_lengths = np.empty(columns, kind)
    gradient = np.empty((widest, columns), kind)
    spare = np.empty((widest, columns), kind)
    d_weights = np.empty(weights.shape[1], kind)
    d_biases = np.empty(biases.shape[1], kind)
    for s in range(low, high):
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
            forward(inputs, weights[s], biases[s], activations, layout)
            normalize_forward(activations[rows - outputs :], normalize, output, inverse_lengths)
            losses[s] = _pair_loss(output, batch, many, exponential, constants, gradient)
            # 3. backward
            if normalize:
                normalize_backward(output, inverse_lengths, gradient)
            backward(inputs, weights[s], activations, gradient, spare, layout, d_weights, d_biases)
            # 4. a number that is not finite leaves no sum of absolute values finite
            total = losses[s]
            for p in range(len(d_weights)):
                total += abs(d_weights[p])
            for p in range(len(d_biases)):
                total += abs(d_biases[p])
            if not np.isfinite(total):
                frozen_at[s] = first_step + t
                break
            # 5. gradient descent
            for p in range(len(d_weights)):
                weights[s, p] -= rates[s] * d_weights[p]
            for p in range(len(d_biases)):
                biases[s, p] -= rates[s] * d_biases[p]


@compiled(fastmath=FAST)
def _pair_loss(output, batch, many, exponential, constants, gradient):  # type: ignore[no-untyped-def]
    """The mean loss of a batch; its gradient with respect to `output` fills the rows of `gradient`."""
    units = len(output)
    kind = output.dtype.type
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
