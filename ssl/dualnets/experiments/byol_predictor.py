"""How good must BYOL's predictor be: trained fast, slowly or never, linear, or set without training?

The usual predictor (Linear, BatchNorm, ReLU, Linear) with rates and weight decays of its own beside a
linear one, and linear ones set from the correlation F of their inputs: W_p with the square roots of
F's eigenvalues (DirectPred), or F itself (DirectCopy).

Every variant has the learning rate that did best for it, of the same three, on other trees and in half
the updates (`hltm run byol-predictor --seed 1000 --members 8 --steps 250 --lr 0.01 0.03 0.1`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.ablation import AblationSettings as Settings
from dualnets.ablation import run_cell
from dualnets.evidence import Verdict
from dualnets.experiments._byol import AS_GOOD_RULE, as_good, summary, tuned_grids
from dualnets.outcome import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BRIEF", "CLAIM", "GRIDS", "PLACE", "RESULT_VERSION", "RULE", "Settings", "plot", "run_cell",
           "summary", "verdict"]  # fmt: skip

BRIEF = "BYOL's predictor can be set directly, not trained"
CLAIM = "BYOL with a linear predictor set from its inputs' correlation does as well as with a trained one"
PLACE = "arXiv 2102.06810, DirectPred; arXiv 2110.04947, DirectCopy; not in arXiv 2010.00578"
RESULT_VERSION = 1
_LINEAR, _ROOT, _COPY = "linear", "linear, set to root of F", "linear, set to F"
_VARIANTS: dict[str, dict[str, Any]] = {
    "usual": {},
    "usual, rate x 10": {"predictor_lr": 10.0},
    "usual, rate x 0.1": {"predictor_lr": 0.1},
    "usual, never trained": {"predictor_lr": 0.0},
    "usual, decay x 10": {"predictor_weight_decay": 4e-3},
    "usual, no decay": {"predictor_weight_decay": 0.0},
    _LINEAR: {"predictor": "16"},
    _ROOT: {"predictor": "direct"},
    _COPY: {"predictor": "copy"},
}
_RATES = dict.fromkeys(_VARIANTS, 0.03)
GRIDS: dict[str, list[Grid]] = tuned_grids(_VARIANTS, _RATES, steps=500)
RULE = AS_GOOD_RULE.format(reference=f"`{_LINEAR}`", others=f"`{_ROOT}` and `{_COPY}`")


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the difference to a trained linear predictor, the worse of the two."""
    return as_good(table, CLAIM, RULE, _LINEAR, [_ROOT, _COPY])


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, variant by variant."""
    from dualnets.ablation_figure import draw

    return draw(table)
