"""Statistics of results: intervals, exact paired tests, gap closed, verdicts.

Values are one per member (a tree with its network), so that members are the independent draws
behind every interval and test. Whatever is compared stands on the same trees, and is compared tree
by tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
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
        """
        value, low, high = (format(number, spec or ".2f") for number in self[:3])
        return f"{value} [{low}, {high}]"

    @property
    def brief(self) -> str:
        """The number and half the width of its interval, for intervals that are symmetric about it.

        Example:
            >>> Estimate(0.836, 0.82, 0.852, 12).brief
            '0.84 ±.02'
        """
        half = (self.high - self.low) / 2
        if not np.isfinite(self.value):
            return "–"
        return (
            f"{self.value:.2f} ±{half:.2f}".replace("±0.", "±.")
            if half == half
            else f"{self.value:.2f}"
        )

    def detail(self, name: str = "value") -> dict[str, Any]:
        """The four numbers as part of a verdict's details, the value under the given name.

        Example:
            >>> Estimate(0.5, 0.4, 0.6, 12).detail("gap_closed")
            {'gap_closed': 0.5, 'low': 0.4, 'high': 0.6, 'n': 12}
        """
        return {name: self.value, "low": self.low, "high": self.high, "n": self.n}


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)  # of no values at all


@dataclass(frozen=True)
class Verdict:
    """Whether a run supports a claim, by a rule that was fixed before the run.

    Attributes:
        claim: the claim.
        verdict: `holds`, `fails`, or `open` where the run does not decide.
        rule: the rule, in words.
        reason: what was found, in the terms of the rule.
        effect: what `effect_value` is.
        effect_value, interval: the effect and its 95% interval; None where it is not defined.
        n: independent members behind it.
        details: one entry per part of the claim.
        of: what n counts.
    """

    claim: str
    verdict: Outcome
    rule: str
    reason: str
    effect: str
    effect_value: float | None
    interval: tuple[float, float] | None
    n: int
    details: list[dict[str, Any]] = field(default_factory=list)
    of: str = "trees"

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


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


def gap_closed(initial: Array, final: Array, ceiling: Array, among: int = 1) -> Estimate:
    """(final - initial) / (ceiling - initial), a ratio of means over members.

    The interval is the percentile bootstrap's over members, which are drawn together with their
    initial value and ceiling. Not defined (NaN) where the mean initial value is not below the mean
    ceiling.

    Args:
        initial, final, ceiling: one value per member.
        among: how many intervals are to hold all at once, as in `mean_interval`.

    Example:
        >>> zero = np.zeros(8)
        >>> print(gap_closed(zero, zero + 0.5, zero + 1))
        0.50 [0.50, 0.50]
    """
    n, room, gain = len(initial), ceiling - initial, final - initial
    if not room.mean() > 0:
        return NOTHING._replace(n=n)

    def ratio(picks: NDArray[np.intp]) -> Array:
        mean_room = room[picks].mean(1)
        found: Array = gain[picks].mean(1) / np.where(mean_room > 0, mean_room, np.nan)
        return found

    return bootstrap(ratio, n, among=among)


def verdict_of(
    claim: str, outcome: Any, rule: str, reason: str, effect: str, found: Estimate,
    details: Iterable[Mapping[str, Any]], of: str = "trees",
) -> Verdict:  # fmt: skip
    """A verdict whose effect is an estimate; numbers that are not finite become None."""
    return Verdict(
        claim=claim,
        verdict=outcome,
        rule=rule,
        reason=reason,
        effect=effect,
        effect_value=found.value if np.isfinite(found.value) else None,
        interval=(found.low, found.high) if np.isfinite(found.low) else None,
        n=found.n,
        details=[finite(detail) for detail in details],
        of=of,
    )


def finite(detail: Mapping[str, Any]) -> dict[str, Any]:
    """A detail of a verdict with None for numbers that are not finite, which JSON does not have.

    Example:
        >>> finite({"variant": "a", "gap": float("nan"), "n": 12})
        {'variant': 'a', 'gap': None, 'n': 12}
    """
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in detail.items()
    }


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
    as more trees, and what is paired tree by tree stays paired.
    """
    if "seed" not in table or table["seed"].nunique() < 2:
        return table
    at = {seed: number for number, seed in enumerate(dict.fromkeys(table["seed"]))}
    size = int(table["member"].max()) + 1
    return table.assign(member=table["member"] + table["seed"].map(at).astype(int) * size)
