"""Do latents of more than two states emerge as binary ones do?

Balanced trees of K-state nodes: a child takes its parent's state, relabelled, or any state at
random, so that the channel's one correlation is the edge's polarity, as in binary trees (K = 2 is
one of them). Leaves are read as K numbers, 1 in their state's place. A latent is held against its
best unit by the correlation ratio, and its ceiling is the maximal correlation with its leaves: both
are the best over all functions of the state.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from dualnets.lab import ablation
from dualnets.lab.ablation import VariantSettings, grids
from dualnets.lab.best_ratio import score_ratio
from dualnets.lab.experiment import CellResult, Grid, ProgressListener
from dualnets.lab.settings import TreeSettings, check_augmentation, setting
from dualnets.lab.stats import Verdict
from dualnets.lab.variants import (
    FEWEST_TREES,
    RATIO,
    SIGNIFICANCE,
    emerges_everywhere,
    summary_table,
)

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

    from hltm.inference.ceiling import Ceiling
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

SUMMARY = "do latents of K states emerge as binary ones do?"
CLAIM = "Latents of any number of states emerge"
REFERENCE = (
    "not in the paper, whose experiments are binary; its model (Section 4) allows any number"
)
RESULT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class StateTreeSettings(TreeSettings):
    """Symmetric K-state trees, one per member."""

    states: int = setting(2, "of every node", low=2, high=256)

    def build_trees(self) -> LatentTree:
        """S trees over one topology: P(child | parent) = ρ [child = σ(parent)] + (1 - ρ) / K.

        Every edge has a polarity ρ uniform between its bounds and a relabelling σ uniform among
        all. A channel's correlations are ρ, K - 1 times over.
        """
        import torch

        from hltm.sampling.philox import Stream, uniform
        from hltm.tree import LatentTree

        topology, count = self.build_topology(), self.states
        edges = len(topology) - 1
        address: dict[str, Any] = {
            "seed": self.seed, "stream": Stream.TABLES, "members": range(self.members)
        }  # fmt: skip
        low, high = self.polarity_low, self.polarity_high
        rho = low + (high - low) * uniform(edges, node=0, **address)
        relabel = uniform(edges * count, node=1, **address).unflatten(1, (edges, count)).argsort(-1)
        copied = torch.nn.functional.one_hot(relabel, count)  # (S, edges, K_parent, K)
        tables = rho[:, :, None, None] * copied + (1 - rho[:, :, None, None]) / count
        prior = torch.full((self.members, count), 1 / count, dtype=torch.float64)
        return LatentTree.from_tables(topology, [prior, *tables.unbind(1)], self.members)

    def build_ceilings(self, leaves: Literal["own", "all"]) -> dict[int, Ceiling]:
        """Level -> `(S, V)` maximal correlations of its latents with the leaves."""
        own = {item.name: getattr(self, item.name) for item in fields(StateTreeSettings)}
        return _ceilings(StateTreeSettings(**own), leaves)


@functools.lru_cache(maxsize=16)
def _ceilings(settings: StateTreeSettings, leaves: Literal["own", "all"]) -> dict[int, Ceiling]:
    trees = settings.build_trees()
    return {
        level: trees.ceiling(trees.level(level), leaves=leaves, seed=settings.seed, samples=1 << 13)
        for level in range(1, settings.depth + 1)
    }


@dataclass(frozen=True, kw_only=True)
class Settings(VariantSettings, StateTreeSettings):
    """One number of states: trees, a network on each, a method, a budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


def _variants(values: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    return {f"{count} states": {"states": count} for count in values}


# the rate of experiments/polarity.py, where its tuning is told; it was not tuned again here
_COMMON: dict[str, Any] = {"members": 12, "depth": 4, "steps": 1000, "snapshots": 4, "lr": 1.0}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(
        {**_COMMON, "depth": 2, "steps": 150, "snapshots": 3, "evaluation_samples": 4096},
        _variants((2, 4)),
    ),
    "default": grids(_COMMON, _variants((2, 3, 4, 6))),
    "paper": grids(
        {**_COMMON, "depth": 5, "members": 30, "steps": 10_000, "snapshots": 12},
        _variants((2, 3, 4, 6, 8, 16)),
    ),
}
RULE = (
    "For each number of states, latents emerge if over trees the mean best correlation ratio of the "
    "latents of levels >= 2 is larger after training than before (Wilcoxon's exact signed-rank test, "
    f"one-sided, p < {SIGNIFICANCE} after Bonferroni over numbers of states). Holds if they "
    f"emerge with every number, fails if with none, open if with some, or with fewer than "
    f"{FEWEST_TREES} trees."
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and follow its latents, whatever their number of states."""
    return ablation.run_cell(settings, device, progress, probe=score_ratio, metric=RATIO)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gap closed of all numbers of states."""
    return emerges_everywhere(table, CLAIM, RULE, "numbers of states")


def plot(table: pd.DataFrame) -> Figure:
    """The root and its ceiling over the number of states, gap closed, levels, collapse."""
    from dualnets.experiments.emergence._reach_figure import draw

    return draw(table, axis="states", label="states of every node", score="best correlation ratio")
