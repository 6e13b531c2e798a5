"""Ordinary differential equations solved at given times: the times are checked, scipy does the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp

Array = NDArray[np.float64]


def check_finite(what: str, given: Array) -> None:
    """Raise ValueError unless all numbers of an array are finite."""
    if not np.isfinite(given).all():
        raise ValueError(f"{what} must be finite, got {given[~np.isfinite(given)].flat[0]}")


def increasing(times: ArrayLike) -> Array:
    """`(T,)` times, or `(T, S)` times of each member, as float64.

    Raises:
        ValueError: no times, a time that is not finite, or times that do not increase.

    Example:
        >>> increasing([0, 1])
        array([0., 1.])
    """
    at = np.asarray(times, dtype=np.float64)
    if at.ndim not in (1, 2) or at.size < 1:
        raise ValueError(f"times must be a list of at least one number, got shape {at.shape}")
    check_finite("times", at)
    steps = np.diff(at, axis=0)
    if not (steps > 0).all():
        first = int((~(steps > 0)).reshape(len(steps), -1).any(1).argmax())
        raise ValueError(f"times must increase, got {at[first]} and then {at[first + 1]}")
    return at


def increasing_list(times: ArrayLike) -> Array:
    """`(T,)` increasing times, as float64.

    Raises:
        ValueError: as `increasing`; times of several members.
    """
    at = increasing(times)
    if at.ndim != 1:
        raise ValueError(f"times must be one list of numbers, got shape {at.shape}")
    return at


def solve(
    slopes: Callable[[Array], Array],
    start: Array,
    times: Array,
    *,
    relative: float,
    absolute: float,
    what: str,
) -> Array:
    """`(T, N)` the solution of dy/dt = slopes(y) at each time, by scipy's DOP853.

    Args:
        slopes: d/dt of `(N,)` numbers.
        start: `(N,)` y at times[0].
        times: `(T,)`, increasing.
        relative, absolute: tolerances of one step.
        what: the subject of the error's sentence.

    Raises:
        ArithmeticError: the solver gave up.

    Example:
        >>> times = np.array([0.0, 1.0])
        >>> path = solve(lambda y: -y, np.ones(1), times, relative=1e-9, absolute=1e-9, what="decay")
        >>> bool(abs(path[1, 0] - np.exp(-1)) < 1e-8)
        True
    """
    if len(times) == 1:
        return start[None]
    solved = solve_ivp(
        lambda _, y: slopes(y), (times[0], times[-1]), start, method="DOP853", t_eval=times,
        rtol=relative, atol=absolute,
    )  # fmt: skip
    if not solved.success:
        raise ArithmeticError(f"{what} could not be integrated: {solved.message}")
    return np.asarray(solved.y.T)
