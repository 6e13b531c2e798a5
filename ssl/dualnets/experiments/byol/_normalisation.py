"""How soon BYOL learns with each normalisation, and whether it does at all: rules of `byol_normalisation`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.byol import _verdicts
from dualnets.lab.rules import COLLAPSED, NEGLIGIBLE, SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    mean_interval,
    too_few,
)
from dualnets.lab.time_to_threshold import half_gap_times, later, median_time, time_in_words
from dualnets.lab.variants import GAP, INTERVALS, at_once, by_variant, variant_stats


def sooner(table: pd.DataFrame, *, reference: str, others: Sequence[str]) -> Judgement:
    """Apply the rule on times; the effect is the smallest median ratio of a time to the reference's."""
    effect = "least ratio of a time to half of the gap to that of the reference, median over trees, a lower "
    effect += f"bound: a time that is not reached counts as all updates{at_once(len(others))}"
    rows_of = by_variant(table)
    if missing := [name for name in (reference, *others) if name not in rows_of]:
        reason = f"not run, or run in several ways: {', '.join(missing)}"
        return Judgement("open", reason, effect, NOTHING, [])
    times = {name: half_gap_times(rows_of[name]) for name in (reference, *others)}
    last = int(table["step"].max())
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


class End(NamedTuple):
    """What became of BYOL with one norm, with intervals that hold for all norms at once.

    Attributes:
        gap: gap closed.
        spread: of the embedding, one that is not finite counting as 0.
    """

    gap: Estimate
    spread: Estimate

    @property
    def word(self) -> Literal["learns", "nothing", "neither"]:
        """`learns`, `nothing` is learned, or `neither` where neither is shown."""
        if self.gap.low > NEGLIGIBLE and self.spread.low > COLLAPSED:
            return "learns"
        return "nothing" if self.gap.high < NEGLIGIBLE else "neither"


def _ends(table: pd.DataFrame, names: Sequence[str]) -> dict[str, End]:
    """Variant -> its end, of those that were run."""
    found = {}
    for name, rows in by_variant(table[table["variant"].isin(names)]).items():
        end = variant_stats(rows)
        spread = np.where(np.isfinite(end.spread), end.spread, 0.0)
        found[name] = End(end.gap_among(len(names)), mean_interval(spread, len(names)))
    return found


def none_learns(table: pd.DataFrame, *, names: Sequence[str]) -> Judgement:
    """Apply the rule that BYOL learns with none of some variants; the effect is the largest gap closed."""
    effect = f"largest gap closed with a norm over one sample{at_once(len(names))}"
    ends = _ends(table, names)
    if missing := [name for name in names if name not in ends]:
        reason = f"not run, or run in several ways: {', '.join(missing)}"
        return Judgement("open", reason, effect, NOTHING, [])
    words = {name: ends[name].word for name in names}
    details = [
        {"variant": name, "end": words[name], **ends[name].gap.detail("gap_closed"),
         "spread": ends[name].spread.value, "spread_low": ends[name].spread.low}
        for name in names
    ]  # fmt: skip
    learns = [f"{n} (gap closed {ends[n].gap})" for n in names if words[n] == "learns"]
    unclear = [name for name in names if words[name] == "neither"]
    outcome: Outcome = "open"
    if reason := too_few(min(end.gap.n for end in ends.values())):
        pass
    elif learns:
        outcome, reason = "fails", f"learns with {', '.join(learns)}"
    elif unclear:
        reason = f"not decided: {', '.join(unclear)}"
    else:
        outcome, reason = "holds", f"nothing is learned with any of {len(names)}"
    largest = max((end.gap for end in ends.values()), key=lambda gap: gap.value)
    return Judgement(outcome, reason, effect, largest, details)


def ends_unless_one_learns(table: pd.DataFrame, *, names: Sequence[str]) -> dict[str, Estimate]:
    """What must be flat before BYOL is said to learn with none of some variants; nothing if it does.

    That it learns is seen while a curve still rises; that it never will takes curves that are flat.
    """
    if any(end.word == "learns" for end in _ends(table, names).values()):
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
