"""Does it matter which contrastive loss it is?

The same networks, trees, rows and number of updates, one contrastive loss after the other, and two
losses that are nothing but pair weights held fixed. Every loss has the learning rate that did best
for it, of the same nine, on other trees (`--seed 1000`): losses carry different factors, so one rate
for all would compare the rates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.stats import Verdict
from dualnets.lab.variants import FEWEST_TREES, SIGNIFICANCE, emerges_everywhere, summary_table

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

SUMMARY = "latents emerge whatever the contrastive loss"
CLAIM = "The latents of a tree emerge whatever the contrastive loss"
REFERENCE = "arXiv 2010.00578, Theorems 2-4: one covariance operator behind all losses"
RESULT_VERSION = 1
_COMMON: dict[str, Any] = {"members": 12, "depth": 4, "batch": 64, "steps": 1000, "snapshots": 6}
# Gap closed on levels >= 2, by learning rate, on other trees, in half the updates:
#   hltm run losses --seed 1000 --members 8 --steps 500 --lr 0.003 0.01 0.03 0.1 0.3 1 3 10 30
# A variant's rate is the best of its row, of equal ones the lowest; none lies at an end of its row.
TRIED = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_SCORES: dict[str, tuple[float, ...]] = {
    "simple": (0.429, 0.609, 0.661, 0.637, 0.599, -0.019, -0.093, -0.429, -0.790),
    "triplet": (0.377, 0.553, 0.638, 0.719, 0.739, 0.740, 0.737, 0.711, 0.615),
    "infonce 1": (0.139, 0.243, 0.381, 0.516, 0.621, 0.685, 0.708, 0.726, 0.653),
    "infonce 4": (0.163, 0.294, 0.424, 0.557, 0.659, 0.726, 0.731, 0.410, 0.337),
    "infonce 16": (0.175, 0.312, 0.449, 0.575, 0.669, 0.715, 0.735, 0.389, 0.320),
    "ntxent": (0.179, 0.319, 0.446, 0.589, 0.672, 0.718, 0.716, 0.364, 0.167),
    "batchwise": (0.311, 0.487, 0.591, 0.684, 0.641, 0.372, -0.106, -0.163, -0.232),
    "spectral": (0.394, 0.578, 0.664, 0.727, 0.748, 0.748, 0.731, 0.467, 0.112),
    "weights exp(-r/τ)": (0.083, 0.209, 0.355, 0.516, 0.614, 0.711, 0.750, 0.688, 0.730),
    "weights 1/r": (0.497, 0.628, 0.704, 0.739, 0.764, 0.752, 0.704, 0.685, 0.640),
}
TUNING = {name: dict(zip(TRIED, found, strict=True)) for name, found in _SCORES.items()}
_VARIANTS: dict[str, dict[str, Any]] = {
    "simple": {"loss": "simple", "lr": 0.03},
    "triplet": {"loss": "triplet", "lr": 1.0},
    "infonce 1": {"loss": "infonce", "negatives": 1, "lr": 10.0},
    "infonce 4": {"loss": "infonce", "negatives": 4, "lr": 3.0},
    "infonce 16": {"loss": "infonce", "negatives": 16, "lr": 3.0},
    "ntxent": {"loss": "ntxent", "lr": 1.0},
    "batchwise": {"loss": "batchwise-nce", "lr": 0.1},
    "spectral": {"loss": "spectral", "lr": 0.3},
    "weights exp(-r/τ)": {"loss": "exponential", "lr": 3.0},
    "weights 1/r": {"loss": "inverse-distance", "lr": 0.3},
}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids({**_COMMON, "depth": 3, "steps": 150, "snapshots": 3}, _VARIANTS),
    "default": grids(_COMMON, _VARIANTS),
    "paper": grids(
        {**_COMMON, "depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 12},
        _VARIANTS,
    ),
}
RULE = (
    "For each loss, latents emerge if over trees the mean best |correlation| of the latents of levels "
    ">= 2 is larger after training than before (Wilcoxon's exact signed-rank test, one-sided, p < "
    f"{SIGNIFICANCE} after Bonferroni over losses). Holds if they emerge with every loss, "
    f"fails if with none, open if with some, or with fewer than {FEWEST_TREES} trees."
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gap closed of all losses."""
    return emerges_everywhere(table, CLAIM, RULE, "losses")


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, loss by loss."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
