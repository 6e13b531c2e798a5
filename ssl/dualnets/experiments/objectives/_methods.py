"""How fast the latents emerge with each method, and the rule that they do with all."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd

from dualnets.lab.plateau import upper_levels
from dualnets.lab.stats import Estimate, Judgement
from dualnets.lab.time_to_threshold import time_to_threshold
from dualnets.lab.variants import GAP, all_emerge, by_variant, of_root, variant_stats


def half_time(rows: pd.DataFrame, levels: list[int] | None = None) -> Estimate:
    """Updates until half of the gap to the ceiling is closed, infinite where it never is.

    Args:
        rows: of one cell.
        levels: whose latents; by default those of `variant_stats`.
    """
    steps = sorted(rows["step"].unique())
    found = [variant_stats(rows, levels, step) for step in steps]
    half = (found[0].initial + found[0].ceiling) / 2
    # the untrained network is at 0 updates, which has no place on a log axis
    at = time_to_threshold(
        [step + 1 for step in steps], np.stack([each.value for each in found], 1), half
    )
    return Estimate(at.value - 1, at.low - 1, at.high - 1, at.n)


def judge(
    table: pd.DataFrame, *, plural: str, excluded: Collection[str], only: Collection[str]
) -> Judgement:
    """Apply `dualnets.lab.rules.all_emerge` to some methods.

    Details also hold their gaps by level and their updates to half of it, None where they are more than
    there were.

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
            gap, time = variant_stats(rows, [level]).gap, half_time(rows, [level])
            found.details.append(
                {"variant": name, "level": level, **gap.detail("gap_closed"),
                 "half_of_the_gap_at": time.value, "earliest": time.low, "latest": time.high}
            )  # fmt: skip
    return found


def gaps(
    table: pd.DataFrame, *, excluded: Collection[str], only: Collection[str]
) -> dict[str, Estimate]:
    """Gap closed with the methods that a claim is about, as in `judge`: what must be flat."""
    return upper_levels(_chosen(table, excluded, only))


def _chosen(table: pd.DataFrame, excluded: Collection[str], only: Collection[str]) -> pd.DataFrame:
    variant = table["variant"]
    return table[variant.isin(list(only)) if only else ~variant.isin(list(excluded))]


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: gap closed, root, updates to half of the gap, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        upper, root = variant_stats(rows), of_root(rows)
        time = half_time(rows).value
        found.append(
            {
                "variant": name,
                GAP: str(upper.gap),
                "before": root.initial.mean(),
                "root": root.value.mean(),
                "half gap at": f"{time:.0f}" if np.isfinite(time) else "-",
                "spread": upper.spread.mean(),
                "rank": f"{upper.rank.mean():.1f}",
                "n": len(upper.value),
            }
        )
    return pd.DataFrame(found)
