"""Must BYOL's predictor be good, or may it be drawn again every few updates?

The predictor's weights are drawn anew every T updates, all of them or those of its top or bottom
layer, the optimiser forgetting what it knew of them. If the predictor only has to let BatchNorm's
term act, a fresh one will do; if it has to predict well, redrawing does harm.

Expected (8 trees, one seed; root's best |correlation|, 0.52 before, and spread): never .79, .83 · all,
every 50 / 100 / 200 updates .80 / .80 / .80, .78 / .74 / .80.

Most of what emerges does so in the first 50 updates, before such redraws begin: they show that redraws
undo nothing. The variants that redraw all of it every 1, 5 and 10 updates ask more: whether anything is
learned with a predictor that is always fresh.

Found (12 trees, 0.62 before): .84 and .80 to .83 for all that are redrawn every 50 updates or less often;
.84 every 10 and every 5 updates too; redrawn at every single update nothing emerges.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.ablation import AblationSettings as Settings
from dualnets.ablation import grids, run_cell
from dualnets.evidence import Verdict
from dualnets.experiments._byol import AS_GOOD_RULE, COMMON, PAPER, SMOKE, as_good, summary
from dualnets.outcome import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BRIEF", "CLAIM", "GRIDS", "PLACE", "RESULT_VERSION", "RULE", "Settings", "plot", "run_cell",
           "summary", "verdict"]  # fmt: skip

BRIEF = "redrawing BYOL's predictor again and again does no harm"
CLAIM = "BYOL's predictor can be drawn again every few updates without harm"
PLACE = "arXiv 2010.00578, BYOL: the predictor reinitialised every T updates"
RESULT_VERSION = 1
_NEVER = "never"
_VARIANTS: dict[str, dict[str, Any]] = {
    _NEVER: {},
    **{
        f"all, every {updates}": {"redraw": "all", "redraw_every": updates}
        for updates in (1, 5, 10)
    },
    **{
        f"{layers}, every {updates}": {"redraw": layers, "redraw_every": updates}
        for layers in ("all", "top", "bottom")
        for updates in (50, 100, 200)
    },
}
_OTHERS = [name for name in _VARIANTS if name != _NEVER]
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(SMOKE, {name: _VARIANTS[name] for name in (_NEVER, "all, every 50")}),
    "default": grids(COMMON, _VARIANTS),
    "paper": grids(PAPER, _VARIANTS),
}
RULE = AS_GOOD_RULE.format(reference="`never`", others="all redrawn ones that were run")


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the difference to `never` of the variant that gained least."""
    run = set(table["variant"])
    return as_good(table, CLAIM, RULE, _NEVER, [name for name in _OTHERS if name in run])


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, variant by variant."""
    from dualnets.ablation_figure import draw

    return draw(table)
