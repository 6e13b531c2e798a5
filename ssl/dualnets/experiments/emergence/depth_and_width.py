"""How deep a root can be found, and do more units per latent find it deeper?

The paper argues that over-parameterisation makes it likely that every latent has a lucky unit at the
start, which training then amplifies. Here trees grow deeper and blocks wider, step by step; more
units are better at the start already, because the best of more is taken, so what training added
stands beside what the start gave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.experiments.emergence._reach import described
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.stats import NOTHING, Estimate, Verdict, verdict_of
from dualnets.lab.variants import FEWEST_TREES, SIGNIFICANCE, at_once, by_variant, contrast, of_root
from dualnets.lab.variants import summary_table as _summary

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

SUMMARY = "how deep a root is found, by how many units"
CLAIM = "More units per latent bring the root closer to its ceiling, at every depth"
REFERENCE = "arXiv 2010.00578, Section 4: over-parameterisation and lucky nodes; widths and depths of our own"
RESULT_VERSION = 1


def _variants(depths: tuple[int, ...], widths: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    return {
        f"depth {depth} x{units}": {"depth": depth, "units": units}
        for depth in depths
        for units in widths
    }


# the rate of experiments/polarity.py, where its tuning is told; it was not tuned again here
_COMMON: dict[str, Any] = {"members": 12, "steps": 1000, "snapshots": 3, "lr": 1.0}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids({**_COMMON, "steps": 150}, _variants((2, 3), (2, 8))),
    "default": grids(_COMMON, _variants((2, 3, 4, 5, 6), (2, 5, 12))),
    "paper": grids(
        {**_COMMON, "members": 30, "steps": 10_000, "snapshots": 12},
        _variants((2, 3, 4, 5, 6, 7, 8), (2, 5, 10, 20)),
    ),
}
RULE = (
    "At a depth, units help if the root's best |correlation| after training, as a share of its ceiling, "
    "is larger in the widest networks than in the narrowest on the same trees (Wilcoxon's exact "
    f"signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over depths), and harm if it is "
    "smaller (the same test, turned round). Holds if they help at every depth, fails if they harm at one, "
    f"open otherwise, with one width only, or with fewer than {FEWEST_TREES} trees."
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gain of all depths, as a share of the ceiling.

    Details hold every cell's root, and per depth how much more the widest gained in training.
    """
    variants = by_variant(table)
    cells = {
        (int(rows["depth"].iloc[0]), int(rows["units"].iloc[0])): of_root(rows)
        for rows in variants.values()
    }
    depths = sorted({depth for depth, _ in cells})
    details: list[dict[str, Any]] = []
    effects: list[Estimate] = []
    problems: list[str] = []
    helped: list[int] = []
    harmed: list[int] = []
    for depth in depths:
        widths = sorted(units for d, units in cells if d == depth)
        narrow, wide = cells[depth, widths[0]], cells[depth, widths[-1]]
        if len(widths) < 2 or len(narrow.value) != len(wide.value):
            problems.append(f"depth {depth} has no two widths on the same trees")
            continue
        if len(wide.value) < FEWEST_TREES:
            problems.append(f"{len(wide.value)} trees are fewer than {FEWEST_TREES}")
        end = contrast(wide.value / wide.ceiling, narrow.value / narrow.ceiling, len(depths))
        start = contrast(wide.initial / wide.ceiling, narrow.initial / narrow.ceiling)
        p, p_less = (min(each * len(depths), 1.0) for each in (end.p_more, end.p_less))
        helped += [depth] if p < SIGNIFICANCE else []
        harmed += [depth] if p_less < SIGNIFICANCE else []
        effects.append(end.difference)
        details.append(
            {"variant": f"depth {depth}, x{widths[-1]} - x{widths[0]}", "helps": p < SIGNIFICANCE,
             "p_more": p, "p_less": p_less, "difference": end.difference.value, "low":
             end.difference.low, "high": end.difference.high, "difference_before":
             start.difference.value, "n": end.difference.n}
        )  # fmt: skip
    details += [described(name, rows, len(variants)) for name, rows in variants.items()]
    outcome, where = "open", ", ".join(map(str, helped))
    if problems:
        reason = "; ".join(dict.fromkeys(problems))
    elif len(helped) == len(depths):
        outcome, reason = "holds", f"more units help at depth {where}"
    elif harmed:
        outcome, reason = "fails", f"more units harm at depth {', '.join(map(str, harmed))}"
    elif not helped:
        reason = "more units are shown to help at no depth"
    else:
        reason = f"more units help at depth {where} only"
    smallest = min(effects, key=lambda effect: effect.value) if effects else NOTHING
    effect = (
        "smallest gain of all depths from the most units, as a share of the root's ceiling"
        + at_once(len(depths))
    )
    return verdict_of(CLAIM, outcome, RULE, reason, effect, smallest, details)


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per depth and width; blind: roots that no unit follows better than the null."""
    found = _summary(table)
    dead = [
        float(rows.loc[(rows["metric"] == "blind") & (rows["step"] == rows["step"].max())
                       & (rows["level"] == rows["level"].max()), "value"].sum())
        for rows in by_variant(table).values()
    ]  # fmt: skip
    found.insert(4, "blind", np.array(dead).astype(int))
    return found


def plot(table: pd.DataFrame) -> Figure:
    """The root and its ceiling over depth, by width, how far the gap closes, levels, collapse."""
    from dualnets.experiments.emergence._reach_figure import draw

    return draw(table, axis="depth", label="depth of the tree", line="units", line_label="units")
