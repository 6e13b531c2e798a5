"""Which variants of BYOL work, collapse, or do neither; and the two rules of `_byol.py` applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from dualnets.experiments.byol._byol import KEPT
from dualnets.lab import variants
from dualnets.lab.rules import COLLAPSED, SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    mean_interval,
    too_few,
)
from dualnets.lab.variants import VariantStats, at_once, contrast, variant_stats


class CollapseStatus(NamedTuple):
    """Whether a variant works or collapses.

    Attributes:
        found: its numbers.
        p_grown: P that alignment did not grow.
        p_spread, p_collapsed: P that the spread is not above, not below COLLAPSED.

    All P are after Bonferroni over the variants of the table.
    """

    found: VariantStats
    p_grown: float
    p_spread: float
    p_collapsed: float

    @property
    def word(self) -> Literal["works", "collapses", "neither"]:
        """`works`, `collapses`, or `neither` where neither is shown."""
        if max(self.p_grown, self.p_spread) < SIGNIFICANCE:
            return "works"
        return "collapses" if self.p_collapsed < SIGNIFICANCE else "neither"

    @property
    def gain(self) -> np.ndarray:
        """`(S,)` growth of the mean best |correlation|."""
        return self.found.gain


def collapse_status(table: pd.DataFrame) -> dict[str, CollapseStatus]:
    """Variant -> whether it works or collapses."""
    rows_of = variants.by_variant(table)
    tests = len(rows_of)
    made = {}
    for name, rows in rows_of.items():
        found = variant_stats(rows)
        spread = np.where(np.isfinite(found.spread), found.spread, 0.0)
        border = np.full_like(spread, COLLAPSED)
        above, below = exceeds(spread, border, tests), exceeds(border, spread, tests)
        made[name] = CollapseStatus(found, found.p_grown(tests), above, below)
    return made


def _details(statuses: Mapping[str, CollapseStatus]) -> dict[str, dict[str, Any]]:
    """Variant -> its entry in the details of a verdict."""
    made = {}
    for name, status in statuses.items():
        spread = mean_interval(status.found.spread)
        if not np.isfinite(status.found.spread).all():
            spread = NOTHING
        made[name] = {
            "variant": name,
            "status": status.word,
            "p_grown": status.p_grown,
            "p_spread": status.p_spread,
            "p_collapsed": status.p_collapsed,
            **status.found.gap.detail("gap_closed"),
            "spread": spread.value,
            "spread_low": spread.low,
            "spread_high": spread.high,
            "rank": float(status.found.rank.mean()),
            "n": len(status.gain),
        }
    return made


def _undecidable(statuses: Mapping[str, CollapseStatus], names: Sequence[str]) -> str:
    """Why a table cannot answer at all; empty if it can."""
    missing = [name for name in names if name not in statuses]
    if missing:
        return f"not run, or run in several ways: {', '.join(missing)}"
    return too_few(min(len(statuses[name].gain) for name in names))


def _outcome(refuted: Sequence[str], unclear: Sequence[str], confirmed: str) -> tuple[Outcome, str]:
    """The outcome of a rule and its reason, from what contradicts the claim and what is not decided."""
    if refuted:
        return "fails", "; ".join(refuted)
    if unclear:
        return "open", f"not decided: {', '.join(dict.fromkeys(unclear))}"
    return "holds", confirmed


def needed(table: pd.DataFrame, *, works: Sequence[str], short: Mapping[str, str]) -> Judgement:
    """Apply `_byol.needed`; the effect is the smallest lead of what works over what falls short."""
    statuses = collapse_status(_only(table, [*works, *short]))
    details = _details(statuses)
    effect = (
        "smallest lead of a variant that should work over one that should not, mean |correlation|"
    )
    effect += at_once(len(short))
    if reason := _undecidable(statuses, [*works, *short]):
        return Judgement("open", reason, effect, NOTHING, list(details.values()))
    leads = {
        name: contrast(statuses[ahead].found.value, statuses[name].found.value, len(short))
        for name, ahead in short.items()
    }
    word = {name: status.word for name, status in statuses.items()}
    refuted = [f"{name} collapses" for name in works if word[name] == "collapses"]
    refuted += [f"{name} works" for name in short if word[name] == "works"]
    unclear = [name for name in works if word[name] == "neither"]
    for name, lead in leads.items():
        details[name]["p_worse"] = lead.p_more
        unclear += [name] if word[name] == "neither" and not lead.p_more < SIGNIFICANCE else []
    confirmed = f"{len(works)} of {len(works)} work, {len(short)} of {len(short)} fall short"
    outcome, reason = _outcome(refuted, unclear, confirmed)
    smallest = min((lead.difference for lead in leads.values()), key=lambda each: each.value)
    return Judgement(outcome, reason, effect, smallest, list(details.values()))


def as_good(table: pd.DataFrame, *, reference: str, others: Sequence[str]) -> Judgement:
    """Apply `_byol.as_good`; the effect is the difference to the reference of the worst variant."""
    statuses = collapse_status(_only(table, [reference, *others]))
    details = _details(statuses)
    effect = f"mean |correlation| against that of {reference}"
    effect += f", the worst variant{at_once(len(others))}" if len(others) > 1 else ""
    if reason := _undecidable(statuses, [reference, *others]):
        return Judgement("open", reason, effect, NOTHING, list(details.values()))
    # a variant that changes the untrained network must not gain by a lower start
    start = statuses[reference].found.initial
    gain = {name: statuses[name].found.value - start for name in (reference, *others)}
    for name in others:
        test = contrast(gain[name], KEPT * gain[reference], len(others))
        details[name] |= {"p_as_good": test.p_more, "p_less": test.p_less}
    word = {name: details[name]["status"] for name in (reference, *others)}
    refuted = [f"{name} collapses" for name in word if word[name] == "collapses"]
    refuted += [f"{name} gains less" for name in others if details[name]["p_less"] < SIGNIFICANCE]
    unclear = [name for name in word if word[name] == "neither"]
    unclear += [name for name in others if not details[name]["p_as_good"] < SIGNIFICANCE]
    confirmed = f"{len(others)} of {len(others)} are as good as {reference}"
    outcome, reason = _outcome(refuted, unclear, confirmed)
    ahead = (mean_interval(gain[name] - gain[reference], len(others)) for name in others)
    worst = min(ahead, key=lambda each: each.value)
    return Judgement(outcome, reason, effect, worst, list(details.values()))


def ends(table: pd.DataFrame, *, names: Sequence[str]) -> dict[str, Estimate]:
    """Gap closed and spread at the last step of some variants: what must be flat, see `_byol.ends`."""
    found: dict[str, Estimate] = {}
    for name, rows in variants.by_variant(_only(table, names)).items():
        end = variant_stats(rows)
        found |= {f"{name}, gap": end.gap, f"{name}, spread": mean_interval(end.spread)}
    return found


def _only(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of the variants that a claim is about."""
    return table[table["variant"].isin(names)]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the root before and after, gap closed, spread, rank, status, n."""
    made = variants.summary_table(table)
    words = [status.word for status in collapse_status(table).values()]
    made.insert(len(made.columns) - 1, "status", words)
    return made
