"""Statistics of results: intervals, exact paired tests, ratios, how a rule came out.

Values are one per member (a tree with its network), so that members are the independent draws
behind every interval and test. Whatever is compared stands on the same trees, and is compared tree
by tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dualnets.lab.rules import FEWEST_TREES
from hltm._lazy import LazyModule

if TYPE_CHECKING:
    import pandas as pd

stats: Any = LazyModule("scipy.stats")  # which processes that only compute cells do not need
Array = NDArray[np.float64]
Outcome = Literal["holds", "fails", "open"]

LEVEL = 0.95
RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A number, its 95% interval and how many independent values it comes from."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return format(self, ".2f")

    def __format__(self, spec: str) -> str:
        """The number and its interval, each in the given format.

        Example:
            >>> f"{Estimate(0.125, -0.05, 0.3, 12):+.1%}"
            '+12.5% [-5.0%, +30.0%]'
            >>> f"{Estimate(0.125, -float('inf'), float('inf'), 12)}"
            '0.12 [unbounded]'
        """
        value, low, high = (format(number, spec or ".2f") for number in self[:3])
        unbounded = np.isinf(self.low) and np.isinf(self.high)
        return f"{value} [{'unbounded' if unbounded else f'{low}, {high}'}]"

    @property
    def brief(self) -> str:
        """The number and half the width of its interval, for intervals that are symmetric about it.

        Example:
            >>> Estimate(0.836, 0.82, 0.852, 12).brief
            '0.84 ±.02'
        """
        if not np.isfinite(self.value):
            return "–"
        value, half = f"{self.value:.2f}", (self.high - self.low) / 2
        return value if np.isnan(half) else f"{value} ±{half:.2f}".replace("±0.", "±.")

    def detail(self, name: str = "value") -> dict[str, Any]:
        """The four numbers as part of a verdict's details, the value under the given name.

        Example:
            >>> Estimate(0.5, 0.4, 0.6, 12).detail("gap_closed")
            {'gap_closed': 0.5, 'low': 0.4, 'high': 0.6, 'n': 12}
        """
        return {name: self.value, "low": self.low, "high": self.high, "n": self.n}


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)  # of no values at all


class Judgement(NamedTuple):
    """How a rule came out on the table of a run.

    Attributes:
        outcome: `holds`, `fails` or `open`.
        reason: how the rule came out.
        effect: what `estimate` is.
        estimate: the effect with its interval.
        details: one entry per part of the claim.
        of: what `estimate.n` counts.
    """

    outcome: Outcome
    reason: str
    effect: str
    estimate: Estimate
    details: list[dict[str, Any]]
    of: str = "trees"


def mean_interval(values: Array, among: int = 1) -> Estimate:
    """The mean and Student's 95% interval of independent values; no interval for fewer than two.

    Args:
        values: one per member; those that are not finite are left out.
        among: how many intervals are to hold simultaneously with 95% (Bonferroni), as they must where
            one of them is picked for its value.

    Example:
        >>> print(mean_interval(np.array([1.0, 2.0, 3.0])))
        2.00 [-0.48, 4.48]
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[np.isfinite(kept)]
    n, mean = len(kept), float(kept.mean()) if len(kept) else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), n)
    half = float(stats.t.ppf(1 - _tail(among), n - 1) * kept.std(ddof=1) / n**0.5)
    return Estimate(mean, mean - half, mean + half, n)


def _tail(among: int) -> float:
    """What an interval leaves out on either side."""
    return (1 - LEVEL) / 2 / among


def exceeds(after: Array, before: Array | float, among: int = 1) -> float:
    """P of Wilcoxon's exact signed-rank test, one-sided, that paired values grew.

    Pairs without a difference carry no sign and are left out; if nothing is left, or a value is
    not finite, P is 1.

    Args:
        after, before: one value per member, or a single one to compare all with.
        among: how many tests are made; P is multiplied by it (Bonferroni), up to 1.

    Example:
        >>> exceeds(np.arange(13) + 1.0, 0.0)
        0.0001220703125
        >>> exceeds(np.arange(13) + 1.0, 0.0, among=100)
        0.01220703125
    """
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if not np.isfinite(difference).all():
        return 1.0
    difference = difference[difference != 0]
    if len(difference) == 0:
        return 1.0
    p = float(stats.wilcoxon(difference, alternative="greater", method="exact").pvalue)
    return adjusted(p, among)


def adjusted(p: float, tests: int) -> float:
    """A P after Bonferroni's correction for so many tests.

    Example:
        >>> adjusted(0.01, 4), adjusted(0.5, 4)
        (0.04, 1.0)
    """
    return min(p * tests, 1.0)


def bootstrap(
    statistic: Callable[[NDArray[np.intp]], Array],
    n: int,
    *,
    among: int = 1,
    resamples: int | None = None,
    method: Any = "linear",
) -> Estimate:
    """A statistic of n members with its percentile-bootstrap interval.

    Members are drawn with replacement, each with all its values, so that what is paired stays so.

    Args:
        statistic: takes the members of R samples, `(R, n)`, and returns a value of each, `(R,)`.
            Values that are NaN are left out of the interval.
        n: members; no interval for fewer than two.
        among: how many intervals are to hold simultaneously, as in `mean_interval`.
        resamples: samples drawn; RESAMPLES by default.
        method: of `numpy.nanquantile`.

    Example:
        >>> values = np.array([1.0, 2.0, 3.0, 4.0])
        >>> print(bootstrap(lambda picks: values[picks].mean(1), 4))
        2.50 [1.50, 3.50]
    """
    value = float(statistic(np.arange(n)[None])[0])
    if n < 2 or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), n)
    drawn = statistic(np.random.default_rng(0).integers(0, n, size=(resamples or RESAMPLES, n)))
    low, high = np.nanquantile(drawn, [_tail(among), 1 - _tail(among)], method=method)
    return Estimate(value, float(low), float(high), n)


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
    (aa, ab), (_, bb) = float(stats.t.ppf(1 - _tail(among), n - 1)) ** 2 / n * np.cov(gain, room)
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


def too_few(n: int, least: int = FEWEST_TREES) -> str:
    """Why n trees cannot decide a rule that needs `least`; empty if they can.

    Example:
        >>> too_few(8, 12), too_few(12, 12)
        ('8 trees are fewer than 12', '')
    """
    return f"{n} trees are fewer than {least}" if n < least else ""


def last_step(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the end of training, in every cell."""
    return table[table["step"] == table.groupby("cell")["step"].transform("max")]


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows with the trees of several seeds numbered on, each seed's after those before.

    A seed is that of trees, weights and samples, so trees of two seeds are different trees: they count
    as more trees, and what is paired tree by tree stays paired. Trees that are numbered on already stay so.
    """
    if "seed" not in table or table["seed"].nunique() < 2:
        return table
    trees = table[["seed", "member"]].drop_duplicates()
    if not trees["member"].duplicated().any():
        return table
    at = {seed: number for number, seed in enumerate(dict.fromkeys(table["seed"]))}
    size = int(table["member"].max()) + 1
    return table.assign(member=table["member"] + table["seed"].map(at).astype(int) * size)
