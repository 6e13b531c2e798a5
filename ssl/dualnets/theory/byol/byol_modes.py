"""Linear BYOL mode by mode: trajectories, fixed points, their stability, and the edge of collapse.

For X = I, X' = σ² I and a symmetric predictor that shares eigenvectors with W W^T, every mode is on
its own (theory, Section 6; arXiv 2102.06810). With κ = 1 + σ²:

    target W_a = c W, modes (p, s), s = w²:
        dp/dt = α s (c - κ p) - η p        ds/dt = 2 p s (c - κ p) - 2 η s
    moving target, modes (p, w, a):
        dp/dt = α w (a - κ p w) - η p      dw/dt = p (a - κ p w) - η w      da/dt = β (w - a)

    s(t) - p(t)²/α = k e^{-2ηt}, and w² likewise;
    fixed points p± = (c ± sqrt(c² - 4ηκ)) / (2κ), s = p²/α, and 0; they exist for η <= c²/(4κ).

c = 1 gives the moving target's fixed points too, for there a = w: they do not depend on β, but the
basin of collapse does. Its edge is the separatrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

from dualnets.theory.hierarchy.times import increasing

Array = NDArray[np.float64]
SETTLED = 60.0  # time constants 1/η after which a mode has chosen its side
STEPS = 20_000  # at most, of one batched integration


class FixedPoint(NamedTuple):
    """A mode that stays.

    Attributes:
        predictor: p.
        online: w >= 0, so s = w²; with a moving target a = w.
        eigenvalues: of the Jacobian there: all real parts below 0 make it stable.
        stable: whether they are.
    """

    predictor: float
    online: float
    eigenvalues: NDArray[np.complex128]
    stable: bool


@dataclass(frozen=True)
class Modes:
    """The rates of one mode, or of any number of them by broadcasting.

    Attributes:
        noise: σ².
        decay: η.
        predictor_rate: α.
        target_rate: β of a moving target; None for W_a = c W.
        tie: c, for W_a = c W.

    Raises:
        ValueError: noise, decay or target rate below 0, a predictor rate not above 0, or one of them
            or the tie not finite.
    """

    noise: ArrayLike = 0.0
    decay: ArrayLike = 0.0
    predictor_rate: ArrayLike = 1.0
    target_rate: ArrayLike | None = None
    tie: float = 1.0

    def __post_init__(self) -> None:
        for name in ("noise", "decay", "target_rate"):
            value = getattr(self, name)
            if value is not None and not _within(value, np.asarray(value) >= 0):
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not _within(self.predictor_rate, np.asarray(self.predictor_rate) > 0):
            raise ValueError(
                f"predictor_rate must be above 0 and finite, got {self.predictor_rate}"
            )
        if not np.isfinite(self.tie):
            raise ValueError(f"tie must be finite, got {self.tie}")
        if self.target_rate is not None and self.tie != 1.0:
            raise ValueError(f"tie is for a target without a rate, got {self.tie}")

    @property
    def moving(self) -> bool:
        """Whether the target has a rate of its own; modes are then (p, w, a), else (p, s)."""
        return self.target_rate is not None

    def slopes(self, mode: Array) -> Array:
        """d/dt of `(2, ...)` modes (p, s), or of `(3, ...)` modes (p, w, a)."""
        total = 1 + np.asarray(self.noise)
        decay, rate = np.asarray(self.decay), np.asarray(self.predictor_rate)
        if not self.moving:
            p, s = mode
            pull = self.tie - total * p
            parts = (rate * s * pull - decay * p, 2 * p * s * pull - 2 * decay * s)
            return np.stack(np.broadcast_arrays(*parts))
        p, w, a = mode
        pull = a - total * p * w
        follow = np.asarray(self.target_rate) * (w - a)
        predictor_slope, online_slope = rate * w * pull - decay * p, p * pull - decay * w
        return np.stack(np.broadcast_arrays(predictor_slope, online_slope, follow))


def integrate_modes(modes: Modes, start: ArrayLike, times: ArrayLike) -> Array:
    """`(T, 2 or 3, ...)` modes at given times, by scipy's DOP853 to 1e-12.

    Raises:
        ValueError: a start that does not have 2 (or, for a moving target, 3) rows of finite numbers,
            rates of more modes than the start has, or times that are not finite or do not increase.
        ArithmeticError: the solver gave up.

    Example:
        >>> modes = Modes(noise=0.2, decay=0.05, predictor_rate=2.0)
        >>> p, s = integrate_modes(modes, [0.5, 0.4], [0.0, 10.0]).T
        >>> k = (s - p**2 / 2) * np.exp(2 * 0.05 * np.array([0.0, 10.0]))
        >>> bool(abs(k[1] - k[0]) < 1e-10)
        True
    """
    first = _start(modes, start)
    at = increasing(times)
    if at.ndim != 1:
        raise ValueError(f"times must be one list of numbers, got shape {at.shape}")
    moved = modes.slopes(first).shape
    if moved != first.shape:
        raise ValueError(
            f"the rates are of modes of shape {moved[1:]}, the start of shape {first.shape[1:]}: give a "
            "start for each mode"
        )
    if len(at) == 1:
        return first[None]
    solved = solve_ivp(
        lambda _, flat: modes.slopes(flat.reshape(first.shape)).ravel(),
        (at[0], at[-1]), first.ravel(), method="DOP853", t_eval=at, rtol=1e-12, atol=1e-14,
    )  # fmt: skip
    if not solved.success:
        raise ArithmeticError(f"the modes could not be integrated: {solved.message}")
    return np.stack([column.reshape(first.shape) for column in solved.y.T])


def fixed_points(modes: Modes) -> list[FixedPoint]:
    """The fixed points of one mode: 0, and p- and p+ where they exist, in this order.

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
        raise ValueError("fixed points are of one mode: rates must be single numbers")
    total, decay = 1 + float(np.asarray(modes.noise)), float(np.asarray(modes.decay))
    if not decay > 0:
        raise ValueError("without weight decay every s with p = c / (1 + σ²) is fixed; decay was 0")
    places = [0.0]
    inner = modes.tie**2 - 4 * decay * total
    if inner >= 0:
        places += [(modes.tie + sign * inner**0.5) / (2 * total) for sign in (-1, 1)]
    rate = float(np.asarray(modes.predictor_rate))
    return [_point(modes, p, abs(p) / rate**0.5) for p in places]


def largest_decay(modes: Modes) -> Array:
    """c²/(4κ): no mode survives a weight decay above it, whatever its start."""
    return np.asarray(modes.tie**2 / (4 * (1 + np.asarray(modes.noise))))


def survives(modes: Modes, start: ArrayLike) -> NDArray[np.bool_]:
    """Whether each mode comes to rest at p+ rather than at 0.

    All modes are integrated in one batch by classical Runge-Kutta steps, each a fraction of its
    mode's fastest time scale, until a mode lies in a box around 0 that it cannot leave (half of
    p-, w-) or close to p+. A mode that has done neither by the time 60 / η, as one that chases a slow
    target may, is taken to survive where its p is above p- then.

    Args:
        modes: rates that broadcast with a mode.
        start: `(2, ...)` (p, s) or `(3, ...)` (p, w, a), of no component below 0.

    Raises:
        ValueError: a start below 0 or not finite, no weight decay (nothing collapses then), a target
            of rate 0, or a tie below 0.
        ArithmeticError: modes that 20000 steps bring neither to rest nor to that time.

    Example:
        >>> modes = Modes(noise=0.2, decay=0.05, target_rate=[0.01, 1.0])
        >>> survives(modes, [0.3, 0.3, 0.3])
        array([ True,  True])
        >>> survives(Modes(noise=0.2, decay=0.05), [0.02, 0.001]).item()
        False
    """
    now = _start(modes, start)
    if not (now >= 0).all():
        raise ValueError(f"a start must have no component below 0, got {now.min()}")
    total, rate = 1 + np.asarray(modes.noise), np.asarray(modes.predictor_rate)
    decay = np.asarray(modes.decay, dtype=np.float64)
    if not (decay > 0).all():
        raise ValueError("without weight decay nothing collapses; decay was 0")
    if modes.tie < 0:
        raise ValueError(f"p+ is no rest of modes above 0 unless tie is, got {modes.tie}")
    follow = np.asarray(modes.target_rate if modes.moving else 0.0)
    if modes.moving and not (follow > 0).all():
        raise ValueError(
            "a target of rate 0 stays where it is and p+ is no rest; target_rate was 0"
        )
    shape = np.broadcast_shapes(*(np.shape(x) for x in (total, rate, decay, follow, now[0])))
    now = _spread(now, shape)
    total, rate, decay, follow = (np.broadcast_to(x, shape) for x in (total, rate, decay, follow))
    inner = modes.tie**2 - 4 * decay * total
    low, high = (
        _place(modes, (modes.tie + sign * np.sqrt(inner.clip(0))) / (2 * total), rate)
        for sign in (-1, 1)
    )
    small = np.where(inner[None] >= 0, low, _place(modes, modes.tie / (2 * total), rate)) / 2
    if not modes.moving:
        small[1] /= 2  # s = w², and half of w is a quarter of s
    time, done = np.zeros(shape), inner < 0
    for _ in range(STEPS):
        w = now[1] if modes.moving else np.sqrt(now[1])
        fastest = total * (rate * w**2 + now[0] ** 2) + rate * now[-1] + now[0] + decay + follow
        h = np.where(done, 0.0, 0.5 / fastest)
        k1 = modes.slopes(now)
        k2 = modes.slopes(now + h / 2 * k1)
        k3 = modes.slopes(now + h / 2 * k2)
        k4 = modes.slopes(now + h * k3)
        now = (now + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)).clip(0)
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
    """`(N, 2)` points (p, s) of the edge of collapse, for a target W_a = c W, p increasing.

    It is the stable manifold of the saddle p-, followed backwards in time until p or s is above
    `largest` or p below 0. Modes above it go to p+, modes below it to 0.

    Raises:
        ValueError: a moving target, whose edge is a surface (ask `critical_decay`), several
            modes, a decay above `largest_decay`, where all collapse, or a `largest` that is not
            finite and above 0.
    """
    if not 0 < largest < float("inf"):
        raise ValueError(f"largest must be finite and above 0, got {largest}")
    if modes.moving:
        raise ValueError("a moving target's edge is a surface in (p, w, a): use critical_decay")
    if not modes.tie > 0:
        raise ValueError(f"an edge between modes above 0 needs a tie above 0, got {modes.tie}")
    points = fixed_points(modes)
    if len(points) < 3:
        raise ValueError(
            f"with decay {modes.decay} above {float(largest_decay(modes)):.3g} every mode collapses"
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
            begin, method="DOP853", events=left, rtol=1e-9, atol=1e-13, max_step=np.inf,
            dense_output=False,
        )  # fmt: skip
        parts.append(solved.y.T)
    curve = np.concatenate([parts[0][::-1], saddle[None], parts[1]])
    found: Array = curve[(curve[:, 0] >= 0) & (curve[:, 1] >= 0)]
    return found


def critical_decay(modes: Modes, start: ArrayLike, *, halvings: int = 14) -> Array:
    """The largest weight decay that a mode survives from its start, by bisection in η.

    Args:
        modes: `decay` is not used; other rates broadcast with a mode.
        start: as for `survives`.
        halvings: of the interval from 0 to `largest_decay`.

    Raises:
        ValueError, ArithmeticError: as `survives`; fewer than 1 halving.
    """
    if halvings < 1:
        raise ValueError(f"halvings must be at least 1, got {halvings}")
    first = _start(modes, start)
    rates = (largest_decay(modes), modes.predictor_rate, modes.target_rate if modes.moving else 0)
    shape = np.broadcast_shapes(*(np.asarray(rate).shape for rate in rates), first.shape[1:])
    low, high = np.zeros(shape), np.broadcast_to(largest_decay(modes), shape).copy()
    for _ in range(halvings):
        middle = (low + high) / 2
        trial = Modes(modes.noise, middle, modes.predictor_rate, modes.target_rate, modes.tie)
        up = survives(trial, first)
        low, high = np.where(up, middle, low), np.where(up, high, middle)
    return (low + high) / 2


def _place(modes: Modes, p: Array, rate: Array) -> Array:
    """The mode with this p and s = p²/α: (p, s) or (p, w, w)."""
    s = p**2 / rate
    return np.stack([p, np.sqrt(s), np.sqrt(s)] if modes.moving else [p, s])


def _spread(start: Array, shape: tuple[int, ...]) -> Array:
    """A start of few axes for modes of a larger shape."""
    own = start.shape[1:]
    lined = start.reshape(len(start), *[1] * (len(shape) - len(own)), *own)
    return np.broadcast_to(lined, (len(start), *shape)).copy()


def _start(modes: Modes, start: ArrayLike) -> Array:
    first = np.array(start, dtype=np.float64)
    rows = 3 if modes.moving else 2
    if first.ndim < 1 or len(first) != rows:
        names = "(p, w, a)" if modes.moving else "(p, s)"
        raise ValueError(f"a start has {rows} rows {names}, got shape {first.shape}")
    if not np.isfinite(first).all():
        raise ValueError(f"a start must be finite, got {first[~np.isfinite(first)].flat[0]}")
    return first


def _within(value: ArrayLike, bounded: ArrayLike) -> bool:
    return bool(np.all(bounded) and np.isfinite(value).all())


def _point(modes: Modes, p: float, w: float) -> FixedPoint:
    jacobian = _jacobian(modes, p, w if modes.moving else w * w)
    eigenvalues = np.linalg.eigvals(jacobian).astype(np.complex128)
    return FixedPoint(p, w, eigenvalues, bool((eigenvalues.real < 0).all()))


def _jacobian(modes: Modes, p: float, other: float) -> Array:
    """Of the slopes at (p, s), or at (p, w, a = w); by hand."""
    total, decay = 1 + float(np.asarray(modes.noise)), float(np.asarray(modes.decay))
    rate = float(np.asarray(modes.predictor_rate))
    if not modes.moving:
        s, pull = other, modes.tie - total * p
        return np.array(
            [
                [-rate * s * total - decay, rate * pull],
                [2 * s * (pull - total * p), 2 * p * pull - 2 * decay],
            ]
        )
    w, follow = other, float(np.asarray(modes.target_rate))
    pull = w - total * p * w
    return np.array(
        [
            [-rate * w * total * w - decay, rate * (pull - total * p * w), rate * w],
            [pull - total * p * w, -p * total * p - decay, p],
            [0.0, follow, -follow],
        ]
    )
