"""Linear BYOL without normalisation: the coupled equations of predictor, online and target network.

With X = E[xbar xbar^T], xbar the mean of a sample's views, and X' = E_x V_aug[x'], the loss
L = 1/2 E ||W_p W x' - stop(W_a x'')||^2 gives (theory, Section 6; arXiv 2010.00578, Sec. 5)

    A = -W_p W (X + X') + W_a X
    dW_p/dt = α A W^T - η W_p      dW/dt = W_p^T A - η W      dW_a/dt = β (W - W_a)

    weights = random_weights(features=4, inputs=6, scale=0.3, members=8, seed=0)
    system = LinearByol(mean, noise, decay=0.01, predictor_rate=1.0, target_rate=0.1)
    path = integrate(system, weights, times)       # scipy's DOP853, error 1e-12
    conserved(system, path)                        # e^{2ηt} D(t): the same at every t
    sampled(system, weights, steps=…, lr=…, …)     # the same by SGD on drawn pairs of views

All arrays are float64 numpy; weights may have a member axis S in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from dualnets.theory.hierarchy.times import increasing
from hltm.sampling.philox import Stream, check_seed, uniform

Array = NDArray[np.float64]


class Weights(NamedTuple):
    """What the equations move.

    Attributes:
        predictor: W_p, `(..., F, F)`.
        online: W, `(..., F, X)`.
        target: W_a, `(..., F, X)`.
    """

    predictor: Array
    online: Array
    target: Array


@dataclass(frozen=True, eq=False)
class LinearByol:
    """The data's second moments and the rates.

    Attributes:
        mean: X, `(X, X)`: second moment of the mean view; symmetric, no eigenvalue below 0.
        noise: X', `(X, X)`: the views' covariance given the sample; likewise.
        decay: η, weight decay of predictor and online network.
        predictor_rate: α, the predictor's learning rate over the online network's.
        target_rate: β, how fast the target follows; 0 is a fixed target.
        tie: c, for a target W_a = c W at all times, which β then does not move; None for a target
            of its own.

    Raises:
        ValueError: moments that are not finite, square, symmetric and of one size, or that have an
            eigenvalue below 0; a negative decay or target rate, a predictor rate not above 0, a tie
            that is not finite, or a tied target with a rate.
    """

    mean: Array
    noise: Array
    decay: float = 0.0
    predictor_rate: float = 1.0
    target_rate: float = 0.0
    tie: float | None = None
    _total: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("mean", "noise"):
            if np.iscomplexobj(getattr(self, name)):
                raise TypeError(f"{name} must be real")
            given = np.asarray(getattr(self, name), dtype=np.float64)
            if given.ndim != 2 or given.shape[0] != given.shape[1] or given.size < 1:
                raise ValueError(f"{name} has shape {given.shape}, expected (X, X)")
            _check_finite(name, given)
            size = max(float(np.abs(given).max()), 1e-300)
            if np.abs(given - given.T).max() > 1e-10 * size:
                raise ValueError(f"{name} must be symmetric")
            lowest = float(np.linalg.eigvalsh(given)[0])
            if lowest < -1e-10 * size:
                raise ValueError(f"{name} must have no eigenvalue below 0, got {lowest:.3g}")
            object.__setattr__(self, name, given)
        if self.mean.shape != self.noise.shape:
            raise ValueError(
                f"mean and noise must have one shape, got {self.mean.shape} and {self.noise.shape}"
            )
        for name, value in (("decay", self.decay), ("target_rate", self.target_rate)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not 0 < self.predictor_rate < float("inf"):
            raise ValueError(
                f"predictor_rate must be above 0 and finite, got {self.predictor_rate}"
            )
        if self.tie is not None and not np.isfinite(self.tie):
            raise ValueError(f"tie must be finite, got {self.tie}")
        if self.tie is not None and self.target_rate != 0:
            raise ValueError(f"a target tied to {self.tie} W has no rate, got {self.target_rate}")
        object.__setattr__(self, "_total", self.mean + self.noise)

    def slopes(self, weights: Weights) -> Weights:
        """d/dt of all weights."""
        predictor, online = weights.predictor, weights.online
        target = self.seen_target(weights)
        residual = -predictor @ online @ self._total + target @ self.mean  # A
        return Weights(
            self.predictor_rate * residual @ _transposed(online) - self.decay * predictor,
            _transposed(predictor) @ residual - self.decay * online,
            self.target_rate * (online - target),
        )

    def seen_target(self, weights: Weights) -> Array:
        """W_a: the target's own weights, or c W where they are tied."""
        return weights.target if self.tie is None else self.tie * weights.online


class Path(NamedTuple):
    """Weights along time.

    Attributes:
        times: `(T,)`.
        predictor, online, target: `(T, ..., F, ·)`.
    """

    times: Array
    predictor: Array
    online: Array
    target: Array

    def __getitem__(self, index: object) -> Weights:  # type: ignore[override]
        """The weights at one place of `times`."""
        at: int = index  # type: ignore[assignment]
        return Weights(self.predictor[at], self.online[at], self.target[at])


def random_weights(
    *, features: int, inputs: int, scale: float = 0.5, members: int | None = None, seed: int
) -> Weights:
    """Independent normal weights of standard deviation scale / sqrt(columns); the target is a copy.

    A member's numbers depend on its address alone.

    Raises:
        ValueError: features or inputs below 1, or a scale that is not finite and above 0.

    Example:
        >>> random_weights(features=2, inputs=3, members=5, seed=0).online.shape
        (5, 2, 3)
    """
    if min(features, inputs) < 1 or not 0 < scale < float("inf"):
        raise ValueError(
            f"features and inputs must be at least 1, scale finite and above 0, got {features}, "
            f"{inputs}, {scale}"
        )
    addresses = range(1 if members is None else members)
    made = []
    for layer, columns in enumerate((features, inputs)):
        numbers = uniform(
            features * columns,
            seed=check_seed(seed),
            stream=Stream.INIT,
            members=addresses,
            node=layer,
        )
        normal = _normal(numbers).reshape(-1, features, columns) * scale / columns**0.5
        made.append(normal if members is not None else normal[0])
    return Weights(made[0], made[1], made[1].copy())


def integrate(
    system: LinearByol, weights: Weights, times: ArrayLike, *, tolerance: float = 1e-12
) -> Path:
    """The equations' solution at given times, by scipy's DOP853.

    Args:
        weights: at times[0]; with a member axis, all members are integrated together.
        times: `(T,)`, increasing.
        tolerance: relative error per step; the absolute one is a hundredth of it.

    Raises:
        ValueError: weights that do not fit or are not finite, times that are not finite or do not
            increase, or a tolerance not above 0.
        ArithmeticError: the solver gave up.

    Example:
        >>> system = LinearByol(np.eye(3), 0.2 * np.eye(3), decay=0.01)
        >>> weights = random_weights(features=2, inputs=3, seed=0)
        >>> path = integrate(system, weights, [0.0, 5.0])
        >>> bool(np.abs(np.diff(conserved(system, path), axis=0)).max() < 1e-9)
        True
    """
    start = _checked(system, weights)
    at = increasing(times)
    if at.ndim != 1:
        raise ValueError(f"times must be one list of numbers, got shape {at.shape}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must be above 0 and below 1, got {tolerance}")
    shapes = [part.shape for part in start]
    ends = np.cumsum([part.size for part in start])

    def unpack(flat: Array) -> Weights:
        parts = np.split(flat, ends[:-1])
        return Weights(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def slope(_: float, flat: Array) -> Array:
        return np.concatenate([part.ravel() for part in system.slopes(unpack(flat))])

    flat = np.concatenate([part.ravel() for part in start])
    if len(at) == 1:
        columns = flat[:, None]
    else:
        solved = solve_ivp(
            slope, (at[0], at[-1]), flat, method="DOP853", t_eval=at,
            rtol=max(tolerance, 3e-14), atol=tolerance / 100,
        )  # fmt: skip
        if not solved.success:
            raise ArithmeticError(f"the equations could not be integrated: {solved.message}")
        columns = solved.y
    states = [unpack(column) for column in columns.T]
    return Path(
        at,
        np.stack([state.predictor for state in states]),
        np.stack([state.online for state in states]),
        np.stack([system.seen_target(state) for state in states]),
    )


def imbalance(system: LinearByol, weights: Weights) -> Array:
    """D = W W^T - W_p^T W_p / α, `(..., F, F)`; D(t) = e^{-2ηt} D(0) for any data and any target."""
    online, predictor = weights.online, weights.predictor
    return online @ _transposed(online) - _transposed(predictor) @ predictor / system.predictor_rate


def conserved(system: LinearByol, path: Path) -> Array:
    """`(T, ..., F, F)` e^{2η(t - t_0)} D(t), which the equations do not change."""
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
    """The same by stochastic gradient descent on drawn pairs of views; step k is time k · lr.

    A sample's mean is drawn from N(0, X), its two views add independent noise from N(0, X'); the
    loss's own gradients are taken, with rates lr α (predictor), lr (online), lr β (target).

    Args:
        weights: as for `integrate`.
        steps: how many updates.
        lr: the time one update stands for.
        batch: samples per update and member.
        seed: of the data, 64 bits; every member has rows of its own.
        snapshots: steps to keep, sorted; by default the first and the last.

    Raises:
        ValueError: weights that do not fit or are not finite, steps or batch below 1, a rate that is
            not finite and above 0, or snapshots outside 0..steps.
        ArithmeticError: weights that grew beyond all bounds, as they do where lr is too large.
    """
    start = _checked(system, weights)
    if min(steps, batch) < 1 or not 0 < lr < float("inf"):
        raise ValueError(
            f"expected steps and batch >= 1 and a finite lr > 0, got {steps}, {batch}, {lr}"
        )
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
                f"the weights are not finite after {step + 1} of {steps} updates with lr {lr}: take a "
                "smaller one"
            )
    return Path(
        np.array([step * lr for step in wanted]),
        np.stack([state.predictor for state in kept]),
        np.stack([state.online for state in kept]),
        np.stack([system.seen_target(state) for state in kept]),
    )


def _descended(system: LinearByol, now: Weights, one: Array, two: Array, lr: float) -> Weights:
    """The weights after one update on two views `(..., B, X)` of a batch."""
    hidden = one @ _transposed(now.online)  # (..., B, F)
    aimed = two @ _transposed(system.seen_target(now))
    error = aimed - hidden @ _transposed(now.predictor)
    batch = one.shape[-2]
    slopes = (
        system.predictor_rate * _transposed(error) @ hidden / batch,
        _transposed(now.predictor) @ _transposed(error) @ one / batch,
    )
    return Weights(
        now.predictor + lr * (slopes[0] - system.decay * now.predictor),
        now.online + lr * (slopes[1] - system.decay * now.online),
        now.target + lr * system.target_rate * (now.online - now.target),
    )


def _checked(system: LinearByol, weights: Weights) -> Weights:
    """Float64 weights; raise ValueError unless they are finite and fit the system and each other."""
    if len(weights) != 3:
        raise TypeError(f"expected Weights(predictor, online, target), got {len(weights)} parts")
    made = Weights(*(np.array(part, dtype=np.float64) for part in weights))
    inputs = len(system.mean)
    features = made.online.shape[-2] if made.online.ndim >= 2 else 0
    lead = made.online.shape[:-2]
    expected = ((*lead, features, features), (*lead, features, inputs), (*lead, features, inputs))
    if features < 1 or tuple(part.shape for part in made) != expected:
        shown = ", ".join(str(part.shape) for part in made)
        raise ValueError(
            f"predictor, online and target have shapes {shown}, expected (..., F, F), "
            f"(..., F, {inputs}), (..., F, {inputs})"
        )
    for name, part in made._asdict().items():
        _check_finite(name, part)
    return made


def _check_finite(name: str, given: Array) -> None:
    if not np.isfinite(given).all():
        raise ValueError(f"{name} must be finite, got {given[~np.isfinite(given)].flat[0]}")


def _transposed(matrix: Array) -> Array:
    return np.swapaxes(matrix, -1, -2)


def _root(moment: Array) -> Array:
    """The symmetric square root, so that rows of normal numbers times it have this moment."""
    values, vectors = np.linalg.eigh(moment)
    root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


def _normal(numbers: torch.Tensor) -> Array:
    """Standard normal numbers of uniform ones, by the inverse distribution."""
    found: Array = torch.special.ndtri(numbers.clamp(2.0**-54, 1 - 2.0**-53)).numpy()
    return found
