"""All methods side by side: which latents emerge, how fast, and what collapses?

The same networks, trees, batch, number of updates and optimiser; every method has the heads it is
known with and the learning rate that did best for it, of the same nine, on other trees. PIRL
remembers every sample, so it has a fixed set of them, and SimCLR has the same set for comparison.
A network told the root's state stands beside them as a reference, and so do two methods without the
projector of their papers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.lab.ablation import AblationSettings as Settings
from dualnets.lab.ablation import grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.stats import Estimate, Verdict, finite
from dualnets.lab.time_to_threshold import time_to_threshold
from dualnets.lab.variants import (
    FEWEST_TREES,
    GAP,
    SIGNIFICANCE,
    by_variant,
    emerges_everywhere,
    of_root,
    variant_stats,
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

SUMMARY = "all methods side by side: what emerges, how fast"
CLAIM = "The latents of a tree emerge with every method of self-supervised learning"
REFERENCE = (
    "not in the paper: it has SimCLR and BYOL (arXiv 2010.00578, Sections 3 and 5); the other methods "
    "are later or have other losses"
)
RESULT_VERSION = 1
# momentum, decay and biases as in the BYOL experiments, for all
_COMMON: dict[str, Any] = {
    "depth": 4, "members": 12, "steps": 400, "batch": 64, "units": 10, "bias": True, "momentum": 0.9,
    "weight_decay": 4e-4, "snapshots": 8, "evaluation_samples": 4096,
}  # fmt: skip
LABEL, BARE = "label of the root", ("swav, no projector", "pirl, no projector")  # beside the claim


# Gap closed on levels >= 2, by learning rate, on other trees, in half the updates:
#   hltm run methods --seed 1000 --members 8 --steps 200 --lr 0.0003 0.001 0.003 0.01 0.03 0.1 0.3 1 3
# A variant's rate is the best of its row, of equal ones the lowest; none lies at an end of its row.
# NAN: the loss or a gradient of some network was not finite.
NAN = float("nan")
TRIED = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_SCORES: dict[str, tuple[float, ...]] = {
    "simclr": (0.040, 0.118, 0.301, 0.556, 0.680, 0.753, 0.802, 0.802, 0.529),
    "moco": (0.150, 0.333, 0.499, 0.658, 0.722, 0.622, -0.733, -0.890, -1.566),
    "swav": (0.396, 0.510, 0.599, 0.631, 0.678, 0.668, 0.644, 0.681, 0.307),
    "byol": (0.348, 0.512, 0.646, 0.729, 0.749, 0.746, 0.738, 0.704, 0.001),
    "simsiam": (0.093, 0.231, 0.399, 0.621, 0.696, 0.626, 0.642, 0.215, -0.257),
    "barlow twins": (0.724, 0.776, 0.789, 0.794, 0.745, 0.714, 0.584, 0.649, 0.693),
    "vicreg": (0.693, 0.775, 0.804, 0.804, 0.793, NAN, NAN, NAN, NAN),
    "pirl, 1024 samples": (0.400, 0.536, 0.626, 0.678, 0.707, 0.732, 0.733, 0.630, 0.633),
    "simclr, 1024 samples": (0.039, 0.117, 0.296, 0.553, 0.674, 0.754, 0.800, 0.799, 0.179),
    LABEL: (-0.016, 0.062, 0.425, 0.731, 0.790, 0.807, 0.810, 0.737, -0.260),
    BARE[0]: (0.087, 0.088, 0.083, 0.004, -0.182, -0.372, -0.375, -0.865, -1.932),
    BARE[1]: (0.154, 0.265, 0.120, 0.110, -0.071, -0.453, -0.605, -0.914, -2.612),
}
TUNING = {name: dict(zip(TRIED, found, strict=True)) for name, found in _SCORES.items()}


def _variants(samples: int, negatives: int, queue: int) -> dict[str, dict[str, Any]]:
    """Every method; what remembers has a memory that fits the budget."""
    # on outputs of length 1 alone, without a projector, SwAV closed .09 of the gap at its best rate and
    # collapsed, PIRL closed .26 and kept a spread of .19; from 0.03 on both ended below their start
    head = {"projector": "32-16"}
    pirl = {"method": "pirl", "samples": samples, "bank_negatives": negatives, "lr": 0.3}
    swav = {"method": "swav", "lr": 1.0}
    simclr = {"method": "simclr", "loss": "ntxent", "lr": 0.3}
    # 0.999, MoCo's own, would hardly move the key encoder in some hundred updates
    moco = {"method": "moco", "queue": queue, "key_ema_decay": 0.99, "lr": 0.03}
    return {
        "simclr": simclr,
        "moco": moco,
        "swav": {**swav, **head},
        "byol": {"method": "byol", "lr": 0.03},
        "simsiam": {"method": "simsiam", "lr": 0.03},
        "barlow twins": {"method": "barlow-twins", "lr": 0.01},
        "vicreg": {"method": "vicreg", "lr": 0.003},
        f"pirl, {samples} samples": {**pirl, **head},
        f"simclr, {samples} samples": {**simclr, "samples": samples},
        LABEL: {"method": "supervised", "labels": "root", "lr": 0.3},
        BARE[0]: {**swav, "lr": 0.001},
        BARE[1]: {**pirl, "lr": 0.001},
    }


GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(
        {**_COMMON, "depth": 3, "steps": 60, "snapshots": 5, "evaluation_samples": 2048},
        _variants(1024, 64, 512),
    ),
    "default": grids(_COMMON, _variants(1024, 256, 1024)),
    "paper": grids(
        {**_COMMON, "depth": 5, "batch": 128, "members": 30, "steps": 10_000, "snapshots": 16},
        _variants(16384, 1024, 4096),
    ),
}
RULE = (
    "For each self-supervised method with its own heads, latents emerge if over trees the mean best "
    "|correlation| of the latents of levels >= 2 is larger after training than before (Wilcoxon's exact "
    f"signed-rank test, one-sided, p < {SIGNIFICANCE} after Bonferroni over these methods). Holds "
    "if they emerge with every method, fails if with none, open if with some, or with fewer than "
    f"{FEWEST_TREES} trees."
)


def half_time(rows: pd.DataFrame, levels: list[int] | None = None) -> Estimate:
    """Updates until half of the gap to the ceiling is closed, infinite where it never is.

    Args:
        rows: of one cell.
        levels: whose latents; by default those of `fared`.
    """
    steps = sorted(rows["step"].unique())
    found = [variant_stats(rows, levels, step) for step in steps]
    half = (found[0].initial + found[0].ceiling) / 2
    # the update before the first is number 0, which has no place on a log axis
    at = time_to_threshold(
        [step + 1 for step in steps], np.stack([f.value for f in found], 1), half
    )
    return Estimate(at.value - 1, at.low - 1, at.high - 1, at.n)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gap closed of the self-supervised methods.

    Details also hold every method's gap by level and its updates to half of it, None where they are
    more than there were.
    """
    variants = by_variant(table)
    methods = [name for name in dict.fromkeys(table["variant"]) if name not in (LABEL, *BARE)]
    found = emerges_everywhere(table, CLAIM, RULE, "methods", only=methods)
    for name, rows in variants.items():
        levels = sorted(int(level) for level in rows["level"].unique())
        for level in levels:
            gap, time = variant_stats(rows, [level]).gap, half_time(rows, [level])
            found.details.append(finite(
                {"variant": name, "level": level, "gap_closed": gap.value, "low": gap.low, "high":
                 gap.high, "half_of_the_gap_at": time.value, "earliest": time.low, "latest":
                 time.high, "n": gap.n}
            ))  # fmt: skip
    return found


def summary_table(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: gap closed, root, updates to half of the gap, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        upper, root = variant_stats(rows), of_root(rows)
        time = half_time(rows).value
        found.append(
            {
                "variant": name,
                GAP: str(upper.gap),
                "before": root.initial.mean(),
                "root": root.value.mean(),
                "half gap at": f"{time:.0f}" if np.isfinite(time) else "-",
                "spread": upper.spread.mean(),
                "rank": f"{upper.rank.mean():.1f}",
                "n": len(upper.value),
            }
        )
    return pd.DataFrame(found)


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, method by method."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
