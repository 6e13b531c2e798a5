"""The inner span compiled for a CPU: many steps of one member at a time, in its core's cache.

Eager torch is bound by small products, by passes over activations that do not fit the cache, and by
its own overhead. Here a member is trained on its own for a whole span: leaves, activations and
gradients stay where they are, a row of the batch is the innermost loop, and the ReLU is part of the
product. `train_steps` takes this path where it is offered: a `BlockNetwork` on a CPU, a method whose
step is nothing but a loss of pairs, plain SGD; each exactly as written here, since a subclass may
compute something else. The eager path is the reference; both give the same numbers up to the order
of sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook as any_global_hook

from dualnets.methods.losses import InfoNCE, PairLoss, Simple, Triplet
from dualnets.networks.block_network import BlockNetwork
from dualnets.optim.optimizers import PerMember
from dualnets.training.compiled.blocks import FAST, backward, forward, scale, unscale
from hltm._compile import compiled
from hltm.sampling.kernels.threads import share

DTYPES = (torch.float32, torch.float64)
LOSSES = (Simple, Triplet, InfoNCE)
HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "_post_accumulate_grad_hooks",
)  # fmt: skip


class DrawnPairs(NamedTuple):
    """The leaves of a span of steps.

    Attributes:
        anchors, positives: `(S, X, steps * B)` uint8.
        negatives: `(S, X, steps * B * H)` uint8, the H negatives of an anchor side by side.
        batch: B.
    """

    anchors: Tensor
    positives: Tensor
    negatives: Tensor
    batch: int


class PairKernel(NamedTuple):
    """A network and a loss that can be trained compiled."""

    network: BlockNetwork
    loss: PairLoss


def offer(network: nn.Module, loss: object) -> PairKernel | None:
    """What a span of plain SGD can run compiled; None where it cannot."""
    if type(loss) not in LOSSES or not untouched(network) or not network.equal_shares:
        return None
    assert isinstance(loss, PairLoss)
    return PairKernel(network, loss)


def untouched(network: nn.Module) -> TypeGuard[BlockNetwork]:
    """Whether a network on a CPU computes and trains what `BlockNetwork` says, and nothing else.

    A subclass, a part or a forward pass that was replaced, a hook, or a parameter that is not
    trained: compiled code would know of none of them.
    """
    if type(network) is not BlockNetwork or "forward" in vars(network):
        return False
    if network.device.type != "cpu" or network.dtype not in DTYPES or any_global_hook():
        return False
    hooked = (
        getattr(own, hooks, None)
        for own in (*network.modules(), *network.parameters())
        for hooks in HOOKS
    )
    parts = (type(part) for part in network.children())
    return (
        not any(hooked)
        and all(part in (nn.ParameterList, nn.ModuleList) for part in parts)
        and all(parameter.requires_grad for parameter in network.parameters())
    )


@torch.no_grad()
def run(
    network: BlockNetwork,
    loss: PairLoss,
    lr: PerMember,
    drawn: DrawnPairs,
    step: int,
    frozen_at: Tensor,
) -> Tensor:
    """Train the network in place on the drawn leaves.

    Args:
        network: its parameters change.
        loss: see `offer`.
        lr: the learning rate, or one per member.
        drawn: the data.
        step: the number of the first step.
        frozen_at: `(S,)` int64, changed in place as in `span.Progress`.

    Returns:
        `(S,)` losses of the last step.
    """
    weights = torch.cat([weight.flatten(1) for weight in network.weights], dim=1)
    shifts = [weights[:, :0], *(bias.flatten(1) for bias in network.biases or [])]
    biases = torch.cat(shifts, dim=1)
    layout = np.array([[w.shape[1], w.shape[2], w.shape[3]] for w in network.weights])
    rates = torch.as_tensor(lr, dtype=network.dtype).expand(len(weights)).contiguous()
    losses = torch.full_like(rates, torch.nan)
    leaves = [network.read(part).contiguous() for part in drawn[:3]]
    tensors = (*leaves, weights, biases, rates, losses, frozen_at)
    arguments = (
        *(part.numpy() for part in tensors),
        layout,
        drawn.batch,
        loss.slope,
        np.array([loss.temperature, loss.margin], dtype=losses.numpy().dtype),
        network.normalize,
        step,
    )

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            _train(*arguments, low, high)  # type: ignore[call-arg]

    share(work, len(weights), threads=torch.get_num_threads())
    for flat, parts in ((weights, list(network.weights)), (biases, list(network.biases or []))):
        at = 0
        for part in parts:
            size = part[0].numel()
            part.copy_(flat[:, at : at + size].view_as(part))
            at += size
    return losses


@compiled(fastmath=FAST)
def _train(  # type: ignore[no-untyped-def]
    anchors, positives, negatives, weights, biases, rates, losses, frozen_at, layout, batch, slope,
    settings, normalize, first_step, low, high,
):  # fmt: skip
    """Train members low..high-1 through the whole span."""
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
    inputs = np.empty((anchors.shape[1], columns), kind)
    activations = np.empty((rows, columns), kind)
    output = np.empty((outputs, columns), kind)
    lengths = np.empty(columns, kind)
    gradient = np.empty((widest, columns), kind)
    spare = np.empty((widest, columns), kind)
    d_weights = np.empty(weights.shape[1], kind)
    d_biases = np.empty(biases.shape[1], kind)
    for s in range(low, high):
        for t in range(steps):
            if frozen_at[s] >= 0:
                break
            at = t * batch
            for x in range(anchors.shape[1]):
                for b in range(batch):
                    inputs[x, b] = anchors[s, x, at + b]
                    inputs[x, batch + b] = positives[s, x, at + b]
                for h in range(many):
                    for b in range(batch):
                        inputs[x, (2 + h) * batch + b] = negatives[s, x, (at + b) * many + h]
            forward(inputs, weights[s], biases[s], activations, layout)
            scale(activations[rows - outputs :], normalize, output, lengths)
            losses[s] = _pairs(output, batch, many, slope, settings, gradient)
            if normalize:
                unscale(output, lengths, gradient)
            backward(inputs, weights[s], activations, gradient, spare, layout, d_weights, d_biases)
            total = losses[s]
            for p in range(len(d_weights)):
                total += abs(d_weights[p])
            for p in range(len(d_biases)):
                total += abs(d_biases[p])
            if not np.isfinite(total):
                frozen_at[s] = first_step + t
                break
            for p in range(len(d_weights)):
                weights[s, p] -= rates[s] * d_weights[p]
            for p in range(len(d_biases)):
                biases[s, p] -= rates[s] * d_biases[p]


@compiled(fastmath=FAST)
def _pairs(output, batch, many, slope, settings, gradient):  # type: ignore[no-untyped-def]
    """The mean loss of a batch, and its gradient by way of β_k = -∂L/∂r_k (theory, Section 3).

    For all these losses ∂L/∂r_+ = Σ_k β_k, so the anchor's gradient is Σ_k β_k (f_k - f_+).
    """
    units = len(output)
    kind = output.dtype.type
    temperature, margin = settings
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
    total = kind(0)
    share = kind(1 / batch)
    for b in range(batch):  # far becomes β / B
        if slope == 0:
            total += near[b] - far[0, b]
            far[0, b] = share
            continue
        # the largest exponent, so that no exponential overflows
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
