"""Linear BYOL without normalisation, solved: its trajectories, the balance it conserves, and SGD.

The equations (6.4 of docs/theory.md) are in `linear_system`. With predictor W_p and online network W,
for any data and any target (Theorem 1 of arXiv 2102.06810)

    D(t) = W Wᵀ - W_pᵀ W_p / α  obeys  D(t) = e^{-2ηt} D(0)                            (Equation 6.5)

with the weight decay η and the relative learning rate α of the predictor.

    weights = random_weights(features=4, inputs=6, scale=0.3, members=8, seed=0)
    system = LinearByol(mean, noise, decay=0.01, predictor_rate=1.0, target_rate=0.1)
    path = integrate(system, weights, times)       # scipy's DOP853, error 1e-12
    conserved(system, path)                        # e^{2ηt} D(t): the same at every t
    sampled(system, weights, steps=…, lr=…, …)     # the same by SGD on random pairs of views

All arrays are float64 numpy; weights may have a member axis S in front. Axes: T time, B sample,
F feature, X input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dualnets._checks import check_number, check_whole

# with the names of `linear_system` under their own: one module to import for linear BYOL
from dualnets.theory.byol.linear_system import Array, checked, transposed
from dualnets.theory.byol.linear_system import LinearByol as LinearByol
from dualnets.theory.byol.linear_system import Path as Path
from dualnets.theory.byol.linear_system import Weights as Weights
from dualnets.theory.byol.linear_system import random_weights as random_weights
from dualnets.theory.integration import increasing_list, solve
from hltm.sampling.philox import Stream, check_seed


def integrate(
    system: LinearByol, weights: Weights, times: ArrayLike, *, tolerance: float = 1e-12
) -> Path:
    """The solution of the equations at given times, by scipy's DOP853 (docs/theory.md, Equation 6.4).

    Args:
        weights: at times[0]; all members are integrated together.
        times: `(T,)`, increasing.
        tolerance: relative error per step; the absolute one is a hundredth of it.

    Raises:
        ValueError: weights that do not fit or are not finite, times that are not finite or do not
            increase, or a tolerance outside (0, 1).
        ArithmeticError: the solver gave up.

    Example:
        >>> system = LinearByol(np.eye(3), 0.2 * np.eye(3), decay=0.01)
        >>> weights = random_weights(features=2, inputs=3, seed=0)
        >>> path = integrate(system, weights, [0.0, 5.0])
        >>> bool(np.abs(np.diff(conserved(system, path), axis=0)).max() < 1e-9)
        True
    """
    start = checked(system, weights)
    at = increasing_list(times)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance}")
    shapes = [part.shape for part in start]
    ends = np.cumsum([part.size for part in start])

    def unpack(flat: Array) -> Weights:
        parts = np.split(flat, ends[:-1])
        return Weights(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def slopes(flat: Array) -> Array:
        return np.concatenate([part.ravel() for part in system.slopes(unpack(flat))])

    found = solve(
        slopes, np.concatenate([part.ravel() for part in start]), at,
        relative=max(tolerance, 3e-14), absolute=tolerance / 100, what="the equations",
    )  # fmt: skip
    return _path(system, at, [unpack(flat) for flat in found])


def _path(system: LinearByol, times: Array, states: list[Weights]) -> Path:
    """The weights at several times, with those of a tied target filled in."""
    targets = [system.target_weights(state) for state in states]
    predictor, online = (np.stack([state[i] for state in states]) for i in (0, 1))
    return Path(times, predictor, online, np.stack(targets))


def imbalance(system: LinearByol, weights: Weights) -> Array:
    """`(..., F, F)` D = W Wᵀ - W_pᵀ W_p / α (Theorem 1 of arXiv 2102.06810; docs/theory.md, Section 6).

    D(t) = e^{-2ηt} D(0) for any data and any target (Equation 6.5).
    """
    online, predictor = weights.online, weights.predictor
    return online @ transposed(online) - transposed(predictor) @ predictor / system.predictor_rate


def conserved(system: LinearByol, path: Path) -> Array:
    """`(T, ..., F, F)` e^{2η(t - t_0)} D(t), which is constant (Theorem 1 of arXiv 2102.06810).

    Equation 6.5 of docs/theory.md.
    """
    found = imbalance(system, Weights(path.predictor, path.online, path.target))
    grown = np.exp(2 * system.decay * (path.times - path.times[0]))
    return grown.reshape(-1, *[1] * (found.ndim - 1)) * found


def sampled(
    system: LinearByol,
    weights: Weights,
    *,
    steps: int,
    lr: float,
    batch: int,
    seed: int,
    snapshots: Sequence[int] | None = None,
) -> Path:
    """The same by stochastic gradient descent on random pairs of views; step k is at time k · lr.

    The mean of a sample is drawn from N(0, X), and each of its two views adds independent noise from
    N(0, X'). The updates are the gradients of the loss on these views, with the learning rates lr α
    (predictor), lr (online) and lr β (target).

    Args:
        weights: as for `integrate`.
        steps: the number of updates.
        lr: the learning rate, which is the time of one update.
        batch: samples per update and member.
        seed: 64 bits, of the data; every member has samples of its own.
        snapshots: the steps whose weights are returned; by default the first and the last.

    Raises:
        ValueError: weights that do not fit or are not finite, steps or batch below 1, a rate that is
            not finite and above 0, or snapshots outside 0..steps.
        ArithmeticError: weights that diverge, as they do where lr is too large.
    """
    start = checked(system, weights)
    check_whole("steps", steps, low=1)
    check_whole("batch", batch, low=1)
    check_number("lr", lr, above=0)
    wanted = sorted({0, steps} if snapshots is None else {*snapshots})
    if not wanted or wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(f"snapshots must lie in 0..{steps}, got {wanted}")
    rng = np.random.Generator(np.random.Philox(key=[check_seed(seed), int(Stream.DATA)]))
    signal, noise = _root(system.mean), _root(system.noise)
    lead, inputs = start.online.shape[:-2], start.online.shape[-1]
    now, kept = start, []
    for step in range(steps + 1):
        if step in wanted:
            kept.append(now)
        if step == steps:
            break
        base = rng.standard_normal((*lead, batch, inputs)) @ signal
        one, two = (base + rng.standard_normal(base.shape) @ noise for _ in range(2))
        with np.errstate(over="ignore", invalid="ignore"):
            now = _descended(system, now, one, two, lr)
        if not all(np.isfinite(part).all() for part in now):
            raise ArithmeticError(
                f"the weights are not finite after {step + 1} of {steps} updates with lr {lr}; take a "
                "smaller lr"
            )
    return _path(system, np.array([step * lr for step in wanted]), kept)


def _descended(system: LinearByol, now: Weights, one: Array, two: Array, lr: float) -> Weights:
    """The weights after one update on two views `(..., B, X)` of a batch."""
    hidden = one @ transposed(now.online)  # W x', (..., B, F)
    aimed = two @ transposed(system.target_weights(now))
    error = aimed - hidden @ transposed(now.predictor)
    batch = one.shape[-2]
    slopes = (
        system.predictor_rate * transposed(error) @ hidden / batch,
        transposed(now.predictor) @ transposed(error) @ one / batch,
    )
    return Weights(
        now.predictor + lr * (slopes[0] - system.decay * now.predictor),
        now.online + lr * (slopes[1] - system.decay * now.online),
        now.target + lr * system.target_rate * (now.online - now.target),
    )


def _root(moment: Array) -> Array:
    """The symmetric square root, so that rows of normal numbers times it have this moment."""
    values, vectors = np.linalg.eigh(moment)
    root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
