"""The experiment on samples: how much alignment fixed sets lack, the samples for half, the rule applied."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import (
    NOTHING,
    Array,
    Estimate,
    Judgement,
    Outcome,
    exceeds,
    mean_interval,
    too_few,
)
from dualnets.lab.time_to_threshold import time_to_threshold
from dualnets.lab.variants import INTERVALS, at_once, by_variant, variant_stats


class Learned(NamedTuple):
    """The cells of one method.

    Attributes:
        samples: the fixed sets' sizes, growing.
        fixed: the rows of each.
        fresh: the rows of fresh data; None where it was not run.
    """

    samples: list[int]
    fixed: list[pd.DataFrame]
    fresh: pd.DataFrame | None

    def gains(self, level: int) -> tuple[Array, Array]:
        """`(S, X)` growth with the fixed sets, `(S,)` with fresh data, of a level's latents."""
        assert self.fresh is not None
        cells = (*self.fixed, self.fresh)
        grown = np.stack([variant_stats(rows, [level]).gain for rows in cells], axis=1)
        return grown[:, :-1], grown[:, -1]

    def lacks(self, level: int) -> Array:
        """`(S,)` share of the mean growth with fresh data that is lacking, averaged over set sizes."""
        fixed, fresh = self.gains(level)
        lacking: Array = (fresh[:, None] - fixed).mean(1) / fresh.mean()
        return lacking

    def enough(self, level: int) -> Estimate:
        """Samples with which a level's latents grow half as much as with fresh ones."""
        fixed, fresh = self.gains(level)
        if not fresh.mean() > 0:
            return NOTHING._replace(n=len(fresh))
        return time_to_threshold(self.samples, fixed, fresh / 2)

    def half(self, level: int) -> str:
        """The result of `enough` as text."""
        low, high = self.samples[0], self.samples[-1]

        def text(size: float) -> str:
            if np.isnan(size):
                return "-"
            return f"<={low}" if size <= low else f">{high}" if np.isinf(size) else f"{size:.0f}"

        value, *ends = map(text, self.enough(level)[:3])
        return f"{value} [{', '.join(ends)}]"


def judge(table: pd.DataFrame) -> Judgement:
    """Apply the rule; the effect is the smallest lead, of all methods, in what the root lacks.

    Details also hold, by method and level, the samples that make half of the growth with fresh ones,
    None where they are more than the largest set; the smallest set stands for all that are smaller.
    """
    top = int(table["level"].max())
    low = min(2, top - 1)
    details: list[dict[str, Any]] = []
    leads: dict[str, Estimate] = {}
    more, less, not_grown = [], [], []
    methods = by_method(table)
    tests = len(methods)
    for name, found in methods.items():
        if found.fresh is None or not found.samples:
            continue
        lead = found.lacks(top) - found.lacks(low)
        leads[name] = mean_interval(lead, tests)
        p_more, p_less = exceeds(lead, 0.0, tests), exceeds(-lead, 0.0, tests)
        p_fresh = max(exceeds(found.gains(level)[1], 0.0, tests) for level in (low, top))
        more += [name] if p_more < SIGNIFICANCE else []
        less += [name] if p_less < SIGNIFICANCE else []
        not_grown += [] if p_fresh < SIGNIFICANCE else [name]
        details.append(
            {"variant": name, "root_lacks": float(found.lacks(top).mean()),
             f"level_{low}_lacks": float(found.lacks(low).mean()), "p_more": p_more, "p_less": p_less,
             "p_fresh": p_fresh, **leads[name].detail("lead")}
        )  # fmt: skip
        for level in range(1, top + 1):
            half = found.enough(level)
            details.append(
                {"variant": name, "level": level, "samples_for_half": half.value, "at_least":
                 half.low, "at_most": half.high, "n": half.n}
            )  # fmt: skip
    effect = (
        f"what the root lacks for want of samples less what level {low} lacks, smallest of methods"
        + at_once(tests)
    )
    if len(leads) < tests or not leads:
        reason = "fixed and fresh samples were not both run"
        return Judgement("open", reason, effect, NOTHING, details)
    smallest = min(leads.values(), key=lambda lead: lead.value)
    outcome: Outcome = "open"
    reason = f"the root lacks more with {', '.join(more) or 'no method'}"
    if less:
        reason += f", less with {', '.join(less)}"
    if few := too_few(min(lead.n for lead in leads.values())):
        reason = few
    elif not_grown:
        reason = f"fresh samples do not make both emerge with {', '.join(not_grown)}"
    elif len(more) == tests:
        outcome = "holds"
    elif less and not more:
        outcome = "fails"
    return Judgement(outcome, reason, effect, smallest, details)


def by_method(table: pd.DataFrame) -> dict[str, Learned]:
    """Method -> its cells, the trees of all seeds together."""
    cells: dict[str, dict[int, pd.DataFrame]] = {}
    for size in sorted(set(table["samples"])):
        for name, rows in by_variant(table[table["samples"] == size]).items():
            cells.setdefault(name, {})[int(size)] = rows
    return {
        name: Learned([p for p in own if p], [own[p] for p in own if p], own.get(0))
        for name, own in cells.items()
    }


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method and set: gap closed by level, spread, rank, n; below, the samples for half.

    Half is half of what fresh samples give; `<=` stands before the smallest set, `>` before the largest.
    """
    top = int(table["level"].max())
    shown = {level: "root" if level == top else f"level {level}" for level in {min(2, top), top}}
    found = []
    for name, learned in by_method(table).items():
        cells = {str(size): rows for size, rows in zip(learned.samples, learned.fixed, strict=True)}
        if learned.fresh is not None:
            cells["fresh"] = learned.fresh
        for size, rows in cells.items():
            gaps = {level: variant_stats(rows, [level]).gap for level in shown}
            found.append(
                {
                    "variant": name,
                    "samples": size,
                    **{f"gap closed, {of}": str(gaps[level]) for level, of in shown.items()},
                    **variant_stats(rows).collapse_columns,
                }
            )
        if learned.fresh is not None and learned.samples:
            halves = {f"gap closed, {of}": learned.half(level) for level, of in shown.items()}
            blank = {"samples": "half at", "spread": "", "rank": ""}
            found.append(found[-1] | blank | halves)
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "half at: samples that make half of the growth with fresh ones (<=: the smallest set is enough, "
        "so fewer may be)\n" + INTERVALS
    )
    return made
