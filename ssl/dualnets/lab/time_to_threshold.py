"""Time to threshold: how many updates, or samples, a curve takes to reach a goal.

The curve is known at a few places and linear between them in the logarithm of the place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualnets.lab.stats import Array, Estimate, bootstrap


def time_to_threshold(places: ArrayLike, curves: ArrayLike, goals: ArrayLike) -> Estimate:
    """The place at which the mean curve first reaches the mean goal, between places on a log axis.

    The interval is the percentile bootstrap's over members; a member's curve and goal are drawn together.
    An end, or the value, is infinite where the goal is not reached at the last place.

    Args:
        places: `(X,)`, above 0, growing.
        curves: `(S, X)`, one curve per member.
        goals: `(S,)`.

    Returns:
        The place, NaN where a mean is not finite; no interval for fewer than two members.

    Raises:
        ValueError: shapes that do not fit, or places that do not grow from above 0.

    Example:
        >>> import numpy as np
        >>> rising = np.array([[0.0, 1.0, 2.0]] * 4)
        >>> print(time_to_threshold([1, 10, 100], rising, np.full(4, 1.5)))
        31.62 [31.62, 31.62]
    """
    x, y, goal = (np.asarray(given, dtype=np.float64) for given in (places, curves, goals))
    if y.ndim != 2 or y.shape != (len(goal), len(x)):
        raise ValueError(
            f"curves must have one row per goal and one column per place, ({len(goal)}, {len(x)}), "
            f"got {y.shape}"
        )
    if len(x) == 0 or not (x[0] > 0 and (np.diff(x) > 0).all()):
        raise ValueError(f"places must grow from above 0, got {x.tolist()}")
    # a quantile that is one of the values: no mean of a number and infinity
    return bootstrap(
        lambda picks: _crossings(x, y[picks].mean(1), goal[picks].mean(1)),
        len(goal),
        method="inverted_cdf",
    )


def _crossings(x: Array, y: Array, goal: Array) -> NDArray[np.float64]:
    """`(R,)` places at which rows of `(R, X)` first reach their goals; inf where they never do."""
    reached = y >= goal[:, None]
    at = reached.argmax(1)
    rows = np.arange(len(y))
    before = np.maximum(at - 1, 0)
    rise = y[rows, at] - y[rows, before]
    # reached at the first place: there, or before it
    share = np.where(at > 0, (goal - y[rows, before]) / np.where(rise > 0, rise, 1.0), 0.0)
    found = np.exp(np.log(x[before]) + share * (np.log(x[at]) - np.log(x[before])))
    found = np.where(reached.any(1), found, np.inf)
    return np.where(np.isfinite(y).all(1) & np.isfinite(goal), found, np.nan)
