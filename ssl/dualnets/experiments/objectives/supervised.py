"""Do labels make intermediate latents emerge as contrast does?

A linear classifier on the outputs names the root's state, or the states of all latents; beside each
stands contrast whose views share just that: the root alone, or all latents. The same networks, trees,
batch, updates and optimiser; every variant has the learning rate that did best for it, of the same
four, on other trees. Intermediate latents are those between the lowest level and the root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.stats import NOTHING, Estimate, Verdict, exceeds, gap_closed, verdict_of
from dualnets.lab.variants import (
    FEWEST_TREES,
    SIGNIFICANCE,
    VariantStats,
    by_variant,
    of_root,
    variant_stats,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "CLAIM",
    "GRIDS",
    "REFERENCE",
    "RESULT_VERSION",
    "RULE",
    "SUMMARY",
    "Settings",
    "plot",
    "run_cell",
    "summary_table",
    "verdict",
]  # fmt: skip

SUMMARY = "do labels make intermediate latents emerge?"
CLAIM = "Labels make intermediate latents emerge as contrast does"
REFERENCE = "not in the paper: it asks what contrast and prediction of views do, without labels"
RESULT_VERSION = 1
# labels -> the contrast whose views share what is labelled
PAIRS = {"label of the root": "contrast, root shared",
         "labels of all latents": "contrast, all latents shared"}  # fmt: skip
ENOUGH = 0.5  # of contrast's gain: less is not "as contrast does", whatever it is
_COMMON: dict[str, Any] = {
    "depth": 4, "members": 12, "steps": 400, "batch": 64, "units": 10, "bias": True, "momentum": 0.9,
    "weight_decay": 4e-4, "snapshots": 8, "evaluation_samples": 4096, "lr": 0.3,
}  # fmt: skip
# Rates are the best of 0.01, 0.03, 0.1, 0.3 by gap closed on levels >= 2, with
# `hltm run supervised --seed 1000 --members 8 --steps 200 --lr 0.01 0.03 0.1 0.3`: label of the root
# .75 .80 .81 .82 · contrast, root shared .56 .68 .75 .80 · labels of all latents .40 .70 .74 .73 ·
# contrast, all latents shared .51 .58 .59 .63
_LABELS: dict[str, Any] = {
    "method": "supervised",
    "augment": "resample-leaves:0",
}  # nothing redrawn
_CONTRAST: dict[str, Any] = {"method": "simclr", "loss": "ntxent"}
_VARIANTS: dict[str, dict[str, Any]] = {
    "label of the root": {**_LABELS, "labels": "root"},
    "contrast, root shared": {**_CONTRAST, "augment": "keep-root"},
    "labels of all latents": {**_LABELS, "labels": "latents", "lr": 0.1},
    "contrast, all latents shared": {**_CONTRAST, "augment": "keep-level:1"},
}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(
        {**_COMMON, "depth": 3, "steps": 60, "snapshots": 5, "evaluation_samples": 2048}, _VARIANTS
    ),
    "default": grids(_COMMON, _VARIANTS),
    "paper": grids(
        {**_COMMON, "depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 16},
        _VARIANTS,
    ),
}
RULE = (
    "A tree's gain is how much the mean best |correlation| of its intermediate latents (levels 2 to one "
    "below the root) grew in training. For labels of the root, and of all latents, three exact "
    "one-sided signed-rank tests over trees (Wilcoxon), p < "
    f"{SIGNIFICANCE} after Bonferroni over the two: the gain is above 0; it is above {ENOUGH:g} "
    "times that of the contrast whose views share what is labelled; it is below it. Holds if for both "
    "the first two are so; fails if the third is so for one, or the first for none; open otherwise, or "
    f"with fewer than {FEWEST_TREES} trees."
)


def intermediate(rows: pd.DataFrame) -> VariantStats:
    """How the latents between the lowest level and the root fared; level 1 where there are none."""
    top = int(rows["level"].max())
    return variant_stats(rows, list(range(2, top)) or [1])


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smaller gain of labels, over contrast's, of the two pairs."""
    variants = by_variant(table)
    details: list[dict[str, Any]] = []
    ratios: list[Estimate] = []
    for name, opponent in PAIRS.items():
        if name not in variants or opponent not in variants:
            continue
        labels, contrast = intermediate(variants[name]), intermediate(variants[opponent])
        if not np.array_equal(labels.members, contrast.members):
            raise ValueError(f"{name} and {opponent} must be run on the same trees")
        zero = np.zeros_like(labels.value)
        gain, other = labels.value - labels.initial, contrast.value - contrast.initial
        p_grown, p_enough, p_short = (
            min(exceeds(a, b) * len(PAIRS), 1.0)
            for a, b in ((gain, zero), (gain, ENOUGH * other), (ENOUGH * other, gain))
        )
        # a ratio of means, as a gap closed is: contrast's gain is the room
        ratios.append(gap_closed(zero, gain, other))
        details.append(
            {"variant": name, "against": opponent, "gain": float(gain.mean()), "gain_of_contrast":
             float(other.mean()), "ratio": ratios[-1].value, "low": ratios[-1].low, "high":
             ratios[-1].high, "p_grown": p_grown, "p_enough": p_enough, "p_short": p_short,
             "gap_closed": labels.gap.value, "gap_closed_of_contrast": contrast.gap.value,
             "spread": float(labels.spread.mean()), "n": labels.gap.n}
        )  # fmt: skip
    effect = "gain of intermediate latents by labels over that by contrast, the smaller of the two"
    if len(details) < len(PAIRS):
        reason = "labels of the root and of all latents, and contrast beside them, were not all run"
        return verdict_of(CLAIM, "open", RULE, reason, effect, NOTHING, details)

    def so(test: str) -> list[str]:
        return [d["variant"] for d in details if d[test] < SIGNIFICANCE]

    grown, enough, short = so("p_grown"), so("p_enough"), so("p_short")
    fewest = min(ratio.n for ratio in ratios)
    outcome, reason = "open", f"enough of contrast's gain with {' and '.join(enough) or 'neither'}"
    if fewest < FEWEST_TREES:
        reason = f"{fewest} trees are fewer than {FEWEST_TREES}"
    elif short:
        outcome = "fails"
        reason = f"less than {ENOUGH:g} times contrast's gain with {' and '.join(short)}"
    elif not grown:
        outcome, reason = "fails", "intermediate latents emerge with neither"
    elif len(grown) == len(enough) == len(PAIRS):
        outcome, reason = "holds", f"more than {ENOUGH:g} times contrast's gain with both"
    smallest = min(ratios, key=lambda ratio: ratio.value)
    return verdict_of(CLAIM, outcome, RULE, reason, effect, smallest, details)


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


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, variant by variant."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
