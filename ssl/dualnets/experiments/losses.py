"""Does it matter which contrastive loss it is?

The same networks, trees, rows and number of updates, one contrastive loss after the other. Every
loss has the learning rate that did best for it, of the same four, on other trees (`--seed 1000`):
losses carry different factors, so one rate for all would compare the rates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets import ablation
from dualnets.ablation import AblationSettings as Settings
from dualnets.ablation import emerges_everywhere, grids, run_cell, summary
from dualnets.evidence import Verdict
from dualnets.outcome import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BRIEF", "CLAIM", "GRIDS", "PLACE", "RESULT_VERSION", "RULE", "Settings", "plot", "run_cell",
           "summary", "verdict"]  # fmt: skip

BRIEF = "latents emerge whatever the contrastive loss"
CLAIM = "The latents of a tree emerge whatever the contrastive loss"
PLACE = "arXiv 2010.00578, Theorems 2-4: one covariance operator behind all losses"
RESULT_VERSION = 1
_COMMON: dict[str, Any] = {"members": 12, "depth": 4, "batch": 64, "steps": 1000, "snapshots": 6}
_VARIANTS: dict[str, dict[str, Any]] = {
    "simple": {"loss": "simple"},
    "triplet": {"loss": "triplet"},
    "infonce 1": {"loss": "infonce", "negatives": 1},
    "infonce 4": {"loss": "infonce", "negatives": 4},
    "infonce 16": {"loss": "infonce", "negatives": 16},
    "ntxent": {"loss": "ntxent"},
    "batchwise": {"loss": "batchwise-nce"},
    "spectral": {"loss": "spectral"},
    "weights exp(-r/τ)": {"loss": "exponential"},
    "weights 1/r": {"loss": "inverse-distance"},
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
    f"{ablation.SIGNIFICANCE} after Bonferroni over losses). Holds if they emerge with every loss, "
    f"fails if with none, open if with some, or with fewer than {ablation.FEWEST_TREES} trees."
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gap closed of all losses."""
    return emerges_everywhere(table, CLAIM, RULE, "losses")


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, loss by loss."""
    from dualnets.ablation_figure import draw

    return draw(table)
