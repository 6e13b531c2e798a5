"""Do latents emerge because the receptive fields are those of the tree?

The same trees, loss and number of updates, in networks with the tree's receptive fields (a block of units
per latent), with its shape but shuffled leaves (wrong tree), with one block shared by all latents of a
level (conv), or with none of it (dense, with as many parameters as the tree network, or with layers as
wide as its levels).
Every architecture has the learning rate that did best for it. A unit's candidates and ceilings are its
own: own leaves and own block where an architecture has them, otherwise all leaves and the whole layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualnets.lab.ablation import AblationSettings, Sweep, ablation
from dualnets.lab.rules import Claim, Deferred, all_emerge
from dualnets.lab.settings import setting

if TYPE_CHECKING:
    import torch

    from dualnets.networks.block_network import BlockNetwork
    from hltm.tree import LatentTree


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


def _variants(conv: int, dense: int) -> dict[str, dict[str, Any]]:
    """The architectures; `conv` and `dense` units match the parameters of 10 units per latent."""
    return {
        "tree": {"network": "tree", "units": 10},
        "conv, as wide": {"network": "conv", "units": 10},
        "conv, as many parameters": {"network": "conv", "units": conv},
        "wrong tree": {"network": "shuffled-tree", "units": 10},
        "dense, as many parameters": {"network": "mlp", "units": dense},
        "dense, as wide": {"network": "mlp", "units": 10, "pyramid": True},
    }


EXPERIMENT = ablation(
    __name__,
    claims=(
        Claim(
            "Latents emerge in architectures that do not know the tree",
            "ours: the networks of arXiv 2010.00578, Section 4, have the tree's receptive fields",
            all_emerge(
                "architecture that does not know which leaves belong together (wrong tree, dense)",
                "architectures",
            ),
            about=("wrong tree", "dense, as many parameters", "dense, as wide"),
        ),
    ),
    summary="does emergence need the tree's receptive fields?",
    settings=Settings,
    table=Deferred("dualnets.experiments.emergence._architecture:summary_table"),
    # 680 parameters in a tree network of depth 3, 3320 in one of depth 5
    variants=_variants(20, 25),
    variants_at={"smoke": _variants(13, 16)},
    common={"members": 12, "steps": 8000, "snapshots": 8, "depth": 5},
    scales={
        "smoke": {"depth": 3, "steps": 150, "snapshots": 4},
        "default": {},
        "paper": {"members": 30, "steps": 30_000, "snapshots": 12},
    },
    sweep=Sweep(
        "hltm run architecture --seed 1000 --members 8 --steps 500 --lr 0.1 0.3 1 3 10 30",
        (0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        {
            "tree": (0.462, 0.582, 0.689, 0.743, 0.689, 0.408),
            "conv, as wide": (0.478, 0.554, 0.601, 0.582, 0.432, 0.334),
            "conv, as many parameters": (0.415, 0.505, 0.555, 0.585, 0.600, 0.341),
            "wrong tree": (0.275, 0.328, 0.382, 0.440, 0.450, 0.318),
            "dense, as many parameters": (0.496, 0.546, 0.608, 0.622, 0.439, 0.367),
            "dense, as wide": (0.401, 0.472, 0.528, 0.454, 0.229, -0.009),
        },
    ),
)
