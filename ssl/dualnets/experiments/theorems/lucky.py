"""Is every latent born with a lucky unit, and is a latent with a luckier unit learned sooner?

Before training a latent's units are random sums of the units below, so the chance that the best of n
follows the latent to a given share of its Bayes ceiling has a formula: one minus the n-th power of a
single unit's distribution function, given the layers below (docs/theory.md, Equation 4.5). It is compared
with whether there is such a unit, latent by latent, over widths, depths and levels.

Whether luck matters cannot be read from different trees: a root that has a luckier unit in one tree than
in another differs in its ceiling and in what stands below it, and the gap that is left to close is the
smaller the luckier it is. It is therefore tested by exchanging one unit. Of many random units, all with
the norm of the weights that they replace, the most and the least selective for the root are put into two
copies of a network on the same tree, which are then trained on the same samples. Both copies have the same
goal, halfway from the luckier one's alignment before training to the ceiling.

Luck is |selectivity|, Equation 4.2. The theorems speak of outputs as they are; outputs of length 1, with
which most networks are trained, are tested apart. Beside the exchange stands what can be observed
without it: many networks of one tree, and the rank correlation of their luck with how soon they reach the
goal that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dualnets.lab.experiment import Experiment, Fixed, Grid
from dualnets.lab.fields import Conditions
from dualnets.lab.rules import FEWEST_TREES, NEGLIGIBLE, SIGNIFICANCE, Claim, Deferred, Rule
from dualnets.lab.settings import (
    ContrastSettings,
    TrainSettings,
    TreeSettings,
    check_augment_setting,
    setting,
)

CALIBRATED = 3.3  # standard errors, p = 0.001
BORN, GRAFT, SIBLINGS = "born", "graft", "siblings"


@dataclass(frozen=True, kw_only=True)
class Settings(TrainSettings, ContrastSettings, TreeSettings):
    """Trees and tree networks of one width, and one of three measurements."""

    CONDITIONS: ClassVar[Conditions] = {
        name: [{"test": tests}]
        for tests, names in (
            ((BORN,), ("share", "draws")),
            ((GRAFT,), ("candidates",)),
            ((SIBLINGS,), ("networks",)),
            (
                (GRAFT, SIBLINGS),
                ("steps", "batch", "lr", "augment", "loss", "normalize", "snapshots"),
            ),
        )
        for name in names
    }

    test: str = setting(
        BORN,
        "what is measured: units before training (born), two copies of a network with one unit exchanged "
        "(graft), or many networks of each tree (siblings)",
        choices=(BORN, GRAFT, SIBLINGS),
    )
    depth: int = setting(3, "levels of the tree below its root", low=1, high=16)
    units: int = setting(10, "units per latent", low=1, high=1 << 16)
    normalize: bool = setting(False, "whether the output is scaled to length 1")
    share: float = setting(
        0.8, "of its ceiling that a lucky unit's |correlation| reaches", above=0, high=1
    )
    draws: int = setting(4000, "fresh units behind a latent's distribution", low=100, high=1 << 24)
    candidates: int = setting(
        100,
        "random units, of which the luckiest and the unluckiest are put in",
        low=2,
        high=1 << 20,
    )
    networks: int = setting(24, "networks of each tree", low=3, high=1 << 16)
    members: int = setting(48, "trees", low=1, high=1 << 20)
    steps: int = setting(2000, "updates", low=1, high=10**9)
    lr: float = setting(1.0, "learning rate", above=0)
    snapshots: int = setting(
        24, "times the root is measured, evenly in log steps", low=2, high=1000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.build_loss()
        check_augment_setting(self.augment, self.build_topology())


_BORN: dict[str, Any] = {"test": Fixed(BORN)}


def _trained(members: int, siblings: int, **others: Sequence[Any]) -> list[Grid]:
    """Both tests with training, with outputs as they are and with outputs of length 1."""
    # a step changes an output of length 1 by much more than one of the small outputs before training
    outputs: list[dict[str, Any]] = [
        {"normalize": Fixed(False), "lr": [1.0]}, {"normalize": Fixed(True), "lr": [0.1]},
    ]  # fmt: skip
    return [
        {**others, **output, "test": Fixed(test), "members": [count]}
        for output in outputs
        for test, count in ((GRAFT, members), (SIBLINGS, siblings))
    ]


_WIDTHS = [2, 5, 10]
GRIDS: dict[str, list[Grid]] = {
    "smoke": [
        {**_BORN, "units": [2, 5], "depth": [2, 3], "members": [12], "draws": [1000]},
        *_trained(
            12, 12, units=[5], depth=[2], steps=[60], snapshots=[6], networks=[4], candidates=[20]
        ),
    ],
    "default": [
        {**_BORN, "units": [*_WIDTHS, 20], "depth": [3, 4, 5], "members": [24]},
        *_trained(96, 16, units=_WIDTHS),
    ],
    "paper": [
        {**_BORN, "units": [*_WIDTHS, 20, 50], "members": [100], "depth": [2, 3, 4, 5],
         "polarity_low": [0.7, 0.8, 0.9]},
        *_trained(200, 40, units=[*_WIDTHS, 20], depth=[3, 4], steps=[10_000]),
    ],
}  # fmt: skip

_RULES = "dualnets.experiments.theorems._lucky_rules"
_FEW = f"It is open otherwise, and with fewer than {FEWEST_TREES} trees."
CALIBRATION = Rule(
    "Holds if at every width and depth the number of latents with a lucky unit is within "
    f"{CALIBRATED} standard errors of its prediction, and over all of them the share of lucky latents less "
    f"its prediction has its whole 95% interval within ±{NEGLIGIBLE}. Fails if at any width and depth it is "
    f"further away. {_FEW}",
    Deferred(f"{_RULES}:calibration"),
)
WIDTH = Rule(
    "At every depth the share of latents of levels >= 2 with a lucky unit must be larger in the widest "
    "networks than in the narrowest (Wilcoxon's exact signed-rank test over trees, one-sided, "
    f"p < {SIGNIFICANCE} after Bonferroni over depths). Holds if it is at every depth, fails if at none and "
    f"the share grows by less than {NEGLIGIBLE} with its whole 95% interval (all depths at once). {_FEW}",
    Deferred(f"{_RULES}:width"),
)


def _sooner(normalize: bool) -> Rule:
    return Rule(
        f"With outputs {'of length 1' if normalize else 'as they are'}: at every width the copy with the "
        "lucky unit must reach the common goal in fewer updates than the copy with the unlucky one (exact "
        "signed-rank test over trees of the logarithms of the times, one-sided; a copy that never reaches "
        f"it is later than all; p < {SIGNIFICANCE} after Bonferroni over widths). A head start counts, "
        "and is taken away in the table. Holds if it does at every width. Fails if at none and the median "
        "ratio of the times, of trees in which at least one copy reaches the goal, is below "
        f"{1 + NEGLIGIBLE:g} with its whole 95% interval (all widths at once). "
        f"{_FEW}",
        Deferred(f"{_RULES}:sooner", {"normalize": normalize}),
    )


WITHIN = Rule(
    "At every width, for outputs as they are and of length 1, Spearman's rank correlation of luck with how "
    "soon the goal is reached, over the networks of one tree, must be above 0 on average over trees "
    "(Wilcoxon's exact signed-rank test, one-sided, "
    f"p < {SIGNIFICANCE} after Bonferroni over these settings). The goal is halfway from the mean of a "
    "tree's networks before training to its ceiling; networks that never reach it share the last rank, and "
    "trees none of whose networks reach it are left out. "
    "Holds if it is in every setting, fails if in none and every mean is below "
    f"{NEGLIGIBLE} with its whole 95% interval (all settings at once). {_FEW}",
    Deferred(f"{_RULES}:within"),
)

EXPERIMENT = Experiment(
    module=__name__,
    claims=(
        Claim(
            "As many latents are born with a lucky unit as the exact law of the best of n predicts",
            "ours: arXiv 2010.00578 bounds the probability of lucky nodes; docs/theory.md, Equation 4.5",
            CALIBRATION,
            "calibration",
            plateau=None,
        ),
        Claim(
            "The wider a layer, the more latents are born with a lucky unit",
            "arXiv 2010.00578, over-parameterisation and lucky nodes at initialisation",
            WIDTH,
            "width",
            plateau=None,
        ),
        Claim(
            "A root that is given a luckier unit is learned sooner, all else equal",
            "arXiv 2010.00578, lucky nodes: the covariance operator amplifies what is selective already",
            _sooner(normalize=False),
            "speed",
            plateau=None,
        ),
        Claim(
            "A root that is given a luckier unit is learned sooner where outputs have length 1, too",
            "ours: arXiv 2010.00578 derives the operator for outputs that are not normalised",
            _sooner(normalize=True),
            "normalised",
            plateau=None,
        ),
        Claim(
            "Of many networks on one tree, those born luckier learn its root sooner",
            "ours: an observation beside the exchange of one unit",
            WITHIN,
            "within",
            plateau=None,
        ),
    ),
    summary="width makes lucky units; are the luckier learned sooner?",
    result_version=2,
    Settings=Settings,
    grids=GRIDS,
    code="dualnets.experiments.theorems._lucky",
)
