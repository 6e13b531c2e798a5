"""Linear BYOL mode by mode: the equations of one mode, and their trajectories.

For X = I, X' = σ² I (isotropic data and augmentation) and a symmetric predictor that shares its
eigenvectors with W Wᵀ, every eigenvector is a mode that moves on its own (docs/theory.md, Section 6;
Section 3 and Equations 11-14 of arXiv 2102.06810, Assumptions 1-3). With κ = 1 + σ², weight decay η,
relative predictor rate α, target rate β, and p, w, a the mode of predictor, online network and target:

    target W_a = c W, modes (p, s), s = w²:
        dp/dt = α s (c - κ p) - η p,       ds/dt = 2 p s (c - κ p) - 2 η s              (Equation 6.6)
    moving target, modes (p, w, a):
        dp/dt = α w (a - κ p w) - η p,     dw/dt = p (a - κ p w) - η w,
        da/dt = β (w - a)                                                               (Equation 6.9)
    s(t) - p(t)²/α = k e^{-2ηt}, and w² likewise                                        (Equation 6.7)

Their fixed points and basins are in `byol_modes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualnets._checks import check_number
from dualnets.theory.integration import check_finite, increasing_list, solve

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Modes:
    """The rates of one mode, or of any number of them by broadcasting.

    Attributes:
        noise: σ², the variance of the views given the sample.
        decay: η, the weight decay.
        predictor_rate: α, the learning rate of the predictor divided by that of the online network.
        target_rate: β, the rate of a moving target; None for a target W_a = c W.
        tie: c, for a target W_a = c W.

    Raises:
        ValueError: noise, decay or target rate below 0, a predictor rate not above 0, one of them or
            the tie not finite, or a tie for a moving target.
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
        check_number("tie", self.tie)
        if self.target_rate is not None and self.tie != 1.0:
            raise ValueError(
                f"tie has no effect on a moving target: it applies to W_a = c W, got {self.tie}"
            )

    @property
    def moving(self) -> bool:
        """Whether the target moves at a rate of its own; modes are then (p, w, a), otherwise (p, s)."""
        return self.target_rate is not None

    def slopes(self, mode: Array) -> Array:
        """d/dt of `(2, ...)` modes (p, s), or of `(3, ...)` modes (p, w, a).

        Equations 6.6 and 6.9 of docs/theory.md.
        """
        kappa = 1 + np.asarray(self.noise)
        decay, rate = np.asarray(self.decay), np.asarray(self.predictor_rate)
        if not self.moving:
            p, s = mode
            pull = self.tie - kappa * p
            parts = (rate * s * pull - decay * p, 2 * p * s * pull - 2 * decay * s)  # Equation 6.6
            return np.stack(np.broadcast_arrays(*parts))
        p, w, a = mode  # Equation 6.9
        pull = a - kappa * p * w
        follow = np.asarray(self.target_rate) * (w - a)
        predictor_slope, online_slope = rate * w * pull - decay * p, p * pull - decay * w
        return np.stack(np.broadcast_arrays(predictor_slope, online_slope, follow))


def integrate_modes(modes: Modes, start: ArrayLike, times: ArrayLike) -> Array:
    """`(T, 2 or 3, ...)` modes at given times, by scipy's DOP853 to 1e-12.

    Raises:
        ValueError: a start that does not have 2 (for a moving target, 3) rows of finite numbers, rates
            of more modes than the start has, or times that are not finite or do not increase.
        ArithmeticError: the solver gave up.

    Example:
        >>> modes = Modes(noise=0.2, decay=0.05, predictor_rate=2.0)
        >>> p, s = integrate_modes(modes, [0.5, 0.4], [0.0, 10.0]).T
        >>> k = (s - p**2 / 2) * np.exp(2 * 0.05 * np.array([0.0, 10.0]))
        >>> bool(abs(k[1] - k[0]) < 1e-10)
        True
    """
    first = checked_start(modes, start)
    at = increasing_list(times)
    moved = modes.slopes(first).shape
    if moved != first.shape:
        raise ValueError(
            f"the rates are those of modes of shape {moved[1:]}, the start has shape {first.shape[1:]}: "
            "give a start for each mode"
        )
    found = solve(
        lambda flat: modes.slopes(flat.reshape(first.shape)).ravel(), first.ravel(), at,
        relative=1e-12, absolute=1e-14, what="the modes",
    )  # fmt: skip
    return found.reshape(len(at), *first.shape)


def checked_start(modes: Modes, start: ArrayLike) -> Array:
    """The start as float64; raise ValueError unless it is finite and has the rows of a mode."""
    first = np.array(start, dtype=np.float64)
    rows = 3 if modes.moving else 2
    if first.ndim < 1 or len(first) != rows:
        names = "(p, w, a)" if modes.moving else "(p, s)"
        raise ValueError(f"a start must have {rows} rows {names}, got shape {first.shape}")
    check_finite("a start", first)
    return first


def _within(value: ArrayLike, bounded: ArrayLike) -> bool:
    """Whether all numbers are finite and within their bounds."""
    return bool(np.all(bounded) and np.isfinite(value).all())
