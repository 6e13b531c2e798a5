"""When half of the gap is closed for good: the rule `sooner` of `_byol.py` applied, and tables with times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dualnets.experiments.byol import _verdicts
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Judgement, Outcome
from dualnets.lab.time_to_threshold import (
    half_gap_times,
    later,
    median_ratio,
    median_time,
    time_in_words,
)
from dualnets.lab.variants import at_once, by_variant


def sooner(table: pd.DataFrame, *, reference: str, others: Sequence[str]) -> Judgement:
    """Apply `_byol.sooner`; the effect is the smallest median ratio of a time to the reference's."""
    effect = (
        "smallest ratio of a time to that of the reference, median over trees (never: all updates)"
    )
    effect += at_once(len(others))
    rows_of, names = by_variant(table), (reference, *others)
    times = {n: half_gap_times(rows_of[n], for_good=True) for n in names if n in rows_of}
    few = _verdicts.undecidable(times, names, min(map(len, times.values()), default=0))
    if len(times) < len(names):
        return Judgement("open", few, effect, NOTHING, [])
    last, first = int(table["step"].max()), times[reference]
    details: list[dict[str, Any]] = []
    ratios = []
    for name, own in times.items():
        ratios.append(median_ratio(own, first, last, len(others)))
        details.append(
            {"variant": name, "time": time_in_words(median_time(own), last),
             "reached": int(np.isfinite(own).sum()), **ratios[-1].detail("ratio"),
             "p_later": later(own, first, len(others)), "p_sooner": later(first, own, len(others))}
        )  # fmt: skip
    compared = details[1:]
    outcome: Outcome = "open"
    if few:
        reason = few
    elif earlier := [d["variant"] for d in compared if d["p_sooner"] < SIGNIFICANCE]:
        outcome, reason = "fails", f"sooner than `{reference}`: {_verdicts.quoted(earlier)}"
    elif unclear := [d["variant"] for d in compared if not d["p_later"] < SIGNIFICANCE]:
        reason = f"not shown to be later than `{reference}`: {_verdicts.quoted(unclear)}"
    else:
        got = ", ".join(f"`{d['variant']}` in {d['reached']}" for d in compared if d["reached"])
        rest = f"{got or 'none'} of {len(first)} trees got there at all"
        outcome, reason = "holds", f"`{reference}` after {details[0]['time']} updates; {rest}"
    smallest = min(ratios[1:], key=lambda ratio: ratio.value)
    return Judgement(outcome, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame, *, redraws: str = "") -> pd.DataFrame:
    """As of all BYOL experiments, with the median time to half of the gap and in how many trees it came.

    Args:
        table: of a run.
        redraws: the variant whose time is the unit of `redraw_every`, which is then shown, too.
    """
    made, rows_of = _verdicts.summary_table(table), by_variant(table)
    times = {name: half_gap_times(rows, for_good=True) for name, rows in rows_of.items()}
    last = int(table["step"].max())
    words = [time_in_words(median_time(own), last) for own in times.values()]
    made.insert(1, "half of the gap at", words)
    made.insert(2, "trees", [f"{np.isfinite(t).sum()} of {len(t)}" for t in times.values()])
    if redraws in times:
        unit = median_time(times[redraws]).value
        periods = [rows["redraw_every"].iloc[0] / unit for rows in rows_of.values()]
        made.insert(1, "T / time to emerge", [f"{own:.2g}" if own else "–" for own in periods])
    made.attrs["caption"] += (
        "; half of the gap: median over trees of the updates from which on a tree keeps it closed, with "
        "the 95% interval of order statistics; > T: not after T updates"
    )
    return made
