"""How labels compare with contrast whose views share what is labelled."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dualnets.lab import variants
from dualnets.lab.ratios import gap_closed
from dualnets.lab.rules import SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Estimate, Judgement, Outcome, exceeds, too_few
from dualnets.lab.variants import VariantStats, by_variant, variant_stats


def intermediate(rows: pd.DataFrame) -> VariantStats:
    """The numbers of the latents between the lowest level and the root; level 1 if there are none."""
    top = int(rows["level"].max())
    return variant_stats(rows, list(range(2, top)) or [1])


def judge(table: pd.DataFrame, *, labels: str, contrast: str, enough: float) -> Judgement:
    """Apply the rule; the effect is the gain by labels over that by contrast.

    Args:
        table: of a run.
        labels: the variant that learns from labels.
        contrast: the variant whose views share what is labelled.
        enough: the share of contrast's gain that labels must exceed.
    """
    effect = f"gain of intermediate latents by {labels} over that by {contrast}"
    rows = by_variant(table)
    if not {labels, contrast} <= {*rows}:
        reason = f"{labels} and {contrast} were not both run"
        return Judgement("open", reason, effect, NOTHING, [])
    found, other = intermediate(rows[labels]), intermediate(rows[contrast])
    if not np.array_equal(found.members, other.members):
        raise ValueError(f"{labels} and {contrast} must be run on the same trees")
    zero, bar = np.zeros_like(found.value), enough * other.gain
    p_grown, p_enough = exceeds(found.gain, zero), exceeds(found.gain, bar)  # both must be small
    p_short, p_shrunk = exceeds(bar, found.gain, 2), exceeds(zero, found.gain, 2)  # one of the two
    # a ratio of means, as a gap closed is: contrast's gain is the room
    ratio = gap_closed(zero, found.gain, other.gain)
    details = [
        {"variant": name, "gain": float(each.gain.mean()), **each.gap.detail("gap_closed"),
         "spread": float(each.spread.mean())}
        for name, each in ((labels, found), (contrast, other))
    ]  # fmt: skip
    tests = {"p_grown": p_grown, "p_enough": p_enough, "p_short": p_short, "p_shrunk": p_shrunk}
    details.append({"variant": f"{labels} / {contrast}", **tests})
    outcome: Outcome = "open"
    if reason := too_few(ratio.n):
        pass
    elif p_short < SIGNIFICANCE:
        outcome, reason = "fails", f"less than {enough:g} times contrast's gain"
    elif p_shrunk < SIGNIFICANCE:
        outcome, reason = "fails", "intermediate latents lose alignment"
    elif max(p_grown, p_enough) < SIGNIFICANCE:
        outcome, reason = "holds", f"more than {enough:g} times contrast's gain"
    else:
        reason = f"neither more nor less than {enough:g} times contrast's gain"
    return Judgement(outcome, reason, effect, ratio, details)


def gaps(table: pd.DataFrame) -> dict[str, Estimate]:
    """Variant -> gap closed of intermediate latents: what must be flat."""
    return {name: intermediate(rows).gap for name, rows in by_variant(table).items()}


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per variant: that of `dualnets.lab.variants.summary_table`, and the intermediate latents."""
    made = variants.summary_table(table)
    closed = [str(intermediate(rows).gap) for rows in by_variant(table).values()]
    made.insert(1, "gap closed, between", closed)
    return made
