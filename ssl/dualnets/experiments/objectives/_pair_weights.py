"""The rule of `pair_weights`: whether weights of samples do as well as weights of views."""

from __future__ import annotations

import pandas as pd

from dualnets.experiments.objectives.pair_weights import SAMPLES, VIEWS
from dualnets.lab.rules import NEGLIGIBLE
from dualnets.lab.stats import NOTHING, Judgement, Outcome, ratio_difference, too_few
from dualnets.lab.variants import by_variant, variant_stats


def as_good(table: pd.DataFrame) -> Judgement:
    """Apply the rule."""
    what = "difference of gap closed on levels >= 2"
    variants = by_variant(table[table["variant"].isin((SAMPLES, VIEWS))])
    if set(variants) != {SAMPLES, VIEWS}:
        return Judgement("open", f"{SAMPLES} and {VIEWS} were not both run", what, NOTHING, [])
    samples, views = (variant_stats(variants[name]) for name in (SAMPLES, VIEWS))
    found = ratio_difference(
        (samples.gain, samples.ceiling - samples.initial),
        (views.gain, views.ceiling - views.initial),
    )
    outcome: Outcome = "open"
    if reason := too_few(found.n):
        pass
    elif found.low > -NEGLIGIBLE and found.high < NEGLIGIBLE:
        outcome, reason = "holds", f"both close the same share of the gap to {NEGLIGIBLE}"
    elif found.low > NEGLIGIBLE or found.high < -NEGLIGIBLE:
        more, less = (SAMPLES, VIEWS) if found.value > 0 else (VIEWS, SAMPLES)
        outcome, reason = "fails", f"{more} close more of the gap than {less}"
    else:
        reason = f"the difference is not shown to be smaller or larger than {NEGLIGIBLE}"
    return Judgement(outcome, reason, what, found, [found.detail("difference")])
