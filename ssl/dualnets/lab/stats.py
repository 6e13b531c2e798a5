"""Statistics of results: intervals, exact paired tests, how a rule came out.

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
            >>> f"{Estimate(0.125, float('nan'), float('nan'), 1)}"
            '0.12 [no interval]'
            >>> f"{Estimate(float('nan'), float('nan'), float('nan'), 0)}"
            '–'
        """
        if np.isnan(self.value):
            return "–"
        value, low, high = (format(number, spec or ".2f") for number in self[:3])
        if np.isnan(self.low) and np.isnan(self.high):
            return f"{value} [no interval]"
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
    half = float(student_quantile(n, among) * kept.std(ddof=1) / n**0.5)
    return Estimate(mean, mean - half, mean + half, n)


def student_quantile(n: int, among: int = 1) -> float:
    """How many standard errors Student's interval of n values reaches to either side of their mean.

    Args:
        n: two values at least.
        among: as in `mean_interval`.
    """
    return float(stats.t.ppf(1 - _tail(among), n - 1))


def _tail(among: int) -> float:
    """What an interval leaves out on either side."""
    return (1 - LEVEL) / 2 / among


def exceeds(after: Array, before: Array | float, among: int = 1, *, exact: bool = True) -> float:
    """P of Wilcoxon's exact signed-rank test, or of Student's test, one-sided, that paired values grew.

    To signed ranks pairs without a difference carry no sign and are left out; if nothing is left, one pair
    for Student's test, or a value is not finite, P is 1.

    Args:
        after, before: one value per member, or a single one to compare all with.
        among: how many tests are made; P is multiplied by it (Bonferroni), up to 1.
        exact: whether by signed ranks, whose P cannot fall below 2 to the power of minus the pairs.

    Example:
        >>> exceeds(np.arange(13) + 1.0, 0.0)
        0.0001220703125
        >>> round(exceeds(np.arange(5) + 1.0, 0.0, exact=False), 4), exceeds(np.arange(5) + 1.0, 0.0)
        (0.0066, 0.03125)
        >>> exceeds(np.arange(13) + 1.0, 0.0, among=100)
        0.01220703125
    """
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if not np.isfinite(difference).all() or len(difference) < 2 - exact:
        return 1.0
    if not exact:
        middle, error = difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5
        # members that all differ by the same leave no doubt
        at = middle / error if error > 0 else np.copysign(np.inf, middle) if middle else 0.0
        return adjusted(float(stats.t.sf(at, len(difference) - 1)), among)
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


def too_few(n: int, least: int = FEWEST_TREES, of: str = "trees") -> str:
    """Why n trees, or other members, cannot decide a rule that needs `least`; empty if they can.

    Example:
        >>> too_few(8, 12), too_few(12, 12), too_few(1, 6, "networks")
        ('8 trees are fewer than 12', '', '1 network is fewer than 6')
    """
    counted = f"1 {of.removesuffix('s')} is" if n == 1 else f"{n} {of} are"
    return f"{counted} fewer than {least}" if n < least else ""


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
