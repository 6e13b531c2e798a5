"""Which part of BatchNorm keeps BYOL from collapsing, and does it act in the forward or backward pass?

BatchNorm subtracts a mean and divides by a deviation; each part is on, off, or on without gradient
(stop). If the gradient goes through the mean, the gradient g_i above arrives below as g_i - mean_j
g_j, a covariance over the batch: an implicit contrastive term. If so, stopping that gradient alone
must bring the collapse back, although the forward pass stays the same.

Expected (8 trees, one seed; root's best |correlation|, 0.52 before, and spread): mean .54, 0 · std
.62, .02 · mean, std .79, .83 · mean, std (stop) .80, .82 · mean (stop), std .47, not finite · mean
(stop), std (stop) .48, .24.

Found (12 trees of seed 0; 95% intervals over trees; 0.62 ±.05 before, see `byol_ablation` for why it is
not 0.52): mean .62 ±.04, .01 ±.00 · std .68 ±.07, .02 ±.01 · mean, std .84 ±.03, .81 ±.02 · mean, std
(stop) .84 ±.03, .82 ±.03 · mean (stop), std .63 ±.12, .26 ±.07 · mean (stop), std (stop) .61 ±.11, .30
±.05. The same, but nothing diverges here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.experiments.byol._byol import COMMON, NEEDED_RULE, PAPER, SMOKE, needed, summary_table
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.stats import Verdict

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

SUMMARY = "BatchNorm saves BYOL by the gradient through its mean"
CLAIM = (
    "What BatchNorm does for BYOL is done by the gradient through its mean, and none through its "
    "deviation is needed"
)
REFERENCE = "arXiv 2010.00578, BYOL: BatchNorm's mean and deviation, with and without gradient"
RESULT_VERSION = 1
VARIANTS: dict[str, dict[str, Any]] = {
    "no part": {"head_norm": "none"},
    "mean": {"head_norm_std": "off"},
    "mean (stop)": {"head_norm_mean": "stop", "head_norm_std": "off"},
    "std": {"head_norm_mean": "off"},
    "mean, std": {},
    "mean, std (stop)": {"head_norm_std": "stop"},
    "mean (stop), std": {"head_norm_mean": "stop"},
    "mean (stop), std (stop)": {"head_norm_mean": "stop", "head_norm_std": "stop"},
}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(SMOKE, VARIANTS),
    "default": grids(COMMON, VARIANTS),
    "paper": grids(PAPER, VARIANTS),
}
_WORKS = ("mean, std", "mean, std (stop)")
_SHORT = {"mean (stop), std": _WORKS[0], "mean (stop), std (stop)": _WORKS[1]}
RULE = NEEDED_RULE.format(
    works=" and ".join(f"`{name}`" for name in _WORKS),
    short=" and ".join(f"`{name}`" for name in _SHORT),
    counterpart="of the former, the one with the same std",
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest lead of the gradient through the mean."""
    return needed(table, CLAIM, RULE, _WORKS, _SHORT)


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, variant by variant."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
