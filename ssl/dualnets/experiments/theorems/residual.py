"""At which rate does the residue of Theorem 4 vanish, and how good a guide is its covariance operator?

The exact expected update of a contrastive loss weights every pair of views by its repulsion β; Theorem 4
replaces β by its average ξ(x, y) over the views of two samples, which makes a covariance operator
(docs/theory.md, Equations 3.3 and 3.6). The difference of the two updates is the residue θ. The theorem is
about its rate: it vanishes with the variance of the augmentation. How large it is at a given noise the
theorem does not say. Both updates are computed without sampling noise, by enumerating all views of small
trees (`dualnets.theory.pairwise_operator` and its `residual`).

Rate: untrained networks, and views that become quieter in two ways. Views that keep the root, on trees
whose polarities approach 1, change samples and views together; leaves that are redrawn with a probability
that approaches 0, on trees that stay as they are, change the views alone. The variance of the
augmentation is E_x tr V_aug[f(x')] of the network's outputs f.

Guide: networks along their training, on trees with the noise of the other experiments. The cosine of
the exact update and of the covariance form is the share of the steepest descent that the form keeps. Beside
it stand the form made of another tree's views (the null) and the form without the weights ξ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dualnets.lab.experiment import Experiment, Grid
from dualnets.lab.rules import FEWEST_TREES, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    NetworkSettings,
    TrainSettings,
    TreeSettings,
    check_augment_setting,
    setting,
)

ORDER = 1  # of the residue in the variance of the augmentation
ALLOWANCE = 0.05  # of a slope: the next order, at the noise that is left
QUIETEST = 3  # levels of noise to which a slope is fitted
GUIDE = 0.9  # cosine of a good guide: a step along it keeps nine tenths of the steepest descent
USUAL = 0.7  # lowest polarity at which the guide is judged, that of the other experiments
# where the rate is measured: two widths at unit weights, and a network as torch initialises it
REFERENCES: list[dict[str, Any]] = [
    {"units": 2, "weights": 1.0, "temperature": 1.0},
    {"units": 5, "weights": 1.0, "temperature": 1.0},
    {"units": 10, "weights": 0.0, "temperature": 0.1},
]


@dataclass(frozen=True, kw_only=True)
class Settings(TrainSettings, ContrastSettings, NetworkSettings, TreeSettings):
    """Trees, a network on each, untrained or along its training, and a loss of pairs."""

    network: str = setting(
        "tree", "a block of units per latent, or dense layers", choices=("tree", "mlp")
    )
    loss: str = setting("infonce", "a loss of pairs", choices=("triplet", "infonce"))
    depth: int = setting(2, "levels of the tree below its root", low=1, high=3)
    normalize: bool = setting(False, "whether the output is scaled to length 1")
    steps: int = setting(0, "updates; 0: the untrained network alone", low=0, high=10**9)
    snapshots: int = setting(
        8, "times a network in training is measured, evenly in log steps", low=2, high=1000
    )
    weights: float = setting(
        0.0, "standard deviation of initial weights; 0: as torch draws them", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_augment_setting(self.augment, self.build_topology())


_POLARITIES = [0.97, 0.99, 0.997, 0.999, 0.9997]
_REDRAWN = [f"resample-leaves:{rate}" for rate in ("0.03", "0.01", "0.003", "0.001", "0.0003")]
_QUIETER: list[dict[str, Any]] = [
    {"polarity_low": _POLARITIES, "depth": [2, 3]},
    {"polarity_low": [USUAL], "augment": _REDRAWN},
]
_RATE: list[dict[str, Any]] = [
    {**{name: [value] for name, value in at.items()}, **noise}
    for at in REFERENCES
    for noise in _QUIETER
]
_TRAINED: dict[str, list[Any]] = {"steps": [2000], "normalize": [False, True]}
_GUIDE: list[dict[str, Any]] = [
    {**_TRAINED, "polarity_low": [USUAL], "depth": [2, 3]},
    {**_TRAINED, "polarity_low": [USUAL], "augment": ["resample-leaves:0.3"]},
    {**_TRAINED, "polarity_low": [0.9, 0.97, 0.99]},
]
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {"polarity_low": [0.99, 0.997, 0.999], "members": [3]},
        {**_TRAINED, "steps": [30], "snapshots": [3], "members": [3]},
    ],
    "default": [*_RATE, *_GUIDE],
    "paper": [
        {**axis, "members": [64], **more}
        for axis in (*_RATE, *_GUIDE)
        for more in ({}, {"network": ["mlp"]}, {"loss": ["triplet"]})
    ],
}
RATE_RULE = (
    "For every network, augmentation and depth, tree by tree and layer by layer: the slope of log |θ| on "
    f"the log of the augmentation's variance, by least squares over the {QUIETEST} quietest levels of "
    f"noise; the theorem's order is {ORDER}. Means over trees have Student's 95% intervals, simultaneous "
    f"over all of these. Holds if every interval lies above {ORDER - ALLOWANCE:g} (a residue that vanishes "
    f"faster is within the theorem's bound), fails if one lies below, open otherwise, or with fewer than "
    f"{FEWEST_TREES} trees that have a residue. There is no training, so no plateau is asked for."
)
GUIDE_RULE = (
    "At every snapshot of training, the cosine of the exact expected update of all weights together and of "
    "the covariance form; per tree the mean over snapshots, which are even in log steps. For every setting "
    f"with a lowest polarity of {USUAL:g}, the mean over trees has Student's 95% interval, simultaneous "
    f"over settings. Holds if every interval lies above {GUIDE:g}, and the form is closer to the update "
    "than that made of another tree's views (Wilcoxon's exact signed-rank test, one-sided, "
    f"p < {SIGNIFICANCE} after Bonferroni); fails if one interval lies below {GUIDE:g}; open otherwise, or "
    f"with fewer than {FEWEST_TREES} trees. The claim is about the path and no end state, so no plateau is "
    "asked for. Quieter views are shown, and not judged."
)

_CODE = "dualnets.experiments.theorems._residual"
EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "The residue of the pair-weighted covariance operator vanishes with the variance of the "
            "augmentation, at first order or faster",
            "arXiv 2010.00578 v6, Theorem 4",
            Rule(RATE_RULE, Deferred(f"{_CODE}_rules:judge_rate")),
            name="rate",
            plateau=None,
        ),
        Claim(
            "Along training, the pair-weighted covariance operator is a good guide to the expected update",
            "ours: Theorem 4 of arXiv 2010.00578 bounds the residue's rate, not its size at a given noise",
            Rule(GUIDE_RULE, Deferred(f"{_CODE}_rules:judge_guide")),
            name="guide",
            plateau=None,
        ),
    ),
    summary="the residue of Theorem 4: its rate, its size in training",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code=_CODE,
)
