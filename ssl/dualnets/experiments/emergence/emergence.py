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
from dualnets.lab.rules import NEGLIGIBLE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    ProbeSettings,
    TrainSettings,
    TreeSettings,
    check_augment_setting,
)

CONTROL = "keep-nothing"
SIGNIFICANCE = 0.001
FEWEST_TREES = 13  # the exact test cannot reach the level with fewer
REFERENCE = (  # the section by the authors' code
    "arXiv 2010.00578, Section 6: experiments on hierarchical latent tree models"
)


@dataclass(frozen=True, kw_only=True)
class Settings(ProbeSettings, TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """One ensemble: trees, a network on each, a loss, an augmentation, a budget."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augment_setting(self.augment, self.build_topology())


# at 0.1, the original's rate, curves need three times the updates to become flat
_COMMON: dict[str, list[Any]] = {"lr": [0.3], "steps": [8000]}
_SMOKE: dict[str, list[Any]] = {**_COMMON, "depth": [3], "steps": [300], "snapshots": [6]}
_PAPER: dict[str, list[Any]] = {
    **_COMMON,
    "members": [30],
    "steps": [10_000],
    "polarity_low": [0.7, 0.8, 0.9],
}
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_SMOKE, "units": [2, 5]},
        {**_SMOKE, "network": ["mlp"], "units": [32]},
        {**_SMOKE, "units": [5], "augment": Fixed(CONTROL)},
    ],
    "default": [
        {**_COMMON, "units": [2, 5, 10]},
        {**_COMMON, "network": ["mlp"], "units": [64]},
        {**_COMMON, "units": [10], "augment": Fixed(CONTROL)},
    ],
    "paper": [
        {**_PAPER, "units": [2, 5, 10, 20]},
        {**_PAPER, "network": ["mlp"], "units": [64]},
        {**_PAPER, "units": [20], "augment": Fixed(CONTROL)},
    ],
}
RULE = (
    "For the widest tree network, latents emerge at a level >= 2 if training closes more than "
    f"{NEGLIGIBLE} of the gap between the mean best |correlation| of the level's latents and its ceiling, "
    "the control, whose views share nothing, closes less than that, and the correlation after training is "
    f"above its null (Wilcoxon's exact signed-rank test over trees, p < {SIGNIFICANCE} after Bonferroni over "
    "levels and settings). Holds if they emerge at every such level. Fails if at every such level the gap "
    f"closed, or what it is more than the control's on the same trees, is less than {NEGLIGIBLE}. Open "
    f"otherwise, without a control, or with fewer than {FEWEST_TREES} trees. 'More' and 'less' are with the "
    "whole 95% interval, those of all levels and settings at once."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The latent variables of a tree emerge in the layers of a network trained by contrast",
            REFERENCE,
            Rule(RULE, Deferred("dualnets.experiments.emergence._emergence:judge")),
            plateau=Deferred("dualnets.experiments.emergence._emergence:judged_gaps"),
        ),
    ),
    summary="latents emerge in networks trained by contrast",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.emergence._emergence",
)
