"""Two layers: does the top layer's covariance operator drive the layer below? Population dynamics.

Group ν of hidden units sees the leaves x of latent ν, and the top layer W_2 all groups (`hidden_groups`).
f = relu(W_1 x) are the hidden outputs, z_0 the state of the root with prior π. Views keep the root.
With the simple loss and the gradient through both branches (docs/theory.md, Section 5, after the two-layer
analysis of the paper):

    fbar(z) = E[f | z_0 = z],    c(z) = fbar(z) - E fbar,    V = V_z0[fbar]                  (Equation 5.1)
    dW_2/dt = 2 W_2 V                                     (V = o oᵀ where trees are symmetric) (Equation 5.2)
    dw_j/dt = 2 Σ_z π_z (W_2ᵀ W_2 c(z))_j E[1(w_j·x > 0) x | z_0 = z]                        (Equation 5.3)

V is the top layer's covariance operator. Expectations are sums over the leaf states of each group, so
nothing is sampled. Interventions:

    full        as above
    uncoupled   the blocks of V and of W_2ᵀ W_2 between different groups are set to 0, in Equation 5.2
                and in Equation 5.3
    frozen      W_2 keeps its initial value
    constant    full, with ||W_2|| held at its initial value

All are float64 torch tensors with the S axis in front; weights are those of a `tree_network`.

Axes: S member, K state of the root, V latent (group), U unit of a group, X leaf of a group, N joint
state of the leaves of one group, O output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dualnets._checks import check_choice, check_number

# with the names of `hidden_groups` under their own: one module to import for two layers
from dualnets.theory.hierarchy.hidden_groups import Groups as Groups
from dualnets.theory.hierarchy.hidden_groups import HiddenSelectivity as HiddenSelectivity
from dualnets.theory.hierarchy.hidden_groups import Layers as Layers
from dualnets.theory.hierarchy.hidden_groups import check_layers, over
from dualnets.theory.hierarchy.hidden_groups import groups as groups
from dualnets.theory.hierarchy.hidden_groups import hidden_selectivity as hidden_selectivity
from dualnets.theory.hierarchy.hidden_groups import layers as layers
from dualnets.theory.integration import increasing

Intervention = Literal["full", "uncoupled", "frozen", "constant"]
INTERVENTIONS: tuple[Intervention, ...] = ("full", "uncoupled", "frozen", "constant")


def slopes(given: Groups, weights: Layers, intervention: Intervention = "full") -> Layers:
    """d/dt of the weights (docs/theory.md, Equations 5.2 and 5.3).

    Raises:
        ValueError: an unknown intervention, or weights that do not fit the groups or are not finite.
    """
    _check(given, weights, intervention)
    return _slopes(given, weights, intervention)[0]


def _slopes(given: Groups, weights: Layers, intervention: Intervention) -> tuple[Layers, Tensor]:
    """The slopes, and `(S,)` a bound on how fast a direction of the weights can grow."""
    lower, upper = weights
    _, latents, units, _ = lower.shape
    pre = lower @ given.states.T  # W_1 x, (S, V, U, N)
    mean = torch.einsum("skvn,svun->skvu", given.given_root, pre.relu())  # fbar(z)
    centred = mean - torch.einsum("sk,skvu->svu", given.prior, mean)[:, None]
    flat = centred.flatten(2)  # c(z), (S, K, V * U)
    weighted = given.prior[..., None] * flat  # π_z c(z)
    operator = flat.transpose(1, 2) @ weighted  # V, Equation 5.1: (S, V * U, V * U)
    gram = upper.transpose(1, 2) @ upper  # W_2ᵀ W_2, (S, V * U, V * U)
    if intervention == "uncoupled":
        within = torch.kron(torch.eye(latents), torch.ones(units, units)).to(operator)
        operator, gram = operator * within, gram * within
    upper_slope = 2 * upper @ operator  # Equation 5.2
    if intervention == "frozen":
        upper_slope = torch.zeros_like(upper)
    if intervention == "constant":  # remove the component along W_2, which changes its norm
        size = upper.square().sum((1, 2), keepdim=True)
        outwards = (upper_slope * upper).sum((1, 2), keepdim=True)
        upper_slope = upper_slope - over(outwards, size) * upper
    down = (weighted @ gram).unflatten(2, (latents, units))  # π_z W_2ᵀ W_2 c(z), (S, K, V, U)
    # E[1(w_j·x > 0) x | z_0], (S, K, V, U, X)
    seen = torch.einsum("skvn,svun,nx->skvux", given.given_root, (pre > 0).double(), given.states)
    # A bound on the growth rate of any direction; the largest eigenvalue of V is at most its trace.
    apart = seen - torch.einsum("sk,skvux->svux", given.prior, seen)[:, None]
    spread = torch.einsum("sk,skvux->svu", given.prior, apart.square()).amax((1, 2))
    size = upper.square().sum((1, 2))
    rate = 2 * (operator.diagonal(dim1=1, dim2=2).sum(1) + size * spread)
    lower_slope = 2 * torch.einsum("skvu,skvux->svux", down, seen)  # Equation 5.3
    return Layers(lower_slope, upper_slope), rate


def integrate(
    given: Groups,
    weights: Layers,
    times: Sequence[float] | Tensor,
    *,
    intervention: Intervention = "full",
    step: float = 0.02,
) -> Layers:
    """The weights at given times, by classical Runge-Kutta steps whose length each member has for itself.

    The slopes jump where a leaf state crosses the boundary w·x = 0 of a unit. There the error of a step
    is of the order of its length; elsewhere it is of the fourth order.

    Args:
        weights: at the first time.
        times: `(T,)` increasing, or `(T, S)` with separate times for each member.
        step: the largest change of a layer's weights in one step, relative to their norm.

    Returns:
        The weights, with the axis T of the times in front.

    Raises:
        ValueError: times that are not finite or do not increase, a step that is not finite and above
            0, an unknown intervention, or weights that do not fit the groups or are not finite.
        ArithmeticError: weights that diverge before the last time.

    Example:
        >>> import dualnets, hltm
        >>> trees = hltm.symmetric_binary(depth=2, members=3, seed=0)
        >>> start = layers(dualnets.tree_network(trees, units=4, seed=1))
        >>> integrate(groups(trees), start, [0.0, 0.2, 0.4]).upper.shape
        torch.Size([3, 3, 4, 8])
    """
    _check(given, weights, intervention)
    check_number("step", step, above=0)
    at = torch.from_numpy(increasing(times))
    members = len(weights.upper)
    at = at[:, None].expand(-1, members) if at.ndim == 1 else at
    if at.shape[1] != members:
        raise ValueError(f"times of {at.shape[1]} members do not fit weights of {members} members")
    now, clock, found = weights, at[0], [weights]
    for target in at[1:]:
        while bool((left := target - clock).gt(0).any()):
            first, rate = _slopes(given, now, intervention)
            h = torch.minimum(_longest(now, first, rate, step), left)
            lost = (h < 1e-9) & (left > 1e-8)
            if bool(lost.any()):
                raise ArithmeticError(
                    "the weights of a member grow beyond all bounds near time "
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
        ValueError: a factor that is not finite and above 1, an intervention under which ||W_2|| does
            not grow, a member with W_2 = 0, and as for `integrate`.
        ArithmeticError: a member that has not grown by the factor after `most_steps` steps.
    """
    _check(given, weights, intervention)
    check_number("step", step, above=0)
    if not 1 < factor < float("inf") or intervention in ("frozen", "constant"):
        raise ValueError(
            "the factor must be finite and above 1 and ||W_2|| must grow under the intervention, got "
            f"{factor} and {intervention!r}"
        )
    aim = factor * weights.upper.flatten(1).norm(dim=1)
    if not bool((aim > 0).all()):
        raise ValueError(f"||W_2|| of member {int((aim == 0).int().argmax())} is 0 and stays 0")
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


def _longest(weights: Layers, rates: Layers, rate: Tensor, step: float) -> Tensor:
    """`(S,)` the longest step in which no layer changes by more than `step` of its norm.

    No direction may grow by more than e^(20 step) either.
    """
    each = [
        # weights of 0 have slopes of 0: they limit no step
        over(slope.flatten(1).norm(dim=1), part.flatten(1).norm(dim=1))
        for slope, part in zip(rates, weights, strict=True)
    ]
    return step / torch.maximum(torch.maximum(*each), rate / 20).clamp_min(1e-12)


def _step(
    given: Groups, now: Layers, first: Layers, time: Tensor, intervention: Intervention
) -> Layers:
    """One classical Runge-Kutta step of `(S,)` lengths, its first slope known."""
    second, _ = _slopes(given, _advanced(now, first, time / 2), intervention)
    third, _ = _slopes(given, _advanced(now, second, time / 2), intervention)
    fourth, _ = _slopes(given, _advanced(now, third, time), intervention)
    stages = zip(first, second, third, fourth, strict=True)
    return _advanced(now, Layers(*((a + 2 * b + 2 * c + d) / 6 for a, b, c, d in stages)), time)


def _advanced(weights: Layers, rates: Layers, time: Tensor) -> Layers:
    """weights + time · rates, with `(S,)` times."""
    return Layers(*(
        part + time.view(-1, *[1] * (part.ndim - 1)) * rate
        for part, rate in zip(weights, rates, strict=True)
    ))  # fmt: skip


def _check(given: Groups, weights: Layers, intervention: Intervention) -> None:
    """Raise ValueError unless finite weights fit the groups and the intervention is known."""
    check_choice("intervention", intervention, INTERVENTIONS)
    check_layers(given, weights)
