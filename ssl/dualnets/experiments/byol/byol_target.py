"""What must BYOL's target be: a slow copy, any copy, a fixed random network, itself?

The target is a moving average of the online network, a hard copy renewed now and then, a fixed random
network, or the online network itself; all have BatchNorm and a predictor, and no gradient reaches the
target, but in the last variant, whose gradient flows through both branches.

Every variant has the learning rate that did best for it, of the same eight, on other trees and in half
the updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.experiments.byol._byol import NEEDED_RULE, needed, summary_table, tuned_grids
from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import run_cell
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

SUMMARY = "BYOL's target may be itself, if no gradient reaches it"
CLAIM = "BYOL's target may be slow or the online network itself, but no gradient may reach it"
REFERENCE = "arXiv 2006.07733, targets and their rates; arXiv 2011.10566, the stopped gradient"
RESULT_VERSION = 1
_ITSELF, _BOTH = "itself", "itself, with gradient"
_VARIANTS: dict[str, dict[str, Any]] = {
    "average 0.9": {"ema_decay": 0.9},
    "average 0.99": {},
    "average 0.999": {"ema_decay": 0.999},
    "copy every 10": {"target": "copy", "copy_every": 10},
    "copy every 100": {"target": "copy", "copy_every": 100},
    "random": {"target": "random"},
    _ITSELF: {"target": "online"},
    _BOTH: {"target": "online", "stop_gradient": False},
}
# Gap closed on levels >= 2, by learning rate, on other trees, in half the updates:
#   hltm run byol-target --seed 1000 --members 8 --steps 250 --lr 0.001 0.003 0.01 0.03 0.1 0.3 1 3
# A variant's rate is the best of its row, of equal ones the lowest; none lies at an end of its row.
TRIED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SCORES: dict[str, tuple[float, ...]] = {
    "average 0.9": (0.539, 0.644, 0.744, 0.786, 0.782, 0.776, 0.625, 0.433),
    "average 0.99": (0.534, 0.638, 0.717, 0.777, 0.779, 0.785, 0.782, 0.663),
    "average 0.999": (0.473, 0.595, 0.677, 0.752, 0.766, 0.791, 0.797, 0.685),
    "copy every 10": (0.522, 0.637, 0.750, 0.786, 0.796, 0.789, 0.652, 0.306),
    "copy every 100": (0.537, 0.629, 0.718, 0.771, 0.778, 0.775, 0.772, 0.459),
    "random": (0.455, 0.562, 0.641, 0.726, 0.743, 0.780, 0.774, 0.670),
    _ITSELF: (0.533, 0.658, 0.732, 0.785, 0.794, 0.790, 0.713, 0.281),
    _BOTH: (0.165, 0.193, 0.141, 0.077, 0.071, 0.007, -0.081, -0.216),
}
TUNING = {name: dict(zip(TRIED, found, strict=True)) for name, found in _SCORES.items()}
_RATES = {
    "average 0.9": 0.03,
    "average 0.99": 0.3,
    "average 0.999": 1.0,
    "copy every 10": 0.1,
    "copy every 100": 0.1,
    "random": 0.3,
    _ITSELF: 0.1,
    _BOTH: 0.003,
}
GRIDS: dict[str, list[Grid]] = tuned_grids(_VARIANTS, _RATES, steps=500)
_WORKS = ("average 0.99", _ITSELF)
RULE = NEEDED_RULE.format(
    works=" and ".join(f"`{name}`" for name in _WORKS),
    short=f"the one variant `{_BOTH}`",
    counterpart=f"`{_ITSELF}`",
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the lead of stopping the gradient."""
    return needed(table, CLAIM, RULE, _WORKS, {_BOTH: _ITSELF})


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, variant by variant."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
