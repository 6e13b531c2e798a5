"""How many samples until the latents of each level emerge?

A fixed set of P samples, seen again and again, each time in new views, instead of fresh ones; as many
updates whatever P. A view draws some of the lowest subtrees again, and keeps most of its sample: views
that keep the root alone are as good as fresh data, whatever P. SimCLR and BYOL compare views, the
supervised network names the root's state from one; each has the learning rate that did best for it
on fresh data, of the same four, on other trees.

By default P goes from 2^5, a single batch, to 2^13; 400 batches of 32 are 12 800 samples, so that of sets
of 2^14 and more none is seen twice: those are fresh data. At the paper's scale P goes from 2^6 to 2^16.
The samples for half are those with which latents grow half as much *as with fresh data*, which is not
half of the gap to their ceiling. Where the smallest set is enough already, all that is known is that
no more are needed: `<=`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids
from dualnets.lab.ablation_cell import run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE
from dualnets.lab.stats import NOTHING, Array, Estimate, Verdict, exceeds, mean_interval, verdict_of
from dualnets.lab.time_to_threshold import time_to_threshold
from dualnets.lab.variants import (
    INTERVALS,
    VariantStats,
    at_once,
    by_variant,
    spread_of,
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

SUMMARY = "how many samples until each level's latents emerge"
CLAIM = "The higher a latent, the more samples it takes to emerge"
REFERENCE = (
    "not in the paper: in the Random Hierarchy Model higher latents need more samples (arXiv "
    "2307.02129, 2406.00048)"
)
RESULT_VERSION = 1
_COMMON: dict[str, Any] = {
    "depth": 4, "members": 12, "steps": 400, "batch": 32, "units": 10, "bias": True, "momentum": 0.9,
    "weight_decay": 4e-4, "snapshots": 2, "evaluation_samples": 4096, "lr": 0.3,
    "augment": "resample-subtrees:0.3:2", "samples": [32, 64, 128, 512, 2048, 8192, 0],
}  # fmt: skip
# Rates are the best of 0.01, 0.03, 0.1, 0.3 by gap closed on levels >= 2, with
# `hltm run samples --seed 1000 --members 8 --steps 200 --samples 0 --lr 0.01 0.03 0.1 0.3`:
# simclr .44 .50 .59 .71 · byol .67 .69 .64 .74 · supervised .73 .78 .80 .77
_VARIANTS: dict[str, dict[str, Any]] = {
    "simclr": {"method": "simclr", "loss": "ntxent"},
    "byol": {"method": "byol"},
    "supervised": {"method": "supervised", "labels": "root", "lr": 0.1},
}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids({**_COMMON, "depth": 3, "steps": 60, "evaluation_samples": 2048,
                    "samples": [32, 256, 0]}, _VARIANTS),
    "default": grids(_COMMON, _VARIANTS),
    "paper": grids({**_COMMON, "depth": 5, "batch": 64, "members": 30, "steps": 10_000,
                    "samples": [*(2**k for k in range(6, 17)), 0]}, _VARIANTS),
}  # fmt: skip
RULE = (
    "What a tree's level lacks for want of samples: how much less the mean best |correlation| of its "
    "latents grew with P samples than with fresh ones, meant over all P, as a share of the mean growth "
    "with fresh ones. For each method, exact one-sided signed-rank tests over trees (Wilcoxon, p < "
    f"{SIGNIFICANCE} after Bonferroni over methods) of whether the root lacks more than level "
    "2, and whether it lacks less. Holds if it lacks more with every method; fails if it lacks less "
    "with one and more with none; open otherwise, where fresh samples make either not emerge, or with "
    f"fewer than {FEWEST_TREES} trees."
)


class Learned(NamedTuple):
    """One method's cells.

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
        found = [variant_stats(rows, [level]) for rows in (*self.fixed, self.fresh)]
        grown = np.stack([f.value - f.initial for f in found], axis=1)
        return grown[:, :-1], grown[:, -1]

    def lacks(self, level: int) -> Array:
        """`(S,)` share of the mean growth with fresh data that is lacking, meant over P."""
        fixed, fresh = self.gains(level)
        lacking: Array = (fresh[:, None] - fixed).mean(1) / fresh.mean()
        return lacking

    def enough(self, level: int) -> Estimate:
        """Samples with which a level's latents grow half as much as with fresh ones."""
        fixed, fresh = self.gains(level)
        if not fresh.mean() > 0:
            return Estimate(float("nan"), float("nan"), float("nan"), len(fresh))
        return time_to_threshold(self.samples, fixed, fresh / 2)

    def half(self, level: int) -> str:
        """What `enough` says, in words."""
        found = self.enough(level)
        low, high = self.samples[0], self.samples[-1]

        def said(size: float) -> str:
            if np.isnan(size):
                return "-"
            return f"<={low}" if size <= low else f">{high}" if np.isinf(size) else f"{size:.0f}"

        return f"{said(found.value)} [{said(found.low)}, {said(found.high)}]"


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


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest lead, of all methods, of what the root lacks.

    Details also hold, by method and level, the samples that make half of the growth with fresh ones,
    None where they are more than the largest set; the smallest set stands for all that are smaller.
    """
    top = int(table["level"].max())
    low = min(2, top - 1)
    details: list[dict[str, Any]] = []
    leads: list[Estimate] = []
    methods = by_method(table)
    for name, found in methods.items():
        if found.fresh is None or not found.samples:
            continue
        zero = np.zeros(len(found.gains(top)[1]))
        p_fresh = max(exceeds(found.gains(level)[1], zero) for level in (low, top))
        lead = found.lacks(top) - found.lacks(low)
        leads.append(mean_interval(lead, len(methods)))
        p_more, p_less, p_fresh = (
            min(p * len(methods), 1.0) for p in (exceeds(lead, zero), exceeds(zero, lead), p_fresh)
        )
        details.append(
            {"variant": name, "root_lacks": float(found.lacks(top).mean()), f"level_{low}_lacks":
             float(found.lacks(low).mean()), "lead": leads[-1].value, "low": leads[-1].low, "high":
             leads[-1].high, "p_more": p_more, "p_less": p_less, "p_fresh": p_fresh, "n": len(lead)}
        )  # fmt: skip
        for level in range(1, top + 1):
            half = found.enough(level)
            details.append(
                {"variant": name, "level": level, "samples_for_half": half.value, "at_least":
                 half.low, "at_most": half.high, "n": half.n}
            )  # fmt: skip
    effect = (
        f"what the root lacks for want of samples less what level {low} lacks, smallest of methods"
        + at_once(len(methods))
    )
    if len(leads) < len(methods) or not leads:
        reason = "fixed and fresh samples were not both run"
        return verdict_of(CLAIM, "open", RULE, reason, effect, NOTHING, details)
    tests = [d for d in details if "p_more" in d]
    more, less, dark = (
        [d["variant"] for d in tests if (d[p] < SIGNIFICANCE) == wanted]
        for p, wanted in (("p_more", True), ("p_less", True), ("p_fresh", False))
    )
    fewest = min(lead.n for lead in leads)
    outcome, reason = "open", f"the root lacks more with {', '.join(more) or 'no method'}"
    if less:
        reason += f", less with {', '.join(less)}"
    if fewest < FEWEST_TREES:
        reason = f"{fewest} trees are fewer than {FEWEST_TREES}"
    elif dark:
        reason = f"fresh samples do not make both emerge with {', '.join(dark)}"
    elif len(more) == len(methods):
        outcome = "holds"
    elif less and not more:
        outcome = "fails"
    smallest = min(leads, key=lambda lead: lead.value)
    return verdict_of(CLAIM, outcome, RULE, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method and set: gap closed by level, spread, rank, n; below, the samples for half.

    Half is half of what fresh samples give; `<=` stands before the smallest set, `>` before the largest.
    """
    top = int(table["level"].max())
    shown = {level: "root" if level == top else f"level {level}" for level in {min(2, top), top}}
    found = []
    for name, learned in by_method(table).items():
        cells: list[tuple[str, pd.DataFrame]] = [
            (str(size), rows) for size, rows in zip(learned.samples, learned.fixed, strict=True)
        ]
        if learned.fresh is not None:
            cells.append(("fresh", learned.fresh))
        for size, rows in cells:
            every: VariantStats = variant_stats(rows)
            row: dict[str, Any] = {"variant": name, "samples": size}
            row |= {
                f"gap closed, {of}": str(variant_stats(rows, [level]).gap)
                for level, of in shown.items()
            }
            row |= {"spread": spread_of(every), "rank": f"{every.rank.mean():.1f}",
                    "n": len(every.value)}  # fmt: skip
            found.append(row)
        if learned.fresh is not None and learned.samples:
            halves = {f"gap closed, {of}": learned.half(level) for level, of in shown.items()}
            found.append({"variant": name, "samples": "half at", **halves, "spread": "", "rank": "",
                          "n": found[-1]["n"]})  # fmt: skip
    made = pd.DataFrame(found)
    made.attrs["caption"] = (
        "half at: samples that make half of the growth with fresh ones (<=: the smallest set is enough, "
        "so fewer may be)\n" + INTERVALS
    )
    return made


def plot(table: pd.DataFrame) -> Figure:
    """Growth of every level over samples, method by method; spread and rank."""
    from dualnets.experiments.emergence._samples_figure import draw

    return draw(by_method(table))
