"""Linear BYOL mode by mode: fixed points, their stability, and the border of collapse.

The equations of a mode are in `mode_equations`; here is where it ends (docs/theory.md, Section 6; Section 3.2
of arXiv 2102.06810, which treats the balanced case s = p²/α). With κ = 1 + σ², the factor c of a
target W_a = c W, weight decay η and relative predictor rate α, the fixed points are 0 and

    p± = (c ± sqrt(c² - 4ηκ)) / (2κ),     s = w² = p²/α                                 (Equation 6.8)

which exist if and only if η <= c²/(4κ). c = 1 gives those of a moving target too, since there a = w:
they do not depend on its rate β, but the basin of collapse does. Its border is the separatrix, our own
computation: in (p, s) the stable manifold of the saddle p-, for a moving target found by simulation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from dualnets._checks import check_number, check_whole

# with the names of `mode_equations` under their own: one module to import for modes
from dualnets.theory.byol.mode_equations import Array, checked_start
from dualnets.theory.byol.mode_equations import Modes as Modes
from dualnets.theory.byol.mode_equations import integrate_modes as integrate_modes

SETTLED = 60.0  # time constants 1/η after which a mode is taken to have settled
STEPS = 20_000  # at most, of one batched integration


class FixedPoint(NamedTuple):
    """A fixed point of one mode.

    Attributes:
        predictor: p.
        online: w >= 0, so s = w²; with a moving target a = w.
        eigenvalues: of the Jacobian at the fixed point.
        stable: whether all eigenvalues have a real part below 0.
    """

    predictor: float
    online: float
    eigenvalues: NDArray[np.complex128]
    stable: bool


def fixed_points(modes: Modes) -> list[FixedPoint]:
    """The fixed points of one mode: 0, and p- and p+ where they exist (docs/theory.md, Equation 6.8).

    Raises:
        ValueError: several modes, or no weight decay (every p = c/κ is then fixed).

    Example:
        >>> found = fixed_points(Modes(noise=0.2, decay=0.05))
        >>> [(round(point.predictor, 4), point.stable) for point in found]
        [(0.0, True), (0.0534, False), (0.7799, True)]
        >>> len(fixed_points(Modes(noise=0.2, decay=0.3)))  # η > c² / 4κ
        1
    """
    rates = (modes.noise, modes.decay, modes.predictor_rate, modes.target_rate)
    if any(rate is not None and np.ndim(rate) for rate in rates):
        raise ValueError("fixed points are those of one mode: rates must be single numbers")
    kappa, decay = 1 + float(np.asarray(modes.noise)), float(np.asarray(modes.decay))
    if not decay > 0:
        raise ValueError(
            "decay must be above 0 for isolated fixed points, got 0: every s with p = c / (1 + σ²) is fixed"
        )
    places = [0.0]
    inner = modes.tie**2 - 4 * decay * kappa
    if inner >= 0:
        # Equation 6.8
        places += [(modes.tie + sign * inner**0.5) / (2 * kappa) for sign in (-1, 1)]
    rate = float(np.asarray(modes.predictor_rate))
    return [_point(modes, p, abs(p) / rate**0.5) for p in places]


def largest_decay(modes: Modes) -> Array:
    """c²/(4κ): with a weight decay above it every mode collapses (docs/theory.md, Section 6)."""
    return np.asarray(modes.tie**2 / (4 * (1 + np.asarray(modes.noise))))


def survives(modes: Modes, start: ArrayLike) -> NDArray[np.bool_]:
    """Whether each mode ends at p+ rather than at 0, where it collapses.

    All modes are integrated in one batch by classical Runge-Kutta steps, each a fraction of the
    mode's fastest time scale, until a mode lies in a box around 0 that it cannot leave (half of
    p-, w-) or close to p+. A mode that has reached neither at time 60 / η, which happens with a slow
    target, counts as surviving if its p is above p- then.

    Args:
        modes: rates that broadcast with a mode.
        start: `(2, ...)` (p, s) or `(3, ...)` (p, w, a), without a component below 0.

    Raises:
        ValueError: a start below 0 or not finite, no weight decay (nothing collapses then), a target
            of rate 0, or a tie below 0.
        ArithmeticError: modes that have settled in none of these ways after 20000 steps.

    Example:
        >>> modes = Modes(noise=0.2, decay=0.05, target_rate=[0.01, 1.0])
        >>> survives(modes, [0.3, 0.3, 0.3])
        array([ True,  True])
        >>> survives(Modes(noise=0.2, decay=0.05), [0.02, 0.001]).item()
        False
    """
    now = checked_start(modes, start)
    if not (now >= 0).all():
        raise ValueError(f"a start must have no component below 0, got {now.min()}")
    kappa, rate = 1 + np.asarray(modes.noise), np.asarray(modes.predictor_rate)
    decay = np.asarray(modes.decay, dtype=np.float64)
    if not (decay > 0).all():
        raise ValueError("decay must be above 0, got 0: without weight decay nothing collapses")
    if modes.tie < 0:
        raise ValueError(f"tie must be at least 0 for a fixed point p+ above 0, got {modes.tie}")
    follow = np.asarray(modes.target_rate if modes.moving else 0.0)
    if modes.moving and not (follow > 0).all():
        raise ValueError(
            "target_rate must be above 0, got 0: such a target stays where it is and p+ is not fixed"
        )
    shape = np.broadcast_shapes(*(np.shape(x) for x in (kappa, rate, decay, follow, now[0])))
    now = _spread(now, shape)
    kappa, rate, decay, follow = (np.broadcast_to(x, shape) for x in (kappa, rate, decay, follow))
    inner = modes.tie**2 - 4 * decay * kappa
    low, high = (
        _place(modes, (modes.tie + sign * np.sqrt(inner.clip(0))) / (2 * kappa), rate)
        for sign in (-1, 1)
    )
    small = np.where(inner[None] >= 0, low, _place(modes, modes.tie / (2 * kappa), rate)) / 2
    if not modes.moving:
        small[1] /= 2  # s = w²: half of w is a quarter of s
    time, done = np.zeros(shape), inner < 0
    for _ in range(STEPS):
        w = now[1] if modes.moving else np.sqrt(now[1])
        # at least as large as every rate of the mode, so that half its inverse is a safe step
        fastest = kappa * (rate * w**2 + now[0] ** 2) + rate * now[-1] + now[0] + decay + follow
        h = np.where(done, 0.0, 0.5 / fastest)
        now = _runge_kutta(modes, now, h).clip(0)
        time = time + h
        done |= (now < small).all(0) | (np.abs(now - high) < 0.1 * (high - low)).all(0)
        done |= time >= SETTLED / decay
        if done.all():
            break
    else:
        left = np.broadcast_to(decay, shape)[~done]
        raise ArithmeticError(
            f"{left.size} of {done.size} modes are neither at 0 nor at p+ after {STEPS} steps, at times "
            f"from {time[~done].min():.3g} on; the smallest weight decay among them is {left.min():.3g}"
        )
    kept: NDArray[np.bool_] = (inner >= 0) & (now[0] > low[0])
    return kept


def separatrix(modes: Modes, *, largest: float = 2.0) -> Array:
    """`(N, 2)` points (p, s) of the border of collapse for a target W_a = c W, with p increasing.

    It is the stable manifold of the saddle p-, followed backwards in time until p or s is above
    `largest` or p below 0. Modes above it go to p+, modes below it to 0.

    Raises:
        ValueError: a moving target, whose border is a surface (use `critical_decay`), several modes, a
            decay above `largest_decay`, with which all modes collapse, or a `largest` that is not
            finite and above 0.
    """
    check_number("largest", largest, above=0)
    if modes.moving:
        raise ValueError(
            "the border of collapse of a moving target is a surface in (p, w, a): use critical_decay"
        )
    if not modes.tie > 0:
        raise ValueError(f"tie must be above 0 for a border of collapse, got {modes.tie}")
    points = fixed_points(modes)
    if len(points) < 3:
        raise ValueError(
            f"decay must be at most {float(largest_decay(modes)):.3g}, above which every mode collapses, "
            f"got {modes.decay}"
        )
    saddle = np.array([points[1].predictor, points[1].online ** 2])
    values, vectors = np.linalg.eig(_jacobian(modes, *saddle))
    along = np.real(vectors[:, np.argmin(np.real(values))])
    along *= np.sign(along[0])

    def left(_: float, mode: Array) -> float:
        return float(min(mode[0] + 1e-9, largest - mode[0], largest - mode[1]))

    left.terminal = True  # type: ignore[attr-defined]
    parts = []
    for side in (-1, 1):
        begin = saddle + side * 1e-5 * saddle[0] * along
        solved = solve_ivp(
            lambda _, mode: -modes.slopes(mode), (0.0, 1e4 / float(np.asarray(modes.decay))),
            begin, method="DOP853", events=left, rtol=1e-9, atol=1e-13,
        )  # fmt: skip
        parts.append(solved.y.T)
    curve = np.concatenate([parts[0][::-1], saddle[None], parts[1]])
    found: Array = curve[(curve[:, 0] >= 0) & (curve[:, 1] >= 0)]
    return found


def critical_decay(modes: Modes, start: ArrayLike, *, halvings: int = 14) -> Array:
    """The largest weight decay with which a mode survives from its start, by bisection in η.

    Args:
        modes: `decay` has no effect here; the other rates broadcast with a mode.
        start: as for `survives`.
        halvings: the number of halvings of the interval from 0 to `largest_decay`.

    Raises:
        ValueError: fewer than 1 halving, and as `survives`.
        ArithmeticError: as `survives`.
    """
    check_whole("halvings", halvings, low=1)
    first = checked_start(modes, start)
    rates = (largest_decay(modes), modes.predictor_rate, modes.target_rate if modes.moving else 0)
    shape = np.broadcast_shapes(*(np.asarray(rate).shape for rate in rates), first.shape[1:])
    low, high = np.zeros(shape), np.broadcast_to(largest_decay(modes), shape).copy()
    for _ in range(halvings):
        middle = (low + high) / 2
        trial = Modes(modes.noise, middle, modes.predictor_rate, modes.target_rate, modes.tie)
        up = survives(trial, first)
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return (low + high) / 2


def _runge_kutta(modes: Modes, now: Array, h: Array) -> Array:
    """The modes after one classical Runge-Kutta step of length h, one length per mode."""
    k1 = modes.slopes(now)
    k2 = modes.slopes(now + h / 2 * k1)
    k3 = modes.slopes(now + h / 2 * k2)
    k4 = modes.slopes(now + h * k3)
    return now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def _place(modes: Modes, p: Array, rate: Array) -> Array:
    """The mode with this p and s = p²/α: (p, s), or (p, w, a = w)."""
    s = p**2 / rate
    return np.stack([p, np.sqrt(s), np.sqrt(s)] if modes.moving else [p, s])


def _spread(start: Array, shape: tuple[int, ...]) -> Array:
    """A start broadcast to the shape of all modes."""
    own = start.shape[1:]
    lined = start.reshape(len(start), *[1] * (len(shape) - len(own)), *own)
    return np.broadcast_to(lined, (len(start), *shape)).copy()


def _point(modes: Modes, p: float, w: float) -> FixedPoint:
    jacobian = _jacobian(modes, p, w if modes.moving else w * w)
    eigenvalues = np.linalg.eigvals(jacobian).astype(np.complex128)
    return FixedPoint(p, w, eigenvalues, bool((eigenvalues.real < 0).all()))


def _jacobian(modes: Modes, p: float, other: float) -> Array:
    """The Jacobian of the slopes (Equations 6.6 and 6.9) at (p, s), or at (p, w, a = w)."""
    kappa, decay = 1 + float(np.asarray(modes.noise)), float(np.asarray(modes.decay))
    rate = float(np.asarray(modes.predictor_rate))
    if not modes.moving:
        s, pull = other, modes.tie - kappa * p
        return np.array([
            [-rate * s * kappa - decay, rate * pull],
            [2 * s * (pull - kappa * p), 2 * p * pull - 2 * decay],
        ])  # fmt: skip
    w, follow = other, float(np.asarray(modes.target_rate))
    pull = w - kappa * p * w
    return np.array([
        [-rate * w * kappa * w - decay, rate * (pull - kappa * p * w), rate * w],
        [pull - kappa * p * w, -p * kappa * p - decay, p],
        [0.0, follow, -follow],
    ])  # fmt: skip
