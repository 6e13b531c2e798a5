"""How good must BYOL's predictor be: trained fast, slowly or never, linear, or set without training?

The usual predictor (Linear, BatchNorm, ReLU, Linear) with rates and weight decays of its own beside a
linear one, and linear ones set from the correlation F of their inputs: W_p with the square roots of
F's eigenvalues (DirectPred), or F itself (DirectCopy).

Every variant has the learning rate that did best for it, of the same eight, on other trees and in half
the updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.experiments.byol._byol import AS_GOOD_RULE, as_good, summary_table, tuned_grids
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

SUMMARY = "BYOL's predictor can be set directly, not trained"
CLAIM = "BYOL with a linear predictor set from its inputs' correlation does as well as with a trained one"
REFERENCE = "arXiv 2102.06810, DirectPred; arXiv 2110.04947, DirectCopy; not in arXiv 2010.00578"
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
# Gap closed on levels >= 2, by learning rate, on other trees, in half the updates:
#   hltm run byol-predictor --seed 1000 --members 8 --steps 250 --lr 0.001 0.003 0.01 0.03 0.1 0.3 1 3
# A variant's rate is the best of its row, of equal ones the lowest; none lies at an end of its row.
TRIED = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SCORES: dict[str, tuple[float, ...]] = {
    "usual": (0.534, 0.638, 0.717, 0.777, 0.779, 0.785, 0.782, 0.663),
    "usual, rate x 10": (0.480, 0.591, 0.694, 0.769, 0.793, 0.789, 0.668, 0.541),
    "usual, rate x 0.1": (0.374, 0.556, 0.722, 0.791, 0.793, 0.797, 0.784, 0.689),
    "usual, never trained": (0.193, 0.337, 0.424, 0.526, 0.496, 0.388, -0.012, -0.783),
    "usual, decay x 10": (0.532, 0.636, 0.717, 0.773, 0.780, 0.752, 0.772, 0.643),
    "usual, no decay": (0.533, 0.636, 0.718, 0.775, 0.778, 0.768, 0.767, 0.193),
    _LINEAR: (0.438, 0.558, 0.664, 0.723, 0.755, 0.764, 0.415, 0.431),
    _ROOT: (0.489, 0.608, 0.692, 0.740, 0.771, 0.757, 0.606, 0.507),
    _COPY: (0.510, 0.618, 0.699, 0.740, 0.746, 0.589, 0.420, 0.410),
}
TUNING = {name: dict(zip(TRIED, found, strict=True)) for name, found in _SCORES.items()}
_RATES = {
    "usual": 0.3,
    "usual, rate x 10": 0.1,
    "usual, rate x 0.1": 0.3,
    "usual, never trained": 0.03,
    "usual, decay x 10": 0.1,
    "usual, no decay": 0.1,
    _LINEAR: 0.3,
    _ROOT: 0.1,
    _COPY: 0.1,
}
GRIDS: dict[str, list[Grid]] = tuned_grids(_VARIANTS, _RATES, steps=500)
RULE = AS_GOOD_RULE.format(reference=f"`{_LINEAR}`", others=f"`{_ROOT}` and `{_COPY}`")


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the difference to a trained linear predictor, the worse of the two."""
    return as_good(table, CLAIM, RULE, _LINEAR, [_ROOT, _COPY])


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, variant by variant."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
