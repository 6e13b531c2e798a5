"""Evidence: intervals, exact paired tests, gap closed, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
LEVEL = 0.95
RESAMPLES = 10_000


class Estimate(NamedTuple):
    """A number, its 95% interval and how many independent values it comes from."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def brief(self) -> str:
        """The number and half of its interval, which lies evenly about it, as a mean's does.

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


NOTHING = Estimate(float("nan"), float("nan"), float("nan"), 0)  # of no values at all


@dataclass(frozen=True)
class Verdict:
    """What a run says of a claim, by a rule fixed before it.

    Attributes:
        claim: the claim.
        verdict: `holds`, `fails`, or `open` where the run cannot tell.
        rule: the rule, in words.
        reason: how the rule came out.
        effect: what `effect_value` is.
        effect_value, interval: the effect and its 95% interval; None where it is not defined.
        n: independent members behind it.
        of: what n counts.
        details: one entry per part of the claim.
    """

    claim: str
    verdict: Literal["holds", "fails", "open"]
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
        values: what is not finite is left out.
        among: how many intervals are to hold all at once with 95% (Bonferroni), as they must where one
            is picked for its value.

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


def exceeds(after: Array, before: Array) -> float:
    """P of Wilcoxon's exact signed-rank test, one-sided, that paired values grew.

    Pairs without a difference carry no sign and are left out; if nothing is left, or a value is
    not finite, the answer is 1.

    Example:
        >>> exceeds(np.arange(13) + 1.0, np.zeros(13))
        0.0001220703125
    """
    difference = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if not np.isfinite(difference).all():
        return 1.0
    difference = difference[difference != 0]
    if len(difference) == 0:
        return 1.0
    return float(stats.wilcoxon(difference, alternative="greater", method="exact").pvalue)


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
    n = len(initial)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, n, size=(RESAMPLES, n))
    room = ceiling - initial
    gain = final - initial
    if not room.mean() > 0:
        return Estimate(float("nan"), float("nan"), float("nan"), n)
    value = float(gain.mean() / room.mean())
    if n < 2:
        return Estimate(value, float("nan"), float("nan"), n)
    drawn = room[picks].mean(1)
    ratios = gain[picks].mean(1) / np.where(drawn > 0, drawn, np.nan)
    low, high = np.nanquantile(ratios, [_tail(among), 1 - _tail(among)])
    return Estimate(value, float(low), float(high), n)


def verdict_of(
    claim: str, outcome: Any, rule: str, reason: str, effect: str, found: Estimate,
    details: list[dict[str, Any]],
) -> Verdict:  # fmt: skip
    """A verdict whose effect is an estimate; numbers that are not finite are None."""
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
    )


def finite(detail: Mapping[str, Any]) -> dict[str, Any]:
    """A detail of a verdict whose numbers that are not finite are None, as JSON has it.

    Example:
        >>> finite({"variant": "a", "gap": float("nan"), "n": 12})
        {'variant': 'a', 'gap': None, 'n': 12}
    """
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in detail.items()
    }


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The same rows, the trees of every seed numbered on from those of the seed before.

    A seed is that of trees, weights and rows, so that trees of two seeds are different trees: they add
    up, and what is paired tree by tree stays so.
    """
    if "seed" not in table or table["seed"].nunique() < 2:
        return table
    at = {seed: number for number, seed in enumerate(dict.fromkeys(table["seed"]))}
    size = int(table["member"].max()) + 1
    return table.assign(member=table["member"] + table["seed"].map(at).astype(int) * size)
