"""How fast the latents emerge with each method, and the rule that they do with all."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from dualnets.lab import variants
from dualnets.lab.plateau import upper_levels
from dualnets.lab.stats import Estimate, Judgement
from dualnets.lab.time_to_threshold import half_gap_times, median_time, time_in_words
from dualnets.lab.variants import all_emerge, by_variant, variant_stats


def judge(
    table: pd.DataFrame, *, plural: str, excluded: Collection[str], only: Collection[str]
) -> Judgement:
    """Apply `dualnets.lab.rules.all_emerge` to some methods.

    Details also hold their gaps by level and a tree's updates to half of its own.

    Args:
        table: of a run.
        plural: what the methods are.
        excluded: methods that the claim is not about.
        only: the methods that it is about; all but those excluded where there are none.
    """
    table = _chosen(table, excluded, only)
    found = all_emerge(table, plural=plural)
    for name, rows in by_variant(table).items():
        for level in sorted(int(level) for level in rows["level"].unique()):
            gap = variant_stats(rows, [level]).gap.detail("gap_closed")
            time = _half_gap(rows, [level])
            found.details.append(
                {"variant": name, "level": level, **gap, "half_of_the_gap_at": time}
            )
    return found


def gaps(
    table: pd.DataFrame, *, excluded: Collection[str], only: Collection[str]
) -> dict[str, Estimate]:
    """Gap closed with the methods that a claim is about, as in `judge`: what must be flat."""
    return upper_levels(_chosen(table, excluded, only))


def _chosen(table: pd.DataFrame, excluded: Collection[str], only: Collection[str]) -> pd.DataFrame:
    variant = table["variant"]
    return table[variant.isin(list(only)) if only else ~variant.isin(list(excluded))]


def _half_gap(rows: pd.DataFrame, levels: list[int] | None = None) -> str:
    """Updates to half of the gap, the median of trees with its interval."""
    return time_in_words(median_time(half_gap_times(rows, levels)), rows["step"].max())


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: that of `dualnets.lab.variants.summary_table`, and updates to half of the gap."""
    made = variants.summary_table(table)
    made.insert(5, "half gap at", [_half_gap(rows) for rows in by_variant(table).values()])
    return made
