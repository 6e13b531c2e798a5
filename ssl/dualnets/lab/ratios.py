"""Ratios of means of paired values, as the gap closed is one: with their intervals, and compared.

Values are one per member, as in `dualnets.lab.stats`.
"""

from __future__ import annotations

import numpy as np

from dualnets.lab.stats import NOTHING, Array, Estimate, mean_interval, student_quantile


def ratio_interval(gain: Array, room: Array, among: int = 1) -> Estimate:
    """A ratio of means of paired values with Fieller's 95% interval.

    The interval holds every ratio R for which Student's test does not refute that the mean of
    gain - R * room is 0 (Fieller 1954); for means of few members it covers what it says, which a
    percentile bootstrap does not.

    Args:
        gain, room: `(S,)` float64, one value of each per member; members with a value that is not finite
            are left out.
        among: how many intervals are to hold all at once, as in `mean_interval`.

    Returns:
        The ratio, NaN where the mean of `room` is not above 0. Ends are infinite where that mean is not
        shown to be above 0, and NaN for fewer than two members.

    Example:
        >>> gain, room = np.array([0.2, 0.3, 0.4, 0.3]), np.array([0.5, 0.6, 0.7, 0.6])
        >>> print(ratio_interval(gain, room))
        0.50 [0.36, 0.59]
    """
    gain, room = _finite_pairs(gain, room)
    n = len(gain)
    if n == 0 or not room.mean() > 0:
        return NOTHING._replace(n=n)
    a, b = float(gain.mean()), float(room.mean())
    if n < 2:
        return Estimate(a / b, float("nan"), float("nan"), n)
    (aa, ab), (_, bb) = student_quantile(n, among) ** 2 / n * np.cov(gain, room)
    # (a - R b)^2 <= aa - 2 R ab + R^2 bb is a quadratic inequality in R
    square, half, rest = b**2 - bb, a * b - ab, a**2 - aa
    if square <= 0:
        return Estimate(a / b, float("-inf"), float("inf"), n)
    root = max(half**2 - square * rest, 0.0) ** 0.5
    return Estimate(a / b, float((half - root) / square), float((half + root) / square), n)


def ratio_difference(
    first: tuple[Array, Array], second: tuple[Array, Array], among: int = 1
) -> Estimate:
    """One ratio of means minus another over the same members, with Student's interval.

    Each ratio is linearised about its means (the delta method), so that every member has a share of
    the difference.

    Args:
        first, second: gain and room of each, `(S,)` float64; members with a value that is not finite are
            left out.
        among: as in `mean_interval`.

    Returns:
        The difference, NaN where a mean of `room` is not above 0.

    Example:
        >>> one, room = np.array([0.2, 0.3, 0.4, 0.3]), np.array([0.5, 0.6, 0.7, 0.6])
        >>> print(ratio_difference((one, room), (one / 2, room)))
        0.25 [0.20, 0.30]
    """
    gain_a, room_a, gain_b, room_b = _finite_pairs(*first, *second)
    if len(gain_a) == 0 or not (room_a.mean() > 0 and room_b.mean() > 0):
        return NOTHING._replace(n=len(gain_a))
    a, b = gain_a.mean() / room_a.mean(), gain_b.mean() / room_b.mean()
    share = (gain_a - a * room_a) / room_a.mean() - (gain_b - b * room_b) / room_b.mean()
    return mean_interval(share + (a - b), among)


def _finite_pairs(*values: Array) -> list[Array]:
    """The same members of each array: those whose values are all finite."""
    stacked = np.stack([np.asarray(each, dtype=np.float64) for each in values])
    return list(stacked[:, np.isfinite(stacked).all(0)])


def gap_closed(initial: Array, final: Array, ceiling: Array, among: int = 1) -> Estimate:
    """(final - initial) / (ceiling - initial), a ratio of means over members; see `ratio_interval`.

    Args:
        initial, final, ceiling: `(S,)` float64, one value per member.
        among: how many intervals are to hold all at once, as in `mean_interval`.

    Example:
        >>> zero = np.zeros(8)
        >>> print(gap_closed(zero, zero + 0.5, zero + 1))
        0.50 [0.50, 0.50]
    """
    return ratio_interval(final - initial, ceiling - initial, among)
