"""How far does emergence go in a grammar, where every latent can be read off the leaves?

The Random Hierarchy Model of Cagnetti et al. (arXiv 2307.02129): a class is rewritten, level by
level, each symbol by one of m synonymous tuples of symbols. Leaves tell every symbol with certainty,
so all ceilings are 1 and whatever does not emerge is the learner's doing. Two views share the
root's state, which is its class and the rule that rewrites it; all below is rewritten anew. A
symbol is held against its best unit by the correlation ratio.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch

from dualnets.lab import ablation
from dualnets.lab.ablation import VariantSettings, grids
from dualnets.lab.best_ratio import score_ratio
from dualnets.lab.experiment import CellResult, Grid, ProgressListener
from dualnets.lab.settings import Checked, check_augmentation, setting
from dualnets.lab.stats import Verdict
from dualnets.lab.variants import (
    FEWEST_TREES,
    RATIO,
    SIGNIFICANCE,
    emerges_everywhere,
    summary_table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hltm.inference.ceiling import Ceiling
    from hltm.model.topology import Topology
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

SUMMARY = "do a grammar's symbols emerge, all readable?"
CLAIM = (
    "The symbols of a Random Hierarchy Model emerge by contrast, however many synonyms they have"
)
REFERENCE = "not in the paper; the data are of Cagnetti et al., arXiv 2307.02129"
RESULT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class HierarchySettings(Checked):
    """Random Hierarchy Models, one set of rules per member."""

    depth: int = setting(3, "levels of rules", low=1, high=16)
    branching: int = setting(2, "symbols that a rule puts in the place of one", low=2, high=64)
    symbols: int = setting(6, "per level, and classes of the root", low=2, high=256)
    rules: int = setting(2, "synonymous rules per symbol", low=1, high=256)
    members: int = setting(12, "sets of rules, each with a network of its own", low=1, high=1 << 20)
    seed: int = setting(0, "of rules, initial weights, data and probes", low=0, high=2**64 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        tuples = self.symbols**self.branching
        if self.symbols * self.rules > tuples:
            raise ValueError(
                f"rules must be at most {tuples // self.symbols}, as many as keep {self.symbols} "
                f"symbols apart, got {self.rules}"
            )

    def build_topology(self) -> Topology:
        """The shape of the trees."""
        from hltm.model.topology import Topology

        return Topology.balanced(self.depth, self.branching)

    def build_trees(self) -> LatentTree:
        """S sets of rules over one topology."""
        from hltm.families.random_hierarchy import random_hierarchy

        return random_hierarchy(
            v=self.symbols, m=self.rules, s=self.branching, L=self.depth, classes=self.symbols,
            members=self.members, seed=self.seed,
        )  # fmt: skip

    def build_ceilings(self, leaves: Literal["own", "all"]) -> dict[int, Ceiling]:
        """Level -> `(S, V)` ceilings: 1, for no two rules share a tuple."""
        from hltm.inference.ceiling import Ceiling

        topology = self.build_topology()
        sizes = {level: len(topology.at_level(level)) for level in range(1, self.depth + 1)}
        return {
            level: Ceiling(
                torch.ones(self.members, size, dtype=torch.float64),
                torch.zeros(self.members, size, dtype=torch.float64),
            )
            for level, size in sizes.items()
        }


@dataclass(frozen=True, kw_only=True)
class Settings(VariantSettings, HierarchySettings):
    """One grammar: rules, a network on each set, a method, a budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


def _variants(rules: tuple[int, ...], depths: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    return {
        f"depth {depth}, m {count}": {"rules": count, "depth": depth}
        for depth in depths
        for count in rules
    }


# the rate of experiments/polarity.py, where its tuning is told; it was not tuned again here
_COMMON: dict[str, Any] = {"members": 12, "units": 16, "steps": 1000, "snapshots": 4, "lr": 1.0}
GRIDS: dict[str, list[Grid]] = {
    "smoke": grids(
        {**_COMMON, "steps": 150, "snapshots": 3, "evaluation_samples": 4096},
        _variants((2, 4), (2,)),
    ),
    "default": grids(_COMMON, _variants((2, 4, 6), (2, 3))),
    "paper": grids(
        {**_COMMON, "members": 30, "steps": 30_000, "snapshots": 12},
        _variants((2, 3, 4, 5, 6), (2, 3, 4)),
    ),
}
RULE = (
    "For each grammar, symbols emerge if over sets of rules the mean best correlation ratio of the "
    "symbols of levels >= 2 is larger after training than before (Wilcoxon's exact signed-rank test, "
    f"one-sided, p < {SIGNIFICANCE} after Bonferroni over grammars). Holds if they emerge in "
    f"every grammar, fails if in none, open if in some, or with fewer than {FEWEST_TREES} sets "
    "of rules."
)


def run_cell(settings: Settings, device: torch.device, progress: ProgressListener) -> CellResult:
    """Train one ensemble and follow its symbols."""
    probe = functools.partial(score_ratio, rules=settings.rules)
    return ablation.run_cell(settings, device, progress, probe=probe, metric=RATIO)


def verdict(table: pd.DataFrame) -> Verdict:
    """Apply RULE; the effect is the smallest gap closed of all grammars."""
    return emerges_everywhere(table, CLAIM, RULE, "grammars")


def plot(table: pd.DataFrame) -> Figure:
    """The class and its ceiling over the number of synonyms, gap closed, levels, collapse."""
    from dualnets.experiments.emergence._reach_figure import draw

    return draw(
        table, axis="rules", label="synonymous rules per symbol", line="depth", line_label="levels",
        score="best correlation ratio",
    )  # fmt: skip
