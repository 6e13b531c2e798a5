"""The inner span of methods that foretell one branch from another, compiled for a CPU.

As in `fused.py`, a member is trained on its own for a whole span, in its core's cache: target and
online network, projector and predictor with batch statistics, the loss, momentum and weight decay,
and the target's moving average. `run_span` takes this path where it is offered; the eager path is
the reference, and both give the same numbers up to the order of sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from dualnets import fused_blocks as blocks
from dualnets import fused_heads as heads
from dualnets.foretelling import Foretelling
from dualnets.fused import DTYPES
from dualnets.fused_blocks import FAST
from dualnets.networks.block_network import BlockNetwork
from dualnets.optim import SGD, Group, Optimizer, PerMember
from hltm.kernels.threads import share

_SMALLEST = 1e-16  # squared lengths below count as this, as in the methods' cosine


class Offer(NamedTuple):
    """What can be trained compiled."""

    network: BlockNetwork
    foretelling: Foretelling
    optimizer: SGD
    predictor: Group


def offer(
    network: nn.Module,
    foretelling: Foretelling | None,
    optimizer: Optimizer,
    groups: Mapping[str, Group],
) -> Offer | None:
    """What a span can run compiled; None where it cannot.

    Args:
        network: any.
        foretelling: the method as this module knows it.
        optimizer: any.
        groups: the method's; only a predictor can have rates of its own.
    """
    if foretelling is None or not isinstance(network, BlockNetwork) or type(optimizer) is not SGD:
        return None
    if not network.plain or network.device.type != "cpu" or network.dtype not in DTYPES:
        return None
    if not heads.can(foretelling.projector) or not heads.can(foretelling.predictor):
        return None
    if not set(groups) <= {"predictor"}:
        return None
    return Offer(network, foretelling, optimizer, groups.get("predictor", Group()))


@torch.no_grad()
def run(
    offered: Offer,
    state: Mapping[str, Tensor],
    memory: Mapping[str, Tensor],
    views: Sequence[Tensor],
    batch: int,
    step: int,
    steps: int,
    frozen_at: Tensor,
    *,
    leave_last: bool = False,
) -> tuple[dict[str, Tensor], Tensor]:
    """Train network, heads and target on the drawn leaves.

    Args:
        offered: parameters of its network change in place.
        state: the method's; trained tensors change in place.
        memory: the optimiser's; changes in place.
        views: two, `(S, X, n * B)` leaves of n steps.
        batch: B.
        step: the number of the first step.
        steps: how many updates the whole training has.
        frozen_at: `(S,)` int64, changed in place as in `span.Progress`.
        leave_last: whether the target stays where it is in the last step.

    Returns:
        The state with new tensors for the target, and `(S,)` losses of the last step.
    """
    network, told, optimizer, _ = offered
    names, ends = _order(network, told)
    online = {f"network.{name}": p for name, p in network.named_parameters()} | {**state}
    weights = _flat([online[name] for name in names])
    slots = [_slot(name) for name in names]
    remembered = [memory[slot] for slot in slots] if optimizer.slots else []
    velocity = _flat(remembered) if remembered else torch.zeros_like(weights)
    followers = [f"target.{name}" for name in names[: ends[3].names]] if told.slow else []
    target = _flat([state[name] for name in followers]) if followers else weights[:, :0].clone()
    many = views[0].shape[2] // batch
    stays = [told.stays(step + t, steps) if told.slow else 1.0 for t in range(many)]
    if leave_last:
        stays[-1] = 1.0
    outputs = network.blocks[-1] * network.units[-1]
    projector, projector_epsilons = heads.described(told.projector, outputs)
    predictor, predictor_epsilons = heads.described(told.predictor, told.projector.outputs(outputs))
    losses = torch.full((len(weights),), torch.nan, dtype=network.dtype)
    kind = losses.numpy().dtype
    arguments = (
        views[0].contiguous().numpy(),
        views[1].contiguous().numpy(),
        weights.numpy(),
        velocity.numpy(),
        target.numpy(),
        *_rates(offered, weights),
        np.array([optimizer.schedule.factor(step + t, steps) for t in range(many)], dtype=kind),
        np.array(stays, dtype=kind),
        losses.numpy(),
        frozen_at.numpy(),
        np.array([0, *(end.numbers for end in ends)]),
        np.array([[w.shape[1], w.shape[2], w.shape[3]] for w in network.weights]),
        projector,
        projector_epsilons.astype(kind),
        predictor,
        predictor_epsilons.astype(kind),
        np.array([told.scale, told.offset], dtype=kind),
        batch,
        (network.normalize, told.stop_gradient, told.normalized, told.symmetric),
        optimizer.nesterov,
        step,
    )

    def work(shares: Iterator[tuple[int, int]]) -> None:
        for low, high in shares:
            _train(*arguments, low, high)  # type: ignore[call-arg]

    share(work, len(weights), threads=torch.get_num_threads())
    _put(weights, [online[name] for name in names])
    if remembered:
        _put(velocity, remembered)
    moved = {name: torch.empty_like(state[name]) for name in followers}
    _put(target, list(moved.values()))
    return {**state} | moved, losses


class _End(NamedTuple):
    """Where a part of the flat parameters ends."""

    names: int
    numbers: int


def _order(network: BlockNetwork, told: Foretelling) -> tuple[list[str], list[_End]]:
    """Names of all trained tensors as they lie side by side, and where the six parts end.

    The parts are weights and biases of the network, of the projector and of the predictor.
    """
    parts = [
        [f"network.weights.{i}" for i in range(network.depth)],
        [f"network.biases.{i}" for i in range(network.depth if network.biases else 0)],
    ]
    sizes = [
        sum(weight[0].numel() for weight in network.weights),
        sum(bias[0].numel() for bias in network.biases or []),
    ]
    inputs = network.blocks[-1] * network.units[-1]
    for place, head in (("projector", told.projector), ("predictor", told.predictor)):
        layers = range(len(head.widths))
        parts.append([f"{place}.{i}.weight" for i in layers])
        parts.append([f"{place}.{i}.bias" for i in layers if head.bias])
        fans = [inputs, *head.widths][: len(layers)]
        sizes.append(sum(u * fan for u, fan in zip(head.widths, fans, strict=True)))
        sizes.append(sum(head.widths) if head.bias else 0)
        inputs = head.outputs(inputs)
    names: list[str] = []
    ends: list[_End] = []
    for part, size in zip(parts, sizes, strict=True):
        names += part
        ends.append(_End(len(names), size + (ends[-1].numbers if ends else 0)))
    return names, ends


def _slot(name: str) -> str:
    """The name of a trained tensor's velocity in the optimiser's memory."""
    return f"momentum.{name}" if name.startswith("network.") else f"momentum.state.{name}"


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    """`(S, P)`: tensors `(S, …)` side by side."""
    return torch.cat([tensor.detach().flatten(1) for tensor in tensors], dim=1)


def _put(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """The inverse of `_flat`, into given tensors."""
    at = 0
    for tensor in tensors:
        size = tensor[0].numel()
        tensor.copy_(flat[:, at : at + size].view_as(tensor))
        at += size


def _rates(offered: Offer, like: Tensor) -> tuple[np.ndarray, ...]:
    """Learning rates and decays `(S, 2)`, of all and of the predictor; momenta and clips `(S,)`."""
    optimizer, predictor = offered.optimizer, offered.predictor

    def each(rates: PerMember) -> Tensor:
        return torch.as_tensor(rates, dtype=like.dtype).expand(len(like))

    decay = each(optimizer.weight_decay)
    own = decay if predictor.weight_decay is None else each(predictor.weight_decay)
    lr = each(optimizer.lr)
    clip = float("inf") if optimizer.clip is None else optimizer.clip
    return (
        torch.stack([lr, lr * predictor.lr], dim=1).numpy(),
        torch.stack([decay, own], dim=1).numpy(),
        each(optimizer.momentum).contiguous().numpy(),
        each(clip).contiguous().numpy(),
    )


@njit(nogil=True, cache=True, fastmath=FAST)
def _train(  # type: ignore[no-untyped-def]
    first, second, weights, velocity, target, rates, decays, momenta, clips, factors, stays,
    losses, frozen_at, ends, layout, projector, projector_epsilons, predictor, predictor_epsilons,
    linear, batch, switches, nesterov, first_step, low, high,
):  # fmt: skip
    """Train members low..high-1 through the whole span."""
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
                    output, slower[e2:e3], slower[e3:e4], projector, projector_epsilons, passes,
                    f_normed, f_rectified, f_scales, f_shifts,
                )  # fmt: skip
                foretold[:] = f_rectified[projected - units :] if projected else output
            _read(first[s], at, batch, inputs, 0)
            if passes == 2:
                _read(second[s], at, batch, inputs, batch)
            blocks.forward(inputs, own[e0:e1], own[e1:e2], activations, layout)
            blocks.scale(activations[rows - outputs :], normalize, output, lengths)
            heads.forward(
                output, own[e2:e3], own[e3:e4], projector, projector_epsilons, passes,
                f_normed, f_rectified, f_scales, f_shifts,
            )  # fmt: skip
            projections = f_rectified[projected - units :] if projected else output
            heads.forward(
                projections, own[e4:e5], own[e5:e6], predictor, predictor_epsilons, passes,
                p_normed, p_rectified, p_scales, p_shifts,
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
            _follow(slower, own, stays[t])


@njit(nogil=True, cache=True, fastmath=FAST)
def _read(leaves, at, batch, inputs, column):  # type: ignore[no-untyped-def]
    """Leaves of one step into B columns."""
    for x in range(len(inputs)):
        for b in range(batch):
            inputs[x, column + b] = leaves[x, at + b]


@njit(nogil=True, cache=True, fastmath=FAST)
def _exchange(values, batch, out):  # type: ignore[no-untyped-def]
    """Two passes side by side, the other one first."""
    for u in range(len(values)):
        for b in range(batch):
            out[u, b] = values[u, batch + b]
            out[u, batch + b] = values[u, b]


@njit(nogil=True, cache=True, fastmath=FAST)
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


@njit(nogil=True, cache=True, fastmath=FAST)
def _clipping(gradients, limit):  # type: ignore[no-untyped-def]
    """The factor that keeps a gradient's length within its limit."""
    kind = gradients.dtype.type
    if np.isinf(limit):
        return kind(1)
    square = kind(0)
    for p in range(len(gradients)):
        square += gradients[p] * gradients[p]
    return min(limit / max(np.sqrt(square), kind(1e-12)), kind(1))


@njit(nogil=True, cache=True, fastmath=FAST)
def _update(  # type: ignore[no-untyped-def]
    parameters, gradients, velocity, clipped, rate, decay, momentum, nesterov
):
    """Stochastic gradient descent; see `optim.SGD`."""
    for p in range(len(parameters)):
        g = gradients[p] * clipped + decay * parameters[p]
        velocity[p] = momentum * velocity[p] + g
        change = g + momentum * velocity[p] if nesterov else velocity[p]
        parameters[p] -= rate * change


@njit(nogil=True, cache=True, fastmath=FAST)
def _follow(target, online, stays):  # type: ignore[no-untyped-def]
    """target <- stays * target + (1 - stays) * online."""
    if stays == 0:
        target[:] = online[: len(target)]
    elif stays < 1:
        moves = target.dtype.type(1) - stays
        for p in range(len(target)):
            target[p] += moves * (online[p] - target[p])
