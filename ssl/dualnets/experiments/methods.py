"""All methods side by side: which latents emerge, how fast, and what collapses?

The same networks, trees, batch, number of updates and optimiser; every method has the heads it is
known with and the learning rate that did best for it, of the same four, on other trees. PIRL
remembers every sample, so it has a fixed set of them, and SimCLR has the same set for comparison.
A network told the root's state stands beside them as a reference, and so do two methods without the
projector of their papers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dualnets.ablation import AblationSettings as Settings
from dualnets.ablation import grids, run_cell
from dualnets.comparison import (
    FEWEST_TREES,
    GAP,
    SIGNIFICANCE,
    by_variant,
    emerges_everywhere,
    fared,
    of_root,
)
from dualnets.crossing import first_crossing
from dualnets.evidence import Estimate, Verdict, finite
from dualnets.outcome import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BRIEF", "CLAIM", "GRIDS", "PLACE", "RESULT_VERSION", "RULE", "Settings", "plot", "run_cell",
           "summary", "verdict"]  # fmt: skip

BRIEF = "all methods side by side: what emerges, how fast"
CLAIM = "The latents of a tree emerge with every method of self-supervised learning"
PLACE = (
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


def _variants(samples: int, negatives: int, queue: int) -> dict[str, dict[str, Any]]:
    """Every method; what remembers has a memory that fits the budget.

    Rates are the best of 0.01, 0.03, 0.1, 0.3 by gap closed on levels >= 2, with
    `hltm run methods --seed 1000 --members 8 --steps 200 --lr 0.01 0.03 0.1 0.3`:
    simclr .56 .68 .75 .80 · moco .66 .72 .62 -.73 · swav .63 .68 .67 .65 · byol .73 .75 .75 .76 ·
    simsiam .60 .71 .63 .38 · barlow twins .79 .75 .72 .59 · vicreg .81 .81, not finite twice · pirl
    .68 .71 .72 .73 · simclr with PIRL's samples as simclr · label of the root .75 .79 .81 .81.
    """
    # on outputs of length 1 alone, without a projector, PIRL and SwAV collapsed at every rate
    head = {"projector": "32-16"}
    pirl = {"method": "pirl", "samples": samples, "bank_negatives": negatives, "lr": 0.3}
    swav = {"method": "swav", "lr": 0.03}
    simclr = {"method": "simclr", "loss": "ntxent", "lr": 0.3}
    # 0.999, MoCo's own, would hardly move the key encoder in some hundred updates
    moco = {"method": "moco", "queue": queue, "key_momentum": 0.99, "lr": 0.03}
    return {
        "simclr": simclr,
        "moco": moco,
        "swav": {**swav, **head},
        "byol": {"method": "byol", "lr": 0.3},
        "simsiam": {"method": "simsiam", "lr": 0.03},
        "barlow twins": {"method": "barlow-twins", "lr": 0.01},
        "vicreg": {"method": "vicreg", "lr": 0.01},
        f"pirl, {samples} samples": {**pirl, **head},
        f"simclr, {samples} samples": {**simclr, "samples": samples},
        LABEL: {"method": "supervised", "labels": "root", "lr": 0.3},
        BARE[0]: swav,
        BARE[1]: pirl,
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
    found = [fared(rows, levels, step) for step in steps]
    half = (found[0].initial + found[0].ceiling) / 2
    # the update before the first is number 0, which has no place on a log axis
    at = first_crossing([step + 1 for step in steps], np.stack([f.value for f in found], 1), half)
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
            gap, time = fared(rows, [level]).gap, half_time(rows, [level])
            found.details.append(finite(
                {"variant": name, "level": level, "gap_closed": gap.value, "low": gap.low, "high":
                 gap.high, "half_of_the_gap_at": time.value, "earliest": time.low, "latest":
                 time.high, "n": gap.n}
            ))  # fmt: skip
    return found


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """One row per method: gap closed, root, updates to half of the gap, spread, rank, n."""
    found = []
    for name, rows in by_variant(table).items():
        upper, root = fared(rows), of_root(rows)
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
    from dualnets.ablation_figure import draw

    return draw(table)
