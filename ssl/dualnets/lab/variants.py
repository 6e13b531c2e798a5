"""What a table of variants says: how each variant_stats, and one beside another on the same trees.

Alignment alone hides collapse, so the spread and the effective rank of what the loss compares are told
with it. Values are per tree; comparisons are paired tree by tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab.stats import (
    NOTHING,
    Estimate,
    Verdict,
    exceeds,
    gap_closed,
    mean_interval,
    pooled,
    verdict_of,
)
from hltm.probe.best_units import PRE

GAP = "gap closed ≥ 2"  # the column: of the latents of levels >= 2
SPREAD, RANK = "spread", "effective_rank"
RATIO = "best_correlation_ratio"  # of latents of any number of states; for two, the same as PRE
ALIGNMENT = (PRE, RATIO)
FEWEST_TREES = 12  # with fewer, the exact test has no room for a correction over variants
SIGNIFICANCE = 0.01


class VariantStats(NamedTuple):
    """How one variant variant_stats, one value per tree: `(S,)` float64 each.

    Attributes:
        initial, value, ceiling: means over the latents asked for, of the best |correlation|.
        spread, rank: of the embedding, at the end.
        members: the trees.
    """

    initial: np.ndarray
    value: np.ndarray
    ceiling: np.ndarray
    spread: np.ndarray
    rank: np.ndarray
    members: np.ndarray

    @property
    def gap(self) -> Estimate:
        """Gap closed, with its interval over trees."""
        return self.gap_among(1)

    def gap_among(self, count: int) -> Estimate:
        """Gap closed, with one of so many intervals that hold all at once."""
        return gap_closed(self.initial, self.value, self.ceiling, count)


def variant_stats(
    rows: pd.DataFrame, levels: Sequence[int] | None = None, step: int | None = None
) -> VariantStats:
    """The trees' numbers of one variant.

    Args:
        rows: of one cell.
        levels: whose latents; by default all >= 2, or the root's where the tree has one level.
        step: the last by default.
    """
    step = int(rows["step"].max()) if step is None else step
    now = rows[rows["step"] == step]
    scores = now[now["metric"].isin(ALIGNMENT)]
    if levels is None:
        levels = [level for level in scores["level"].unique() if level >= 2] or [1]
    kept = scores[scores["level"].isin(levels)]
    means = kept.groupby("member")[["initial", "value", "ceiling"]].mean()

    def collapse(name: str) -> np.ndarray:
        found = now[(now["metric"] == name) & (now["node"] == "embedding")]
        return found.set_index("member")["value"].reindex(means.index).to_numpy(np.float64)

    initial, value, ceiling = (
        means[name].to_numpy(np.float64) for name in ("initial", "value", "ceiling")
    )
    return VariantStats(
        initial, value, ceiling, collapse(SPREAD), collapse(RANK), means.index.to_numpy()
    )


def of_root(rows: pd.DataFrame) -> VariantStats:
    """The root's numbers of one variant."""
    return variant_stats(rows, [int(rows["level"].max())])


def by_variant(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Variant -> its rows, in order; the trees of all seeds together.

    Cells of one variant that differ in anything but their seed are named apart.
    """
    free = _free_settings(table)
    names = {}
    for _, first in table.drop_duplicates("cell").iterrows():
        extra = ", ".join(f"{name.replace('_', ' ')} {first[name]}" for name in free)
        names[first["cell"]] = f"{first['variant']} ({extra})" if extra else str(first["variant"])
    together = pooled(table).groupby(table["cell"].map(names), sort=False)
    return {str(name): rows for name, rows in together}


def _free_settings(table: pd.DataFrame) -> list[str]:
    """Settings that differ between cells of one variant."""
    names = table.columns[: list(table.columns).index("variant")]
    cells = table.drop_duplicates("cell")
    return [
        name
        for name in names
        if name not in ("experiment", "run", "cell", "seed")
        and (cells.groupby("variant", sort=False)[name].nunique() > 1).any()
    ]


class Contrast(NamedTuple):
    """One variant against another on the same trees.

    Attributes:
        difference: a - b, the mean over trees with its 95% interval.
        p_more, p_less: exact one-sided P (Wilcoxon's signed ranks) that a is no more, no less than b.
    """

    difference: Estimate
    p_more: float
    p_less: float


def contrast(a: np.ndarray, b: np.ndarray, among: int = 1) -> Contrast:
    """Compare two variants, one value per tree each, in the same order.

    Args:
        a, b: `(S,)` each.
        among: how many such intervals are to hold all at once.

    Example:
        >>> found = contrast(np.arange(10) + 1.0, np.zeros(10))
        >>> found.difference.value, found.p_more < 0.01, found.p_less
        (5.5, True, 1.0)
    """
    return Contrast(mean_interval(a - b, among), exceeds(a, b), exceeds(b, a))


# what "none" takes: that a test does not show growth is no evidence that there is none
NEGLIGIBLE = 0.1
NOT_SHOWN = (
    f"Where latents do not emerge by this test, they are said not to only if the gap closed is below "
    f"{NEGLIGIBLE} with its whole 95% interval (all variants' at once, Bonferroni); otherwise it is open."
)


def emerges_everywhere(
    table: pd.DataFrame, claim: str, rule: str, what: str, *, only: Sequence[str] | None = None
) -> Verdict:
    """The verdict of a rule that asks each variant whether its latents emerge.

    A variant's latents emerge if, over trees, the mean best |correlation| of the levels >= 2 grows
    (exact one-sided signed-rank test, p < SIGNIFICANCE after Bonferroni over variants). It holds if
    they do in all, and fails if in none, each of which is shown to stay below NEGLIGIBLE.

    Args:
        table: of a run.
        claim, rule: in words; NOT_SHOWN is added to the rule.
        what: what the variants are, in the plural.
        only: the variants that the claim is about; all by default.
    """
    rule = f"{rule} {NOT_SHOWN}"
    variants = by_variant(table if only is None else table[table["variant"].isin(only)])
    if not variants:
        return verdict_of(claim, "open", rule, f"none of the {what} was run", "", NOTHING, [])
    details: list[dict[str, Any]] = []
    gaps = []
    for name, rows in variants.items():
        found = variant_stats(rows)
        p = min(exceeds(found.value, found.initial) * len(variants), 1.0)
        gaps.append(found.gap_among(len(variants)))
        details.append(
            {"variant": name, "emerges": p < SIGNIFICANCE, "p_grown": p, "gap_closed":
             gaps[-1].value, "low": gaps[-1].low, "high": gaps[-1].high, "spread":
             float(found.spread.mean()), "n": gaps[-1].n}
        )  # fmt: skip
    emerged = [d["variant"] for d in details if d["emerges"]]
    not_emerged = [d["variant"] for d in details if not d["emerges"]]
    absent = [d["variant"] for d in details if not d["emerges"] and d["high"] < NEGLIGIBLE]
    fewest = min(gap.n for gap in gaps)
    if fewest < FEWEST_TREES:
        outcome, reason = "open", f"{fewest} trees are fewer than {FEWEST_TREES}"
    elif not not_emerged:
        outcome, reason = "holds", f"latents emerge with all {len(variants)} {what}"
    elif len(absent) == len(variants):
        outcome, reason = "fails", f"latents emerge with none of {len(variants)} {what}"
    elif not emerged:
        outcome, reason = "open", f"latents are shown to emerge with none of {len(variants)} {what}"
    else:
        outcome, reason = "open", f"latents do not emerge with {', '.join(not_emerged)}"
    smallest = min(gaps, key=lambda gap: gap.value)
    effect = f"smallest gap closed of all {what}{at_once(len(variants))}"
    return verdict_of(claim, outcome, rule, reason, effect, smallest, details)


def at_once(count: int) -> str:
    """What is said of an interval that is one of so many.

    Example:
        >>> at_once(9), at_once(1)
        (', intervals of all 9 at once', '')
    """
    return f", intervals of all {count} at once" if count > 1 else ""


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: the root before and after, its ceiling, gap closed, spread, rank, n.

    Root and spread have half of their 95% intervals over trees behind a `±`.
    """
    found = []
    for name, rows in by_variant(table).items():
        upper = variant_stats(rows)
        root = of_root(rows)
        found.append(
            {
                "variant": name,
                "before": root.initial.mean(),
                "root": mean_interval(root.value).brief,
                "ceiling": root.ceiling.mean(),
                GAP: str(upper.gap),
                "spread": spread_of(upper),
                "rank": f"{upper.rank.mean():.1f}",
                "n": len(root.value),
            }
        )
    made = pd.DataFrame(found)
    made.attrs["caption"] = INTERVALS
    return made


INTERVALS = "means over n trees; ± and [ ]: 95% intervals over trees"


def spread_of(found: VariantStats) -> str:
    """The spread with its interval; a dash where it is not finite for every tree."""
    return mean_interval(found.spread).brief if np.isfinite(found.spread).all() else "–"
