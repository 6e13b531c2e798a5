"""Do the latents of a tree emerge in the units of a network that was never given them?

A ReLU network is trained with a contrastive loss on views that share only what the augmentation keeps of
a hierarchical latent tree (docs/theory.md, Section 4). Before, during and after training every latent is
compared with the best of its candidate units: its own block in a tree network, its whole layer in a dense
one. Every number is reported with its initial value (an untrained network is already aligned), its null
and its Bayes ceiling; in the control, views share nothing, and nothing should emerge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.rules import Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
)

CONTROL = "keep-nothing"
SIGNIFICANCE = 0.001
FEWEST_TREES = 13  # the exact test cannot reach the level with fewer


@dataclass(frozen=True, kw_only=True)
class Settings(ProbeSettings, TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """One ensemble: trees, a network on each, a loss, an augmentation, a budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


_SMOKE: dict[str, list[Any]] = {"depth": [3], "steps": [300], "lr": [0.3], "snapshots": [6]}
_PAPER: dict[str, list[Any]] = {"members": [30], "steps": [10_000], "polarity_low": [0.7, 0.8, 0.9]}
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_SMOKE, "units": [2, 5]},
        {**_SMOKE, "network": ["mlp"], "units": [32]},
        {**_SMOKE, "units": [5], "augment": Fixed(CONTROL)},
    ],
    "default": [
        {"units": [2, 5, 10]},
        {"network": ["mlp"], "units": [64]},
        {"units": [10], "augment": Fixed(CONTROL)},
    ],
    "paper": [
        {**_PAPER, "units": [2, 5, 10, 20]},
        {**_PAPER, "network": ["mlp"], "units": [64]},
        {**_PAPER, "units": [20], "augment": Fixed(CONTROL)},
    ],
}
RULE = (
    "For the widest tree network, latents emerge at a level >= 2 if, over trees, the mean best "
    "|correlation| of the level's latents is larger after training than before it and larger than "
    f"its null (Wilcoxon's exact signed-rank test, p < {SIGNIFICANCE} after Bonferroni over levels "
    "and settings), while in the control, whose views share nothing, it is not larger than before. "
    "Holds if they emerge at every such level, fails if at none, open if at some only, without a "
    f"control, or with fewer than {FEWEST_TREES} trees."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The latent variables of a tree emerge in the layers of a network trained by contrast",
            "arXiv 2010.00578, experiments on hierarchical latent tree models",
            Rule(RULE, Deferred("dualnets.experiments.emergence._emergence:judge")),
        ),
    ),
    summary="latents emerge in networks trained by contrast",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.emergence._emergence",
)
