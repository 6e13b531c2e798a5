"""Points in time at which dynamics are asked for: finite and increasing, checked once for all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def increasing(times: ArrayLike) -> NDArray[np.float64]:
    """`(T,)`, or `(T, S)` with times for each member, as float64.

    Raises:
        ValueError: no times, one that is not finite, or times that do not increase.

    Example:
        >>> increasing([0, 1])
        array([0., 1.])
    """
    at = np.asarray(times, dtype=np.float64)
    if at.ndim not in (1, 2) or at.size < 1:
        raise ValueError(f"times must be a list of at least one number, got shape {at.shape}")
    if not np.isfinite(at).all():
        raise ValueError(f"times must be finite, got {at[~np.isfinite(at)].flat[0]}")
    steps = np.diff(at, axis=0)
    if not (steps > 0).all():
        first = int((~(steps > 0)).reshape(len(steps), -1).any(1).argmax())
        raise ValueError(f"times must increase, got {at[first]} and then {at[first + 1]}")
    return at
