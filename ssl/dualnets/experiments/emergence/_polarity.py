"""How the time to half of the root's gap grows as the signal falls: the rule, and the short table."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.emergence._kesten_stigum import mean_square
from dualnets.lab import variants
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, bootstrap, too_few
from dualnets.lab.time_to_threshold import half_gap_times, median_time, time_in_words
from dualnets.lab.variants import by_variant

REACHED = 0.8  # of the trees: a median that as many reach stays known in resamples of the trees
FEWEST_UPDATES = 10  # before that a time counts whole updates, whatever the signal
FEWEST_SIGNALS = 4  # two in either half
# Of the exponent: the difference of the halves' exponents that is no power any more. From 1, what gradient
# flow has, to 2, what averaging over samples takes until a signal exceeds its noise, it would be 2/3.
BENT = 0.5


class VariantTimes(NamedTuple):
    """How long each tree takes with one variant.

    Attributes:
        variant: its name.
        signal: see `signal`.
        times: `(S,)` updates until half of the root's gap is closed; inf where it never is.
        last: updates of the training.
        members: `(S,)` the trees.
    """

    variant: str
    signal: float
    times: Array
    last: int
    members: Array

    @property
    def median(self) -> Estimate:
        """The median with its interval, trees that never get there counted as later than all others."""
        return median_time(self.times)

    @property
    def known(self) -> bool:
        """Whether so many trees get there that the median is known."""
        return bool(np.isfinite(self.times).mean() >= REACHED)

    @property
    def counts(self) -> bool:
        """Whether the median is part of the fit."""
        return self.known and self.median.value >= FEWEST_UPDATES


class Power(NamedTuple):
    """A power law of time, time ~ signal ** -exponent.

    Attributes:
        exponent: minus the slope of the least-squares line of log median time over log signal.
        factor: the time that the line gives at a signal of 1; NaN where the exponent is not finite.
        bend: the exponent of the weaker half of the signals minus that of the stronger half, as a share
            of the exponent; an odd number of signals shares its middle one between the halves.
    """

    exponent: Estimate
    factor: float
    bend: Estimate


def signal(rows: pd.DataFrame) -> float:
    """The correlation of a leaf with itself in two views that share the root: polarity ** (2 * depth).

    Of polarities that differ from edge to edge it is the mean over trees.
    """
    return float(mean_square(rows) ** int(rows["depth"].iloc[0]))


def times_of(table: pd.DataFrame) -> list[VariantTimes]:
    """The times of all variants, from the strongest signal to the weakest."""
    found = []
    for name, rows in by_variant(table).items():
        times = half_gap_times(rows, [int(rows["level"].max())])
        members = np.sort(rows["member"].unique())
        found.append(VariantTimes(name, signal(rows), times, int(rows["step"].max()), members))
    return sorted(found, key=lambda each: -each.signal)


def power_law(signals: Array, times: Array) -> Power:
    """Fit a power to median times; intervals are bootstrapped over trees, each with all its times.

    Args:
        signals: `(X,)` float64 in (0, 1], falling; four at least.
        times: `(X, S)` float64 above 0; inf where censored.

    Example:
        >>> signals = np.array([0.5, 0.25, 0.125, 0.0625])
        >>> found = power_law(signals, 3 * signals[:, None] ** -2 * np.ones(12))
        >>> print(found.exponent, round(found.factor, 2), round(abs(found.bend.value), 2))
        2.00 [2.00, 2.00] 3.0 0.0
    """
    x, y = -np.log(signals), np.log(times)
    half = (len(x) + 1) // 2

    def slope(medians: Array, part: slice) -> Array:
        """`(R,)` slopes of the signals of one part; inf where a median is not known."""
        here, apart = medians[part], x[part] - x[part].mean()
        known = np.isfinite(here).all(0)
        found: Array = apart @ np.where(known, here, 0.0) / (apart**2).sum()
        return np.where(known, found, np.inf)

    def whole(picks: Any) -> Array:
        return slope(np.median(y[:, picks], -1), slice(None))

    def bend(picks: Any) -> Array:
        medians = np.median(y[:, picks], -1)
        weak, strong = slope(medians, slice(-half, None)), slope(medians, slice(half))
        every = slope(medians, slice(None))
        known = np.isfinite(every)
        difference = np.where(known, weak, np.inf) - np.where(known, strong, 0.0)
        return difference / np.where(known, every, 1.0)

    # a quantile that is one of the values: no mean of a number and infinity
    exponent, bent = (bootstrap(of, times.shape[1], method="inverted_cdf") for of in (whole, bend))
    at_one = (
        np.median(y, 1).mean() - exponent.value * x.mean() if exponent.value < np.inf else np.nan
    )
    return Power(exponent, float(np.exp(at_one)), bent)


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the exponent."""
    found = times_of(table)
    fitted = [each for each in found if each.counts]
    details = [
        {"variant": each.variant, "signal": each.signal, **each.median.detail("median_updates"),
         "never": int(np.isinf(each.times).sum()), "fitted": each.counts}
        for each in found
    ]  # fmt: skip
    effect = "exponent of the median time to half of the root's gap in 1 / signal"
    n = min(len(each.times) for each in found)
    nothing = NOTHING._replace(n=n)
    if any(not np.array_equal(each.members, found[0].members) for each in found):
        reason = "settings on different trees cannot be compared tree by tree"
        return Judgement("open", reason, effect, nothing, details)
    if len({each.signal for each in fitted}) < FEWEST_SIGNALS:
        reason = f"{len(fitted)} signals with a known time are fewer than {FEWEST_SIGNALS}"
        reason = "; ".join(filter(None, (too_few(n), reason)))
        return Judgement("open", reason, effect, nothing, details)
    power = power_law(
        np.array([each.signal for each in fitted]), np.stack([each.times for each in fitted])
    )
    for detail in details:
        if detail["fitted"]:
            detail["power_law"] = power.factor * detail["signal"] ** -power.exponent.value
    details.append(
        {"variant": "exponents of the halves", **power.bend.detail("relative_difference")}
    )
    outcome: Outcome = "open"
    range_ = f"from {fitted[0].variant} to {fitted[-1].variant}"
    if reason := too_few(n):
        pass
    elif power.exponent.high <= 0:
        outcome, reason = "fails", "the time does not grow as the signal falls"
    elif power.bend.low > BENT or power.bend.high < -BENT:
        outcome = "fails"
        reason = f"{range_} the halves' exponents differ by {power.bend} of the exponent"
    elif unknown := [each.variant for each in found if not each.known]:
        reason = f"too few trees close half of the gap at {', '.join(unknown)}"
    elif power.exponent.low > 0 and power.bend.low > -BENT and power.bend.high < BENT:
        outcome = "holds"
        reason = f"{range_} one power; the halves' exponents differ by {power.bend} of it"
    elif power.exponent.low <= 0:
        reason = "the time is not shown to grow as the signal falls"
    else:
        reason = f"the halves' exponents differ by {power.bend} of the exponent: not shown to be one power"
    return Judgement(outcome, reason, effect, power.exponent, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per polarity, with the signal and the median time to half of the root's gap."""
    made = variants.summary_table(table)
    found = {each.variant: each for each in times_of(table)}
    own = [found[name] for name in made["variant"]]
    made.insert(1, "signal", [f"{each.signal:.4f}" for each in own])
    times = [time_in_words(each.median, each.last) for each in own]
    made.insert(5, "updates to half", times)
    made.attrs["caption"] += "; updates to half: of the root's gap, median over trees"
    return made
