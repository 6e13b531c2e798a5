"""Do latents of more than two states emerge as binary ones do?

Balanced trees of K-state nodes: a child takes its parent's state, relabelled, or any state at
random, so that the channel's one correlation is the edge's polarity, as in binary trees (K = 2 is
one of them). Leaves are read as K numbers, 1 in their state's place. A latent is compared with its
best unit by the correlation ratio, and its ceiling is the maximal correlation with its leaves: both
are the best over all functions of the state.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from dualnets.experiments.emergence.polarity import RATE
from dualnets.lab.ablation import VariantSettings, ablation, sweep_figure
from dualnets.lab.rules import Claim, all_emerge
from dualnets.lab.settings import TreeSettings, setting

if TYPE_CHECKING:
    from hltm.inference.ceiling import Ceiling
    from hltm.tree import LatentTree


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
        # ranks of uniform numbers are a uniform permutation
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

    def build_probe(self) -> tuple[str, None]:
        """The correlation ratio, which scores latents of any number of states."""
        return "correlation_ratio", None


def _variants(*counts: int) -> dict[str, dict[str, Any]]:
    return {f"{count} states": {"states": count} for count in counts}


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "Latents of any number of states emerge",
            "ours: the experiments of arXiv 2010.00578 are binary; its model (Section 4) allows any number",
            all_emerge("number of states", "numbers of states", score="correlation ratio"),
        ),
    ),
    summary="do latents of K states emerge as binary ones do?",
    settings=Settings,
    variants=_variants(2, 3, 4, 6),
    variants_at={"smoke": _variants(2, 4), "paper": _variants(2, 3, 4, 6, 8, 16)},
    common={"members": 12, "depth": 4, "steps": 4000, "snapshots": 8, "lr": RATE},
    scales={
        "smoke": {"depth": 2, "steps": 150, "snapshots": 3, "evaluation_samples": 4096},
        "default": {},
        "paper": {"depth": 5, "members": 30, "steps": 10_000, "snapshots": 12},
    },
    figure=sweep_figure("states", "states of every node", score="best correlation ratio"),
)
