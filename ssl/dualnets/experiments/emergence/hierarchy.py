"""How far does emergence go in a grammar, where every latent can be read off the leaves?

The Random Hierarchy Model of Cagnetta et al. (arXiv 2307.02129): a class is rewritten, level by
level, each symbol by one of m synonymous tuples of symbols. Leaves determine every symbol with certainty,
so all ceilings are 1 and whatever does not emerge is the learner's doing. Two views share the
root's state, which is its class and the rule that rewrites it; all below is rewritten anew. A
symbol is compared with its best unit by the correlation ratio.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from dualnets.experiments.emergence.polarity import RATE
from dualnets.lab.ablation import VariantSettings, ablation, sweep_figure
from dualnets.lab.rules import Claim, all_emerge
from dualnets.lab.settings import Checked, setting

if TYPE_CHECKING:
    from torch import Tensor

    from hltm.inference.ceiling import Ceiling
    from hltm.model.topology import Topology
    from hltm.probe.batches import Label
    from hltm.probe.targets import Targets
    from hltm.sampling.draw import Draw
    from hltm.tree import LatentTree


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
        import torch

        from hltm.inference.ceiling import Ceiling

        topology = self.build_topology()
        made = {}
        for level in range(1, self.depth + 1):
            one = torch.ones(self.members, len(topology.at_level(level)), dtype=torch.float64)
            made[level] = Ceiling(one, torch.zeros_like(one))
        return made


@dataclass(frozen=True, kw_only=True)
class Settings(VariantSettings, HierarchySettings):
    """One grammar: rules, a network on each set, a method, a budget."""

    def build_probe(self) -> tuple[str, Targets]:
        """The correlation ratio with symbols, whatever the rule that rewrites them."""
        from hltm.families.random_hierarchy import symbols

        def of_draw(draw: Draw) -> dict[Label, Tensor]:
            levels = range(1, self.depth + 1)
            return {level: symbols(draw, m=self.rules, level=level)[..., None] for level in levels}

        return "correlation_ratio", of_draw


def _variants(rules: Iterable[int], depths: Iterable[int]) -> dict[str, dict[str, Any]]:
    return {
        f"depth {depth}, m {count}": {"rules": count, "depth": depth}
        for depth, count in itertools.product(depths, rules)
    }


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "The symbols of a Random Hierarchy Model emerge by contrast, however many synonyms they have",
            "ours: not in arXiv 2010.00578; the data are of Cagnetta et al., arXiv 2307.02129",
            all_emerge(
                "grammar",
                "grammars",
                latents="symbols",
                score="correlation ratio",
                samples_of="sets of rules",
            ),
        ),
    ),
    summary="do a grammar's symbols emerge, all readable?",
    settings=Settings,
    variants=_variants((2, 4, 6), (2, 3)),
    variants_at={"smoke": _variants((2, 4), (2,)), "paper": _variants((2, 3, 4, 5, 6), (2, 3, 4))},
    common={"members": 12, "units": 16, "steps": 6000, "snapshots": 8, "lr": RATE},
    scales={
        "smoke": {"steps": 150, "snapshots": 3, "evaluation_samples": 4096},
        "default": {},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    figure=sweep_figure(
        "rules",
        "synonymous rules per symbol",
        line="depth",
        line_label="levels",
        score="best correlation ratio",
    ),
)
