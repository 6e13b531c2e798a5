"""How soon BYOL learns with each normalisation, and whether it does at all: rules of `byol_normalisation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dualnets.experiments.byol import _verdicts
from dualnets.lab.rules import NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Estimate, Judgement, Outcome, too_few
from dualnets.lab.time_to_threshold import half_gap_times, later, median_time, time_in_words
from dualnets.lab.variants import GAP, INTERVALS, at_once, by_variant, variant_stats


def sooner(table: pd.DataFrame, *, reference: str, others: Sequence[str]) -> Judgement:
    """Apply the rule on times; the effect is the smallest median ratio of a time to the reference's.

    Ratios count a censored time at the last update, so that they are lower bounds where the other time is
    known.
    """
    effect = "time to half of the gap over that of the reference, median over trees, the smallest"
    effect += f"{at_once(len(others))}; a lower bound, as a time that is not reached counts as all updates"
    rows_of = by_variant(table)
    if missing := [name for name in (reference, *others) if name not in rows_of]:
        reason = f"not run, or run in several ways: {', '.join(missing)}"
        return Judgement("open", reason, effect, NOTHING, [])
    times, last = (
        {name: half_gap_times(rows_of[name]) for name in (reference, *others)},
        int(table["step"].max()),
    )
    first = times[reference]
    details, ratios = [], []
    for name, own in times.items():
        detail: dict[str, Any] = {"variant": name, **_shown(own, last), "n": len(own)}
        if name != reference:
            ratios.append(median_time(np.minimum(own, last) / np.minimum(first, last), len(others)))
            detail |= {
                **ratios[-1].detail("ratio"),
                "p_later": later(own, first, len(others)),
                "p_sooner": later(first, own, len(others)),
            }
        details.append(detail)
    compared = details[1:]
    earlier = [d["variant"] for d in compared if d["p_sooner"] < SIGNIFICANCE]
    unclear = [d["variant"] for d in compared if not d["p_later"] < SIGNIFICANCE]
    outcome: Outcome = "open"
    if reason := too_few(len(first)):
        pass
    elif earlier:
        outcome, reason = "fails", f"sooner than {reference}: {', '.join(earlier)}"
    elif unclear:
        reason = f"not shown to be later than {reference}: {', '.join(unclear)}"
    else:
        outcome = "holds"
        reason = (
            f"{reference} after {details[0]['half_of_the_gap_at']} updates, {_counts(compared)}"
        )
    return Judgement(outcome, reason, effect, min(ratios, key=lambda each: each.value), details)


def _shown(times: Array, last: int) -> dict[str, Any]:
    """The median time in words, and in how many trees half of the gap was reached."""
    shown = time_in_words(median_time(times), last)
    return {"half_of_the_gap_at": shown, "reached": int(np.isfinite(times).sum())}


def _counts(details: Sequence[dict[str, Any]]) -> str:
    """In how many trees the others reached half of their gap at all."""
    parts = [f"{d['variant']} in {d['reached']}" for d in details if d["reached"]]
    if not parts:
        return "the others in no tree"
    rest = ", the rest in none" if len(parts) < len(details) else ""
    return f"later or never the others ({', '.join(parts)} of {details[0]['n']} trees{rest})"


def none_learns(table: pd.DataFrame, *, names: Sequence[str]) -> Judgement:
    """Apply the rule that BYOL learns with none of some variants; the effect is the largest gap closed."""
    effect = f"largest gap closed with a norm over one sample{at_once(len(names))}"
    chosen = table[table["variant"].isin(names)]
    statuses = _verdicts.collapse_status(chosen)
    if missing := [name for name in names if name not in statuses]:
        reason = f"not run, or run in several ways: {', '.join(missing)}"
        return Judgement("open", reason, effect, NOTHING, [])
    gaps = {name: statuses[name].found.gap_among(len(names)) for name in names}
    details = [
        {"variant": name, "status": statuses[name].word, **gaps[name].detail("gap_closed"),
         "spread": float(np.nanmean(statuses[name].found.spread))}
        for name in names
    ]  # fmt: skip
    working = [name for name in names if statuses[name].word == "works"]
    nothing = [n for n in names if statuses[n].word == "collapses" and gaps[n].high < NEGLIGIBLE]
    outcome: Outcome = "open"
    if reason := too_few(min(gap.n for gap in gaps.values())):
        pass
    elif working:
        outcome = "fails"
        reason = f"works with {', '.join(f'{name} (gap closed {gaps[name]})' for name in working)}"
    elif len(nothing) == len(names):
        outcome, reason = "holds", f"nothing is learned with any of {len(names)}"
    else:
        reason = f"not decided: {', '.join(n for n in names if n not in nothing)}"
    return Judgement(outcome, reason, effect, max(gaps.values(), key=lambda g: g.value), details)


def ends_unless_one_works(table: pd.DataFrame, *, names: Sequence[str]) -> dict[str, Estimate]:
    """What must be flat before BYOL is said to learn with none of some variants; nothing if it does.

    That it learns is seen while a curve still rises; that it never will takes curves that are flat.
    """
    statuses = _verdicts.collapse_status(table[table["variant"].isin(names)])
    if any(status.word == "works" for status in statuses.values()):
        return {}
    return _verdicts.ends(table, names=names)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: updates to half of the gap, trees that got there, gap, spread, status, n."""
    found = []
    statuses = _verdicts.collapse_status(table)
    for name, rows in by_variant(table).items():
        shown = _shown(half_gap_times(rows), int(rows["step"].max()))
        upper = variant_stats(rows)
        columns = upper.collapse_columns
        n = columns.pop("n")
        found.append(
            {
                "variant": name,
                "half of the gap at": shown["half_of_the_gap_at"],
                "trees": f"{shown['reached']} of {n}",
                GAP: str(upper.gap),
                **columns,
                "status": statuses[name].word,
                "n": n,
            }
        )
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        f"{INTERVALS}; half of the gap: median over trees of the updates until a tree has closed half of its "
        "own gap, with the 95% interval of order statistics; > T: not reached in T updates"
    )
    return made
