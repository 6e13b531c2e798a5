"""Is emergence a gift of the receptive fields?

The same trees, loss and number of updates, in networks that know the tree (a block of units per
latent), know its shape but not its leaves (wrong tree), know that levels repeat (conv), or know
nothing (dense, with as many parameters as the tree network, or with layers as wide as its levels).
Every architecture has the learning rate that did best for it, of the same six, on other trees. A
unit's candidates and ceilings are its own: own leaves and own block where an architecture has
them, otherwise all leaves and the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from dualnets.lab.ablation import AblationSettings, grids, run_cell
from dualnets.lab.experiment import Grid
from dualnets.lab.settings import setting
from dualnets.lab.stats import Verdict
from dualnets.lab.variants import (
    FEWEST_TREES,
    SIGNIFICANCE,
    by_variant,
    contrast,
    emerges_everywhere,
    summary_table,
    variant_stats,
)

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from dualnets.networks.block_network import BlockNetwork
    from hltm.tree import LatentTree

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

SUMMARY = "is emergence a gift of the receptive fields?"
CLAIM = "Latents emerge in architectures that do not know the tree"
REFERENCE = (
    "not in the paper: its networks have the tree's receptive fields (arXiv 2010.00578, Section 4)"
)
RESULT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Settings(AblationSettings):
    """One architecture: trees, a network on each, a budget."""

    pyramid: bool = setting(
        False, "whether dense layers narrow as the tree's levels do, `units` for each latent"
    )

    def build_network(self, trees: LatentTree, seed: int, device: torch.device) -> BlockNetwork:
        """Untrained networks with the trees' addresses."""
        if self.network != "mlp" or not self.pyramid:
            return super().build_network(trees, seed, device)
        from dualnets.networks.mlp import mlp

        levels = range(1, trees.topology.depth + 1)
        units = [self.units * len(trees.level(level)) for level in levels]
        return self._build(mlp, units, trees, seed, device)


KNOW_NOTHING = ("wrong tree", "dense, as many parameters", "dense, as wide")
_COMMON: dict[str, Any] = {"pyramid": False, "members": 12, "steps": 1000, "snapshots": 6}


# Gap closed on levels >= 2, by learning rate, on other trees, in half the updates:
#   hltm run architecture --seed 1000 --members 8 --steps 500 --lr 0.1 0.3 1 3 10 30
# A variant's rate is the best of its row, of equal ones the lowest; none lies at an end of its row.
TRIED = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_SCORES: dict[str, tuple[float, ...]] = {
    "tree": (0.462, 0.582, 0.689, 0.743, 0.689, 0.408),
    "conv, as wide": (0.478, 0.554, 0.601, 0.582, 0.432, 0.334),
    "conv, as many parameters": (0.415, 0.505, 0.555, 0.585, 0.600, 0.341),
    "wrong tree": (0.275, 0.328, 0.382, 0.440, 0.450, 0.318),
    "dense, as many parameters": (0.496, 0.546, 0.608, 0.622, 0.439, 0.367),
    "dense, as wide": (0.401, 0.472, 0.528, 0.454, 0.229, -0.009),
}
TUNING = {name: dict(zip(TRIED, found, strict=True)) for name, found in _SCORES.items()}


def _variants(conv: int, dense: int) -> dict[str, dict[str, Any]]:
    """The architectures; widths that match the parameters of 10 units per latent."""
    return {
        "tree": {"network": "tree", "units": 10, "lr": 3.0},
        "conv, as wide": {"network": "conv", "units": 10, "lr": 1.0},
        "conv, as many parameters": {"network": "conv", "units": conv, "lr": 10.0},
        "wrong tree": {"network": "shuffled-tree", "units": 10, "lr": 10.0},
        "dense, as many parameters": {"network": "mlp", "units": dense, "lr": 3.0},
        "dense, as wide": {"network": "mlp", "units": 10, "pyramid": True, "lr": 1.0},
    }


GRIDS: dict[str, list[Grid]] = {
    # 680 parameters in a tree network of depth 3, 3320 in one of depth 5
    "smoke": grids({**_COMMON, "depth": 3, "steps": 150, "snapshots": 4}, _variants(13, 16)),
    "default": grids({**_COMMON, "depth": 5}, _variants(20, 25)),
    "paper": grids(
        {**_COMMON, "depth": 5, "members": 30, "steps": 10_000, "snapshots": 12}, _variants(20, 25)
    ),
}
RULE = (
    "For each architecture that does not know which leaves belong together (wrong tree, dense), latents "
    "emerge if over trees the mean best |correlation| of the latents of levels >= 2 is larger after "
    "training than before (Wilcoxon's exact signed-rank test, one-sided, p < "
    f"{SIGNIFICANCE} after Bonferroni over these architectures). Holds if they emerge in all, "
    f"fails if in none, open if in some, or with fewer than {FEWEST_TREES} trees."
)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gap closed of the architectures it is about.

    Details hold every architecture's share of its ceiling beside the tree network's, with exact
    tests both ways.
    """
    found = emerges_everywhere(table, CLAIM, RULE, "architectures", only=KNOW_NOTHING)
    variants = by_variant(table)
    if "tree" in variants:
        told = variant_stats(variants["tree"])
        for name, rows in variants.items():
            other = variant_stats(rows)
            if name == "tree" or len(other.value) != len(told.value):
                continue
            against = contrast(other.value / other.ceiling, told.value / told.ceiling)
            found.details.append(
                {"variant": f"{name} - tree", "share_of_ceiling_difference":
                 against.difference.value, "low": against.difference.low, "high":
                 against.difference.high, "p_more": against.p_more, "p_less": against.p_less,
                 "n": against.difference.n}
            )  # fmt: skip
    return found


def plot(table: pd.DataFrame) -> Figure:
    """Gap closed, spread, levels and training, architecture by architecture."""
    from dualnets.lab.report.ablation_figure import draw

    return draw(table)
