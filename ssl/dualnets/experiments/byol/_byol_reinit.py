"""What frequent redraws of BYOL's predictor cost: two rules of `byol_reinit`, and its short table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from dualnets.experiments.byol import _verdicts
from dualnets.experiments.byol.byol_reinit import ENOUGH, NEVER
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, too_few
from dualnets.lab.time_to_threshold import half_gap_times, later, median_time, time_in_words
from dualnets.lab.variants import by_variant, variant_stats


def delay(table: pd.DataFrame, *, reference: str, others: Sequence[str]) -> Judgement:
    """Apply the rule on times to emerge; the effect is the smallest median ratio to the reference's time."""
    effect = (
        "time to emerge over that without redraws, median over trees, the variant with the smallest"
    )
    rows_of = by_variant(table)
    missing = [name for name in (reference, *others) if name not in rows_of]
    if missing:
        return Judgement("open", f"not run: {', '.join(missing)}", effect, NOTHING, [])
    times = {name: half_gap_times(rows_of[name]) for name in (reference, *others)}
    usual, last = times[reference], int(table["step"].max())
    details, ratios = [], []
    for name in others:
        # of two that are censored nothing is known but that neither is shown to be later
        both = np.isinf(times[name]) & np.isinf(usual)
        ratio = median_time(
            np.where(both, 1.0, times[name] / np.where(both, 1.0, usual)), len(others)
        )
        ratios.append(ratio)
        details.append(
            {"variant": name, "time": time_in_words(median_time(times[name]), last),
             "never reached": int(np.isinf(times[name]).sum()), **ratio.detail("ratio"),
             "p_later": later(times[name], usual, len(others)),
             "p_earlier": later(usual, times[name], len(others))}
        )  # fmt: skip
    smallest = min(ratios, key=lambda ratio: ratio.value)
    outcome: Outcome = "open"
    if few := too_few(len(usual)):
        return Judgement("open", few, effect, smallest, details)
    if any(d["p_earlier"] < SIGNIFICANCE for d in details):
        outcome = "fails"
    elif all(d["p_later"] < SIGNIFICANCE for d in details):
        outcome = "holds"
    words = [f"{d['variant']} {d['time']}" for d in details]
    reason = f"median updates: {time_in_words(median_time(usual), last)} without redraws, "
    return Judgement(outcome, reason + ", ".join(words), effect, smallest, details)


def nothing_learned(table: pd.DataFrame, *, reference: str, name: str) -> Judgement:
    """Apply the rule on a predictor that is always fresh; the effect is the gap closed with it."""
    effect = f"gap closed with {name}"
    rows_of = by_variant(table)
    missing = [each for each in (reference, name) if each not in rows_of]
    if missing:
        return Judgement("open", f"not run: {', '.join(missing)}", effect, NOTHING, [])
    found = {each: variant_stats(rows_of[each]) for each in (reference, name)}
    gap, usual = found[name].gap, found[reference].gap
    details = [
        {"variant": each, **own.gap.detail("gap_closed"), "spread": float(own.spread.mean())}
        for each, own in found.items()
    ]
    reason = f"gap closed {gap}, without redraws {usual}"
    outcome: Outcome = "open"
    if few := too_few(gap.n):
        reason = few
    elif gap.low > NEGLIGIBLE:
        outcome = "fails"
    elif gap.high < NEGLIGIBLE and usual.low > ENOUGH:
        outcome = "holds"
    return Judgement(outcome, reason, effect, gap, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """As of all BYOL experiments, with the period of redraws in units of the run's own time to emerge."""
    made = _verdicts.summary_table(table)
    rows_of = by_variant(table)
    times = {name: median_time(half_gap_times(rows)) for name, rows in rows_of.items()}
    unit = times.get(NEVER, Estimate(np.nan, np.nan, np.nan, 0)).value
    last = int(table["step"].max())
    made.insert(1, "T / time to emerge", [
        f"{rows['redraw_every'].iloc[0] / unit:.2g}" if rows["redraw_every"].iloc[0] else "–"
        for rows in rows_of.values()
    ])  # fmt: skip
    made.insert(2, "updates to emerge", [time_in_words(times[name], last) for name in rows_of])
    return made
