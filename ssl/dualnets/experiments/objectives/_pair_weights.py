"""The rules of `pair_weights`: weights of samples against weights of views, and the intra-pair term."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from dualnets.experiments.objectives.pair_weights import LESS, MORE, SAMPLES, VIEWS
from dualnets.lab.plateau import upper_levels
from dualnets.lab.ratios import ratio_difference
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, too_few
from dualnets.lab.variants import by_variant, variant_stats


def gaps(table: pd.DataFrame, *, compared: Sequence[str]) -> dict[str, Estimate]:
    """Variant -> gap closed on the levels >= 2, and of those that are compared one's less the next's."""
    differences = {f"{a} less {b}": _difference(table, a, b) for a, b in pairwise(compared)}
    return upper_levels(table) | differences


def as_good(table: pd.DataFrame) -> Judgement:
    """Apply the rule of weights of samples and of views."""
    what = "difference of gap closed on levels >= 2, samples less views"
    found = _difference(table, SAMPLES, VIEWS)
    outcome: Outcome = "open"
    if reason := too_few(found.n):
        pass
    elif found.low > -NEGLIGIBLE and found.high < NEGLIGIBLE:
        outcome, reason = "holds", f"they close the same share of the gap, to {NEGLIGIBLE}"
    elif found.low > NEGLIGIBLE or found.high < -NEGLIGIBLE:
        more, less = (SAMPLES, VIEWS) if found.value > 0 else (VIEWS, SAMPLES)
        outcome, reason = "fails", f"{more} close more of the gap than {less}"
    else:
        reason = f"the difference is shown to be neither within ±{NEGLIGIBLE} nor outside"
    return Judgement(outcome, reason, what, found, [found.detail("difference")])


def attraction_helps(table: pd.DataFrame) -> Judgement:
    """Apply the rule of the intra-pair term; the effect is the smaller of the two differences."""
    pairs = ((MORE, SAMPLES), (SAMPLES, LESS))
    found = [_difference(table, more, less, len(pairs)) for more, less in pairs]
    outcome: Outcome = "open"
    if reason := too_few(min(each.n for each in found)):
        pass
    elif all(each.low > 0 for each in found):
        outcome, reason = (
            "holds",
            "more of the gap is closed with more attraction, and less with less",
        )
    elif all(each.high < 0 for each in found):
        outcome, reason = (
            "fails",
            "less of the gap is closed with more attraction, and more with less",
        )
    else:
        reason = "the two differences are not both shown to be on the same side of 0"
    details = [
        {"more": more, "less": less, **each.detail("difference")}
        for (more, less), each in zip(pairs, found, strict=True)
    ]
    smaller = min(found, key=lambda each: each.value)
    return Judgement(outcome, reason, "smaller difference of gap closed", smaller, details)


def _difference(table: pd.DataFrame, first: str, second: str, among: int = 1) -> Estimate:
    """Gap closed by one variant less that by another; of no trees where one was not run once."""
    variants = by_variant(table[table["variant"].isin((first, second))])
    if set(variants) != {first, second}:
        return NOTHING
    a, b = (variant_stats(variants[name]) for name in (first, second))
    gains = [(each.gain, each.ceiling - each.initial) for each in (a, b)]
    return ratio_difference(gains[0], gains[1], among)
