"""What must BYOL's target be: a slow copy, any copy, a fixed random network, itself?

The target is a moving average of the online network, a hard copy renewed now and then, a fixed random
network, or the online network itself; all have BatchNorm and a predictor, and no gradient reaches the
target, but in the last variant, whose gradient flows through both branches.

Every variant has the learning rate that did best for it, of the same three, on other trees and in half
the updates (`hltm run byol-target --seed 1000 --members 8 --steps 250 --lr 0.01 0.03 0.1`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.ablation import AblationSettings as Settings
from dualnets.ablation import run_cell
from dualnets.evidence import Verdict
from dualnets.experiments._byol import NEEDED_RULE, needed, summary, tuned_grids
from dualnets.outcome import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BRIEF", "CLAIM", "GRIDS", "PLACE", "RESULT_VERSION", "RULE", "Settings", "plot", "run_cell",
           "summary", "verdict"]  # fmt: skip

BRIEF = "BYOL's target may be itself, if no gradient reaches it"
CLAIM = "BYOL's target may be slow or the online network itself, but no gradient may reach it"
PLACE = "arXiv 2006.07733, targets and their rates; arXiv 2011.10566, the stopped gradient"
RESULT_VERSION = 1
_ITSELF, _BOTH = "itself", "itself, with gradient"
_VARIANTS: dict[str, dict[str, Any]] = {
    "average 0.9": {"target_momentum": 0.9},
    "average 0.99": {},
    "average 0.999": {"target_momentum": 0.999},
    "copy every 10": {"target": "copy", "copy_every": 10},
    "copy every 100": {"target": "copy", "copy_every": 100},
    "random": {"target": "random"},
    _ITSELF: {"target": "online"},
    _BOTH: {"target": "online", "stop_gradient": False},
}
_RATES = {
    "average 0.9": 0.1,  # gap closed .75 .78 .79 at 0.01 0.03 0.1
    "average 0.99": 0.1,  # .72 .78 .78
    "average 0.999": 0.1,  # .68 .75 .77
    "copy every 10": 0.1,  # .75 .79 .79
    "copy every 100": 0.1,  # .73 .77 .78
    "random": 0.1,  # .64 .73 .74
    _ITSELF: 0.1,  # .74 .79 .79
    _BOTH: 0.01,  # .13 .07 .06
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
    from dualnets.ablation_figure import draw

    return draw(table)
