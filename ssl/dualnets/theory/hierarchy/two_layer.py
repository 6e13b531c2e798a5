"""Two layers: does the top layer's covariance operator drive the layer below? Population dynamics.

The tree has a root and latents below it, each with leaves of its own; group μ of hidden units sees
the leaves of latent μ, and the top layer all groups. Views keep the root. With the simple loss,
both branches (theory, Sections 3 and 5; arXiv 2010.00578, Sec. 4):

    fbar(z0) = E[relu(W_1 x) | z0]                    V = V_z0[fbar]     the top covariance operator
    dW_2/dt = 2 W_2 V                                                    (= 2 W_2 o o^T where symmetric)
    dw_j/dt = 2 Σ_z π_z (W_2^T W_2 c(z))_j E[1(w_j x > 0) x | z0 = z]    c(z) = fbar(z) - E fbar

Expectations are sums over the leaf states of each group, so nothing is sampled. Interventions:

    full        as above
    uncoupled   blocks of V between groups removed: W_2 V, and W_2^T W_2 V in what is sent down,
                keep the blocks within groups alone
    frozen      W_2 stays as it was
    constant    full, with ||W_2|| held at its initial value

All are float64 torch tensors with the S axis in front; weights are those of a `tree_network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dualnets.networks.block_network import BlockNetwork
from dualnets.theory.hierarchy.times import increasing
from dualnets.theory.updates.fitting import check_block_network, check_trees
from hltm.model.enumeration import all_states
from hltm.tree import LatentTree

Intervention = Literal["full", "uncoupled", "frozen", "constant"]
INTERVENTIONS: tuple[Intervention, ...] = ("full", "uncoupled", "frozen", "constant")


class Groups(NamedTuple):
    """What hidden units see.

    Attributes:
        states: `(N, X)` leaf states of one group, as bits.
        given_root: `(S, K, V, N)` P(a group's leaf states | root).
        given_own: `(S, 2, V, N)` P(a group's leaf states | the group's own latent).
        prior: `(S, K)` of the root.
        own_prior: `(S, 2, V)` of the groups' latents.
    """

    states: Tensor
    given_root: Tensor
    given_own: Tensor
    prior: Tensor
    own_prior: Tensor


class Layers(NamedTuple):
    """Weights of both layers, or their rates of change.

    Attributes:
        lower: `(..., S, V, U, X)`, group by group.
        upper: `(..., S, O, V * U)`.
    """

    lower: Tensor
    upper: Tensor


class SecondLayer(NamedTuple):
    """How hidden units know the latents of their groups.

    Attributes:
        selectivity: `(..., S, V, U)` s = (E[f | z = 1] - E[f | z = 0]) / 2, behind the ReLU.
        per_norm: s / ||w||, which no growth of a unit's weights changes.
        correlation: of f with its latent; 0 for a dead unit.
        upper_norm: `(..., S)` ||W_2||.
    """

    selectivity: Tensor
    per_norm: Tensor
    correlation: Tensor
    upper_norm: Tensor


def groups(trees: LatentTree) -> Groups:
    """The distributions that hidden units see, by enumeration.

    Raises:
        ValueError: trees that are not two levels of equally branched binary latents and leaves.

    Example:
        >>> import hltm
        >>> groups(hltm.symmetric_binary(depth=2, seed=0)).given_root.shape
        torch.Size([1, 2, 2, 4])
    """
    check_trees(trees)
    topology, tables = trees.topology, trees.tables
    branching = {len(topology.children[v]) for v in topology.at_level(1)}
    if topology.depth != 2 or len(branching) != 1 or (tables.cardinality[1:] != 2).any():
        raise ValueError(
            "two layers need a root, binary latents below it, and equally many binary leaves below "
            f"each; got {trees!r}"
        )
    states = all_states(tables.cardinality[list(topology.children[1])])
    by_latent, by_root, own = [], [], []
    prior = tables.of(0)[:, 0]  # (S, K)
    for v in topology.at_level(1):
        found = torch.ones(len(tables.flat), 2, len(states), dtype=torch.float64)
        for i, leaf in enumerate(topology.children[v]):
            found = found * tables.of(int(leaf))[:, :, states[:, i]]
        table = tables.of(v)  # (S, K, 2)
        by_latent.append(found)
        by_root.append(table @ found)
        own.append((prior[:, None] @ table)[:, 0])
    return Groups(
        states.double(),
        torch.stack(by_root, 2),
        torch.stack(by_latent, 2),
        prior,
        torch.stack(own, 2),
    )


def layers(network: BlockNetwork) -> Layers:
    """A two-layer tree network's weights, float64.

    Raises:
        TypeError: what is no block network.
        ValueError: another depth or shape, biases or a normalised output, for which the equations
            do not hold.
    """
    check_block_network(network)
    if network.depth != 2 or network.blocks[1] != 1 or network.dense or not network.plain:
        raise ValueError(
            f"expected two layers, a group of units per latent and a whole one above, got {network!r}"
        )
    if network.biases is not None or network.normalize:
        raise ValueError("the equations hold without biases and with a plain output")
    lower, upper = (weight.detach().double().cpu() for weight in network.weights)
    return Layers(lower.clone(), upper[:, 0].clone())


def slopes(given: Groups, weights: Layers, intervention: Intervention = "full") -> Layers:
    """d/dt of the weights.

    Raises:
        ValueError: an unknown intervention, or weights that do not fit the groups or are not finite.
    """
    _check(given, weights, intervention)
    return _slopes(given, weights, intervention)[0]


def _slopes(given: Groups, weights: Layers, intervention: Intervention) -> tuple[Layers, Tensor]:
    """The slopes, and `(S,)` a bound on how fast a direction of the weights can grow."""
    lower, upper = weights
    _, latents, units, _ = lower.shape
    pre = lower @ given.states.T  # (S, V, U, N)
    mean = torch.einsum("skvn,svun->skvu", given.given_root, pre.relu())
    centred = mean - torch.einsum("sk,skvu->svu", given.prior, mean)[:, None]
    flat = centred.flatten(2)  # (S, K, V * U): c(z)
    weighted = given.prior[..., None] * flat
    operator = flat.transpose(1, 2) @ weighted  # V
    sent = upper.transpose(1, 2) @ upper  # W_2^T W_2
    if intervention == "uncoupled":
        within = torch.kron(torch.eye(latents), torch.ones(units, units)).to(operator)
        operator, sent = operator * within, sent * within
    upper_slope = 2 * upper @ operator
    if intervention == "frozen":
        upper_slope = torch.zeros_like(upper)
    if intervention == "constant":  # what changes the norm is taken out
        size = upper.square().sum((1, 2), keepdim=True)
        outwards = (upper_slope * upper).sum((1, 2), keepdim=True)
        upper_slope = upper_slope - _over(outwards, size) * upper
    down = (weighted @ sent).unflatten(2, (latents, units))  # (S, K, V, U): π_z W_2^T W_2 c(z)
    seen = torch.einsum("skvn,svun,nx->skvux", given.given_root, (pre > 0).double(), given.states)
    apart = seen - torch.einsum("sk,skvux->svux", given.prior, seen)[:, None]
    spread = torch.einsum("sk,skvux->svu", given.prior, apart.square()).amax((1, 2))
    size = upper.square().sum((1, 2))
    rate = 2 * (operator.diagonal(dim1=1, dim2=2).sum(1) + size * spread)
    return Layers(2 * torch.einsum("skvu,skvux->svux", down, seen), upper_slope), rate


def integrate(
    given: Groups,
    weights: Layers,
    times: Sequence[float] | Tensor,
    *,
    intervention: Intervention = "full",
    step: float = 0.02,
) -> Layers:
    """The weights at given times, by classical Runge-Kutta steps that every member takes for itself.

    The slopes jump where a unit's half-space crosses a leaf state, so the error is of the order
    of a step there and of its fourth power elsewhere.

    Args:
        weights: at the first time.
        times: `(T,)` increasing, or `(T, S)` with times for each member.
        step: the largest change of a layer's weights in one step, relative to their norm.

    Returns:
        Weights with the times' axis in front.

    Raises:
        ValueError: times that are not finite or do not increase, a step that is not finite and above
            0, an unknown intervention, or weights that do not fit the groups or are not finite.
        ArithmeticError: the weights grew beyond all bounds before the last time.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> start = layers(dualnets.tree_network(trees, units=4, seed=1))
        >>> integrate(groups(trees), start, [0.0, 0.2, 0.4]).upper.shape
        torch.Size([3, 3, 4, 8])
    """
    _check(given, weights, intervention)
    _check_step(step)
    at = torch.from_numpy(increasing(times))
    members = len(weights.upper)
    at = at[:, None].expand(-1, members) if at.ndim == 1 else at
    if at.shape[1] != members:
        raise ValueError(f"times of {at.shape[1]} members are given, the weights are of {members}")
    now, clock, found = weights, at[0], [weights]
    for target in at[1:]:
        while bool((left := target - clock).gt(0).any()):
            first, rate = _slopes(given, now, intervention)
            h = torch.minimum(_longest(now, first, rate, step), left)
            lost = (h < 1e-9) & (left > 1e-8)
            if bool(lost.any()):
                raise ArithmeticError(
                    f"the weights of a member grow beyond all bounds near time "
                    f"{float(clock[lost][0]):.4g}, before {float(target[lost][0]):.4g}"
                )
            now = _step(given, now, first, h, intervention)
            clock = torch.where(h < left, clock + h, target)
        found.append(now)
    return Layers(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def time_to_grow(
    given: Groups,
    weights: Layers,
    factor: float,
    *,
    intervention: Intervention = "full",
    step: float = 0.02,
    most_steps: int = 100_000,
) -> Tensor:
    """`(S,)` the time at which ||W_2|| of each member has grown by a factor.

    Raises:
        ValueError: a factor that is not finite and above 1, an intervention that holds ||W_2||, a
            member with W_2 = 0, and as for `integrate`.
        ArithmeticError: a member that does not grow so far within `most_steps` steps.
    """
    _check(given, weights, intervention)
    _check_step(step)
    if not 1 < factor < float("inf") or intervention in ("frozen", "constant"):
        raise ValueError(
            f"the factor must be finite and above 1 and ||W_2|| must grow, got {factor} and "
            f"{intervention!r}"
        )
    aim = factor * weights.upper.flatten(1).norm(dim=1)
    if not bool((aim > 0).all()):
        raise ValueError(f"||W_2|| of member {int((aim == 0).int().argmax())} is 0 and stays so")
    now, clock = weights, torch.zeros(len(aim), dtype=torch.float64)
    for _ in range(most_steps):
        size = now.upper.flatten(1).norm(dim=1)
        if bool((size >= aim * (1 - 1e-9)).all()):
            return clock
        first, rate = _slopes(given, now, intervention)
        grows = (first.upper * now.upper).sum((1, 2)) / size
        h = torch.minimum(_longest(now, first, rate, step), (aim - size).clamp_min(0) / grows)
        now, clock = _step(given, now, first, h, intervention), clock + h
    raise ArithmeticError(f"||W_2|| of a member did not grow by {factor} in {most_steps} steps")


def readout(given: Groups, weights: Layers) -> SecondLayer:
    """What the hidden units know; weights may have any axes in front, such as times.

    A unit whose weights are 0 has selectivity 0 and correlation 0.

    Raises:
        ValueError: weights that do not fit the groups or are not finite.
    """
    _check(given, weights)
    response = (weights.lower @ given.states.T).relu()  # (..., S, V, U, N)
    mean = torch.einsum("skvn,...svun->...skvu", given.given_own, response)
    square = torch.einsum("skvn,...svun->...skvu", given.given_own, response.square())
    prior = given.own_prior[..., None]  # (S, 2, V, 1)
    overall = (prior * mean).sum(-3)
    deviation = ((prior * square).sum(-3) - overall.square()).clamp_min(0).sqrt()
    selectivity = (mean[..., 1, :, :] - mean[..., 0, :, :]) / 2
    spread = prior.prod(-3).sqrt()  # of the latent, as 0 and 1
    correlation = 2 * selectivity * spread / deviation.where(deviation > 1e-12, torch.inf)
    return SecondLayer(
        selectivity,
        _over(selectivity, weights.lower.norm(dim=-1)),
        correlation,
        weights.upper.flatten(-2).norm(dim=-1),
    )


def _longest(weights: Layers, rates: Layers, rate: Tensor, step: float) -> Tensor:
    """`(S,)` the longest step: no layer changes by more than `step`, no direction by e^(20 step)."""
    each = [
        # weights of 0 have slopes of 0
        _over(slope.flatten(1).norm(dim=1), part.flatten(1).norm(dim=1))
        for slope, part in zip(rates, weights, strict=True)
    ]
    return step / torch.maximum(torch.maximum(*each), rate / 20).clamp_min(1e-12)


def _step(
    given: Groups, now: Layers, first: Layers, time: Tensor, intervention: Intervention
) -> Layers:
    """One classical Runge-Kutta step of `(S,)` lengths, its first slope known."""
    second, _ = _slopes(given, _moved(now, first, time / 2), intervention)
    third, _ = _slopes(given, _moved(now, second, time / 2), intervention)
    fourth, _ = _slopes(given, _moved(now, third, time), intervention)
    mean = [
        (a + 2 * b + 2 * c + d) / 6 for a, b, c, d in zip(first, second, third, fourth, strict=True)
    ]
    return _moved(now, Layers(*mean), time)


def _moved(weights: Layers, rates: Layers, time: Tensor) -> Layers:
    moved = [
        part + time.view(-1, *[1] * (part.ndim - 1)) * rate
        for part, rate in zip(weights, rates, strict=True)
    ]
    return Layers(*moved)


def _over(part: Tensor, whole: Tensor) -> Tensor:
    """The quotient, 0 where the whole is 0."""
    some = whole > 0
    return (part / whole.where(some, 1)).where(some, 0)


def _check(given: Groups, weights: Layers, intervention: Intervention = "full") -> None:
    """Raise ValueError unless finite weights fit the groups and the intervention is known."""
    if intervention not in INTERVENTIONS:
        raise ValueError(
            f"intervention must be one of {', '.join(INTERVENTIONS)}, got {intervention!r}"
        )
    lower, upper = (tuple(part.shape) for part in weights)
    members, latents = given.prior.shape[0], given.given_root.shape[2]
    inputs = given.states.shape[1]
    fits = len(lower) >= 4 and len(upper) >= 3 and lower[:-4] == upper[:-3]
    fits = fits and lower[-3] == latents and lower[-1] == inputs
    fits = fits and members in (1, lower[-4]) and upper[-3] == lower[-4]
    if not fits or upper[-1] != latents * lower[-2]:
        raise ValueError(
            f"weights have shapes {lower} and {upper}, expected (..., S, {latents}, U, {inputs}) and "
            f"(..., S, O, {latents} U) with S = {members}"
        )
    for name, part in weights._asdict().items():
        if not part.isfinite().all():
            raise ValueError(
                f"{name} weights must be finite, {int((~part.isfinite()).sum())} of {part.numel()} are not"
            )


def _check_step(step: float) -> None:
    if not 0 < step < float("inf"):
        raise ValueError(f"step must be finite and above 0, got {step}")
