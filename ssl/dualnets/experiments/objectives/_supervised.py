"""How labels compare with contrast whose views share what is labelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, exceeds, gap_closed, too_few
from dualnets.lab.variants import VariantStats, by_variant, of_root, variant_stats


def intermediate(rows: pd.DataFrame) -> VariantStats:
    """The numbers of the latents between the lowest level and the root; level 1 if there are none."""
    top = int(rows["level"].max())
    return variant_stats(rows, list(range(2, top)) or [1])


def judge(table: pd.DataFrame, *, pairs: Mapping[str, str], enough: float) -> Judgement:
    """Apply the rule; the effect is the smaller gain of labels, over contrast's, of all pairs.

    Args:
        table: of a run.
        pairs: variant that learns from labels -> the contrast whose views share what is labelled.
        enough: the share of contrast's gain that labels must exceed.
    """
    variants = by_variant(table)
    details: list[dict[str, Any]] = []
    ratios: list[Estimate] = []
    for name, opponent in pairs.items():
        if name not in variants or opponent not in variants:
            continue
        labels, contrast = intermediate(variants[name]), intermediate(variants[opponent])
        if not np.array_equal(labels.members, contrast.members):
            raise ValueError(f"{name} and {opponent} must be run on the same trees")
        zero = np.zeros_like(labels.value)
        bar = enough * contrast.gain
        p_grown, p_enough, p_short = (
            exceeds(a, b, len(pairs))
            for a, b in ((labels.gain, zero), (labels.gain, bar), (bar, labels.gain))
        )
        # a ratio of means, as a gap closed is: contrast's gain is the room
        ratios.append(gap_closed(zero, labels.gain, contrast.gain))
        details.append(
            {"variant": name, "against": opponent, "gain": float(labels.gain.mean()),
             "gain_of_contrast": float(contrast.gain.mean()), **ratios[-1].detail("ratio"),
             "p_grown": p_grown, "p_enough": p_enough, "p_short": p_short,
             "gap_closed": labels.gap.value, "gap_closed_of_contrast": contrast.gap.value,
             "spread": float(labels.spread.mean()), "n": labels.gap.n}
        )  # fmt: skip
    effect = "gain of intermediate latents by labels over that by contrast, the smaller of the two"
    if len(details) < len(pairs):
        reason = "labels of the root and of all latents, and contrast beside them, were not all run"
        return Judgement("open", reason, effect, NOTHING, details)

    def shown(test: str) -> list[str]:
        return [d["variant"] for d in details if d[test] < SIGNIFICANCE]

    grown, enough_gain, short = shown("p_grown"), shown("p_enough"), shown("p_short")
    outcome: Outcome = "open"
    if reason := too_few(min(ratio.n for ratio in ratios)):
        pass
    elif short:
        outcome = "fails"
        reason = f"less than {enough:g} times contrast's gain with {' and '.join(short)}"
    elif not grown:
        outcome, reason = "fails", "intermediate latents emerge with neither"
    elif len(grown) == len(enough_gain) == len(pairs):
        outcome, reason = "holds", f"more than {enough:g} times contrast's gain with both"
    else:
        reason = f"enough of contrast's gain with {' and '.join(enough_gain) or 'neither'}"
    smallest = min(ratios, key=lambda ratio: ratio.value)
    return Judgement(outcome, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: intermediate latents and the root, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        middle, root = intermediate(rows), of_root(rows)
        found.append(
            {
                "variant": name,
                "gap closed, between": str(middle.gap),
                "between before": middle.initial.mean(),
                "between": middle.value.mean(),
                "root": root.value.mean(),
                "spread": middle.spread.mean(),
                "rank": f"{middle.rank.mean():.1f}",
                "n": len(root.value),
            }
        )
    return pd.DataFrame(found)
