"""Do more children per latent bring back a root that too few could not tell?

Trees of one depth and one weak polarity, with more and more children per latent. Branching *
polarity² crosses 1 on the way (Kesten and Stigum): the ceiling of the root rises from nearly nothing
to nearly 1. Does what a network reaches rise with it, though its blocks have more inputs to weigh?
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.experiments.emergence._reach import MARGIN, ceiling_or_learner
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.stats import Verdict
from dualnets.lab.variants import (
    FEWEST_TREES,
    SIGNIFICANCE,
    by_variant,
    contrast,
    of_root,
    summary_table,
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

SUMMARY = "do more children bring back a root?"
CLAIM = "More children per latent bring back a root, as far as its ceiling rises"
REFERENCE = "not in the paper, whose trees are binary; Kesten and Stigum 1966"
RESULT_VERSION = 1


def _variants(values: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    return {f"{count} children": {"branching": count} for count in values}


_WEAK = {"polarity_low": 0.55, "polarity_high": 0.55}  # the threshold lies at 3.3 children
# the rate of experiments/polarity.py, where its tuning is told; it was not tuned again here
_COMMON: dict[str, Any] = {
    "members": 12, "depth": 3, "steps": 1500, "snapshots": 4, "lr": 1.0, **_WEAK
}  # fmt: skip
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids({**_COMMON, "depth": 2, "steps": 300}, _variants((2, 3, 4, 6))),
    "default": grids(_COMMON, _variants((2, 3, 4, 5, 6))),
    "paper": grids(
        {**_COMMON, "members": 30, "steps": 30_000, "snapshots": 12}, _variants((2, 3, 4, 5, 6, 8))
    ),
}
RULE = (
    "Fails if the root's best |correlation| after training is smaller with the most children than "
    f"with the fewest (Wilcoxon's exact signed-rank test over trees, one-sided, p < {SIGNIFICANCE}), and "
    "is open if by the same test it is neither smaller nor larger. Otherwise settings are parted by "
    "branching * polarity² > 1, and a side's gap closed at the root is the mean gain over the mean room "
    "between untrained network and ceiling. Holds if the lower end of the 95% interval of (above - "
    f"below), bootstrapped over trees, is above -{MARGIN}, fails if the upper end is below it, open "
    "otherwise; open as well if the root does not emerge (its best |correlation| grows, as above, after "
    f"Bonferroni) everywhere above the threshold, or with fewer than {FEWEST_TREES} trees."
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the difference of the two sides' gaps closed."""
    found = ceiling_or_learner(table, CLAIM, RULE, asked="above")
    roots = {int(rows["branching"].iloc[0]): of_root(rows) for rows in by_variant(table).values()}
    most, fewest = roots[max(roots)], roots[min(roots)]
    if found.n < FEWEST_TREES or len(roots) < 2 or len(most.value) != len(fewest.value):
        return found
    against = contrast(most.value, fewest.value)
    if against.p_more < SIGNIFICANCE:
        return found
    worse = against.p_less < SIGNIFICANCE
    shown = "worse" if worse else "shown neither better nor worse"
    reason = (
        f"with {max(roots)} children the root is {shown} than with {min(roots)} (difference "
        f"{against.difference})"
    )
    return replace(found, verdict="fails" if worse else "open", reason=reason)


def plot(table: pd.DataFrame) -> Figure:
    """The root and its ceiling over branching, how far the gap closes, levels, collapse."""
    from dualnets.experiments.emergence._reach_figure import draw

    threshold = float(table["polarity_low"].iloc[0]) ** -2
    return draw(table, axis="branching", label="children per latent", threshold=threshold)
