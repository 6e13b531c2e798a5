"""Time to threshold: how many updates, or samples, a curve takes to reach a goal.

The curve is known at a few places and linear between them in the logarithm of the place. A curve that
does not reach its goal at any of them is censored: its time is infinite here and is shown as "> T".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualnets.lab.stats import Estimate, adjusted, stats

if TYPE_CHECKING:
    import pandas as pd


def member_times(places: ArrayLike, curves: ArrayLike, goals: ArrayLike) -> NDArray[np.float64]:
    """The place at which every member's own curve first reaches its goal.

    Between places it is linear in their logarithm.

    Args:
        places: `(X,)`, above 0, growing.
        curves: `(S, X)`, one curve per member. Values that are not finite reach no goal.
        goals: `(S,)`.

    Returns:
        `(S,)` places; infinite where the goal is not reached at any place (censored), NaN where the goal
        is not finite.

    Raises:
        ValueError: shapes that do not fit, or places that do not grow from above 0.

    Example:
        >>> member_times([1, 10, 100], [[0, 1, 2], [0, 0, 1]], [1.5, 1.5]).round(2)
        array([31.62,   inf])
    """
    x, y, goal = (np.asarray(given, dtype=np.float64) for given in (places, curves, goals))
    if y.ndim != 2 or y.shape != (len(goal), len(x)):
        raise ValueError(
            f"curves must have one row per goal and one column per place, ({len(goal)}, {len(x)}), "
            f"got {y.shape}"
        )
    if len(x) == 0 or not (x[0] > 0 and (np.diff(x) > 0).all()):
        raise ValueError(f"places must grow from above 0, got {x.tolist()}")
    y = np.where(np.isfinite(y), y, -1e300)  # far below any goal
    reached = y >= goal[:, None]
    at = reached.argmax(1)
    rows, before = np.arange(len(y)), np.maximum(at - 1, 0)
    rise = y[rows, at] - y[rows, before]
    # reached at the first place: there, or before it
    share = np.where(at > 0, (goal - y[rows, before]) / np.where(rise > 0, rise, 1.0), 0.0)
    found = np.exp(np.log(x[before]) + share * (np.log(x[at]) - np.log(x[before])))
    found = np.where(reached.any(1), found, np.inf)
    return np.where(np.isfinite(goal), found, np.nan)


def later(a: ArrayLike, b: ArrayLike, among: int = 1) -> float:
    """P of Wilcoxon's signed-rank test, one-sided, that paired times of `a` are later than those of `b`.

    Differences are those of the logarithms of the times. A censored time is later than every other:
    its difference from one that is not censored has the highest rank, which all such pairs share. Pairs
    of two censored times are ties and left out, as all pairs without a difference; if nothing is left, or
    a time is NaN, P is 1. The distribution of the sum of ranks is exact, shared ranks included.

    Args:
        a, b: `(S,)` times above 0, inf where censored, of the same members.
        among: how many tests are made; P is multiplied by it (Bonferroni), up to 1.

    Raises:
        ValueError: times of different members, or of 0 or less.

    Example:
        >>> later([200, 300, 400, np.inf, np.inf], [100, 120, 130, 150, np.inf])
        0.0625
        >>> later([np.inf, np.inf], [np.inf, np.inf])
        1.0
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"times must be (S,) of the same members, got {a.shape} and {b.shape}")
    if (a <= 0).any() or (b <= 0).any():
        raise ValueError(f"times must be above 0, got {min(a.min(), b.min())}")
    if np.isnan(a).any() or np.isnan(b).any():
        return 1.0
    apart = a != b
    difference = np.log(a[apart]) - np.log(b[apart])
    if len(difference) == 0:
        return 1.0
    # ranks from 1 in halves, doubled so that they are whole
    ranks = np.rint(2 * stats.rankdata(np.abs(difference))).astype(int)
    chances = np.ones(
        1
    )  # of every sum of the ranks that have a plus sign, signs drawn with P = 1/2
    for rank in ranks:
        without = np.pad(chances, (0, rank))
        chances = (without + np.roll(without, rank)) / 2
    return adjusted(float(chances[ranks[difference > 0].sum() :].sum()), among)


def median_time(times: ArrayLike, among: int = 1) -> Estimate:
    """The median of times and its 95% interval between two of them, which censored ones leave valid.

    The interval is that of order statistics: it covers the median with 95% or more for any distribution
    (Conover, Practical Nonparametric Statistics, Section 3.2). Its ends and the median are infinite where
    the times there are censored; the upper one is infinite, too, where there are too few times for an
    interval within them, and the lower one is 0.

    Args:
        times: `(S,)`, inf where censored, or ratios of such times.
        among: how many intervals are to hold all at once (Bonferroni).

    Example:
        >>> median_time([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, np.inf, np.inf, np.inf])
        Estimate(value=50.0, low=20.0, high=inf, n=9)
    """
    given = np.sort(np.asarray(times, dtype=np.float64))
    n = len(given)
    if n == 0 or np.isnan(given).any():
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    middle = given[(n - 1) // 2 : n // 2 + 1]
    value = float(middle[0] if middle[0] == middle[-1] else middle.mean())
    # the number of times on either side that are outside: P(Binomial(n, 1/2) < outside) <= 2.5%
    outside = int(stats.binom.ppf(0.025 / among, n, 0.5))
    if outside == 0:
        return Estimate(value, 0.0, float("inf"), n)
    return Estimate(value, float(given[outside - 1]), float(given[n - outside]), n)


def median_ratio(times: ArrayLike, others: ArrayLike, last: float, among: int = 1) -> Estimate:
    """The median of paired ratios of times, `last` standing for those that are censored there.

    Args:
        times, others: `(S,)` each, of the same members, inf where censored.
        last: the last place that was looked at.
        among: as in `median_time`.

    Example:
        >>> median_ratio([30.0, 40.0, np.inf], [10.0, 20.0, 20.0], last=100.0).value
        3.0
    """
    return median_time(np.minimum(times, last) / np.minimum(others, last), among)


def half_gap_times(
    rows: pd.DataFrame, levels: list[int] | None = None, *, for_good: bool = False
) -> NDArray[np.float64]:
    """Updates until each member has closed half of its own gap to the ceiling; infinite where censored.

    Args:
        rows: of one variant, with snapshots; they start at 0 updates.
        levels: whose latents, as in `dualnets.lab.variants.variant_stats`.
        for_good: whether half of the gap must stay closed until the last update; a member that loses it
            again, or diverges, has no time unless it closes it once more.

    Returns:
        `(S,)` updates, 1 at least; a member that has diverged by then has none.
    """
    from dualnets.lab.variants import variant_stats

    steps = sorted(rows["step"].unique())
    found = [variant_stats(rows, levels, step) for step in steps]
    half = (found[0].initial + found[0].ceiling) / 2
    curves = np.stack([each.value for each in found[1:]], axis=1)
    if for_good:  # before the last value below half, or not finite, nothing counts as reached
        stays = np.logical_and.accumulate((curves >= half[:, None])[:, ::-1], axis=1)[:, ::-1]
        curves = np.where(stays, curves, np.minimum(curves, np.nextafter(half, -np.inf)[:, None]))
    return member_times(steps[1:], curves, half)


def time_in_words(time: Estimate, last: float) -> str:
    """A time and its interval, if it has two ends, as text, with "> T" for what is censored at `last`.

    Example:
        >>> time_in_words(Estimate(1234.0, 800.0, float("inf"), 12), 20_000)
        '1,234 [800, > 20,000]'
    """
    value, low, high = (
        "–" if np.isnan(number) else f"{number:,.0f}" if number <= last else f"> {last:,.0f}"
        for number in time[:3]
    )
    return value if value == low == high or time.low == 0 else f"{value} [{low}, {high}]"
