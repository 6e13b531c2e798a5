"""Is every latent born with a lucky unit, and does luck decide how well it is learned?

Before training a latent's units are random sums of the units below, so the chance that the best of n
follows the latent to a given share of its Bayes ceiling has a formula: one minus the n-th power of a
single unit's distribution function, given the layers below (docs/theory.md, Equation 4.5). It is compared
with whether there is such a unit, latent by latent, over widths, depths and levels. Then the networks are
trained, and what the root of every tree has learned is compared with the best |selectivity| among its
units before training.

What was learned has two measures, because each alone misleads. Gap closed, (final - initial) / (ceiling -
initial), contains the initial value with a minus sign: where the end does not depend on the start at
all, it falls as luck rises (regression to the mean). The |correlation| at the end, over its ceiling,
contains what was there before training: in a network that learns nothing it rises with luck.

Found (24 trees of depth 5): luck is as predicted at every width and level. That the luckier roots learn
better is not found. With 2, 5, 10 and 20 units per latent, gap closed goes with the best |selectivity|
before training by a rank correlation of +.31, -.03, -.59, -.74 (mean -.26 [-.42, -.08]); the |correlation| at
the end, over its ceiling, by +.53, +.26, +.08, +.22. Luck lasts, weakly, where units are few; with more,
all roots end alike, and the unlucky have gained the most.
"""

from __future__ import annotations

from dataclasses import dataclass

from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    TrainSettings,
    TreeSettings,
    check_augmentation,
    setting,
)

CALIBRATED = 3.3  # standard errors, p = 0.001


@dataclass(frozen=True, kw_only=True)
class Settings(TrainSettings, ContrastSettings, TreeSettings):
    """Trees and a tree network on each, of one width."""

    units: int = setting(10, "units per latent", low=1, high=1 << 16)
    share: float = setting(
        0.8, "of its ceiling that a lucky unit's |correlation| reaches", above=0, high=1
    )
    draws: int = setting(4000, "fresh units behind a latent's distribution", low=100, high=1 << 24)
    members: int = setting(24, "trees, each with a network of its own", low=1, high=1 << 20)
    steps: int = setting(1000, "updates; 0: networks as they are initialised", low=0, high=10**9)
    evaluation_samples: int = setting(8192, "samples per probe and member", low=512, high=1 << 30)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augmentation(self.augment, self.build_topology())


_WIDTHS = [2, 5, 10, 20]
_UNTRAINED: Grid = {"steps": Fixed(0)}
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {"units": [2, 5], "depth": [3], "members": [12], "steps": [200], "lr": [0.3], "draws": [1000]},
        {"units": [2, 5], "depth": [2], "members": [12], "draws": [1000], **_UNTRAINED},
    ],
    "default": [{"units": _WIDTHS}, {"units": _WIDTHS, "depth": [3, 4], **_UNTRAINED}],
    "paper": [
        {"units": [*_WIDTHS, 50], "members": [100], "steps": [5000], "polarity_low": [0.7, 0.8, 0.9]},
        {"units": [*_WIDTHS, 50], "members": [100], "depth": [2, 3, 4], "polarity_low": [0.7, 0.8, 0.9],
         **_UNTRAINED},
    ],
}  # fmt: skip
RULE = (
    "Holds if (1) at every width and depth the number of latents with a lucky unit is within "
    f"{CALIBRATED} standard errors of its prediction; (2) at every depth, over trees, the share of lucky "
    "latents of levels >= 2 is larger in the widest networks than in the narrowest (Wilcoxon's exact "
    f"signed-rank test, p < {SIGNIFICANCE}); (3) at every width that is trained, over trees, the gap that "
    "the root has closed rises with the best |selectivity| of its units before training, and so does its "
    "|correlation| over its ceiling after training (Spearman's rank correlations, one-sided, "
    f"p < {SIGNIFICANCE} after Bonferroni over widths). Fails if (1) or (2) is not so, or if the gap closed "
    "rises so at no width; open otherwise, with one width, without training, or with fewer than "
    f"{FEWEST_TREES} trees."
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The wider a layer, the more latents are born with a lucky unit, as many as predicted, and the "
            "luckier learn better",
            "arXiv 2010.00578, Section 4.2: lucky nodes at initialisation",
            Rule(RULE, Deferred("dualnets.experiments.theorems._lucky:judge")),
            plateau=None,
        ),
    ),
    summary="width makes lucky units; do the luckier learn better?",
    result_version=1,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._lucky",
)
