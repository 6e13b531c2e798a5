"""How fast the latents emerge with each method, and the rule that they do with all."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from dualnets.lab import variants
from dualnets.lab.stats import Judgement
from dualnets.lab.time_to_threshold import half_gap_times, median_time, time_in_words
from dualnets.lab.variants import all_emerge, by_variant, variant_stats


def judge(table: pd.DataFrame, *, plural: str, excluded: Collection[str] = ()) -> Judgement:
    """Apply `dualnets.lab.rules.all_emerge`, with details of gaps by level and of updates to half of them.

    Args:
        table: of a run.
        plural: what the methods are.
        excluded: methods that the claim is not about.
    """
    found = all_emerge(table, plural=plural, excluded=excluded)
    for name, rows in by_variant(table).items():
        for level in sorted(int(level) for level in rows["level"].unique()):
            gap = variant_stats(rows, [level]).gap.detail("gap_closed")
            time = _half_gap(rows, [level])
            found.details.append(
                {"variant": name, "level": level, **gap, "half_of_the_gap_at": time}
            )
    return found


def _half_gap(rows: pd.DataFrame, levels: list[int] | None = None) -> str:
    """Updates to half of the gap, the median of trees with its interval."""
    return time_in_words(median_time(half_gap_times(rows, levels)), rows["step"].max())


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: that of `dualnets.lab.variants.summary_table`, and updates to half of the gap."""
    made = variants.summary_table(table)
    made.insert(5, "half gap at", [_half_gap(rows) for rows in by_variant(table).values()])
    return made
